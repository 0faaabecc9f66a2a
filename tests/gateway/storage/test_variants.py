"""Rows of pictures in fewer pixels: one for each width and format, and none of a picture that is gone."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import attrs
import pytest

from blossom_async.gateway.storage.records import Records, StoredFile, Variant, variants
from blossom_async.gateway.storage.records.upkeep import mark_swept
from tests.gateway.storage.test_records import NOW, a_record

FILE = StoredFile(format="webp", sha256="cd" * 32, file_size=30_000)


def variant(image_id: str, width: int = 640) -> Variant:
    return Variant(id=a_record().id, image_id=image_id, width=width, file=FILE)


async def test_the_first_of_two_counts(records: Records) -> None:
    """Two processes that made the same variant learn which file is served."""
    picture = a_record(expires_at=None)
    await records.add(picture)
    first, second, other = variant(picture.id), variant(picture.id), variant(picture.id, 320)
    assert await records.write(partial(variants.add, first, NOW)) == first
    assert await records.write(partial(variants.add, second, NOW)) == first
    assert await records.write(partial(variants.add, other, NOW)) == other
    assert await records.read(partial(variants.find, picture.id, 640, "webp")) == first
    assert await records.read(partial(variants.find, picture.id, 640, "png")) is None
    files = {(picture.id, "png"), (first.id, "webp"), (other.id, "webp")}
    assert set((await records.read(partial(variants.files_of, [picture])))[picture.id]) == files
    await records.write(partial(variants.forget, [picture.id]))
    assert await records.read(partial(variants.files_of, [picture])) == {picture.id: [(picture.id, "png")]}


@pytest.mark.parametrize("end", ["deleted", "expired", "swept", "unknown"])
async def test_a_picture_that_is_gone_gets_none(records: Records, end: str) -> None:
    """A variant that was being made when its picture went is not kept."""
    picture = a_record()
    made = attrs.evolve(variant(picture.id), image_id="0" * 22 if end == "unknown" else picture.id)
    await records.add(picture)
    if end == "deleted":
        await records.delete(picture.id, NOW)
    elif end == "swept":
        await records.write(partial(mark_swept, [picture.id], NOW))
    now = NOW + timedelta(hours=1) if end == "expired" else NOW
    assert await records.write(partial(variants.add, made, now)) is None
    assert await records.read(partial(variants.find, made.image_id, 640, "webp")) is None

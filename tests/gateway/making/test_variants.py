"""Variants of stored pictures: made once, kept like the whole files, and deleted with their picture."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import attrs
import pytest

from blossom_async.errors import ServerFailed
from blossom_async.gateway.making.encoding import encode
from blossom_async.gateway.making.variants import Variants
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.storage.folder import LocalBlobs
from blossom_async.gateway.storage.records import ImageRecord, Records, StoredFile
from blossom_async.gateway.storage.records import variants as statements
from blossom_async.models import ImageRequest
from blossom_async.scenery import paint
from tests.gateway.storage.test_records import NOW, a_record

DATA = encode(paint("a lake", width=256, height=128, seed=1), "jpg", notes="of the test").data
FILE = StoredFile(format="jpg", sha256="ab" * 32, file_size=len(DATA))


@attrs.frozen
class House:
    """A data folder with one picture in it."""

    records: Records
    blobs: LocalBlobs
    workers: Workers
    picture: ImageRecord

    def variants(self) -> Variants:
        return Variants(self.records, self.blobs, self.workers, now=lambda: NOW)

    async def files(self) -> list[str]:
        then = NOW.replace(year=9999)
        found = [await self.blobs.files_before(folder, then) for folder in await self.blobs.folders()]
        return sorted(".".join(file) for files in found for file in files)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    request = ImageRequest("a lake", width=256, height=128, format="jpg")
    picture = a_record(request=request, width=256, height=128, files=(FILE,))
    house = House(Records(tmp_path / "r.sqlite"), LocalBlobs(tmp_path / "images"), Workers(2), picture)
    await house.records.open()
    await house.blobs.open()
    await house.blobs.put(picture.id, "jpg", DATA)
    await house.records.add(picture)
    yield house
    await house.records.close()
    await house.blobs.close()
    house.workers.close()


async def test_all_who_ask_at_once_get_the_same(house: House) -> None:
    """Made once, even if the first to ask goes away; another process finds it."""
    variants = house.variants()
    asking = [asyncio.create_task(variants.get(house.picture, FILE, 64)) for _ in range(8)]
    await asyncio.sleep(0)
    asking[0].cancel()
    one, *others = await asyncio.gather(*asking[1:])
    assert one is not None
    assert set(others) == {one}
    assert variants.made == 1
    elsewhere = house.variants()
    assert await elsewhere.get(house.picture, FILE, 64) == one
    assert elsewhere.made == 0
    assert len(await house.blobs.read(one.id, "jpg")) == one.file.file_size


async def test_two_processes_at_once_keep_one(house: House) -> None:
    """The slower one removes its file and serves the other's."""
    made = [house.variants().get(house.picture, FILE, 64) for _ in range(2)]
    one, other = await asyncio.gather(*made)
    assert one is not None
    assert one == other
    assert await house.files() == sorted([f"{house.picture.id}.jpg", f"{one.id}.jpg"])


async def test_a_picture_deleted_meanwhile_leaves_nothing(house: House) -> None:
    """Its variant is not kept, and the caller learns that it is gone."""
    await house.records.delete(house.picture.id, NOW)
    assert await house.variants().get(house.picture, FILE, 64) is None
    assert await house.files() == [f"{house.picture.id}.jpg"]


async def test_a_damaged_file_is_said(house: House) -> None:
    """The next caller tries again."""
    house.blobs.path(house.picture.id, "jpg").write_bytes(DATA[:200])
    variants = house.variants()
    with pytest.raises(ServerFailed):
        await variants.get(house.picture, FILE, 64)
    house.blobs.path(house.picture.id, "jpg").write_bytes(DATA)
    assert await variants.get(house.picture, FILE, 64) is not None


async def test_closing_gives_up(house: House) -> None:
    """The gateway can end at once, and leaves no row without a file."""
    variants = house.variants()
    asking = asyncio.create_task(variants.get(house.picture, FILE, 64))
    await asyncio.sleep(0)
    await variants.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await house.records.read(partial(statements.find, house.picture.id, 64, "jpg")) is None

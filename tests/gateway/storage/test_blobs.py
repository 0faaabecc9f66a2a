"""What every place for the bytes of pictures promises: the folder, and buckets of several stores."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.bucket import BucketBlobs
from blossom_async.gateway.storage.folder import LocalBlobs
from tests import stores

ID = "Ab3" + "x" * 19


@pytest.fixture(scope="module")
def moto() -> Iterator[dict[str, str]]:
    with stores.moto() as store:
        yield stores.environment(store.endpoint)


@pytest.fixture(scope="module")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with stores.seaweedfs(tmp_path_factory.mktemp("store") / "weed") as store:
        yield stores.environment(store.endpoint)


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with stores.azurite(tmp_path_factory.mktemp("store")) as environment:
        yield environment


@pytest.fixture(params=["folder", "seaweedfs", "azurite", pytest.param("moto", marks=pytest.mark.campaign)])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Blobs]:
    """Makes another object for the same place: as another process would."""
    if request.param == "folder":
        return lambda: LocalBlobs(tmp_path / "images")
    for name, value in request.getfixturevalue(request.param).items():
        monkeypatch.setenv(name, value)
    kind = "az" if request.param == "azurite" else "s3"
    url = f"{kind}://{stores.BUCKET}/{secrets.token_hex(8)}"
    return lambda: BucketBlobs(url, "images", listed=True)


@pytest.fixture
async def blobs(place: Callable[[], Blobs]) -> AsyncIterator[Blobs]:
    opened = place()
    await opened.open()
    yield opened
    await opened.close()


async def test_bytes_come_back_as_they_were_put(blobs: Blobs) -> None:
    """`read` gives exactly the bytes of `put`, and `size` their number."""
    data = os.urandom(6_000_001)
    assert await blobs.put(ID, "png", data, headers={"Content-Type": "image/png"}) == data
    assert await blobs.read(ID, "png") == data
    assert await blobs.size(ID, "png") == 6_000_001


async def test_a_part_can_be_read(blobs: Blobs) -> None:
    """`read` with bounds gives those bytes, fewer at the end, and none beyond it."""
    await blobs.put(ID, "png", b"0123456789")
    assert await blobs.read(ID, "png", 2, 5) == b"234"
    assert await blobs.read(ID, "png", 8, 20) == b"89"
    assert await blobs.read(ID, "png", 4) == b"456789"
    assert await blobs.read(ID, "png", 10, 20) == await blobs.read(ID, "png", 3, 3) == b""


async def test_formats_of_a_picture_are_apart(blobs: Blobs) -> None:
    """Each has its own bytes, and deleting one leaves the others."""
    await blobs.put(ID, "png", b"as png")
    await blobs.put(ID, "webp", b"as webp")
    await blobs.delete(ID, "png")
    assert await blobs.read(ID, "webp") == b"as webp"


async def test_put_says_what_stands(blobs: Blobs, place: Callable[[], Blobs]) -> None:
    """Of two writers one wins, whole, and both know whose bytes are there."""
    other = place()
    await other.open()
    told = await asyncio.gather(blobs.put(ID, "png", b"one" * 9), other.put(ID, "png", b"two" * 9))
    stands = await blobs.read(ID, "png")
    assert stands in told
    if isinstance(blobs, BucketBlobs):
        assert told[0] == told[1] == stands
        assert await blobs.put(ID, "png", b"three") == stands
    await other.close()


async def test_many_puts_at_once_all_land(blobs: Blobs) -> None:
    """100 concurrent puts store 100 pictures."""
    ids = [f"{n % 3}{n:021d}" for n in range(100)]
    await asyncio.gather(*(blobs.put(image_id, "png", image_id.encode()) for image_id in ids))
    assert [await blobs.read(image_id, "png") for image_id in ids] == [i.encode() for i in ids]


async def test_deleting_may_be_repeated(blobs: Blobs) -> None:
    """Deleting again, or what never was, is no error; what is deleted is not there."""
    await blobs.put(ID, "png", b"x")
    for _ in range(2):
        await blobs.delete(ID, "png")
    for ask in (blobs.read, blobs.size):
        with pytest.raises(FileNotFoundError):
            await ask(ID, "png")


@pytest.mark.parametrize("name", [("../../../etc/passwd", "png"), (ID, "gif"), (ID, "png/../x")])
async def test_an_unchecked_name_is_refused(blobs: Blobs, name: tuple[str, str]) -> None:
    """Anything but a picture's id and one of the formats is a ValueError in every method."""
    with pytest.raises(ValueError, match="is not a picture"):
        await blobs.put(*name, b"x")
    for ask in (blobs.read, blobs.size, blobs.delete):
        with pytest.raises(ValueError, match="is not a picture"):
            await ask(*name)


async def test_a_place_in_advance(blobs: Blobs) -> None:
    """What was reserved is used, or given back, or discarded, and nothing else is left."""
    reserved = await blobs.reserve(ID, "png", 1000)
    await blobs.put(ID, "png", b"x", reserved)
    await blobs.release(reserved)
    await blobs.release(await blobs.reserve(ID, "png", 1000))
    await blobs.reserve(ID, "png", 1000)
    await blobs.discard(ID)
    later = datetime.now(UTC) + timedelta(days=1)
    left = [name for folder in await blobs.folders() for name in await blobs.files_before(folder, later)]
    assert left == [(ID, "png")]


async def test_what_is_listed_is_old_enough(blobs: Blobs) -> None:
    """Nothing younger than the moment asked about."""
    await blobs.put(ID, "png", b"x")
    earlier = datetime.now(UTC) - timedelta(days=1)
    assert [await blobs.files_before(folder, earlier) for folder in await blobs.folders()] == [[]]


async def test_a_place_that_is_well_says_nothing(blobs: Blobs) -> None:
    """`check` passes, again and again."""
    await asyncio.gather(*(blobs.check() for _ in range(10)))

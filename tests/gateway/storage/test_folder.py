"""LocalBlobs: a file is complete or absent, and no path is built from unchecked input."""

import asyncio
import os
import secrets
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blossom_async.errors import ConfigurationError, Overloaded
from blossom_async.gateway.storage import open_files
from blossom_async.gateway.storage.blobs import OutOfFiles
from blossom_async.gateway.storage.folder import LocalBlobs
from tests.scarcity import descriptors, no_files_left
from tests.waiting import LIMIT_S

ID = "Ab3" + "x" * 19


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[LocalBlobs]:
    opened = LocalBlobs(tmp_path / "images")
    await opened.open()
    yield opened
    await opened.close()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def sizes_below(folder: Path) -> list[int]:
    return [path.stat().st_size for path in files_below(folder)]


async def test_bytes_come_back_as_they_were_put(blobs: LocalBlobs) -> None:
    """`read` gives exactly the bytes of `put`, also where the event loop reads them itself."""
    data = os.urandom(300_001)
    await blobs.put(ID, "png", data)
    assert await blobs.read(ID, "png") == data
    assert await blobs.size(ID, "png") == 300_001


async def test_one_file_for_each_picture_in_a_folder_of_its_first_two_characters(
    blobs: LocalBlobs, tmp_path: Path
) -> None:
    """The file is root/ab/<id>.<extension>; the folder's name is in lower case."""
    await blobs.put(ID, "webp", b"x")
    assert files_below(tmp_path) == [tmp_path / "images" / "ab" / f"{ID}.webp"]
    assert blobs.path(ID, "webp") == tmp_path / "images" / "ab" / f"{ID}.webp"


async def test_files_are_for_their_owner_only(blobs: LocalBlobs) -> None:
    """Pictures may be private: files are mode 0600, folders 0700."""
    await blobs.put(ID, "png", b"x")
    file = blobs.path(ID, "png")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, file.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


async def test_putting_again_replaces_the_file_whole(blobs: LocalBlobs) -> None:
    """A repeated `put`, as after a crash, ends with one file and the newer bytes."""
    assert await blobs.put(ID, "png", b"first") == b"first"
    assert await blobs.put(ID, "png", b"second") == b"second"
    assert await blobs.read(ID, "png") == b"second"
    assert [path.name for path in blobs.path(ID, "png").parent.iterdir()] == [f"{ID}.png"]


async def test_many_puts_at_once_all_land(blobs: LocalBlobs, tmp_path: Path) -> None:
    """200 concurrent puts into few folders store 200 files and leave no temporary ones."""
    ids = [f"{n % 3}{n:021d}" for n in range(200)]
    await asyncio.gather(*(blobs.put(image_id, "png", image_id.encode()) for image_id in ids))
    assert [await blobs.read(image_id, "png") for image_id in ids] == [i.encode() for i in ids]
    assert len(files_below(tmp_path)) == 200


async def test_delete_is_idempotent(blobs: LocalBlobs, tmp_path: Path) -> None:
    """Deleting removes the file; deleting again, or what never was, is no error."""
    await blobs.put(ID, "png", b"x")
    for _ in range(2):
        await blobs.delete(ID, "png")
        assert files_below(tmp_path) == []
    await blobs.delete("9" * 22, "jpg")


async def test_a_missing_file_is_file_not_found(blobs: LocalBlobs) -> None:
    """`read` and `size` of what is not there raise FileNotFoundError; the caller knows what that means."""
    for ask in (blobs.read, blobs.size):
        with pytest.raises(FileNotFoundError):
            await ask(ID, "png")


BAD_IDS = [
    "",
    "a" * 21,
    "a" * 23,
    "../../../../etc/passwd",
    "a" * 20 + "/a",
    "a" * 21 + "\0",
    "a" * 21 + "\n",
    "a" * 22 + "\n",
    "a" * 20 + "..",
    "é" + "a" * 21,
    "１" * 22,
    "a" * 21 + "-",
]


@pytest.mark.parametrize("image_id", BAD_IDS)
async def test_an_unchecked_id_never_becomes_a_path(blobs: LocalBlobs, image_id: str) -> None:
    """Anything but 22 characters of base62 is a ValueError in every method."""
    with pytest.raises(ValueError, match="not a picture id"):
        blobs.path(image_id, "png")
    with pytest.raises(ValueError, match="not a picture id"):
        await blobs.put(image_id, "png", b"x")
    for ask in (blobs.read, blobs.size, blobs.delete):
        with pytest.raises(ValueError, match="not a picture id"):
            await ask(image_id, "png")


@pytest.mark.parametrize("extension", ["", "gif", "PNG", "png/../x", "png\0", "png\n", ".png"])
async def test_an_unknown_extension_never_becomes_a_path(blobs: LocalBlobs, extension: str) -> None:
    """Only the three formats are extensions; anything else is a ValueError."""
    with pytest.raises(ValueError, match="not a picture format"):
        blobs.path(ID, extension)


@given(image_id=st.text(max_size=30), extension=st.text(max_size=8) | st.sampled_from(["jpg", "png", "webp"]))
def test_a_path_is_always_two_levels_below_the_root(image_id: str, extension: str) -> None:
    """For any text, `path` raises ValueError or stays inside the root."""
    try:
        path = LocalBlobs(Path("/root-of-blobs")).path(image_id, extension)
    except ValueError:
        return
    assert path.parent.parent == Path("/root-of-blobs")
    assert path.name == f"{image_id}.{extension}"


async def test_a_symbolic_link_is_not_followed(blobs: LocalBlobs, tmp_path: Path) -> None:
    """A link in the place of a picture is not read through."""
    await blobs.put(ID, "png", b"x")
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    target = blobs.path(ID, "png")
    target.unlink()
    target.symlink_to(secret)
    with pytest.raises(Overloaded) as caught:
        await blobs.read(ID, "png")
    assert caught.value.code == "storage_failed"


async def test_opening_removes_leftovers_older_than_a_day_and_nothing_else(tmp_path: Path) -> None:
    """Temporary files of writes that died are swept after a day; younger ones and pictures stay."""
    folder = tmp_path / "images" / "ab"
    folder.mkdir(parents=True)
    old, young = folder / f".{ID}.0123456789abcdef.part", folder / f".{ID}.fedcba9876543210.part"
    picture, foreign = folder / f"{ID}.png", folder / "notes.part"
    for path in (old, young, picture, foreign):
        path.write_bytes(b"x")
    for path in (old, picture, foreign):
        os.utime(path, (0, 0))
    blobs = LocalBlobs(tmp_path / "images")
    await blobs.open()
    await blobs.close()
    assert set(files_below(tmp_path)) == {young, picture, foreign}


async def test_a_folder_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    """A root below a file: one line that names it and says to choose another folder."""
    (tmp_path / "file").touch()
    blobs = LocalBlobs(tmp_path / "file" / "images")
    with pytest.raises(ConfigurationError, match=r"images cannot be used .* Choose a data folder"):
        await blobs.open()
    await blobs.close()


async def test_a_write_that_fails_is_overloaded_and_leaves_nothing(blobs: LocalBlobs, tmp_path: Path) -> None:
    """When the file system refuses the file, the caller gets `storage_failed` and no file stays."""
    (tmp_path / "images" / "ab").write_bytes(b"a file where the folder should be")
    with pytest.raises(Overloaded, match="could not be stored") as caught:
        await blobs.put(ID, "png", b"x")
    assert caught.value.code == "storage_failed"
    assert isinstance(caught.value.__cause__, OSError)
    assert files_below(tmp_path) == [tmp_path / "images" / "ab"]


def test_a_file_cut_short_by_a_limit_is_overloaded_and_leaves_nothing(tmp_path: Path) -> None:
    """A real limit in the middle of a write: `storage_failed`, nothing left, and the next put works."""
    code = f"""
        import asyncio, pathlib, resource
        from blossom_async.errors import Overloaded
        from blossom_async.gateway.storage.folder import LocalBlobs
        root = pathlib.Path({str(tmp_path)!r}) / "images"
        async def main():
            blobs = LocalBlobs(root)
            await blobs.open()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
            try:
                await blobs.put({ID!r}, "png", bytes(150_000))
            except Overloaded as exc:
                assert exc.code == "storage_failed", exc
            else:
                raise AssertionError("stored beyond the limit")
            assert not [path for path in root.rglob("*") if path.is_file()]
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            await blobs.put({ID!r}, "png", bytes(150_000))
            assert await blobs.size({ID!r}, "png") == 150_000
            await blobs.close()
        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_cancelling_a_put_leaves_a_whole_file_or_none(blobs: LocalBlobs, tmp_path: Path) -> None:
    """A caller that gives up never leaves half a file behind."""
    puts = [asyncio.ensure_future(blobs.put(f"{n:022d}", "png", bytes(200_000))) for n in range(40)]
    await asyncio.sleep(0)
    for put in puts:
        put.cancel()
    await asyncio.gather(*puts, return_exceptions=True)
    await blobs.close()  # waits for the writes that had begun
    assert {path.stat().st_size for path in files_below(tmp_path)} <= {200_000}


async def test_deleting_again_makes_a_lost_delete_last(blobs: LocalBlobs, tmp_path: Path) -> None:
    """What stands in the way of a delete is said each time; once it is away, repeating the delete works."""
    target = blobs.path(ID, "png")
    (target / "in the way").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(Overloaded, match="could not be deleted") as caught:
            await blobs.delete(ID, "png")
        assert caught.value.code == "storage_failed"
    (target / "in the way").rmdir()
    target.rmdir()
    await blobs.put(ID, "png", b"x")
    await blobs.delete(ID, "png")
    await blobs.delete(ID, "png")
    assert files_below(tmp_path) == []


async def test_close_ends_the_threads(tmp_path: Path) -> None:
    """After `close` none of its threads runs."""
    before = set(threading.enumerate())
    blobs = LocalBlobs(tmp_path / "images")
    await blobs.open()
    await blobs.put(ID, "png", b"x")
    await blobs.close()
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name.startswith("blossom-blobs")]


class TestReserved:
    """A place in hand, for bytes that cost money."""

    async def test_it_takes_what_comes(self, blobs: LocalBlobs, tmp_path: Path) -> None:
        """Less than was reserved, or more; and nothing else is left on the disk."""
        for size in (1, 5000):
            place = await blobs.reserve(ID, "png", 1000)
            assert sizes_below(tmp_path) == [1000]
            await blobs.put(ID, "png", bytes(size), place)
            assert await blobs.size(ID, "png") == size
            await blobs.release(place)
            assert files_below(tmp_path) == [blobs.path(ID, "png")]
            await blobs.delete(ID, "png")

    async def test_it_needs_no_more_files(self, blobs: LocalBlobs) -> None:
        """The bytes are stored though this process may open none."""
        place = await blobs.reserve(ID, "png", 1000)
        with no_files_left():
            with pytest.raises(OutOfFiles):
                await blobs.reserve(ID, "png", 1000)
            await blobs.put(ID, "png", b"x", place)
        assert await blobs.read(ID, "png") == b"x"

    async def test_it_is_given_back(self, blobs: LocalBlobs, tmp_path: Path) -> None:
        """Unused, or left behind by a process that was killed."""
        await blobs.release(await blobs.reserve(ID, "png", 1000))
        assert not files_below(tmp_path)
        await blobs.reserve(ID, "png", 1000)
        await blobs.discard(ID)
        assert not files_below(tmp_path)


async def test_only_a_full_disk_is_called_full(blobs: LocalBlobs) -> None:
    """Too many open files is `storage_failed`, since making room would not help, and it passes."""
    await blobs.put(ID, "png", b"x")
    with no_files_left(), pytest.raises(OutOfFiles) as caught:
        await blobs.put(ID, "png", b"x")
    assert (caught.value.code, caught.value.retry_after_s) == ("storage_failed", 1.0)


async def test_what_the_system_has_in_memory_needs_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole or in part; what is larger or empty, or not in memory, is left to a thread."""
    blobs = LocalBlobs(tmp_path / "images")
    await blobs.open()
    data = secrets.token_bytes(600 << 10)
    await blobs.put("a" * 22, "png", data[:1000])
    await blobs.put("b" * 22, "png", data)
    await blobs.put("c" * 22, "png", b"")
    in_threads = []
    run = blobs._threads.run

    async def counted(work: Callable[..., Any], *arguments: object) -> Any:
        in_threads.append(work)
        return await run(work, *arguments)

    monkeypatch.setattr(blobs._threads, "run", counted)
    assert await blobs.read("b" * 22, "png") == data
    assert await blobs.read("c" * 22, "png") == b""
    assert len(in_threads) == 2
    assert await blobs.read("a" * 22, "png") == data[:1000]
    assert await blobs.read("a" * 22, "png", 990, 2000) == data[990:1000]
    assert await blobs.read("b" * 22, "png", 70_000, 80_000) == data[70_000:80_000]
    if _in_memory_is_known(tmp_path):
        assert len(in_threads) == 3  # of the part that goes beyond the end
    with pytest.raises(FileNotFoundError):
        await blobs.read("d" * 22, "png")
    await blobs.close()


async def test_a_file_to_send_is_at_hand_while_it_is_what_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is missing, empty or of another size is not; no descriptor outlives the second, or `close`."""
    blobs = LocalBlobs(tmp_path / "images")
    await blobs.open()
    if not _in_memory_is_known(tmp_path):
        pytest.skip("this file system does not tell what is in memory")
    monkeypatch.setattr(open_files, "_MOST", 2)
    data = secrets.token_bytes(300_000)
    for name in "abc":
        await blobs.put(name * 22, "png", data)
    await blobs.put("d" * 22, "png", b"")
    before = descriptors()
    for name in "abca":
        found = blobs.at_hand(name * 22, "png", len(data))
        assert found is not None
        assert os.pread(found, len(data) + 1, 0) == data
        assert blobs.at_hand(name * 22, "png", len(data)) == found
    assert len(descriptors() - before) == 2
    await blobs.close()
    for name, size in [("b", len(data) - 1), ("b", len(data) + 1), ("d", 0), ("e", 1)]:
        assert blobs.at_hand(name * 22, "png", size) is None
    assert descriptors() <= before


def _in_memory_is_known(folder: Path) -> bool:
    """Whether the system and the file system of the folder tell; tmpfs does not."""
    (folder / "probe").write_bytes(b"x")
    with (folder / "probe").open("rb") as probe:
        try:
            return os.preadv(probe.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1
        except (AttributeError, OSError):
            return False

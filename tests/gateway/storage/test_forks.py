"""A forked process: what it inherited is refused at once, and stays whole for the parent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from blossom_async.gateway.storage.folder import LocalBlobs
from blossom_async.gateway.storage.records import Records
from tests.forking import FORKS
from tests.gateway.storage.test_records import a_record
from tests.waiting import LIMIT_S

pytestmark = FORKS
NOW = datetime(2026, 11, 22, 14, tzinfo=UTC)


def told_in_a_fork(work: Callable[[], Awaitable[object]]) -> str:
    """What the work raises in a forked process."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        try:
            asyncio.run(asyncio.wait_for(work(), LIMIT_S))
        except BaseException as exc:  # noqa: BLE001 - the parent judges it
            os.write(into, f"{type(exc).__name__}: {exc}".encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as told:
        text = told.read()
    assert os.waitpid(child, 0)[1] == 0
    return text


async def test_a_fork_is_told_that_the_database_stayed_behind(tmp_path: Path) -> None:
    """Every kind of question is refused in one sentence, and closing does nothing to the parent's."""
    records = Records(tmp_path / "records.sqlite")
    await records.open()
    record = a_record()
    await records.add(record)

    async def closed() -> None:
        await records.close()
        raise RuntimeError("closed")

    for ask in (
        lambda: records.get(record.id),
        lambda: records.add(a_record()),
        lambda: records.delete(record.id, NOW),
        lambda: records.read(lambda _: None),
        lambda: records.study(lambda _: None),
        lambda: records.write(lambda _: None),
    ):
        told = told_in_a_fork(ask)
        assert told.startswith(f"RuntimeError: the records were opened by process {os.getpid()}, ")
        assert told.endswith("open them in this process")
    assert told_in_a_fork(closed) == "RuntimeError: closed"
    assert await records.get(record.id) == record
    assert await records.delete(record.id, NOW)
    await records.close()


async def test_a_fork_may_open_the_database_anew(tmp_path: Path) -> None:
    """Its own connections and threads serve it, beside the parent's."""
    records = Records(tmp_path / "records.sqlite")
    await records.open()
    mine, theirs = a_record(), a_record()
    await records.add(mine)

    async def again() -> None:
        other = Records(tmp_path / "records.sqlite")
        await other.open()
        assert await other.get(mine.id) == mine
        await other.add(theirs)
        await other.close()

    assert told_in_a_fork(again) == ""
    assert await records.get(theirs.id) == theirs
    await records.close()


async def test_what_was_made_before_the_fork_may_be_opened_after_it(tmp_path: Path) -> None:
    """As servers do that load an application once and then fork their workers."""
    records, blobs = Records(tmp_path / "records.sqlite"), LocalBlobs(tmp_path / "images")
    record = a_record()

    async def used() -> None:
        await records.open()
        await blobs.open()
        await records.add(record)
        await blobs.put(record.id, "png", b"pixels")
        await blobs.close()
        await records.close()

    assert told_in_a_fork(used) == ""
    await records.open()
    assert await records.get(record.id) == record
    await records.close()


async def test_a_fork_is_told_that_the_pictures_threads_stayed_behind(tmp_path: Path) -> None:
    """Reading and writing are refused; closing them does nothing."""
    blobs = LocalBlobs(tmp_path)
    await blobs.open()
    image_id = a_record().id
    await blobs.put(image_id, "png", b"pixels")
    for ask in (lambda: blobs.read(image_id, "png"), lambda: blobs.put(image_id, "png", b"other")):
        assert "the pictures were opened by process" in told_in_a_fork(ask)
    assert told_in_a_fork(blobs.close) == ""
    assert await blobs.read(image_id, "png") == b"pixels"
    await blobs.close()

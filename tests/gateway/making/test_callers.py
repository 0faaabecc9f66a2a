"""A picture is made for those who wait for it: if all have left before it was begun, it is not made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from blossom_async.gateway.making.upstreams import Limits
from tests.gateway.making.test_paid import WISH, House, Paid, house
from tests.waiting import until

Caller = asyncio.Task[Any]


@attrs.define
class Line:
    """A gateway whose provider makes one picture at a time, and has not ended the first."""

    rooms: House
    provider: Paid
    go: asyncio.Event
    first: Caller

    async def join(self, key: str | None, **options: Any) -> Caller:
        """A caller whose picture waits for its turn."""
        (upstream,) = self.rooms.upstreams
        before = upstream.waiting
        caller = asyncio.create_task(self.rooms.create(attrs.evolve(WISH, **options), key=key))
        await until(lambda: upstream.waiting > before)
        return caller

    async def leave(self, *callers: Caller) -> None:
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)

    async def ends(self) -> int:
        """How many pictures were made in the end."""
        self.go.set()
        await self.first
        await self.rooms.generation.settle()
        return len(self.provider.ledger)


@pytest.fixture(params=["paid", "free"])
async def line(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Line]:
    async with opened(tmp_path, remote=request.param == "paid") as line:
        yield line


@asynccontextmanager
async def opened(folder: Path, *, remote: bool = True) -> AsyncIterator[Line]:
    provider, go = Paid(), asyncio.Event()
    provider.remote = remote
    provider.script = [go.wait]
    async with house(folder, provider, limits=Limits(at_once=1)) as rooms:
        first = asyncio.create_task(rooms.create(key="first"))
        await until(lambda: provider.sent)
        yield Line(rooms, provider, go, first)


@pytest.mark.parametrize("key", [None, "k"])
async def test_what_nobody_waits_for_is_not_made(line: Line, key: str | None) -> None:
    """With and without a key; the others in line are."""
    gone, stays = await line.join(key), await line.join("other")
    await line.leave(gone)
    assert await line.ends() == 2
    await stays


async def test_the_key_is_free_again(line: Line) -> None:
    """Also when it comes again in the same moment, as a client's retry does."""
    gone = await line.join("k")
    gone.cancel()
    again = asyncio.create_task(line.rooms.create(key="k"))
    assert await line.ends() == 2
    await again


async def test_it_is_made_for_one_who_is_left(line: Line) -> None:
    """Of two who came with one key, one leaves."""
    gone = await line.join("k")
    stays = asyncio.create_task(line.rooms.create(key="k"))
    await asyncio.sleep(0)
    await line.leave(gone)
    assert await line.ends() == 2
    await stays


async def test_what_has_begun_is_kept_for_its_key(line: Line) -> None:
    """Its caller leaves; the key brings the picture later, and nothing is made twice."""
    await line.leave(line.first)
    line.go.set()
    await line.rooms.create(key="first")
    assert len(line.provider.ledger) == 1


async def test_a_deferred_picture_keeps_its_place(tmp_path: Path) -> None:
    """Nobody waits for it, and its URL is out."""
    async with opened(tmp_path) as line:
        await (await line.join("d", defer=True))
        assert await line.ends() == 2

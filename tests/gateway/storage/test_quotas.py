"""Calls of API keys, counted for all processes on a database."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from blossom_async.batch import RateLimit
from blossom_async.gateway.callers.shared_limits import SharedMeter
from blossom_async.gateway.storage.records import Records
from blossom_async.gateway.storage.records.tables import quotas
from tests.gateway.test_operation import Clock

A_DAY = RateLimit(1000, per_s=86_400)


@asynccontextmanager
async def opened(place: Path | str) -> AsyncIterator[tuple[Records, Records]]:
    one, other = Records(place), Records(place)
    await one.open()
    await other.open()
    yield one, other
    await other.close()
    await one.close()


async def test_processes_share_what_a_key_has_left(place: Path | str) -> None:
    """To the last call, however many come at once; another key has its own."""
    async with opened(place) as both:
        meters = [SharedMeter(RateLimit(50, per_s=86_400), records) for records in both]
        calls = [meter.count(b"key") for _ in range(60) for meter in meters]
        assert sum(quota.admitted for quota in await asyncio.gather(*calls)) == 50
        assert (await meters[0].count(b"other")).remaining == 49


async def test_a_busy_key_does_not_ask_at_each_call_and_loses_none(place: Path | str) -> None:
    """Its calls are set aside in blocks, and what was not made of a block is given back."""
    clock = Clock(1000.0)
    async with opened(place) as (one, other):
        meter = SharedMeter(A_DAY, one, clock=clock)
        asked = 0
        write = one.write_apart

        async def counted(change: object) -> object:
            nonlocal asked
            asked += 1
            return await write(change)  # type: ignore[arg-type]

        one.write_apart = counted  # type: ignore[method-assign, assignment]
        for _ in range(300):
            clock.seconds += 0.005
            await meter.count(b"key")
        assert asked < 60
        clock.seconds += 10
        await meter.count(b"key")  # gives back
        left = (await SharedMeter(A_DAY, other).count(b"key")).remaining
        assert 1000 - 302 - 5 <= left <= 1000 - 302  # some are set aside again


async def test_calls_that_were_replenished_meanwhile_are_not_given_back(place: Path | str) -> None:
    """Else a key that was idle for a day would have more calls than the limit states."""
    clock = Clock(1000.0)
    async with opened(place) as (one, other):
        meter, everywhere = SharedMeter(A_DAY, one, clock=clock), SharedMeter(A_DAY, other)
        for _ in range(2):
            await meter.count(b"key")  # with the second, a block is set aside
        clock.seconds += A_DAY.per_s
        await other.write(lambda connection: connection.execute(quotas.update().values(full_at=0.0)))
        for _ in range(A_DAY.amount):
            assert (await everywhere.count(b"key")).admitted
        assert not (await meter.count(b"key")).admitted


async def test_a_key_that_has_none_left_costs_no_look(place: Path | str) -> None:
    """Until the next call is allowed."""
    async with opened(place) as (one, _):
        clock = Clock(1000.0)
        meter = SharedMeter(RateLimit(2, per_s=86_400), one, clock=clock)
        counted = [await meter.count(b"key") for _ in range(3)]
        assert [quota.admitted for quota in counted] == [True, True, False]
        await one.close()
        assert not (await meter.count(b"key")).admitted
        await one.open()


async def test_calls_get_an_answer_where_every_answer_comes_late(place: Path | str) -> None:
    """On a machine that is stopped for seconds between two looks at a clock; the limit holds."""
    seconds = itertools.count(step=60)
    async with opened(place) as (one, _):
        meter = SharedMeter(RateLimit(3, per_s=86_400), one, clock=lambda: float(next(seconds)))
        quotas = await asyncio.gather(*(meter.count(b"key") for _ in range(6)))
    assert [quota.admitted for quota in quotas] == [True] * 3 + [False] * 3

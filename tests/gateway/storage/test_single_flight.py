"""One piece of work for all who ask for it at the same time."""

from __future__ import annotations

import asyncio

from blossom_async.gateway.storage.single_flight import SingleFlight


async def test_all_who_ask_at_the_same_time_get_one_answer() -> None:
    """And whoever asks afterwards a new one."""
    flight: SingleFlight[str, int] = SingleFlight()
    answers = iter(range(10))

    async def work() -> int:
        await asyncio.sleep(0)
        return next(answers)

    assert await asyncio.gather(*(flight.run("a", work) for _ in range(3))) == [0, 0, 0]
    assert await flight.run("a", work) == 1


async def test_whoever_asks_in_the_moment_it_ends_begins_anew() -> None:
    """Before the loop gets to the callbacks of the task, as a caller does that looks again at once."""
    flight: SingleFlight[str, int] = SingleFlight()
    answers = iter(range(10))

    async def work() -> int:
        return next(answers)

    ended = flight.begin("a", work)
    late = asyncio.create_task(flight.run("a", work))
    again = asyncio.create_task(flight.run("a", work))
    assert (await ended, await late, await again) == (0, 1, 1)
    assert await flight.run("a", work) == 2

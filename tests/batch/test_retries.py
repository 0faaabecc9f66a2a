"""Jobs between two attempts: the earliest first, and one timer."""

from __future__ import annotations

import asyncio

from blossom_async.batch.attempts import Job
from blossom_async.batch.retries import Retries
from tests.virtual_clock import on_virtual_clock


def job(index: int) -> Job[int, int]:
    return Job(index, index, 0.0, "run")


def taken(retries: Retries[int, int]) -> int | None:
    found = retries.take()
    return None if found is None else found.index


def test_jobs_are_taken_when_they_are_due_and_the_earliest_first() -> None:
    """A later arrival that is due earlier moves the timer forward; what is due at once keeps its order."""

    async def go() -> None:
        rung: list[float] = []
        loop = asyncio.get_running_loop()
        retries: Retries[int, int] = Retries(lambda: rung.append(loop.time()))
        assert retries.next_due is None
        for index, due in ((0, 30), (1, 10), (2, 20), (3, 10)):
            retries.put(job(index), due)
        assert (taken(retries), len(retries)) == (None, 4)
        assert retries.next_due == 10
        await asyncio.sleep(15)
        assert rung == [10]
        assert [taken(retries) for _ in range(3)] == [1, 3, None]
        await asyncio.sleep(15)
        assert rung == [10, 20]  # nobody took that one, so it was not asked again
        assert [taken(retries) for _ in range(3)] == [2, 0, None]
        assert retries.next_due is None

    on_virtual_clock(go())


def test_jobs_given_up_are_returned_and_ring_no_more() -> None:
    """The timer goes with them."""

    async def go() -> None:
        rung: list[None] = []
        retries: Retries[int, int] = Retries(lambda: rung.append(None))
        retries.put(job(0), 10)
        retries.put(job(1), 5)
        assert {given_up.index for given_up in retries.clear()} == {0, 1}
        assert (len(retries), retries.next_due, retries.take()) == (0, None, None)
        await asyncio.sleep(20)
        assert not rung

    on_virtual_clock(go())

"""Jobs between two attempts: the earliest first, and one timer."""

from __future__ import annotations

import asyncio

from blossom_async.batch.attempts import Job, new_job
from blossom_async.batch.retries import Retries
from tests.virtual_clock import on_virtual_clock


def job(index: int) -> Job[int, int]:
    return new_job(index, index, 0.0, "run")


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


def test_the_job_with_the_fewest_attempts_is_taken_before_it_is_due() -> None:
    """Of several the one that is due first; the timer follows the others."""

    async def go() -> None:
        retries: Retries[int, int] = Retries(lambda: None)
        for index, (due, counted) in enumerate([(10, 3), (30, 1), (20, 1)]):
            waiting = job(index)
            waiting.counted = counted
            retries.put(waiting, due)
        found = [retries.take_least_tried() for _ in range(4)]
        assert [waiting and waiting.index for waiting in found] == [2, 1, 0, None]
        assert retries.next_due is None

    on_virtual_clock(go())


def test_postponed_jobs_wait_anew_and_none_gets_earlier() -> None:
    """Each as long as it is told, or until it was due anyway."""

    async def go() -> None:
        retries: Retries[int, int] = Retries(lambda: None)
        for index, due in enumerate((1, 2, 100)):
            retries.put(job(index), due)
        await asyncio.sleep(50)
        retries.postpone(lambda waiting: 5 - waiting.index)
        assert retries.next_due == 54
        assert [waiting.index for waiting in sorted(retries, key=lambda waiting: waiting.index)] == [0, 1, 2]
        await asyncio.sleep(5.5)
        assert [taken(retries) for _ in range(3)] == [1, 0, None]
        assert retries.next_due == 100

    on_virtual_clock(go())

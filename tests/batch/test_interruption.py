"""Interrupting what a worker waits for, exactly once and without ending the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest

from blossom_async.batch import RetryPolicy, run, stream
from blossom_async.batch.cancellation import Interruptible, completion
from blossom_async.errors import TimedOut
from tests.virtual_clock import on_virtual_clock
from tests.waiting import LIMIT_S


async def interrupted_after(seconds: float, wait: Callable[[], Awaitable[object]]) -> tuple[bool, float]:
    """Whether the block was cut short, and when it ended."""
    block, done = Interruptible(), False
    loop = asyncio.get_running_loop()
    loop.call_later(seconds, block.interrupt)
    with block:
        await wait()
        done = True
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # the cancellation is over
    assert block.interrupted
    return not done, loop.time()


async def with_clean_up() -> None:
    """Takes its time to end."""
    try:
        await asyncio.sleep(100)
    finally:
        await asyncio.sleep(5)


async def withstanding() -> None:
    """Ends well all the same."""
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        await asyncio.sleep(7)


async def with_scopes_of_its_own() -> None:
    """Cleans up under anyio."""
    with anyio.CancelScope():
        try:
            await anyio.sleep(100)
        finally:
            await anyio.sleep(9)


async def timed_out_at_once() -> None:
    """asyncio cancels the same wait in the same instant."""
    async with asyncio.timeout(LIMIT_S):
        await asyncio.sleep(100)


@pytest.mark.parametrize(
    ("wait", "cut_short", "ended_at"),
    [(with_clean_up, True, 15), (withstanding, False, 17), (with_scopes_of_its_own, True, 19)],
)
def test_an_interruption_is_heard_once(
    wait: Callable[[], Awaitable[object]], cut_short: bool, ended_at: float
) -> None:
    """The clean-up after it may wait, as asyncio's cancellation lets it."""
    assert on_virtual_clock(interrupted_after(10, wait)) == (cut_short, ended_at)


def test_an_interruption_in_the_instant_in_which_a_wait_ends_hits_the_next_wait() -> None:
    """It is not lost."""

    async def go() -> tuple[bool, float]:
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        loop.call_at(10, turn.set_result, None)  # before the interruption, in the same pass

        async def two_waits() -> None:
            await turn
            await asyncio.sleep(100)

        return await interrupted_after(10, two_waits)

    assert on_virtual_clock(go()) == (True, 10)


def test_a_block_may_be_interrupted_again_when_entered_again() -> None:
    """Each time anew; outside of it nothing happens."""

    async def go() -> list[float]:
        block, ends = Interruptible(), []
        loop = asyncio.get_running_loop()
        for at in (1, 2, 3, 4):
            loop.call_at(at, block.interrupt)
        for _ in range(2):
            with block:
                await asyncio.sleep(100)
            ends.append(loop.time())
            await asyncio.sleep(1.5)
        return ends

    assert on_virtual_clock(go()) == [1, 3]


def test_a_cancellation_of_the_task_is_not_taken_for_an_interruption() -> None:
    """Also when both come in one pass."""

    async def go() -> bool:
        task = asyncio.create_task(interrupted_after(10, with_clean_up))
        asyncio.get_running_loop().call_at(10, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert on_virtual_clock(go())


def test_completion_waits_although_cancelled() -> None:
    """By asyncio or by a scope of anyio, and then raises the cancellation."""

    async def go() -> list[float]:
        loop, ends = asyncio.get_running_loop(), []

        async def wait_for(work: asyncio.Task[None]) -> None:
            try:
                await completion(work)
            finally:
                ends.append(loop.time())

        waiting = asyncio.create_task(wait_for(asyncio.create_task(asyncio.sleep(10))))
        loop.call_later(1, waiting.cancel)
        loop.call_later(2, waiting.cancel)
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        with anyio.move_on_after(5) as scope:
            await wait_for(asyncio.create_task(asyncio.sleep(10)))
            await asyncio.sleep(1)
        assert scope.cancelled_caught
        return [*ends, loop.time()]

    assert on_virtual_clock(go()) == [10, 20, 20]


def test_at_the_deadline_attempts_may_clean_up() -> None:
    """The batch waits for that; what ends well in spite of it has its value."""

    async def attempt(item: int) -> int:
        await (with_clean_up, withstanding, with_scopes_of_its_own)[item]()
        return item

    result = on_virtual_clock(run(attempt, range(3), deadline_s=10))
    assert list(result) == [None, 1, None]
    assert all(isinstance(outcome.error, TimedOut) for outcome in result.failures)
    assert result.elapsed_s == 19


@pytest.mark.parametrize("retry", [None, RetryPolicy()])
def test_a_timeout_and_the_deadline_may_come_in_one_instant(retry: RetryPolicy | None) -> None:
    """The attempt's own timeout, the engine's, the deadline: the others go on and nothing is lost."""

    async def attempt(item: int) -> int:
        if item == 0:
            await timed_out_at_once()
        await asyncio.sleep(100 if item == 1 else item)
        return item

    result = on_virtual_clock(run(attempt, range(5), timeout_s=10, deadline_s=10, retry=retry))
    assert list(result) == [None, None, 2, 3, 4]
    assert all(isinstance(outcome.error, TimeoutError) for outcome in result.failures)
    assert result.elapsed_s == 10


def test_a_scope_of_anyio_around_a_stream_ends_it() -> None:
    """With attempts that clean up; the scope takes its own cancellation back."""

    async def go() -> tuple[bool, float]:
        with anyio.move_on_after(10) as scope:
            async with stream(lambda _: with_clean_up(), range(3)) as outcomes:
                await anext(outcomes)
        return scope.cancelled_caught, asyncio.get_running_loop().time()

    assert on_virtual_clock(go()) == (True, 15)


def test_a_block_left_before_it_heard_the_interruption_hands_none_on() -> None:
    """The same block is entered again at once; the loop does not spin, and a later interruption is heard."""

    async def go() -> tuple[float, bool]:
        loop, block = asyncio.get_running_loop(), Interruptible()
        turn = loop.create_future()
        loop.call_at(10, turn.set_result, None)
        loop.call_at(10, block.interrupt)  # in the same pass, when the task is about to go on
        with block:
            await turn
        loop.call_at(20, block.interrupt)
        done = False
        with block:
            await asyncio.sleep(100)
            done = True
        return loop.time(), done

    assert on_virtual_clock(go()) == (20, False)

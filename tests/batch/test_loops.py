"""Limits shared by event loops: one after another, at once, and closed in the middle."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from blossom_async.batch import Gate, RateLimit, RetryBudget, RetryPolicy, Slots, run, run_one
from tests.virtual_clock import VirtualClockLoop, on_virtual_clock


class Starts:
    """Attempts under shared limits that note when they start; the clock is the same in every real loop."""

    def __init__(self, amount: int, per_s: float, at_once: int = 4) -> None:
        self.limit = RateLimit(amount, per_s=per_s)
        self.gate = Gate(self.limit)
        self.slots = Slots(at_once)
        self.times: list[float] = []
        self.running = 0

    async def attempt(self, item: int) -> int:
        self.running += 1
        assert self.running <= self.slots.limit
        self.times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0)
        self.running -= 1
        return item

    async def batch(self, count: int) -> None:
        result = await run(self.attempt, range(count), slots=self.slots, gates=[self.gate])
        assert list(result) == list(range(count))

    def check(self) -> None:
        times = sorted(self.times)
        for first, after in zip(times, times[self.limit.amount :], strict=False):
            # Noted after the gate: the machine may stop this thread in between, for some milliseconds.
            assert after - first >= self.limit.per_s / 2
        assert self.slots.in_use == self.running == 0
        assert not self.gate._turnstile.locked()


def test_a_rate_holds_over_event_loops_one_after_another() -> None:
    """What was started in the first counts in the second."""
    starts = Starts(3, 0.2)
    for _ in range(3):
        asyncio.run(starts.batch(4))
    starts.check()


def test_a_rate_holds_over_event_loops_in_threads() -> None:
    """At once: a turn reaches whoever waits for it in another loop."""
    starts = Starts(3, 0.1, at_once=2)
    threads = [threading.Thread(target=lambda: asyncio.run(starts.batch(5))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(starts.times) == 15
    starts.check()


def test_event_loops_may_have_clocks_of_their_own() -> None:
    """Where a second one is behind, no time is taken to have passed between them."""
    gate = Gate(RateLimit(2, per_s=60))
    times: list[float] = []

    async def attempt(item: int) -> None:
        times.append(asyncio.get_running_loop().time())

    for _ in range(2):
        on_virtual_clock(run(attempt, range(3), gates=[gate]))
    first, second = times[:3], times[3:]
    assert first[2] >= 60
    assert second[0] >= first[1] + 60 - first[2]
    assert second[2] - second[0] >= 60


def test_a_pause_holds_in_the_next_event_loop() -> None:
    """Also for one whose clock is behind."""
    gate = Gate()

    async def pause() -> None:
        await asyncio.sleep(1000)
        gate.pause(30)

    async def first_start() -> float:
        await gate.acquire()
        return asyncio.get_running_loop().time()

    on_virtual_clock(pause())
    assert on_virtual_clock(first_start()) == pytest.approx(30)


def left_open(coroutine: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Runs a coroutine until everything waits, and closes the loop under it."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)
    for _ in range(10):
        loop.run_until_complete(asyncio.sleep(0))
    tasks = list(asyncio.all_tasks(loop))
    assert task in tasks
    loop.close()
    return tasks


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("collected", [False, True])
def test_what_a_closed_event_loop_held_is_free(collected: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Slots, places in line and turns at the gate, whether its tasks are still referenced or not."""
    starts = Starts(2, 0.2, at_once=3)

    async def hang(item: int) -> None:
        await asyncio.Event().wait()

    tasks = left_open(run(hang, range(9), slots=starts.slots, gates=[starts.gate]))
    assert starts.slots.in_use == 3
    assert starts.gate._turnstile.locked()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    if collected:
        tasks.clear()
        gc.collect()
    asyncio.run(starts.batch(6))
    starts.check()
    tasks.clear()
    gc.collect()  # what was left behind ends now, and gives nothing back twice
    assert starts.slots.in_use == 0
    asyncio.run(starts.batch(6))
    starts.check()


def test_a_retry_budget_is_one_for_all_event_loops() -> None:
    """What the first has used up is not there for the second."""
    budget = RetryBudget(0)
    policy = RetryPolicy(max_attempts=100, first_wait_s=0.001, max_wait_s=0.001, budget=0)
    numbers = itertools.count()

    async def fails(_: None) -> None:
        next(numbers)
        raise ConnectionError

    for _ in range(2):
        with pytest.raises(ConnectionError):
            on_virtual_clock(run_one(fails, None, retry=policy, budget=budget))
    assert next(numbers) == 100 + 2


def test_a_turn_for_another_loop_whose_waiter_is_cancelled_goes_on() -> None:
    """It is offered to the next one, in whichever loop."""
    slots = Slots(1)
    here = asyncio.new_event_loop()
    here.run_until_complete(slots.acquire())
    waiting = here.create_task(slots.acquire())
    here.run_until_complete(asyncio.sleep(0))

    async def there() -> None:
        slots.release()  # to the one who waits in the other loop, which does not run now

    asyncio.run(there())
    waiting.cancel()
    here.run_until_complete(asyncio.wait([waiting]))
    assert slots.in_use == 0
    here.close()


async def numbers_of(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


def test_virtual_and_real_loops_take_turns() -> None:
    """No state of the one is in the way of the other."""
    starts = Starts(1000, 0.01)
    for loop in (VirtualClockLoop, asyncio.new_event_loop, VirtualClockLoop, asyncio.new_event_loop):
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(run(starts.attempt, numbers_of(20), slots=starts.slots, gates=[starts.gate]))
    assert len(starts.times) == 80

"""Slots: fair, bounded, and adapted to what the server accepts."""

from __future__ import annotations

import asyncio
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blossom_async.batch import RetryPolicy, Slots, stream
from blossom_async.errors import Overloaded
from tests.virtual_clock import on_virtual_clock


def test_slots_are_handed_out_in_the_order_of_asking() -> None:
    """First come, first served, also when the first in line gives up."""

    async def go() -> list[int]:
        slots, order = Slots(1), []

        async def use(number: int) -> None:
            async with slots:
                order.append(number)
                await asyncio.sleep(1)

        tasks = [asyncio.create_task(use(n)) for n in range(6)]
        await asyncio.sleep(0.5)
        tasks[1].cancel()
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return order

    assert on_virtual_clock(go()) == [0, 2, 4, 5]


def test_slots_go_to_the_more_urgent_first() -> None:
    """Within one priority in the order of asking."""

    async def go() -> list[str]:
        slots, order = Slots(1, priorities=2), []

        async def use(name: str, priority: int) -> None:
            await slots.acquire(priority)
            order.append(name)
            slots.release()

        await slots.acquire()
        waiters = [("a", 1), ("b", 1), ("c", 0), ("d", 0)]
        tasks = [asyncio.create_task(use(name, priority)) for name, priority in waiters]
        await asyncio.sleep(0)
        assert slots.waiting == 4
        slots.release()
        await asyncio.gather(*tasks)
        return order

    assert on_virtual_clock(go()) == ["c", "d", "a", "b"]


def test_slots_may_be_granted_and_taken_back() -> None:
    """Where others share them: none at first, and fewer again while they are in use."""

    async def run() -> None:
        slots = Slots(4)
        slots.grant(0)
        assert not slots.try_acquire()
        waiting = asyncio.create_task(slots.acquire())
        await asyncio.sleep(0)
        slots.grant(2)
        await waiting
        assert slots.try_acquire()
        assert not slots.try_acquire()
        slots.grant(1)
        slots.release()
        assert not slots.try_acquire()
        slots.release()
        assert slots.try_acquire()

    asyncio.run(run())


def test_a_slot_handed_to_a_cancelled_waiter_goes_to_the_next() -> None:
    """Cancelled in the very pass in which the slot was handed over."""

    async def go() -> int:
        slots = Slots(1)
        await slots.acquire()
        first, second = (asyncio.create_task(slots.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        slots.release()
        first.cancel()
        await second
        assert first.cancelled() or first.exception() is None
        return slots.in_use

    assert on_virtual_clock(go()) == 1


def test_a_slot_that_nobody_holds_cannot_be_given_back() -> None:
    """It would let one more attempt in than stated."""
    with pytest.raises(RuntimeError, match="nobody held"):
        Slots(1).release()


@given(st.lists(st.sampled_from(["take", "ok", "refused", "late"]), max_size=300), st.integers(1, 50))
def test_slots_allowed_stay_in_bounds_and_are_cut_once_per_round_trip(steps: list[str], limit: int) -> None:
    """Whatever is reported in whatever order: 1..limit, and no cut for an attempt from before the last."""
    slots = Slots(limit)
    held: deque[int] = deque()
    for step in steps:
        before, cuts = slots.allowed, slots.cuts
        if step == "take":
            if slots.try_acquire():
                assert slots.in_use <= before
                held.append(slots.cuts)
        elif held:
            started = held.popleft()
            if step == "ok":
                idle = slots.in_use * 2 < slots.allowed
                slots.succeeded()
                assert slots.allowed >= before
                assert not idle or slots.allowed == before
            else:
                slots.overloaded(started)
                assert slots.allowed <= before
                assert (slots.cuts == cuts + 1) == (started == cuts)
            slots.release()
        assert 1 <= slots.allowed <= limit
        assert slots.in_use == len(held)


def test_slots_that_nobody_wants_do_not_come_back() -> None:
    """One success after the other, alone, says nothing about fifty at once."""
    slots = Slots(50)
    for _ in range(50):
        slots.try_acquire()
    slots.overloaded(slots.cuts)
    for _ in range(50):
        slots.release()
    allowed = slots.allowed
    for _ in range(10_000):
        slots.try_acquire()
        slots.succeeded()
        slots.release()
    assert slots.allowed == allowed < 50


class Server:
    """Takes so many requests at once, refuses the others at once, as its capacity changes over time."""

    def __init__(self, *capacity: int, every_s: float, seed: int) -> None:
        self._capacity = capacity
        self._every_s = every_s
        self._random = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._busy = 0
        self.done = 0
        self.refused: list[float] = []
        self.answered: list[float] = []

    async def serve(self, _: object) -> None:
        now = asyncio.get_running_loop().time()
        capacity = self._capacity[min(int(now / self._every_s), len(self._capacity) - 1)]
        self.answered.append(now)
        if self._busy >= capacity:
            await asyncio.sleep(0.005)
            self.refused.append(now)
            raise Overloaded("busy")
        self._busy += 1
        try:
            await asyncio.sleep(self._random.uniform(0.05, 0.15))
        finally:
            self._busy -= 1
        self.done += 1


@settings(max_examples=5, deadline=None)
@given(st.sampled_from([(25, 50, 12), (10, 4, 30), (60, 60, 8)]), st.integers(0, 1000))
@pytest.mark.campaign
def test_an_unknown_changing_limit_is_found(capacity: tuple[int, ...], seed: int) -> None:
    """At least 90 % of what an oracle gets done, at most 3 % refused after the first five seconds."""
    server = Server(*capacity, every_s=30, seed=seed)
    retry = RetryPolicy(max_attempts=100, budget=10)

    async def go() -> None:
        async with stream(
            server.serve, iter(range(10**9)), max_concurrency=100, retry=retry, deadline_s=90
        ) as outcomes:
            async for _ in outcomes:
                pass

    on_virtual_clock(go())
    oracle = sum(capacity) * 30 / 0.1
    late = sum(at > 5 for at in server.refused)
    assert server.done >= 0.9 * oracle
    assert late <= 0.03 * sum(at > 5 for at in server.answered)

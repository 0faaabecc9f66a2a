"""The waiting line: priorities, order of arrival, and turns that are neither lost nor doubled."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blossom_async.batch.line import Line
from tests.virtual_clock import on_virtual_clock


class Desk:
    """``free`` turns at once, and a line for those who find none."""

    def __init__(self, free: int = 1, priorities: int = 2) -> None:
        self.free = free
        self.line = Line(self.give_back, priorities=priorities)
        self.served: list[object] = []

    def give_back(self) -> None:
        self.free += 1
        self.hand_out()

    def hand_out(self) -> None:
        while self.free and self.line.grant():
            self.free -= 1

    async def visit(self, who: object, priority: int = 0) -> None:
        await self.line.wait(priority)
        self.served.append(who)


async def queued(desk: Desk, *priorities: int) -> list[asyncio.Task[None]]:
    """A task for each priority, named by its place, all of them in the line."""
    tasks = [asyncio.create_task(desk.visit(n, priority)) for n, priority in enumerate(priorities)]
    await asyncio.sleep(0)
    assert len(desk.line) == desk.line.waiting == len(tasks)
    return tasks


def test_the_first_come_of_the_first_priority_is_served_first() -> None:
    """Whatever the order of arrival across priorities, it holds within each."""

    async def go() -> list[object]:
        desk = Desk(free=9, priorities=3)
        tasks = await queued(desk, 2, 1, 0, 1, 0, 2)
        desk.hand_out()
        await asyncio.gather(*tasks)
        return desk.served

    assert on_virtual_clock(go()) == [2, 4, 1, 3, 0, 5]


def test_a_turn_for_nobody_is_not_given() -> None:
    """``grant`` says so, and later waiters do not get it unasked."""

    async def go() -> None:
        desk = Desk()
        assert not desk.line.grant()
        (task,) = await queued(desk, 0)
        assert desk.line.grant()
        assert not desk.line.grant()
        await task

    on_virtual_clock(go())


def test_a_waiter_cancelled_before_the_turn_is_passed_over() -> None:
    """Also when it has not yet had the chance to leave the line."""

    async def go() -> list[object]:
        desk = Desk()
        tasks = await queued(desk, 0, 0)
        tasks[0].cancel()
        desk.hand_out()
        await tasks[1]
        assert (desk.free, len(desk.line)) == (0, 0)
        return desk.served

    assert on_virtual_clock(go()) == [1]


@pytest.mark.parametrize("followers", [0, 1])
def test_a_turn_granted_to_a_waiter_that_is_then_cancelled_is_given_back(followers: int) -> None:
    """In the same pass of the loop: the next has it, or the desk."""

    async def go() -> tuple[int, list[object]]:
        desk = Desk()
        tasks = await queued(desk, *[0] * (1 + followers))
        desk.hand_out()
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert tasks[0].cancelled()
        return desk.free, desk.served

    assert on_virtual_clock(go()) == ((0, [1]) if followers else (1, []))


def test_cancelled_waiters_leave_nothing_behind() -> None:
    """A line that is never served does not grow with those who gave up."""

    async def go() -> None:
        desk = Desk(free=0)
        for _ in range(3):
            for task in await queued(desk, 0, 1, 0):
                task.cancel()
            await asyncio.sleep(0)
            assert len(desk.line) == 0
        assert not any(desk.line._queues)

    on_virtual_clock(go())


def test_those_dismissed_are_cancelled_and_the_others_keep_their_place() -> None:
    """From one priority on; a turn that was granted before is not taken away."""

    async def go() -> list[object]:
        desk = Desk(free=1)
        tasks = await queued(desk, 1, 1, 0, 0)
        desk.hand_out()  # to 2
        desk.line.dismiss(1)
        assert len(desk.line) == 1
        await asyncio.sleep(0)
        assert [task.cancelled() for task in tasks] == [True, True, False, False]
        desk.give_back()
        await asyncio.gather(*tasks[2:])
        assert (desk.free, len(desk.line)) == (0, 0)
        return desk.served

    assert on_virtual_clock(go()) == [2, 3]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(0, 2)),
        st.tuples(st.sampled_from(["cancel", "dismiss"]), st.integers(0, 9)),
        st.tuples(st.sampled_from(["grant", "pass", "leave"]), st.just(0)),
    ),
    max_size=60,
)


@given(steps, st.integers(0, 3))
def test_no_turn_is_lost_or_doubled_whatever_happens_in_which_order(
    order: list[tuple[str, int]], free: int
) -> None:
    """Arrivals, grants, cancellations and dismissals, any number of them within one pass of the loop."""

    async def go() -> None:
        desk = Desk(free, priorities=3)
        tasks: list[asyncio.Task[None]] = []
        for what, number in order:
            match what:
                case "come":
                    tasks.append(asyncio.create_task(desk.visit(len(tasks), number)))
                case "cancel" if tasks:
                    tasks[number % len(tasks)].cancel()
                case "dismiss":
                    desk.line.dismiss(number % 3)
                case "grant":
                    desk.hand_out()
                case "pass":
                    await asyncio.sleep(0)
                case "leave" if desk.served:
                    desk.served.pop()
                    desk.give_back()
        for _ in range(3):
            await asyncio.sleep(0)
        assert desk.free + len(desk.served) == free
        assert len(desk.line) == sum(not task.done() for task in tasks)
        assert len(desk.line) == sum(map(len, desk.line._queues))
        desk.free += len(tasks)
        desk.hand_out()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert len(desk.line) == 0
        assert desk.free + len(desk.served) == free + len(tasks)

    on_virtual_clock(go())

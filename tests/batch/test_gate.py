"""The gate: strict over every window, fair, pausable, changeable."""

from __future__ import annotations

import asyncio
import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blossom_async.batch import Gate, RateLimit, rate_limits
from blossom_async.batch.gate import pass_gates
from tests.thorough import examples, thoroughly
from tests.virtual_clock import on_virtual_clock


async def passing(*gates: Gate, starts: list[float], count: int) -> None:
    for _ in range(count):
        await pass_gates(gates)
        starts.append(asyncio.get_running_loop().time())


def worst(starts: list[float], limit: RateLimit) -> int:
    """The most starts in any half-open window of the limit's length."""
    most = first = 0
    for last, start in enumerate(starts):
        while start - starts[first] >= limit.per_s:
            first += 1
        most = max(most, last - first + 1)
    return most


limits = st.builds(RateLimit, st.integers(1, 200), per_s=st.sampled_from([0.1, 1.0, 3.0, 10.0, 60.0, 3600.0]))


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(limits, min_size=1, max_size=3), st.lists(st.floats(0, 20), max_size=40))
def test_no_window_holds_more_starts_than_stated(stated: list[RateLimit], naps: list[float]) -> None:
    """Whatever the limits and whenever attempts come, alone or many at once."""

    async def go() -> list[float]:
        gate, starts = Gate(*stated), list[float]()

        async def one(nap: float) -> None:
            await asyncio.sleep(nap)
            await passing(gate, starts=starts, count=8)

        await asyncio.gather(*map(one, naps))
        return starts

    starts = on_virtual_clock(go())
    assert len(starts) == 8 * len(naps)
    for limit in stated:
        assert worst(starts, limit) <= limit.amount


@pytest.mark.parametrize(
    "spelled", ["1/10s", "0.5/s", "7/s", "100/s", *thoroughly("600/min", "1000/s", "5000/s")]
)
def test_a_long_run_uses_at_least_98_percent_of_the_rate(spelled: str) -> None:
    """From one in ten seconds to five thousand in one."""
    (limit,) = rate_limits(spelled)
    count = min(20_000, 40 * limit.amount)

    async def go() -> float:
        gate = Gate(limit)
        await asyncio.gather(*(passing(gate, starts=[], count=count // 8) for _ in range(8)))
        return asyncio.get_running_loop().time()

    whole_windows = count // 8 * 8 / limit.amount - 1
    assert on_virtual_clock(go()) <= whole_windows * limit.per_s / 0.98 + limit.per_s


@pytest.mark.parametrize("longest_s", [0.0, 0.05, 5.0])
def test_a_limit_holds_however_long_starts_are_prepared(longest_s: float) -> None:
    """And uses as much of its rate as without."""
    limit, count, chance = RateLimit(20), 400, random.Random(0)  # noqa: S311 - a simulation

    async def go() -> list[float]:
        gate, starts = Gate(limit), list[float]()

        async def one() -> None:
            begin = await gate.reserve()
            await asyncio.sleep(chance.uniform(0, longest_s))
            starts.append(await begin())

        await asyncio.gather(*(one() for _ in range(count)))
        return starts

    starts = on_virtual_clock(go())
    assert worst(starts, limit) == limit.amount
    assert max(starts) <= count / limit.amount / 0.98 + longest_s


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 5)), min_size=1, max_size=5))
@settings(deadline=None)
def test_nothing_starts_during_a_pause_and_a_pause_only_extends(pauses: list[tuple[float, float]]) -> None:
    """A shorter pause that comes later does not cut a longer one."""

    async def go() -> list[float]:
        gate, starts = Gate(), list[float]()
        for at, seconds in pauses:
            asyncio.get_running_loop().call_at(at, gate.pause, seconds)
        for _ in range(200):
            await passing(gate, starts=starts, count=1)
            await asyncio.sleep(0.1)
        return starts

    for start in on_virtual_clock(go()):
        assert not any(at + 1e-6 < start < at + seconds - 1e-6 for at, seconds in pauses)


@pytest.mark.parametrize("nonsense", [0, -5, math.nan, math.inf, -math.inf])
def test_a_pause_that_is_no_time_is_ignored(nonsense: float) -> None:
    """Hostile headers must not stop the gate for good."""

    async def go() -> float:
        gate = Gate()
        gate.pause(nonsense)
        await gate.acquire()
        return asyncio.get_running_loop().time()

    assert on_virtual_clock(go()) == 0


@pytest.mark.parametrize(
    ("asked", "at_most", "held"), [(604_800, {}, 600), (1800, {"at_most_s": 3600}, 1800)]
)
def test_a_pause_has_a_longest(asked: float, at_most: dict[str, float], held: float) -> None:
    """A header on a success does not stop everything for days; who knows better may say so."""

    async def go() -> float:
        gate = Gate()
        gate.pause(asked, **at_most)
        await gate.acquire()
        return asyncio.get_running_loop().time()

    assert on_virtual_clock(go()) == held


def test_after_a_pause_not_everything_starts_in_one_instant() -> None:
    """64 that waited spread over a second; later ones start at once again."""

    async def go() -> list[float]:
        gate, starts = Gate(), list[float]()
        gate.pause(10)
        await asyncio.gather(*(passing(gate, starts=starts, count=1) for _ in range(64)))
        await asyncio.sleep(1)
        await asyncio.gather(*(passing(gate, starts=starts, count=1) for _ in range(64)))
        return starts

    starts = on_virtual_clock(go())
    assert starts[0] == 10
    assert all(b - a >= 1 / 64 - 1e-9 for a, b in itertools.pairwise(starts[:64]))
    assert len(set(starts[65:])) == 1


def test_attempts_pass_in_the_order_they_came() -> None:
    """Also when one in the middle gives up."""

    async def go() -> list[int]:
        gate, order = Gate(RateLimit(1)), []

        async def one(number: int) -> None:
            await gate.acquire()
            order.append(number)

        tasks = [asyncio.create_task(one(n)) for n in range(10)]
        await asyncio.sleep(2.5)
        for cancelled in (3, 5, 8):
            tasks[cancelled].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return order

    assert on_virtual_clock(go()) == [0, 1, 2, 4, 6, 7, 9]


def test_limits_change_while_attempts_wait() -> None:
    """A raise is felt at once by whoever waits; a cut counts the starts already made."""

    async def go() -> tuple[list[float], list[float]]:
        loop = asyncio.get_running_loop()
        gate, starts = Gate(RateLimit(1, per_s=3600)), list[float]()
        loop.call_at(10, gate.change, RateLimit(10))
        await passing(gate, starts=starts, count=25)
        raised = list(starts)
        gate.change(RateLimit(5, per_s=10))
        await passing(gate, starts=starts, count=10)
        return raised, starts[-15:]

    raised, cut = on_virtual_clock(go())
    assert raised[0] == 0
    assert 10 <= raised[1] <= raised[-1] <= 14
    assert worst(cut, RateLimit(5, per_s=10)) <= 5


def test_a_gate_may_lose_its_limits() -> None:
    """Then nobody waits."""

    async def go() -> float:
        gate = Gate(RateLimit(1, per_s=100))
        asyncio.get_running_loop().call_at(5, gate.change)
        await passing(gate, starts=[], count=50)
        assert not gate.closed
        return asyncio.get_running_loop().time()

    assert on_virtual_clock(go()) == 5


def test_a_start_is_stamped_at_all_its_gates_when_it_happens() -> None:
    """Behind a paused shared gate no run saves up starts that then go out together."""

    async def go() -> list[float]:
        own, shared = Gate(RateLimit(1)), Gate()
        shared.pause(30)
        starts: list[float] = []
        await asyncio.gather(*(passing(own, shared, starts=starts, count=1) for _ in range(10)))
        return starts

    starts = on_virtual_clock(go())
    assert starts[0] == 30
    assert worst(starts, RateLimit(1)) == 1


def test_a_pause_holds_for_who_already_waits_further_on() -> None:
    """The head of one gate's line, waiting at the next, does not start when the first is paused meanwhile."""

    async def go() -> list[float]:
        own, shared, starts = Gate(RateLimit(100)), Gate(), list[float]()
        shared.pause(10)
        asyncio.get_running_loop().call_at(5, own.pause, 20)
        await passing(own, shared, starts=starts, count=1)
        return starts

    assert on_virtual_clock(go())[0] >= 25


def test_a_slow_run_does_not_hold_up_another_at_the_gate_they_share() -> None:
    """One start per minute of its own, next to a run that may use the shared hundred per second."""

    async def go() -> float:
        shared = Gate(RateLimit(100))
        slow = asyncio.create_task(passing(Gate(RateLimit(1, per_s=60)), shared, starts=[], count=5))
        await passing(shared, starts=[], count=1000)
        ended = asyncio.get_running_loop().time()
        await slow
        return ended

    assert on_virtual_clock(go()) <= 10.3


@pytest.mark.parametrize(
    ("spelled", "amount", "per_s"),
    [("600/min", 600, 60), ("10/s", 10, 1), ("1/10 s", 1, 10), (0.5, 1, 2), ("2.5/s", 5, 2), (3, 3, 1)],
)
def test_limits_are_read_as_people_write_them(spelled: str | float, amount: int, per_s: float) -> None:
    """Numbers are per second; below one per second the window grows."""
    assert rate_limits(spelled) == (RateLimit(amount, per_s=per_s),)


@pytest.mark.parametrize("wrong", ["", "fast", "0/s", "-1/s", "10/fortnight", 0, math.nan, math.inf, True])
def test_a_limit_that_is_none_is_refused(wrong: str | float) -> None:
    """With what is allowed."""
    with pytest.raises(ValueError, match="allowed"):
        rate_limits(wrong)

"""Rates learned from refusals: how close they come to the server's limit, and at what cost."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blossom_async.batch import Gate, RetryPolicy, Slots, run
from blossom_async.batch.rates import LearnedRate
from blossom_async.errors import Overloaded, RateLimited
from tests.batch.limited_servers import Bucket, Changing, Fixed, Limit, Sliding, batch
from tests.thorough import thoroughly
from tests.virtual_clock import on_virtual_clock


def changing(kind: type[Sliding] | type[Fixed]) -> Limit:
    return Changing(60, kind(100, 1), kind(40, 1), kind(70, 1))


# the limit, the seconds that a batch has, how many an oracle gets done in them, and the first window
SERVERS: list[tuple[str, Callable[[], Limit], float, float, float]] = [
    ("sliding 100/s", lambda: Sliding(100, 1), 60, 6000, 1),
    ("fixed 100/s", lambda: Fixed(100, 1), 60, 6000, 1),
    ("fixed 100/s, begun late", lambda: Fixed(100, 1, into_s=0.95), 60, 6000, 1),
    ("sliding 5/s", lambda: Sliding(5, 1), 240, 1200, 1),
    ("sliding 600/min", lambda: Sliding(600, 60), 600, 6000, 60),
    ("fixed 600/min", lambda: Fixed(600, 60), 600, 6000, 60),
    ("fixed 600/min, begun late", lambda: Fixed(600, 60, into_s=59.5), 600, 6000, 60),
    ("token bucket 100/s", lambda: Bucket(100, 100), 60, 6000, 1),
    ("token bucket 10/s, a minute at once", lambda: Bucket(10, 600), 600, 6000, 60),
    ("token bucket 10/s, three at once", lambda: Bucket(10, 3), 600, 6000, 60),
    ("sliding, changing", lambda: changing(Sliding), 180, 60 * 210, 1),
    ("fixed, changing", lambda: changing(Fixed), 180, 60 * 210, 1),
]


@pytest.mark.parametrize(
    ("limit", "seconds", "oracle", "first_s"),
    thoroughly(*(row[1:] for row in SERVERS)),
    ids=[row[0] for row in SERVERS],
)
def test_a_hidden_limit_is_used_and_hardly_ever_exceeded(
    limit: Callable[[], Limit], seconds: float, oracle: float, first_s: float
) -> None:
    """At least 95 % of what one gets done who knows it, under 1 % refused after the first window."""
    # How soon after a rise the next probe comes is chance: there, it holds on average.
    seeds = range(1, 7) if isinstance(limit(), Changing) else (1,)
    seen = [batch(limit(), seconds, seed) for seed in seeds]
    assert sum(each.done for each in seen) >= 0.95 * oracle * len(seen)
    assert all(each.refused_after(first_s) < 0.01 for each in seen)


@pytest.mark.parametrize(
    ("one_in", "wait_s"), [(3, None), (3, 0.05), (3, 1), (10, 1)], ids=lambda value: f"{value}"
)
def test_a_server_that_refuses_at_any_rate_is_not_asked_ever_less(one_in: int, wait_s: float | None) -> None:
    """It is only busy: what slows the batch are the pauses it asks for."""

    async def go() -> float:
        asked = itertools.count(1)

        async def attempt(_: int) -> None:
            if next(asked) % one_in == 0:
                raise RateLimited("busy", retry_after_s=wait_s)
            await asyncio.sleep(0.1)

        patient = RetryPolicy(max_attempts=50, budget=10, max_wait_s=1)
        result = await run(attempt, range(300), max_concurrency=8, gates=[Gate()], retry=patient)
        result.raise_for_failures()
        return asyncio.get_running_loop().time()

    pauses = 300 / (one_in - 1) * (wait_s or 0)
    assert on_virtual_clock(go()) < 60 + pauses


def test_refusals_that_no_rate_explains_do_not_slow_a_batch_ever_more() -> None:
    """A server that refuses one request in a hundred, at any rate, is not asked once a second in the end."""

    class Moody:
        asked = 0

        def refuses_for(self, _: float) -> float | None:
            self.asked += 1
            return 1.0 if self.asked % 100 == 0 else None

    seen = batch(Moody(), 120)
    assert sum(at > 60 for at in seen.asked) > 60 * 30


def test_a_rate_that_is_refused_costs_no_slots() -> None:
    """A probe is refused for the rate: fewer at once would not help."""

    async def go() -> tuple[int, int]:
        gate, slots = Gate(), Slots(64)
        server = Sliding(10, 1)
        loop = asyncio.get_running_loop()

        async def attempt(_: int) -> None:
            if (wait_s := server.refuses_for(loop.time())) is not None:
                raise RateLimited("too many", retry_after_s=math.ceil(wait_s))
            await asyncio.sleep(0.1)

        await run(attempt, range(1000), slots=slots, gates=[gate], retry=RetryPolicy())
        return slots.cuts, slots.allowed

    cuts, allowed = on_virtual_clock(go())
    assert cuts <= 2  # of the first round, when nothing was known
    assert allowed > 32


def test_load_that_is_refused_teaches_no_rate() -> None:
    """503 says that too many are under way, whatever Retry-After it has."""

    async def go() -> int | None:
        gate, refusals = Gate(), iter(range(3))

        async def attempt(_: int) -> None:
            if next(refusals, None) is not None:
                raise Overloaded("busy", retry_after_s=1)

        await run(attempt, range(10), gates=[gate], retry=RetryPolicy())
        return gate.learned.amount

    assert on_virtual_clock(go()) is None


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 100), st.booleans(), st.floats(0, 5000)), max_size=200
    ),
)
def test_whatever_is_refused_some_start_is_allowed_soon(
    steps: list[tuple[float, float, bool, float]],
) -> None:
    """The wait is never without end, the amount never below one."""
    rate, now = LearnedRate(), 0.0
    for after, back, refused, pause in steps:
        now += after
        if refused:
            started = max((start for start in rate.starts if start <= now - back), default=now)
            rate.refused(started, now, now + pause)
        else:
            now = max(now, rate.ready_at(now))
            rate.take(now)
        assert rate.amount is None or rate.amount >= 1
        assert rate.ready_at(now) - now <= 2 * 3600 * 1.005 + 5000

"""What holds for every batch, whatever its items do: Hypothesis against a virtual clock.

The numbers are those of the tests below; what is not a property of a whole run has a test of its own.

== ========================================================================= ==============================
 1 every index appears exactly once; run() keeps the input's order           here
 2 value i belongs to item i under any mix of failures and retries           here
 3 attempts under way <= slots allowed <= limit                              here
 4 no window of a rate limit holds more starts than it states                here, test_batch_gate
 5 no start during a pause; a pause never gets shorter                       here, test_batch_gate
 6 starts at a gate are first come, first served                             test_batch_gate
 7 a run takes no longer than its longest chain of work needs                test_batch_engine, _gate
 8 items pulled <= items consumed + window                                   here
 9 the run ends, and the loop does not spin                                  here (VirtualClockStuckError)
10 cancelling at any step leaves no task, slot or turnstile behind           test_batch_cancellation
11 a slot handed to a cancelled waiter goes to the next                      test_batch_slots
12 after a stop nothing new starts, what runs ends                           here, test_batch_engine
13 attempts <= max_attempts; repetitions <= reserve + share * items          here, test_batch_engine
14 cost of what was sent <= max_cost                                         test_batch_dedup_and_cost
15 a journal cut or damaged anywhere loses no other record                   test_batch_journal
16 equal items are sent once                                                 test_batch_dedup_and_cost
17 slots allowed stay in 1..limit and are cut once per round trip            here, test_batch_slots
18 nothing comes after the deadline                                          here
19 an ordered stream never stalls, whatever its window                       here
20 rate headers never raise and never ask for a negative or endless wait     test_batch_hints
21 progress adds up and never goes back                                      here
== ========================================================================= ==============================
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from blossom_async.batch import Gate, Outcome, Progress, RateLimit, RetryPolicy, Slots, run, stream
from blossom_async.errors import (
    NotRun,
    Overloaded,
    PaymentRequired,
    RateLimited,
    Rejected,
    ServerFailed,
    StaleConnection,
    TransportError,
)
from tests.thorough import examples
from tests.virtual_clock import VirtualClockLoop, on_virtual_clock

ENDS: dict[str, Any] = {
    "rejected": lambda: Rejected("no"),
    "failed": lambda: ServerFailed("broken"),
    "overloaded": lambda: Overloaded("busy"),
    "throttled": lambda: RateLimited("slow down"),
    "paused": lambda: RateLimited("slow down", retry_after_s=3.0),
    "stale": lambda: StaleConnection("closed"),
    "reset": lambda: TransportError("reset"),
    "fatal": lambda: PaymentRequired("no money"),
    "bug": lambda: KeyError("bug"),
}

ends = st.sampled_from(["ok"] * 8 + [end for end in ENDS if end != "fatal"])
takes = st.sampled_from([0.0, 0.0, 0.1, 1.0, 2.5])
script = st.lists(st.tuples(takes, ends), max_size=6)
# Of a length drawn first: lists of Hypothesis's own choosing are mostly too short for much at once.
items = st.sampled_from([0, 1, 2, 5, 12, 25, 40]).flatmap(lambda n: st.lists(script, min_size=n, max_size=n))
rates = st.none() | st.builds(RateLimit, st.integers(1, 20), per_s=st.sampled_from([0.5, 1.0, 7.0]))


@attrs.define
class Scenario:
    """What each attempt at each item does, and the limits it is run under."""

    items: list[list[tuple[float, str]]]
    fatal_at: int | None
    workers: int
    slots: int
    rate: RateLimit | None
    retry: RetryPolicy | None
    window: int
    ordered: bool
    deadline_s: float | None
    known_length: bool
    asynchronous: bool
    consumer_s: float


scenarios = st.builds(
    Scenario,
    items=items,
    fatal_at=st.sampled_from([None] * 8 + list(range(12))),
    workers=st.integers(1, 12),
    slots=st.integers(1, 14),
    rate=rates,
    retry=st.none() | st.builds(RetryPolicy, max_attempts=st.integers(1, 4), first_wait_s=st.just(1.0)),
    window=st.integers(1, 30),
    ordered=st.booleans(),
    deadline_s=st.none() | st.sampled_from([0.05, 3.0, 11.0]),
    known_length=st.booleans(),
    asynchronous=st.booleans(),
    consumer_s=st.sampled_from([0.0, 0.0, 0.5]),
)


class Observed:
    """One scenario as it runs, with what is checked at every step."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.slots = Slots(scenario.slots)
        self.gate = Gate()
        self.attempts: Counter[int] = Counter()
        self.starts: list[float] = []
        self.pauses: list[tuple[float, float]] = []
        self.running = 0
        self.pulled = 0
        self.consumed = 0
        self.stopped_at: float | None = None
        self.progress: list[Progress] = []
        self.lazy = False
        self.broken: list[str] = []

    async def attempt(self, item: int) -> int:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.starts.append(now)
        self.running += 1
        # An assertion in here would be the item's outcome like any other exception: note it down instead.
        self.broken += [
            promise
            for promise, kept in {
                "nothing starts after a fatal answer": self.stopped_at is None,
                "nothing starts during a pause": not any(a < now < b - 1e-6 for a, b in self.pauses),
                "as many run as there are slots": self.running <= self.slots.in_use <= self.slots.limit,
                "max_concurrency": self.running <= self.scenario.workers,
                "slots allowed": 1 <= self.slots.allowed <= self.slots.limit,
            }.items()
            if not kept
        ]
        script = self.scenario.items[item]
        number = self.attempts[item]
        self.attempts[item] += 1
        takes_s, end = script[number] if number < len(script) else (0.1, "ok")
        try:
            if takes_s:
                await asyncio.sleep(takes_s)
        finally:
            self.running -= 1
        if self.stopped_at is None and len(self.starts) - 1 == self.scenario.fatal_at:
            end = "fatal"
        if end == "ok":
            return item * 10
        if end == "fatal":
            self.stopped_at = loop.time()
        if end == "paused":
            self.pauses.append((loop.time(), loop.time() + 3.0))
        raise ENDS[end]()

    def input(self) -> Any:
        def numbers() -> Any:
            for number in range(len(self.scenario.items)):
                self.pulled += 1
                if self.lazy and self.stopped_at is None and self.scenario.deadline_s is None:
                    assert self.pulled <= self.consumed + self.scenario.window
                yield number

        async def async_numbers() -> AsyncIterator[int]:
            for number in numbers():
                yield number
                await asyncio.sleep(0.01)

        if self.scenario.asynchronous:
            return async_numbers()
        return range(len(self.scenario.items)) if self.scenario.known_length else numbers()

    def options(self) -> dict[str, Any]:
        return {
            "max_concurrency": self.scenario.workers,
            "rate_limit": self.scenario.rate,
            "retry": self.scenario.retry,
            "deadline_s": self.scenario.deadline_s,
            "slots": self.slots,
            "gates": [self.gate],
            "on_progress": self.progress.append,
        }

    def check(self, outcomes: list[Outcome[int, int]], ended_at: float) -> None:
        assert not self.broken
        s = self.scenario
        indexes = [o.index for o in outcomes]
        assert sorted(indexes) == list(range(len(indexes)))
        assert all(o.item == o.index for o in outcomes)
        complete = not s.asynchronous and (s.known_length or not self.lazy)
        if complete or (self.stopped_at is None and s.deadline_s is None):
            assert len(indexes) == len(s.items)
        for o in outcomes:
            assert o.ok == (o.error is None)
            assert o.value == (o.item * 10 if o.ok else None)
            assert isinstance(o.error, NotRun) == (self.attempts[o.index] == 0)
            assert o.attempts == self.attempts[o.index]
            ends_seen = [end for _, end in s.items[o.index][: o.attempts]]
            counted = sum(end not in {"throttled", "paused"} for end in ends_seen)
            spared = "stale" in ends_seen
            most = 1 if s.retry is None else s.retry.max_attempts + spared
            assert counted + (o.attempts - len(ends_seen)) <= most
        if s.rate is not None:
            for early, late in zip(self.starts, self.starts[s.rate.amount :], strict=False):
                assert late - early >= s.rate.per_s
        if s.deadline_s is not None and s.consumer_s == 0:
            assert ended_at <= s.deadline_s + 1e-6
        assert self.slots.in_use == 0
        assert not self.gate._turnstile.locked()
        assert len(self.progress) == len(outcomes)
        for before, after in itertools.pairwise(self.progress):
            assert after.done >= before.done
            assert after.failed >= before.failed
            assert after.not_run >= before.not_run
            assert after.running >= 0
        if self.progress:
            last = self.progress[-1]
            assert last.done == sum(o.ok for o in outcomes)
            assert last.done + last.failed + last.not_run == len(outcomes)
            assert last.running == last.waiting == 0


@settings(max_examples=examples(200), deadline=None)
@given(scenarios)
def test_every_run_keeps_its_promises(scenario: Scenario) -> None:
    """Invariants 1-5, 9, 12, 13, 17, 18 and 21 over run()."""

    async def go() -> None:
        observed = Observed(scenario)
        result = await run(observed.attempt, observed.input(), **observed.options())
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        assert [o.index for o in result.outcomes] == sorted(o.index for o in result.outcomes)
        assert loop.passes <= 500 + 60 * (len(observed.starts) + len(scenario.items))
        observed.check(list(result.outcomes), loop.time())

    on_virtual_clock(go())


@settings(max_examples=examples(200), deadline=None)
@given(scenarios)
def test_every_stream_keeps_its_promises(scenario: Scenario) -> None:
    """Invariants 1-5, 8, 9, 12, 13, 17, 18, 19 and 21 over stream()."""

    async def go() -> None:
        observed = Observed(scenario)
        observed.lazy = True
        seen: list[Outcome[int, int]] = []
        async with stream(
            observed.attempt,
            observed.input(),
            ordered=scenario.ordered,
            window=scenario.window,
            **observed.options(),
        ) as outcomes:
            async for outcome in outcomes:
                observed.consumed += 1
                seen.append(outcome)
                if scenario.consumer_s:
                    await asyncio.sleep(scenario.consumer_s)
        if scenario.ordered:
            assert [o.index for o in seen] == list(range(len(seen)))
        observed.check(seen, asyncio.get_running_loop().time())

    on_virtual_clock(go())

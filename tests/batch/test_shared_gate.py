"""A limit that several processes share, where clocks differ and answers are late or lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blossom_async.batch import GateQuestion, Gates, Grant, RateLimit, SharedGate, run, run_one
from blossom_async.batch.start_times import StartLog, widest_slack_s
from blossom_async.errors import GateUnavailable, NotRun, PermissionDenied
from tests.forking import FORKS
from tests.thorough import examples, thoroughly
from tests.virtual_clock import on_virtual_clock


@attrs.frozen
class Link:
    """A way to the place, and what the clock at this end shows."""

    there_s: float = 0.0005
    back_s: float = 0.0005
    jitter_s: float = 0.0
    lost: float = 0.0
    clock_ahead_s: float = 0.0
    drift: float = 0.0


class World:
    """A place that can be restarted, and gates whose ways to it are long, slow and lossy."""

    def __init__(self, limit: RateLimit, seed: int = 0) -> None:
        self.loop = asyncio.get_running_loop()
        self.limit = limit
        self.chance = random.Random(seed)  # noqa: S311 - a simulation
        self.starts: list[float] = []
        self.given = dict[SharedGate, list[tuple[float, float]]]()  # from when to when a gate may start one
        self.made = dict[SharedGate, list[float]]()
        self.asked = 0
        self.away = False
        self.restart()

    def restart(self) -> None:
        self.place = Gates(self.loop.time)

    def gate(self, link: Link = Link(), limit: RateLimit | None = None, **how: Any) -> SharedGate:
        world, chance = self, self.chance

        class Place:
            async def take(self, question: GateQuestion) -> Grant:
                world.asked += 1
                await asyncio.sleep(link.there_s + chance.uniform(0, link.jitter_s))
                if world.away:
                    raise ConnectionError("refused")
                if chance.random() < link.lost:
                    await asyncio.sleep(3600)
                granted = await world.place.take(question)
                logs, name = world.place._states, question.name
                logs[name] = StartLog.unpacked(logs[name].packed())  # as a place that keeps it elsewhere
                world.note(gate, granted)
                if chance.random() < link.lost:
                    await asyncio.sleep(3600)
                await asyncio.sleep(link.back_s + chance.uniform(0, link.jitter_s))
                return granted

        def clock() -> float:
            return self.loop.time() * (1 + link.drift) + link.clock_ahead_s

        gate = SharedGate("paint", limit or self.limit, slots=Place(), clock=clock, **how)
        return gate

    def note(self, gate: SharedGate, granted: Grant) -> None:
        times = [self.loop.time() + start - granted.now for start in granted.starts]
        assert granted.slack_s is not None
        self.given.setdefault(gate, []).extend((time, time + granted.slack_s) for time in times)

    async def use(
        self,
        gate: SharedGate,
        until: float,
        nap: Callable[[], float] = lambda: 0.0,
        prepare: Callable[[], float] | None = None,
    ) -> None:
        """One attempt after the other until that time, with naps between; each is prepared for a while."""
        while True:
            await asyncio.sleep(nap())
            try:
                async with asyncio.timeout_at(until):
                    if prepare is None:
                        await gate.acquire()
                    else:
                        begin = await gate.reserve()
                        await asyncio.sleep(prepare())
                        await begin()
            except TimeoutError:
                return
            self.starts.append(self.loop.time())
            self.made.setdefault(gate, []).append(self.loop.time())

    def check_times(self) -> None:
        """Each start is within a start time that its gate was given, and none is used twice."""
        for gate, starts in self.made.items():
            left = sorted(self.given[gate])
            for start in starts:
                left = [slot for slot in left if slot[1] >= start - 1e-6]
                assert left
                assert left[0][0] <= start + 1e-6
                left.pop(0)

    def worst(self) -> int:
        """The most starts in any half-open window of the limit's length."""
        starts, most, first = sorted(self.starts), 0, 0
        for last, start in enumerate(starts):
            while start - starts[first] >= self.limit.per_s:
                first += 1
            most = max(most, last - first + 1)
        return most


delays = st.floats(0.0001, 0.1)
links = st.builds(
    Link,
    there_s=delays,
    back_s=delays,
    jitter_s=st.sampled_from([0.0, 0.005, 0.1]),
    lost=st.sampled_from([0.0, 0.05, 0.3]),
    clock_ahead_s=st.floats(-1e6, 1e6),
    drift=st.sampled_from([-100e-6, 0.0, 100e-6]),
)
limits = st.builds(RateLimit, st.integers(1, 60), per_s=st.sampled_from([0.5, 1.0, 3.0, 20.0]))


@settings(max_examples=examples(30), deadline=None)
@given(
    limits,
    st.lists(links, min_size=1, max_size=4),
    st.lists(st.floats(0, 25), max_size=3),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.01, 0.2, 2.0]),
    st.integers(0, 1000),
)
def test_no_window_holds_more_starts_than_stated(
    limit: RateLimit,
    ways: list[Link],
    restarts: list[float],
    longest_nap: float,
    prepared_s: float,
    seed: int,
) -> None:
    """Whatever the clocks, the delays, the answers that are lost, the restarts of the place, and how long
    attempts are prepared once they have their start time."""

    async def go() -> World:
        world = World(limit, seed)
        for at in restarts:
            world.loop.call_at(at, world.restart)
        async with asyncio.TaskGroup() as group:
            for way in ways:
                gate = world.gate(way)
                for n in range(4):
                    group.create_task(
                        world.use(
                            gate,
                            30.0,
                            lambda: world.chance.choice([0.0, longest_nap]) * world.chance.random(),
                            (lambda: prepared_s * world.chance.random()) if n else None,
                        )
                    )
        return world

    world = on_virtual_clock(go())
    assert world.worst() <= limit.amount
    world.check_times()


def test_where_limits_differ_the_slower_holds() -> None:
    """For both, as long as anyone asks for it; then the other is used in full."""

    async def go() -> World:
        world = World(RateLimit(10))
        async with asyncio.TaskGroup() as group:
            for limit, until in ((RateLimit(10), 20.0), (RateLimit(50), 40.0)):
                gate = world.gate(limit=limit)
                for _ in range(4):
                    group.create_task(world.use(gate, until))
        return world

    world = on_virtual_clock(go())
    later = [start for start in world.starts if start > 24]
    assert len(later) >= 0.97 * 16 * 50
    world.starts = [start for start in world.starts if start < 20]
    assert len(world.starts) >= 0.9 * 18 * 10
    assert world.worst() <= 10


@pytest.mark.parametrize("spelled", thoroughly("200/s", "2000/s", "600/min", "10/s"))
@pytest.mark.parametrize(("round_trip_s", "used"), [(0.001, 0.97), (0.03, 0.90)])
def test_a_long_run_uses_the_rate(spelled: str, round_trip_s: float, used: float) -> None:
    """Four processes, at two distances from the place."""

    async def go() -> tuple[World, float]:
        world = World(RateLimit.parse(spelled))
        length_s = 10 * world.limit.per_s
        async with asyncio.TaskGroup() as group:
            for ahead in range(4):
                way = Link(round_trip_s / 2, round_trip_s / 2, clock_ahead_s=ahead * 1e4, drift=50e-6)
                gate = world.gate(way)
                for _ in range(32):
                    group.create_task(world.use(gate, length_s))
        return world, length_s

    world, length_s = on_virtual_clock(go())
    first = world.starts[0]
    assert len(world.starts) >= used * world.limit.amount / world.limit.per_s * (length_s - first)
    assert world.worst() <= world.limit.amount
    assert world.asked <= 4 * 12 * length_s


def test_what_is_prepared_before_its_start_costs_nothing_of_the_rate() -> None:
    """Four processes write each start down, which takes 20 to 200 ms."""

    async def go() -> tuple[World, float]:
        world, length_s = World(RateLimit(50)), 10.0
        async with asyncio.TaskGroup() as group:
            for ahead in range(4):
                gate = world.gate(Link(clock_ahead_s=ahead * 1e4))
                for _ in range(16):
                    prepare = partial(world.chance.uniform, 0.02, 0.2)
                    group.create_task(world.use(gate, length_s, prepare=prepare))
        return world, length_s

    world, length_s = on_virtual_clock(go())
    assert world.worst() <= world.limit.amount
    rest_s = length_s - world.starts[0]
    assert len(world.starts) >= 0.97 * 50 * rest_s


def test_a_batch_runs_under_a_shared_gate() -> None:
    """As under any other: its starts and those of another process together stay within the limit."""

    async def go() -> World:
        world = World(RateLimit(50))

        async def attempt(item: int) -> int:
            world.starts.append(world.loop.time())
            await asyncio.sleep(0.1)
            return item

        gates = [world.gate(Link(clock_ahead_s=ahead)) for ahead in (-5.0, 1000.0)]
        batches = [run(attempt, range(100), rate_limit="40/s", gates=[gate]) for gate in gates]
        for result in await asyncio.gather(*batches):
            assert list(result) == list(range(100))
        return world

    world = on_virtual_clock(go())
    assert world.worst() <= 50
    assert max(world.starts) - min(world.starts) <= 200 / 50 / 0.94


@FORKS
def test_a_forked_process_uses_no_start_time_of_its_parent() -> None:
    """It asks for its own."""
    parent = os.getpid()

    class Place:
        async def take(self, *_: Any) -> Grant:
            if os.getpid() != parent:
                raise PermissionDenied("not you", code="refused")
            return Grant(0.0, 0.0, 10, 0.0)

    gate = SharedGate("paint", "10/min", slots=Place(), clock=lambda: 0.0)
    asyncio.run(gate.acquire())
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(gate.acquire())
        except GateUnavailable:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("limit", [RateLimit(1, per_s=60), RateLimit(3, per_s=200)])
def test_however_late_a_process_is_its_slack_is_one_that_the_place_allows(limit: RateLimit) -> None:
    """A wider one would put starts into windows that the place has filled."""
    slacks: list[float] = []

    class Place(Gates):
        async def take(self, question: GateQuestion) -> Grant:
            slacks.append(question.slack_s)
            granted = await super().take(question)
            if granted.number:
                loop = asyncio.get_running_loop()
                loop.call_later(granted.first - granted.now - 0.1, stand_still, loop)
            return granted

    def stand_still(loop: Any) -> None:
        loop._now += 3

    async def go() -> None:
        clock = asyncio.get_running_loop().time
        gate = SharedGate("paint", limit, slots=Place(clock), clock=clock)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1000):
                while True:
                    await gate.acquire()

    on_virtual_clock(go())
    assert max(slacks) == widest_slack_s(limit)


@pytest.mark.parametrize("late_s", [0.2, 0.4])
def test_a_process_that_is_late_now_and_then_uses_nearly_all_of_the_rate(late_s: float) -> None:
    """Also where its start times in hand have expired: they are made up for."""

    async def go() -> World:
        world = World(RateLimit(200))

        def stand_still() -> None:
            world.loop._now += late_s  # type: ignore[attr-defined]

        for second in range(1, 40, 5):
            world.loop.call_at(float(second), stand_still)
        gate = world.gate()
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(world.use(gate, 40.0))
        return world

    world = on_virtual_clock(go())
    assert world.worst() <= 200
    assert len([start for start in world.starts if start > 10]) >= 0.96 * 30 * 200


def test_a_place_made_anew_gives_out_nothing_that_may_still_be_in_use() -> None:
    """It waits for longer than anyone may hold a start time of the place before."""

    async def go() -> World:
        world = World(RateLimit(20))
        world.loop.call_at(5.0, world.restart)
        async with asyncio.TaskGroup() as group:
            for gate in (world.gate(), world.gate()):
                group.create_task(world.use(gate, 10.0))
        return world

    world = on_virtual_clock(go())
    assert world.worst() <= 20
    between = [start for start in world.starts if 5.0 < start < 6.5]
    assert 1 <= len(between) <= 20  # those given out before
    assert len([start for start in world.starts if start > 7]) >= 0.97 * 3 * 20


def test_nothing_starts_without_the_place_and_all_goes_on_with_it() -> None:
    """An outage of ten seconds costs the starts of ten seconds."""

    async def go() -> World:
        world = World(RateLimit(100))
        world.loop.call_at(5.0, setattr, world, "away", True)
        world.loop.call_at(15.0, setattr, world, "away", False)
        async with asyncio.TaskGroup() as group:
            for gate in (world.gate(), world.gate()):
                for _ in range(8):
                    group.create_task(world.use(gate, 25.0))
        return world

    world = on_virtual_clock(go())
    assert not [start for start in world.starts if 6.1 < start < 15]
    assert len([start for start in world.starts if start > 16]) >= 0.95 * 9 * 100
    assert world.asked < 600


def test_a_place_that_stays_away_ends_the_batch() -> None:
    """After its patience, with one error that says so; what was not tried is told as such."""

    async def go() -> None:
        world = World(RateLimit(100))
        world.away = True
        gate = world.gate(patience_s=20)
        result = await run(asyncio.sleep, [0.1] * 50, max_concurrency=10, gates=[gate])
        assert 20 <= world.loop.time() <= 23
        assert result.stopped is not None
        assert "gate paint: no start times from its place for 2" in result.stopped
        kinds = {type(outcome.error) for outcome in result.outcomes}
        assert kinds == {GateUnavailable, NotRun}
        world.away = False
        await asyncio.sleep(1)
        await run_one(asyncio.sleep, 0.1, gates=[gate])

    on_virtual_clock(go())


def test_time_in_which_nobody_asks_is_no_time_without_answers() -> None:
    """A failure now and one an hour ago do not use up the patience."""

    async def go() -> None:
        world = World(RateLimit(100))
        gate = world.gate(patience_s=20)
        world.away = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await gate.acquire()
        await asyncio.sleep(3600)
        waiting = asyncio.create_task(gate.acquire())
        await asyncio.sleep(5)
        world.away = False
        await waiting

    on_virtual_clock(go())


def test_a_place_that_refuses_is_not_asked_for_long() -> None:
    """The error says what the place said, and a call of its own raises it."""

    class Place:
        async def take(self, *question: Any) -> Grant:
            raise PermissionDenied("this key may not do this")

    async def go() -> None:
        gate = SharedGate("paint", "10/s", slots=Place(), clock=asyncio.get_running_loop().time)
        with pytest.raises(GateUnavailable, match="this key may not do this") as caught:
            await run_one(asyncio.sleep, 0.1, gates=[gate])
        assert isinstance(caught.value.__cause__, PermissionDenied)
        assert asyncio.get_running_loop().time() < 1

    on_virtual_clock(go())


def test_a_limit_that_its_slack_does_not_fit_changes_nothing() -> None:
    """The starts go on under the limit before."""
    gate = SharedGate("paint", "1/60 s", slots=Gates(), slack_s=1.5)
    with pytest.raises(ValueError, match=r"slack_s: 1\.5 .* from 0\.02 to 0\.5"):
        gate.change(RateLimit(10))
    assert gate.limits == (RateLimit(1, per_s=60),)


def test_a_pause_holds_for_all_who_share_the_gate() -> None:
    """From a second or two after it began."""

    async def go() -> World:
        world = World(RateLimit(50))
        gates = [world.gate(), world.gate(Link(clock_ahead_s=77.0))]
        world.loop.call_at(5.0, gates[0].pause, 10.0)
        async with asyncio.TaskGroup() as group:
            for gate in gates:
                for _ in range(4):
                    group.create_task(world.use(gate, 20.0))
        return world

    world = on_virtual_clock(go())
    assert not [start for start in world.starts if 7 < start < 15]
    assert len([start for start in world.starts if start > 15]) >= 0.9 * 5 * 50


def test_who_may_not_start_takes_no_start_times_from_the_others() -> None:
    """A process whose server has no calls left for it waits without asking."""

    async def go() -> World:
        world = World(RateLimit(50))
        held, other = world.gate(), world.gate()
        held.heed({"RateLimit": '"default";r=0;t=30'}, 0.0)
        await held.acquire()  # from then on it knows when it was last answered
        async with asyncio.TaskGroup() as group:
            for gate in (held, other):
                for _ in range(4):
                    group.create_task(world.use(gate, 22.0))
        return world

    world = on_virtual_clock(go())
    assert len([start for start in world.starts if 2 < start < 22]) >= 0.97 * 20 * 50


def test_a_slack_shorter_than_the_way_to_the_place_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Once: nothing can start then."""

    async def go() -> World:
        world = World(RateLimit(50))
        await world.use(world.gate(Link(0.02, 0.02), slack_s=0.03), 5.0)
        return world

    assert on_virtual_clock(go()).starts == []
    (record,) = caplog.records
    assert "longer than the slack of 0.030 s" in record.getMessage()


def test_a_clock_that_was_set_back_costs_some_seconds_and_no_more() -> None:
    """The place does not wait until the time that it had come to before."""

    async def go() -> World:
        world, ahead = World(RateLimit(20)), [5000.0]
        world.place = Gates(lambda: world.loop.time() + ahead[0])
        world.loop.call_at(5.0, ahead.__setitem__, 0, 0.0)
        await world.use(world.gate(), 12.0)
        return world

    world = on_virtual_clock(go())
    assert world.worst() <= 20
    assert len([start for start in world.starts if start > 8]) >= 0.9 * 4 * 20


def test_a_place_forgets_limits_that_nobody_uses() -> None:
    """A cluster that runs for months has had many."""

    async def go() -> None:
        world = World(RateLimit(20))
        for name in ("paint", "print"):
            await world.place.take(GateQuestion(name, world.limit, 1, 0.05))
            await asyncio.sleep(10.0)
        assert [*world.place._states] == ["print"]

    on_virtual_clock(go())


def test_event_loops_may_share_it() -> None:
    """One after another, at the clock of the machine."""
    place = Gates()
    gate = SharedGate("paint", "200/s", slots=place)

    async def attempt(item: int) -> int:
        return item

    for _ in range(2):
        assert list(asyncio.run(run(attempt, range(10), gates=[gate]))) == list(range(10))


def test_a_call_that_gives_up_leaves_no_question_behind() -> None:
    """The question to the place ends with the last who waits for its answer."""

    async def go() -> None:
        world = World(RateLimit(10))
        gate = world.gate(Link(30.0, 30.0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await gate.acquire()
        assert gate._asking is None

    on_virtual_clock(go())  # which finds tasks left behind


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ({"name": "two words"}, "1 to 64 letters"),
        ({"name": ""}, "1 to 64 letters"),
        ({"limit": "fast"}, "'600/min'"),
        ({"slack_s": 0.001}, "from 0.02 to 0.5 seconds"),
        ({"slack_s": 2}, "from 0.02 to 0.5 seconds"),
        ({"patience_s": 0}, "seconds above 0"),
    ],
)
def test_what_cannot_be_used_is_refused(wrong: dict[str, Any], allowed: str) -> None:
    """With what is allowed."""
    given: dict[str, Any] = {"name": "paint", "limit": "10/s", "slots": Gates()} | wrong
    with pytest.raises(ValueError, match=allowed):
        SharedGate(given.pop("name"), given.pop("limit"), **given)

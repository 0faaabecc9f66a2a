"""The start times of a limit that many processes share: given out by one place, a few at a time.

A start time T may be used from T to T plus the slack, and never later. There are two ways to keep the limit:

1. ``grant`` remembers one number. ``amount`` start times span the period plus the slack. So of any
   ``amount + 1`` starts the last is at least a period after the first, whoever makes them, and the use of the
   rate is ``period / (period + slack)``.
2. ``StartLog`` remembers the start times of a period, and hears when each was used. A new one is at least a
   period after the latest moment at which the start ``amount`` before it can have been made. So only the time
   by which starts are late on average is lost, and a start time may be used late.
"""

from __future__ import annotations

import math
import random
import re
import struct
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import NamedTuple, Protocol

import attrs

from blossom_async.batch.gate import RateLimit

__all__ = [
    "GATE_NAMES",
    "LOOKAHEAD_S",
    "GatePlace",
    "GateQuestion",
    "GateState",
    "Gates",
    "Grant",
    "StartLog",
    "Used",
    "grant",
    "is_gate_name",
    "least_slack_s",
    "usual_slack_s",
    "widest_slack_s",
]

GATE_NAMES = "1 to 64 letters, digits and . _ - from ASCII"
LOOKAHEAD_S = 1.0
"""No start time lies further ahead than this when it is given out."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_PAUSE_S = 3600.0
_SLACK = 0.02  # of the period: what a long run may leave unused
_LONG_SLACK_S = 2.0  # of a short period, the slack may be up to half
_LONGEST_HOLD_S = 120.0

# Servers count arrivals and we count starts, and latency varies.
_MARGIN = 1.01
_CATCH_UP = 0.5  # the least distance of two start times, of that in a long run
_BEHIND_S = 1.0  # start times that nobody asked for in this time, or that were not used, are caught up
_BEHIND_AT_FIRST_S = 0.25
_HORIZON_S = 0.2  # further ahead, more would be known later about the start times before
_REMEMBERED = 100_000
_KEPT = ("_begins", "_longest_s", "_step", "_due", "_paused_until", "last", "idle_at")


class Grant(NamedTuple):
    """``number`` start times from ``first`` on, ``step`` apart, in seconds of the place's clock.

    ``now`` is a time of that clock between the question and the answer. Without a start time, ``first`` is
    when the next one will be. ``times`` are the start times where their distance varies. ``slack_s`` is how
    late each may be used, if that is not what was asked for.
    """

    now: float
    first: float
    number: int
    step: float
    times: Sequence[float] = ()
    slack_s: float | None = None

    @property
    def starts(self) -> Sequence[float]:
        """The start times."""
        return self.times or [self.first + n * self.step for n in range(self.number)]


Used = tuple[float, float]
"""A start time, and how many seconds after it an attempt started at the latest; below 0 for none."""


@attrs.frozen
class GateQuestion:
    """A question for up to ``want`` start times of the limit of that name, each used within ``slack_s``.

    None is earlier than ``lead_s`` from now, when the answer has arrived; nor than ``pause_s`` from now,
    whoever asks. ``used`` tells what became of earlier ones; a place need not heed it, and must not rely on
    it.
    """

    name: str
    limit: RateLimit
    want: int
    slack_s: float
    lead_s: float = 0.0
    pause_s: float = 0.0
    used: Sequence[Used] = ()


class GatePlace(Protocol):
    """Where the start times of shared limits are given out."""

    async def take(self, question: GateQuestion) -> Grant:
        """The start times for the question; none if all of the next second are given out."""


@attrs.frozen
class GateState:
    """What a place remembers of one limit.

    ``last`` the latest start time given out · ``step`` the least distance of two start times until ``until``,
    and ``coming`` thereafter: the widest that was asked for in a ``span`` before, the longest period with
    slack, because a start time with a wide slack needs it for as long · ``paused_until`` when the next start
    time may be.
    """

    last: float
    step: float = 0.0
    coming: float = 0.0
    until: float = 0.0
    span: float = 0.0
    paused_until: float = 0.0

    @property
    def idle_at(self) -> float:
        """From when on it is the same as None."""
        return max(self.paused_until, max(self.until, self.last) + max(self.span, self.step, self.coming))

    @classmethod
    def forgotten(cls, since: float, limit: RateLimit) -> GateState:
        """For a limit of which nothing is known before ``since``, perhaps because the place was restarted.

        What was given out before may be in use until then plus ``LOOKAHEAD_S``, with any slack.
        """
        return cls(since + LOOKAHEAD_S + widest_slack_s(limit))


def is_gate_name(value: object) -> bool:
    """Whether a value can name a shared limit."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def least_slack_s(limit: RateLimit) -> float:
    """The least slack under a limit: 2 % of its period, which a long run leaves unused."""
    return _SLACK * limit.per_s


def widest_slack_s(limit: RateLimit) -> float:
    """The most slack under a limit."""
    return max(least_slack_s(limit), min(limit.per_s / 2, _LONG_SLACK_S))


def usual_slack_s(limit: RateLimit, round_trip_s: float) -> float:
    """Three round trips to the place within these bounds: its clock is known no better than by one."""
    return min(max(least_slack_s(limit), 3 * round_trip_s), widest_slack_s(limit))


def grant(state: GateState | None, now: float, question: GateQuestion) -> tuple[GateState, Grant]:
    """The start times for one question, and the state after it. ``state`` is None for a new limit.

    Where different limits are asked for under one name, the slowest of late holds.
    """
    limit = question.limit
    slack_s = min(max(question.slack_s, least_slack_s(limit)), widest_slack_s(limit))
    step = (limit.per_s + slack_s) / limit.amount
    # Where a period is longer than this, there is just one slack.
    span = min(limit.per_s + slack_s, _LONGEST_HOLD_S)
    forgotten = GateState.forgotten(now, limit)
    if state is None:
        state = GateState(-math.inf)
    elif state.last > forgotten.last:  # the clock was set back
        state = forgotten
    paused_until = min(max(state.paused_until, now + question.pause_s), now + _LONGEST_PAUSE_S)
    earliest = max(now + question.lead_s, paused_until)
    soonest = max(earliest, state.last + step)
    if soonest >= max(state.until, state.last) + state.span:  # nothing that was asked for before still counts
        held, coming, until = step, step, soonest + span
    else:
        span = max(span, state.span)
        held, coming, until = max(step, state.step), max(step, state.coming), state.until
        if soonest >= until:
            held, coming, until = coming, step, soonest + span
    first = max(earliest, state.last + held)
    number = max(0, min(question.want, 1 + math.floor((now + LOOKAHEAD_S - first) / held)))
    if number:
        last = first + (number - 1) * held
        state = GateState(last, held, coming, until, span, paused_until)
    else:
        step, coming = max(step, state.step), max(step, state.coming)
        state = attrs.evolve(state, step=step, coming=coming, paused_until=paused_until)
    return state, Grant(now, first, number, held)


class StartLog:
    """The start times given out under one name of late, and when each was used at the latest.

    ``since`` as for ``GateState.forgotten``; minus infinity where nothing was given out before. A limit of
    more than ``remembered`` starts is kept as a stricter one of a shorter period.
    """

    def __init__(self, since: float, limit: RateLimit, *, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._ends: list[float] = []  # sorted: until when each start may have been made,
        self._given: dict[float, float] = {}  # and the same by start time, until it is told
        self._limits: dict[RateLimit, float] = {}  # and until when they hold
        # Then an even pace keeps the limit, whatever was started before.
        begins = GateState.forgotten(since, limit).last + _BEHIND_AT_FIRST_S
        self._begins = begins + _MARGIN * limit.per_s / limit.amount
        self._step = 0.0
        self._longest_s = 0.0  # the period of any limit so far
        self._due = self._begins  # when the next one is, at an even pace
        self._paused_until = -math.inf
        self.last: float = -math.inf
        """The latest start time given out."""
        self.idle_at: float = -math.inf
        """From when on it is the same as a new one."""

    def is_ahead(self, now: float) -> bool:
        """Whether the clock was set back."""
        return self.last > now + LOOKAHEAD_S

    def packed(self) -> bytes:
        """All of it, to be kept elsewhere."""
        limits = [(limit.amount, limit.per_s, until) for limit, until in self._limits.items()]
        numbers = [
            *(getattr(self, name) for name in _KEPT),
            len(limits),
            len(self._given),
            *chain.from_iterable((*limits, *self._given.items())),
            *self._ends,
        ]
        return struct.pack(f"<{len(numbers)}d", *numbers)

    @classmethod
    def unpacked(cls, packed: bytes, *, remembered: int = _REMEMBERED) -> StartLog:
        """One as it was when these bytes were ``packed``, by one with the same ``remembered``."""
        numbers = iter(struct.unpack(f"<{len(packed) // 8}d", packed))
        log = cls.__new__(cls)
        log._remembered = remembered
        for name in _KEPT:
            setattr(log, name, next(numbers))
        limits, given = int(next(numbers)), int(next(numbers))
        log._limits = {
            RateLimit(int(amount), per_s=per_s): until
            for amount, per_s, until in zip(*[islice(numbers, 3 * limits)] * 3, strict=True)
        }
        log._given = dict(zip(*[islice(numbers, 2 * given)] * 2, strict=True))
        log._ends = [*numbers]
        return log

    def note(self, used: Sequence[Used]) -> None:
        """Learns what became of start times."""
        for start, late_s in used:
            end = self._given.pop(start, -math.inf)
            place = bisect_left(self._ends, end)
            if place < len(self._ends) and self._ends[place] == end:
                del self._ends[place]
                if late_s >= 0:
                    insort(self._ends, min(start + late_s, end))
                elif self._knows_all(start):
                    self._due -= self._step

    def take(self, now: float, question: GateQuestion) -> Grant:
        """Start times, as ``GatePlace`` says."""
        limit, want, slack_s, lead_s = question.limit, question.want, question.slack_s, question.lead_s
        if limit.per_s >= 1:  # or it would not be told in time what became of them
            slack_s = max(slack_s, min(limit.per_s / 4, LOOKAHEAD_S))
        slack_s = min(max(slack_s, least_slack_s(limit)), widest_slack_s(limit))
        limit = self._in_parts(limit)
        self._paused_until = min(max(self._paused_until, now + question.pause_s), now + _LONGEST_PAUSE_S)
        self._longest_s = max(self._longest_s, limit.per_s)
        self._forget(now)
        self._limits[limit] = now + min(_LONGEST_HOLD_S, limit.per_s + slack_s + LOOKAHEAD_S)
        step = max(_MARGIN * each.per_s / each.amount for each in self._limits)
        self._step = step
        times: list[float] = []
        earliest, horizon = now + lead_s, now + min(LOOKAHEAD_S, lead_s + _HORIZON_S)
        while (at := self._next(max(earliest, self._paused_until), step)) <= horizon and len(times) < want:
            times.append(at)
            behind_s = _BEHIND_S if self._knows_all(at) else _BEHIND_AT_FIRST_S
            # Later than that, nobody wanted them.
            self.last, self._due = at, (self._due if at <= self._due + behind_s else at) + step
            self._given[at] = at + slack_s
            insort(self._ends, at + slack_s)
        self.idle_at = max(
            self._paused_until, *self._limits.values(), self.last + slack_s + _MARGIN * self._longest_s
        )
        return Grant(now, times[0] if times else at, len(times), step, tuple(times), slack_s)

    def _next(self, earliest: float, step: float) -> float:
        at = max(earliest, self._begins, self.last + _CATCH_UP * step, self._due)
        for limit in self._limits:
            if len(self._ends) >= limit.amount:
                at = max(at, self._ends[-limit.amount] + _MARGIN * limit.per_s)
        return at

    def _knows_all(self, at: float) -> bool:
        """Whether all starts of the period before are remembered, so that the pace need not be even."""
        return at > self._begins + _MARGIN * self._longest_s

    def _forget(self, now: float) -> None:
        ended = bisect_left(self._ends, now - _MARGIN * self._longest_s)
        del self._ends[: max(ended, len(self._ends) - 2 * self._remembered)]
        while self._given and (first := next(iter(self._given))) + _LONGEST_HOLD_S < now:
            del self._given[first]
        self._limits = {limit: until for limit, until in self._limits.items() if until > now}

    def _in_parts(self, limit: RateLimit) -> RateLimit:
        """One that is no looser, and whose starts are few enough to remember each."""
        parts = math.ceil(limit.amount / self._remembered)
        return RateLimit(limit.amount // parts, per_s=limit.per_s / parts)


class Gates:
    """A ``GatePlace`` in this process: for tests, and to stand in an actor of a cluster.

    Made anew, it waits ``LOOKAHEAD_S`` and more before it first gives a start time, in case that another one
    gave some out just before. Limits of which nothing counts any more are forgotten. ``clock`` is a clock in
    seconds that is never set back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # From a random time on: nobody takes this clock for that of the place before.
        self._since = random.uniform(0, 1e6)  # noqa: S311 - no secret
        self._shift = self._since - clock()
        self._states: dict[str, StartLog] = {}

    async def take(self, question: GateQuestion) -> Grant:
        """Start times, as ``GatePlace`` says."""
        name, limit = question.name, question.limit
        now = self._clock() + self._shift
        state = self._states.get(name)
        if state is None:
            self._states = {known: state for known, state in self._states.items() if state.idle_at > now}
            state = self._states[name] = StartLog(self._since, limit)
        elif state.is_ahead(now):
            state = self._states[name] = StartLog(now, limit)
        state.note(question.used)
        return state.take(now, question)

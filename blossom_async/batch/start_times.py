"""The start times of a limit that many processes share: one number in one place, given out a few at a time.

A start time T may be used from T to T plus the slack, and never later. ``amount`` start times span the period
plus the slack. So of any ``amount + 1`` starts the last is at least a period after the first, whoever makes
them, and the use of the rate is ``period / (period + slack)``.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import attrs

from blossom_async.batch.gate import RateLimit

__all__ = [
    "GATE_NAMES",
    "LOOKAHEAD_S",
    "GatePlace",
    "GateState",
    "Gates",
    "Grant",
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


class Grant(NamedTuple):
    """``number`` start times from ``first`` on, ``step`` apart, in seconds of the place's clock.

    ``now`` is a time of that clock between the question and the answer. Without a start time, ``first`` is
    when the next one will be.
    """

    now: float
    first: float
    number: int
    step: float


class GatePlace(Protocol):
    """Where the start times of shared limits are given out."""

    async def take(
        self, name: str, limit: RateLimit, want: int, slack_s: float, lead_s: float, pause_s: float
    ) -> Grant:
        """Up to ``want`` start times under the limit of that name, which the caller uses within ``slack_s``.

        None is earlier than ``lead_s`` from now, when the answer has arrived; nor than ``pause_s`` from now,
        whoever asks.
        """


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


def grant(
    state: GateState | None,
    now: float,
    limit: RateLimit,
    want: int,
    *,
    slack_s: float,
    lead_s: float = 0.0,
    pause_s: float = 0.0,
) -> tuple[GateState, Grant]:
    """The start times for one question, and the state after it. ``state`` is None for a new limit.

    Where different limits are asked for under one name, the slowest of late holds.
    """
    slack_s = min(max(slack_s, least_slack_s(limit)), widest_slack_s(limit))
    step = (limit.per_s + slack_s) / limit.amount
    # Where a period is longer than this, there is just one slack.
    span = min(limit.per_s + slack_s, _LONGEST_HOLD_S)
    forgotten = GateState.forgotten(now, limit)
    if state is None:
        state = GateState(-math.inf)
    elif state.last > forgotten.last:  # the clock was set back
        state = forgotten
    paused_until = min(max(state.paused_until, now + pause_s), now + _LONGEST_PAUSE_S)
    earliest = max(now + lead_s, paused_until)
    soonest = max(earliest, state.last + step)
    if soonest >= max(state.until, state.last) + state.span:  # nothing that was asked for before still counts
        held, coming, until = step, step, soonest + span
    else:
        span = max(span, state.span)
        held, coming, until = max(step, state.step), max(step, state.coming), state.until
        if soonest >= until:
            held, coming, until = coming, step, soonest + span
    first = max(earliest, state.last + held)
    number = max(0, min(want, 1 + math.floor((now + LOOKAHEAD_S - first) / held)))
    if number:
        last = first + (number - 1) * held
        state = GateState(last, held, coming, until, span, paused_until)
    else:
        step, coming = max(step, state.step), max(step, state.coming)
        state = attrs.evolve(state, step=step, coming=coming, paused_until=paused_until)
    return state, Grant(now, first, number, held)


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
        self._states: dict[str, GateState] = {}

    async def take(
        self,
        name: str,
        limit: RateLimit,
        want: int,
        slack_s: float,
        lead_s: float = 0.0,
        pause_s: float = 0.0,
    ) -> Grant:
        """Start times, as ``GatePlace`` says."""
        now = self._clock() + self._shift
        if name not in self._states:
            self._states = {known: state for known, state in self._states.items() if state.idle_at > now}
        state = self._states.get(name) or GateState.forgotten(self._since, limit)
        self._states[name], granted = grant(
            state, now, limit, want, slack_s=slack_s, lead_s=lead_s, pause_s=pause_s
        )
        return granted

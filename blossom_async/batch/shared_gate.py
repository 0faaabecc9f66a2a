"""A limit that many processes share, strictly: its starts are given out by one place."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable

from blossom_async.batch.gate import Gate, RateLimit, RateLimitLike, pass_gates
from blossom_async.batch.retry import Fail, Fatal, Throttle, classify
from blossom_async.batch.start_times import (
    GATE_NAMES,
    LOOKAHEAD_S,
    GatePlace,
    GateQuestion,
    Grant,
    Used,
    is_gate_name,
    least_slack_s,
    usual_slack_s,
    widest_slack_s,
)
from blossom_async.batch.timeouts import SECONDS, is_seconds
from blossom_async.errors import GateUnavailable, shown

__all__ = ["SharedGate"]

_log = logging.getLogger("blossom_async.batch")

_DRIFT = 200e-6  # how much faster one clock may run than another
_ROUNDING_S = 1e-5  # the times of a place are floats of some 1e9 seconds
_REACH_S = LOOKAHEAD_S / 8  # asked again when the start times in hand end sooner
_FIRST_ANSWER_S = 5.0
_LONGEST_REST_S = 60.0  # between two questions, so that a change of the limit is noticed
_MOST_WANTED = 10_000
_AMPLE = 5.0
_LONGEST_LEAD_S = 0.5  # for which an attempt may be prepared before its start time
_JUDGED = 50  # start times after which it is known how many are late


class _Offset:
    """By how much the own clock is ahead of the place's: bounds, which each exchange narrows.

    Between two exchanges they widen again, because clocks run at different speeds.
    """

    def __init__(self) -> None:
        self._least, self._most, self._at = -math.inf, math.inf, 0.0

    def narrow(self, sent: float, now: float, received: float) -> bool:
        """Learns from an exchange. False if it contradicts what was known: one of the clocks was set."""
        least, most = max(self.least(received), sent - now), min(self.most(received), received - now)
        agrees = least <= most
        self._least, self._most = (least, most) if agrees else (sent - now, received - now)
        self._at = received
        return agrees

    @property
    def known(self) -> bool:
        """Whether there was an exchange."""
        return math.isfinite(self._most)

    @property
    def unsure_s(self) -> float:
        """The distance of the bounds after the last exchange: the smallest round trip, or less; 0 before."""
        return self._most - self._least if self.known else 0.0

    def least(self, own: float) -> float:
        return self._least - _DRIFT * (own - self._at)

    def most(self, own: float) -> float:
        return self._most + _DRIFT * (own - self._at)


class SharedGate(Gate):
    """A ``Gate`` for one limit that holds for all processes whose gates have its name at the same place.

    No window of the limit's period holds more starts than it states, in all of them together, whatever their
    clocks. A long run uses 98 % of the rate if the place answers within 0.6 % of the period, and 91 % at 3 %.
    A start that is late costs a place that heeds when starts were made, as ``Gates`` does, only that time.

    ``slots`` is the place that gives out start times: ``client.gates``, a ``Gates`` of this process, or
    anything else with the method of ``GatePlace``. ``slack_s`` is how late an attempt may start: more of it
    leaves more of the rate unused, and less of it than a round trip to the place lets nothing start, which a
    warning says. By default it follows from the round trip. Where several processes state different limits
    under one name, the slowest holds.

    Nothing starts while the place gives no answer. After ``patience_s`` without one, or at once if it
    refuses, ``acquire`` raises ``GateUnavailable``; a batch ends with that error, and untried items are
    ``NotRun``.

    Raises ``ValueError`` for a limit, slack or patience that cannot be used.
    """

    def __init__(
        self,
        name: str,
        limit: RateLimitLike,
        *,
        slots: GatePlace,
        slack_s: float | None = None,
        patience_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = _checked_name(name)
        self._place = slots
        self._limit = RateLimit.parse(limit)
        self._slack_s = slack_s
        self._check_slack(self._limit)
        if not is_seconds(patience_s):
            raise ValueError(f"patience_s: {shown(patience_s)} cannot be used; allowed: {SECONDS}")
        self._patience_s = patience_s
        self._clock = clock
        super().__init__()
        self.closed = True
        self._offset = _Offset()
        self._slots: deque[tuple[float, float]] = deque()  # start time, of the place's clock, and slack
        self._taken = (0.0, 0.0)  # the latest of them that was taken
        self._lead_s = 0.0  # how long before its start time one is reserved: as preparing took of late
        self._resets = 0  # how often a clock was set
        self._pause_until = -math.inf  # of the own clock: what the place is to know,
        self._pause_told = -math.inf  # and knows
        self._asked_at = self._ask_at = -math.inf
        self._answer_by = -math.inf
        self._telling: asyncio.Handle  # what is to note the latest start
        self._told: list[Used] = []  # what became of start times since the last question
        self._used = self._void = 0  # start times since the last question; void for being late, not unwanted
        self._in_demand = False
        self._ample_s = 0.0  # a slack within which this process is seldom late
        self._late = self._starts = 0.0  # void start times, and all, of the latest questions
        self._failures = 0
        self._failing_since = 0.0
        self._refusal: Exception | None = None
        self._warned = False
        _gates.add(self)

    def __repr__(self) -> str:
        return f"<SharedGate {self._name}: {self._limit.amount} in {self._limit.per_s:g} s>"

    @property
    def limits(self) -> tuple[RateLimit, ...]:
        """The limit in force."""
        return (self._limit,)

    def change(self, *limits: RateLimit) -> None:
        """Replaces the limit, from the next start times on. Raises ``ValueError`` unless it is one limit."""
        if limits:
            (limit,) = limits
            self._check_slack(limit)
            self._limit = limit

    def pause(self, seconds: float, *, at_most_s: float = 600.0) -> None:
        """As for ``Gate``; the place is told, so within a second or two all the others pause, too."""
        super().pause(seconds, at_most_s=at_most_s)
        self._ramp_until = -math.inf  # start times are spread anyway
        if math.isfinite(seconds) and seconds > 0:
            self._pause_until = max(self._pause_until, self._clock() + min(seconds, at_most_s))
            self._look_again()

    async def reserve(self) -> Callable[[], Awaitable[float]]:
        """As for ``Gate``: returns some time before the start, as preparing the attempts took of late.

        A start that comes too late for its slack waits for another start time.
        """
        await pass_gates((self,), lead_s=self._lead_s)
        slot, resets, reserved_at = self._taken, self._resets, self._clock()
        self._telling.cancel()  # this one is told when it starts

        async def begin() -> float:
            own = self._clock()
            self._lead_s = min(max(own - reserved_at, 0.99 * self._lead_s), _LONGEST_LEAD_S)
            while resets == self._resets and (early_s := slot[0] + self._offset.most(own) - own) > 0:
                await asyncio.sleep(early_s)
                own = self._clock()
            if resets == self._resets:
                if own <= self._latest_of(slot, own):
                    self._tell(slot)
                    return asyncio.get_running_loop().time()
                self._told.append((slot[0], -1.0))
            self._void += 1
            again = await self.reserve()  # not ``acquire``, whose turn would hold up those who are to prepare
            return await again()

        return begin

    def _check_slack(self, limit: RateLimit) -> None:
        least, widest, given = least_slack_s(limit), widest_slack_s(limit), self._slack_s
        if given is not None and not (is_seconds(given) and least <= given <= widest):
            raise ValueError(
                f"slack_s: {shown(given)} cannot be used; allowed: from {least:g} to {widest:g} seconds for "
                f"{limit.amount} in {limit.per_s:g} s"
            )

    def _ready_at(self, now: float, lead_s: float = 0.0) -> float:
        own, held_until = self._clock(), super()._ready_at(now)
        if self._refusal is not None and own < self._ask_at:
            raise self._unavailable(own) from self._refusal
        while self._slots and self._latest_of(self._slots[0], own) < own:
            start, _ = self._slots.popleft()
            self._told.append((start, -1.0))
            self._void += self._in_demand and held_until <= now
        if self._ask_due(own) <= own:
            self._ask(own)
        if not self._slots:
            return now + _LONGEST_REST_S
        at = self._slots[0][0] + self._offset.most(own)
        return max(held_until, now + max(0.0, at - lead_s - own))

    async def _take(self, now: float) -> None:
        self._taken = self._slots.popleft()
        self._tell(self._taken)
        self._used += 1
        self._in_demand = self._turnstile.waiting > 0
        await super()._take(now)

    async def _wait_until(self, at: float) -> None:
        own = self._clock()
        self._in_demand = True
        due_s = max(0.0, self._ask_due(own) - own)
        await super()._wait_until(min(at, asyncio.get_running_loop().time() + due_s))

    def _tell(self, slot: tuple[float, float]) -> None:
        """Notes when its start was made, at the latest: once a task that it makes had its first turn.

        A busy machine may let the process stand still between the start and what is sent.
        """
        loop = asyncio.get_running_loop()
        self._telling = loop.call_soon(loop.call_soon, self._note, slot, self._resets)

    def _note(self, slot: tuple[float, float], resets: int) -> None:
        if resets == self._resets:
            start, slack_s = slot
            own = self._clock()
            late_s = own - self._offset.least(own) + _ROUNDING_S - start
            self._told.append((start, min(max(late_s, 0.0), slack_s)))

    def _latest_of(self, slot: tuple[float, float], own: float) -> float:
        start, slack_s = slot
        return start + slack_s + self._offset.least(own) - _ROUNDING_S

    def _ask_due(self, own: float) -> float:
        """When to ask the place next, if nothing changes."""
        if self._is_asking(own):
            return math.inf
        if self._pause_until > max(own, self._pause_told):
            return self._ask_at
        if len(self._slots) > self._turnstile.waiting:
            return math.inf
        # Nor sooner than they can be used, for a pause or what the server was seen to take.
        now = asyncio.get_running_loop().time()
        needed_at = own + super()._ready_at(now) - now
        if self._slots:
            needed_at = max(needed_at, self._slots[-1][0] + self._offset.most(own))
        return max(self._ask_at, needed_at - self._reach_s)

    def _is_asking(self, own: float) -> bool:
        task = self._asking
        return task is not None and not task.get_loop().is_closed() and own < self._answer_by

    @property
    def _reach_s(self) -> float:
        return _REACH_S + self._offset.unsure_s + self._lead_s

    def _wanted(self, own: float) -> int:
        """As many as wait, and as were used of late until the next question: more would be void."""
        usual = self._used / max(own - self._asked_at, 1e-3) * self._reach_s
        return min(_MOST_WANTED, 1 + self._turnstile.waiting + math.ceil(usual) - len(self._slots))

    def _ask(self, own: float) -> None:
        pause_until = self._pause_until if self._pause_until > max(own, self._pause_told) else -math.inf
        want = 0 if pause_until > own else max(0, self._wanted(own))
        unsure_s = self._offset.unsure_s
        timeout_s = max(LOOKAHEAD_S, 4 * unsure_s) if self._offset.known else _FIRST_ANSWER_S
        self._learn_slack()
        self._asked_at, self._used, self._void = own, 0, 0
        self._answer_by = own + 2 * timeout_s  # its event loop may have stopped without being closed
        told, self._told = self._told, []
        exchange = self._exchange(want, pause_until, timeout_s, told)
        self._asking = asyncio.get_running_loop().create_task(exchange)

    def _next_slack_s(self) -> float:
        if self._slack_s is not None:
            return self._slack_s
        usual = usual_slack_s(self._limit, self._offset.unsure_s)
        return min(max(usual, self._ample_s), widest_slack_s(self._limit))  # the place counts on no more

    def _learn_slack(self) -> None:
        """Widens the slack, to at most five times the least, while that may gain more than it costs.

        The slack leaves its share of the rate unused, at all processes; a late start wastes one.
        """
        slack_s, least = self._next_slack_s(), least_slack_s(self._limit)
        self._late += self._void
        self._starts += self._void + self._used
        known = self._starts >= min(_JUDGED, self._limit.amount)
        if known and self._late * self._limit.per_s > slack_s * self._starts:
            self._ample_s = max(self._ample_s, min(1.5 * slack_s, _AMPLE * least))
            self._late = self._starts = 0.0
        else:
            self._ample_s *= 0.97
            self._late, self._starts = 0.9 * self._late, 0.9 * self._starts

    async def _exchange(self, want: int, pause_until: float, timeout_s: float, told: list[Used]) -> None:
        me = asyncio.current_task()
        limit, slack_s = self._limit, self._next_slack_s()
        lead_s = min(self._offset.unsure_s + self._lead_s, LOOKAHEAD_S / 2)
        sent = self._clock()
        pause_s = max(0.0, pause_until - sent)
        question = GateQuestion(self._name, limit, want, slack_s, lead_s, pause_s, told)
        try:
            async with asyncio.timeout(timeout_s):
                granted = await self._place.take(question)
        except Exception as exc:  # noqa: BLE001 - whatever the place raises; acquire raises it in the end
            self._failed(exc)
        else:
            self._pause_told = max(self._pause_told, pause_until)
            self._granted(granted, want, slack_s, sent)
        finally:
            if self._asking is me:
                self._asking = None
            self._look_again()

    def _granted(self, granted: Grant, want: int, slack_s: float, sent: float) -> None:
        own = self._clock()
        now, number, starts = granted.now, granted.number, granted.starts
        if not self._offset.narrow(sent, now, own):
            self._slots.clear()
            self._told.clear()
            self._resets += 1
        if self._slack_s is None and granted.slack_s is not None:
            slack_s = granted.slack_s
        self._slots.extend((start, slack_s) for start in starts)
        self._failures = 0
        self._refusal = None
        next_at = starts[-1] + granted.step if starts else granted.first
        rest_s = max(_REACH_S, next_at - LOOKAHEAD_S - now) if number < want else 0.0
        self._ask_at = own + min(rest_s, _LONGEST_REST_S)
        if (slack_s := self._next_slack_s()) <= self._offset.unsure_s and not self._warned:
            self._warned = True
            _log.warning(
                "gate %s: its place takes %.3f s to answer, longer than the slack of %.3f s, so nothing can "
                "start; give a slack_s above three round trips, or a limit with a longer period",
                self._name,
                self._offset.unsure_s,
                slack_s,
            )

    def _failed(self, error: Exception) -> None:
        own = self._clock()
        verdict = classify(error)
        idle_s = self._asked_at - self._ask_at  # nobody wanted to start
        if self._failures == 0 or idle_s > self._patience_s / 2:
            self._failing_since = self._asked_at
        self._failures += 1
        rest_s = random.uniform(0.5, 1.0) * min(1.0, 0.1 * 2 ** min(self._failures, 10))  # noqa: S311
        if isinstance(verdict, Throttle) and verdict.pause_s is not None:
            rest_s = max(rest_s, min(verdict.pause_s, _LONGEST_REST_S))
        self._ask_at = own + rest_s
        if isinstance(verdict, Fail | Fatal) or own - self._failing_since >= self._patience_s:
            self._refusal = error

    def _unavailable(self, own: float) -> GateUnavailable:
        seen = str(self._refusal) or type(self._refusal).__name__
        failing_s = own - self._failing_since
        return GateUnavailable(
            f"gate {self._name}: no start times from its place for {failing_s:.0f} s ({seen}); "
            "allowed: starts at such times only; look whether the place runs and lets this process in, or "
            f"raise patience_s (now {self._patience_s:g}) to wait longer"
        )


def _after_fork() -> None:
    """The start times in hand are the parent's to use, and its tasks will not answer here."""
    for gate in _gates:
        gate._slots.clear()
        gate._told.clear()
        gate._resets += 1
        gate._asking = None


_gates: weakref.WeakSet[SharedGate] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)


def _checked_name(name: object) -> str:
    if not is_gate_name(name):
        raise ValueError(f"name: {shown(name)} cannot be used; allowed: {GATE_NAMES}")
    return str(name)

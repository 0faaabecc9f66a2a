"""When the next attempt may start: strict rate limits and pauses, first come first served."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import weakref
from array import array
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from numbers import Real

import attrs
from aiolimiter import AsyncLimiter

from blossom_async.batch.cancellation import completion
from blossom_async.batch.hints import quotas
from blossom_async.batch.line import Line
from blossom_async.batch.loops import wake
from blossom_async.batch.published import PublishedRates
from blossom_async.batch.rates import LearnedRate

__all__ = ["Gate", "RateLimit", "RateLimitLike", "pass_gates", "rate_limits"]

_UNITS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "day": 86_400}
_SPELLED = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*/\s*([0-9]+(?:\.[0-9]+)?)?\s*([a-z]+)\s*", re.ASCII)

# Servers count arrivals and we count starts, and latency varies. A window this much longer than stated holds
# at the server too.
_MARGIN = 1.005
_CATCH_UP_S = 0.05  # timers fire this late on a busy machine; the meter lets the starts catch up

_CLOCKS_DIFFER_S = 1.0  # clocks of event loops may lag behind each other by less
_STATED_S = 0.5  # the shortest pause that tells of a window
_LONGEST_PAUSE_S = 600.0  # as RetryPolicy.max_throttle_s

# Otherwise all that waited for the end of a pause would start at once and cause the next one.
_RAMP_S = 1.0
_RAMP_STEP_S = 1 / 64


@attrs.frozen
class RateLimit:
    """At most ``amount`` attempts start in any window of ``per_s`` seconds. Retries count as attempts.

    Raises ``ValueError`` unless ``amount`` is a whole number from 1 to 10,000,000 and ``per_s`` a positive
    number of seconds, at most a day.
    """

    amount: int = attrs.field()
    per_s: float = attrs.field(default=1.0, kw_only=True)

    @amount.validator
    def _check_amount(self, _: object, amount: object) -> None:
        if isinstance(amount, bool) or not isinstance(amount, int) or not 1 <= amount <= 10_000_000:
            raise ValueError(f"rate limit: amount {amount!r}; allowed: a whole number from 1 to 10,000,000")

    @per_s.validator
    def _check_per_s(self, _: object, per_s: object) -> None:
        number = isinstance(per_s, int | float) and not isinstance(per_s, bool)
        if not number or not 0 < per_s <= 86_400:  # type: ignore[operator]
            raise ValueError(f"rate limit: per_s {per_s!r}; allowed: seconds above 0, at most 86,400 (a day)")

    @classmethod
    def parse(cls, spelled: str | float | RateLimit) -> RateLimit:
        """A limit from ``"600/min"``, ``"10/s"``, ``"1/10 s"`` or a number per second such as ``0.5``.

        Raises ``ValueError`` for anything else.
        """
        allowed = "allowed: RateLimit(600, per_s=60), '600/min', '10/s', '1/10 s' or a number per second"
        if isinstance(spelled, RateLimit):
            return spelled
        if isinstance(spelled, int | float | Real) and not isinstance(spelled, bool):  # numpy's, too
            return cls._of(float(spelled), 1.0, f"rate limit: {spelled!r}; {allowed}")
        found = _SPELLED.fullmatch(spelled) if isinstance(spelled, str) else None
        unit = _UNITS.get(found[3].removesuffix("s") or "s") if found else None
        if found is None or unit is None:
            if isinstance(spelled, str):
                allowed = "allowed: a number and a span, such as '600/min', '10/s' or '1/10 s'"
            raise ValueError(f"rate limit: {spelled!r}; {allowed}")
        return cls._of(float(found[1]), float(found[2] or 1) * unit, f"rate limit: {spelled!r}; {allowed}")

    @classmethod
    def _of(cls, amount: float, per_s: float, message: str) -> RateLimit:
        if not (math.isfinite(amount) and amount > 0 and per_s > 0):
            raise ValueError(message)
        if amount != int(amount):  # 0.5 per second is 1 per 2 seconds; 2.5 is 5 per 2
            scale = 1 / amount if amount < 1 else 2.0
            amount, per_s = amount * scale, per_s * scale
        if abs(amount - round(amount)) > 1e-9:
            raise ValueError(message)
        return cls(round(amount), per_s=per_s)


RateLimitLike = RateLimit | str | float


def rate_limits(spelled: RateLimitLike | Iterable[RateLimitLike] | None) -> tuple[RateLimit, ...]:
    """Reads an argument that is None, one limit or several. Raises ``ValueError``."""
    if spelled is None:
        return ()
    if isinstance(spelled, RateLimit | str | float | int | Real):
        return (RateLimit.parse(spelled),)
    return tuple(RateLimit.parse(limit) for limit in spelled)


class _Window:
    """The last ``amount`` starts under one limit, which make it exact."""

    def __init__(self, limit: RateLimit, starts: Iterable[float] = ()) -> None:
        self._length = limit.per_s * _MARGIN
        self._starts = array("d", [-math.inf]) * limit.amount
        self._next = 0
        for start in starts:
            self.take(start)

    def ready_at(self) -> float:
        return self._starts[self._next] + self._length

    def take(self, now: float) -> None:
        self._starts[self._next] = now
        self._next = (self._next + 1) % len(self._starts)

    def shift(self, seconds: float) -> None:
        self._starts = array("d", [start + seconds for start in self._starts])

    def starts(self) -> list[float]:
        in_order = self._starts[self._next :] + self._starts[: self._next]
        return [start for start in in_order if start > -math.inf]


class _Turn:
    """The turn of one task at a turnstile."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop


_RESERVED = _Turn()  # for the waiter that was just granted its turn and has not run yet


class _Turnstile:
    """Lets one task through at a time, first come first served, across event loops and threads."""

    def __init__(self) -> None:
        self._line = Line(self._next)
        self._taken: _Turn | None = None

    def locked(self) -> bool:
        return self._taken is not None

    @property
    def waiting(self) -> int:
        return self._line.waiting

    async def enter(self) -> _Turn:
        turn = _Turn(asyncio.get_running_loop())
        taken = self._taken
        if taken is not None and taken.loop is not None and taken.loop.is_closed():
            self.leave(taken)
        if self._taken is None:  # as in Slots, no other thread runs before the assignment
            self._taken = turn
            return turn
        joined = self._line.join()
        if self._taken is None:  # a task of another thread has left in between
            self._taken = _RESERVED
            self._next()
        await self._line.turn(joined)
        self._taken = turn
        return turn

    def leave(self, turn: _Turn) -> None:
        if self._taken is turn:  # else its loop was closed, and others have gone on
            self._next()

    def _next(self) -> None:
        self._taken = _RESERVED
        while not self._line.grant():
            self._taken = None
            if not self._line.waiting or self._taken is not None:
                return
            self._taken = _RESERVED


class Gate:
    """Lets attempts start no faster than all of its limits allow, and none during a pause.

    For each limit aiolimiter spreads the starts over the window, and a ring of the last starts makes the
    limit exact: aiolimiter alone lets nearly twice the stated number into a window, a full burst and what
    leaks meanwhile. Only the head of the line waits, on a timer of the gate. Nobody waits in the meters, so
    the order holds and limits can change at any time.

    Event loops may share it, at once or one after another; what one has started counts for the others.
    """

    def __init__(self, *limits: RateLimit) -> None:
        self._limits: tuple[RateLimit, ...] = ()
        self._turnstile = _Turnstile()
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._latest = -math.inf  # time of a start or a pause
        self._windows: list[_Window] = []
        self._meters: list[AsyncLimiter] = []
        self._head: asyncio.Future[None] | None = None  # set while the head of the line waits
        self._paused_until = -math.inf
        self._ramp_until = -math.inf
        self._ramp_next = -math.inf
        self._asking: asyncio.Task[None] | None = None  # what a SharedGate wants to know from its place
        self._begun: Gate | None = None  # where starts that were reserved count when they are made
        self.learned: LearnedRate = LearnedRate()
        """What the server was seen to take. An attempt that need not call ``acquire`` is noted here."""
        self._published = PublishedRates(self.learned.starts)
        self.closed: bool = False
        """Whether an attempt must call ``acquire``: always if there are limits, else only during a pause."""
        self.change(*limits)

    def __repr__(self) -> str:
        return f"<Gate: {', '.join(f'{x.amount} in {x.per_s:g} s' for x in self._limits) or 'no limit'}>"

    @property
    def limits(self) -> tuple[RateLimit, ...]:
        """The limits in force."""
        return self._limits

    def change(self, *limits: RateLimit) -> None:
        """Replaces the limits. The starts still remembered count against the new ones."""
        starts = max((window.starts() for window in self._windows), key=len, default=[])
        self._limits = limits
        self._windows = [_Window(limit, starts[-limit.amount :]) for limit in limits]
        self._meters = [_meter(limit) for limit in limits]
        self.closed = self.closed or bool(limits)
        if self._begun is not None:
            self._begun.change(*limits)
        self._look_again()

    def pause(self, seconds: float, *, at_most_s: float = _LONGEST_PAUSE_S) -> None:
        """Starts no attempt for ``seconds`` from now. A pause can extend one under way, never shorten it.

        It lasts at most ``at_most_s`` seconds: a hint in a header must not stop everything for days, and if
        the server meant it, the next attempt is answered 429. NaN, infinity, 0 and negative numbers are
        ignored. After the pause, the attempts that waited start spread over the same time, at most a second.
        """
        if not (math.isfinite(seconds) and seconds > 0):
            return
        seconds = min(seconds, at_most_s)
        now = asyncio.get_running_loop().time()
        self._follow_clock(now)
        self._latest = max(self._latest, now)
        until = now + seconds
        if until > self._paused_until:
            self._paused_until = until
            self._ramp_next = until
            self._ramp_until = until + min(_RAMP_S, seconds)
            self.closed = True

    def refused(self, started: float, pause_s: float) -> bool:
        """Learns how many starts the server takes, as ``LearnedRate.refused``; call ``pause`` before.

        An attempt that started at ``started`` came too soon. Nothing is learned unless the server says when
        to come back: one that is only busy does not know.
        """
        if pause_s < _STATED_S:
            return False
        now = asyncio.get_running_loop().time()
        explained = self.learned.refused(started, now, max(now, self._paused_until))
        if self.learned.amount is not None:
            self._ramp_until = -math.inf
            self.closed = True
        return explained

    def heed(self, headers: Mapping[str, str], sent_at: float) -> None:
        """Keeps to the quotas that an answer publishes, as ``quotas`` reads them, before any is exceeded.

        ``sent_at`` is when its request was sent, on the clock of the event loop. No quota holds up the next
        start for more than 600 s: if the server meant it, that one is answered 429.
        """
        found = quotas(headers)
        if found:
            self._published.heed(found, sent_at, asyncio.get_running_loop().time())
            self.closed = self.closed or bool(self._published)

    async def acquire(self) -> float:
        """Returns when one attempt may start; start it before the next ``await``.

        Gives the time of the start, for ``refused``.
        """
        return await pass_gates((self,))

    async def reserve(self) -> Callable[[], Awaitable[float]]:
        """As ``acquire``, for an attempt that must still be prepared, such as be written down.

        When it is, call and await what this returns; start it before the next ``await``. The limits hold for
        the starts themselves, however long the preparation took. Gives the time of the start, and raises as
        ``acquire``.
        """
        await self.acquire()
        if self._begun is None:
            self._begun = Gate(*self._limits)
        return self._begun.acquire

    def _ready_at(self, now: float, lead_s: float = 0.0) -> float:
        """When an attempt may start; at or before ``now`` if it may start at once.

        A start time that was given out counts as ready ``lead_s`` before.
        """
        at = max(
            self._paused_until, self._ramp_next if now < self._ramp_until else self.learned.ready_at(now)
        )
        if self._published and self.learned.starts:
            at = max(at, min(self._published.ready_at(now), self.learned.starts[-1] + _LONGEST_PAUSE_S))
        for window in self._windows:
            at = max(at, window.ready_at())
        if at <= now:
            for meter in self._meters:
                if not meter.has_capacity():
                    # One start leaks from the bucket in this time. Slightly more, because a rounding error
                    # in the level would double the wait.
                    at = max(at, now + 1.000001 * meter.time_period / meter.max_rate)
        return at

    def _enter_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None or self._loop() is not loop:
            self._loop = weakref.ref(loop)
            self._meters = [_meter(limit) for limit in self._limits]  # those of aiolimiter belong to a loop
            self._follow_clock(loop.time())

    def _follow_clock(self, now: float) -> None:
        """On the clock of another event loop that is behind, no time has passed since the last one."""
        if now < self._latest - _CLOCKS_DIFFER_S:
            shift = now - self._latest
            for window in self._windows:
                window.shift(shift)
            self._paused_until += shift
            self._ramp_until += shift
            self._ramp_next += shift
            self.learned.forget()
            self._published.forget()
            self._latest = now

    async def _take(self, now: float) -> None:
        self._latest = now
        for meter in self._meters:
            await meter.acquire()  # has capacity, so this does not wait
        for window in self._windows:
            window.take(now)
        self.learned.take(now)
        self._published.take()
        if now < self._ramp_until:
            self._ramp_next = now + _RAMP_STEP_S
        elif not (self.limits or self._published) and self.learned.amount is None:
            self.closed = False

    async def _wait_until(self, at: float) -> None:
        loop = asyncio.get_running_loop()
        self._head = head = loop.create_future()
        timer = loop.call_at(at, self._look_again)
        try:
            await head
        finally:
            timer.cancel()
            if self._head is head:
                self._head = None

    def _stop_asking(self) -> asyncio.Task[None] | None:
        """Cancels the question under way. Returns it if it belongs to the running event loop."""
        asking, self._asking = self._asking, None
        if asking is None or asking.done():
            return None
        loop = asking.get_loop()
        if loop is asyncio.get_running_loop():
            asking.cancel()
            return asking
        with contextlib.suppress(RuntimeError):  # that loop is closed
            loop.call_soon_threadsafe(asking.cancel)
        return None

    def _look_again(self) -> None:
        if self._head is not None:
            wake(self._head, _nobody)


async def pass_gates(gates: Sequence[Gate], first: int = 0, *, lead_s: float = 0.0) -> float:
    """Returns when one attempt may start under all gates at once; start it before the next ``await``.

    Gives the time of the start. ``lead_s`` as for ``Gate._ready_at``.

    Gates are ordered from the narrowest (one run's) to the widest (a client's). The line of a gate waits
    while its head stands in the line of the next gate. So each start is counted at every gate in the instant
    in which it happens, and a slow run does not hold up a fast one at the gate they share.
    """
    loop = asyncio.get_running_loop()
    if first == len(gates):
        return loop.time()
    gate = gates[first]
    turn = await gate._turnstile.enter()
    started = False
    try:
        gate._enter_loop()
        while True:
            while (at := gate._ready_at(loop.time(), lead_s)) > loop.time():
                await gate._wait_until(at)
            await pass_gates(gates, first + 1, lead_s=lead_s)
            now = loop.time()
            if gate._ready_at(now, lead_s) <= now:  # else it was paused while this waited at a wider gate
                break
        await gate._take(now)
        started = True
        return now
    finally:
        gate._turnstile.leave(turn)
        if gate._asking is not None and not gate._turnstile.locked():  # nobody waits for the answer
            asking = gate._stop_asking()
            if asking is not None and not started:  # else the attempt must start now
                await completion(asking)


def _nobody() -> None:
    """For ``wake``: a head of the line that was woken too late has no turn to give back."""


def _meter(limit: RateLimit) -> AsyncLimiter:
    rate = limit.amount / (limit.per_s * _MARGIN)
    burst = max(2.0, rate * _CATCH_UP_S)
    return AsyncLimiter(burst, burst / rate)

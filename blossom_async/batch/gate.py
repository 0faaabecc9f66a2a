"""When the next attempt may start: rate limits, strict over every window and first come, first served."""

from __future__ import annotations

import asyncio
import math
import re
from array import array
from collections.abc import Iterable

import attrs
from aiolimiter import AsyncLimiter

__all__ = ["Gate", "RateLimit", "RateLimitLike", "rate_limits"]

_UNITS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "day": 86_400}
_SPELLED = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*/\s*([0-9]+(?:\.[0-9]+)?)?\s*([a-z]+)\s*", re.ASCII)

# Servers count arrivals, we count starts, and the way between them varies: keep this much distance from
# the stated window so that its edge holds on the other side too.
_MARGIN = 1.005
_CATCH_UP_S = 0.01  # timers fire up to a millisecond late; the meter lets this much be made good


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
        if isinstance(spelled, int | float) and not isinstance(spelled, bool):
            return cls._of(float(spelled), 1.0, f"rate limit: {spelled!r}; {allowed}")
        found = _SPELLED.fullmatch(spelled) if isinstance(spelled, str) else None
        unit = _UNITS.get(found[3].removesuffix("s") or "s") if found else None
        if found is None or unit is None:
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
    """The limits meant by an argument that may be none, one or several. Raises ``ValueError``."""
    if spelled is None:
        return ()
    if isinstance(spelled, RateLimit | str | float | int):
        return (RateLimit.parse(spelled),)
    return tuple(RateLimit.parse(limit) for limit in spelled)


class _Window:
    """The last ``amount`` starts of one limit: exact, whatever the pace."""

    def __init__(self, limit: RateLimit) -> None:
        self._length = limit.per_s * _MARGIN
        self._starts = array("d", [-math.inf]) * limit.amount
        self._next = 0

    def ready_at(self) -> float:
        return self._starts[self._next] + self._length

    def take(self, now: float) -> None:
        self._starts[self._next] = now
        self._next = (self._next + 1) % len(self._starts)


class Gate:
    """Lets attempts start no faster than every one of its limits allows.

    For each limit aiolimiter meters the pace, so that starts are spread over the window instead of coming
    in one burst, and a ring of the last starts makes the limit exact: aiolimiter alone lets nearly twice
    the stated number into a window (a full burst, and what leaks meanwhile). Only the head of the line
    waits on a meter, which keeps the order and spares aiolimiter's wake-ups.
    """

    def __init__(self, *limits: RateLimit) -> None:
        self.limits = limits
        self._turnstile: asyncio.Lock | None = None
        self._windows = [_Window(limit) for limit in limits]
        self._meters: list[AsyncLimiter] = []

    async def acquire(self) -> None:
        """Returns when one attempt may start; start it before the next ``await``."""
        if not self.limits:
            return
        if self._turnstile is None:  # made here because both belong to the running loop
            self._turnstile = asyncio.Lock()
            self._meters = [_meter(limit) for limit in self.limits]
        loop = asyncio.get_running_loop()
        async with self._turnstile:
            for meter in self._meters:
                await meter.acquire()
            while (wait := max(w.ready_at() for w in self._windows) - loop.time()) > 0:  # noqa: ASYNC110 - timers may be a tick early
                await asyncio.sleep(wait)
            now = loop.time()
            for window in self._windows:
                window.take(now)


def _meter(limit: RateLimit) -> AsyncLimiter:
    rate = limit.amount / (limit.per_s * _MARGIN)
    burst = max(2.0, rate * _CATCH_UP_S)
    return AsyncLimiter(burst, burst / rate)

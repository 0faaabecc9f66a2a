"""When a provider that does not answer is called again: after a rest, by one call first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from blossom_async.batch.line import Line
from blossom_async.errors import Overloaded
from blossom_async.gateway.providers.faults import Kind, ProviderFault

__all__ = ["Breaker"]

_FAILURES = 5  # so many in a row open the circuit breaker, or as many as are in progress if that is more
_RESTS_S = (2.0, 4.0, 4.0, 4.0, 4.0, 4.0)  # how long it stays open before a call tries the provider again,
_LONG_REST_S = 30.0  # and then
_MONEY_REST_S = 60.0  # the same if the account is empty or the key refused: a retry cannot help
_TRIAL_S = (1.0, 5.0)  # after so long, as usual calls take, the one that tries it has probably been answered

_DOWN = {Kind.UNAVAILABLE, Kind.UNSENT, Kind.LOST}
_SHUT = {Kind.OUT_OF_FUNDS, Kind.UNAUTHORIZED, Kind.MISCONFIGURED}


class Breaker:
    """``open`` from the failures that opened it until a call is answered; ``name`` is the provider's."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.open: bool = False
        self._name = name
        self._clock = clock
        self._failures = 0
        self._rests = 0  # since it opened
        self._rests_until = 0.0
        self._why = ""
        self._trial: object | None = None  # while a call tries it
        self._line = Line(self._next)

    def resting_s(self) -> float:
        """Seconds until the provider may be called again; 0 if it may be called."""
        return max(0.0, self._rests_until - self._clock())

    def check(self, usual_s: float | None = None) -> None:
        """Raises ``Overloaded`` while the provider rests, and while one call tries whether it is back.

        ``usual_s`` is how long a call takes, None if that is not known.
        """
        rest_s = self.resting_s()
        if not rest_s and self.open and self._trial is not None:
            shortest_s, longest_s = _TRIAL_S
            rest_s = longest_s if usual_s is None else min(max(usual_s, shortest_s), longest_s)
        if rest_s > 0:
            raise Overloaded(
                f"{self._why}; {self._name} is not called for the next {rest_s:.0f} s, "
                "send the request again after that",
                code="provider_resting",
                retry_after_s=rest_s,
            )

    async def wait(self) -> object | None:
        """Waits until the provider may be called. The call that tries it gets a trial to end."""
        while self.open:
            if (rest_s := self.resting_s()) > 0:
                try:
                    await asyncio.sleep(rest_s)
                except asyncio.CancelledError:
                    self._next()  # this call may be the only one that was woken to try
                    raise
            elif self._trial is not None:
                await self._line.wait()
            else:
                self._trial = object()
                return self._trial
        return None

    def end_trial(self, trial: object) -> None:
        """The call that tried the provider has ended. If it says nothing, the next one tries."""
        if self._trial is trial:
            self._trial = None
            self._next()

    def answered(self) -> None:
        """Records an answer. During a rest it was to an earlier call, and ends nothing."""
        self._failures = 0
        if self.open and not self.resting_s():
            self.open = False
            self._rests = 0
            self._next()

    def failed(self, fault: ProviderFault, in_use: int) -> None:
        """Records a failure while so many calls were in progress. It ends a trial."""
        if self._trial is not None:
            self.end_trial(self._trial)
        if fault.kind in _SHUT:
            self._rest(fault, _MONEY_REST_S)
        elif fault.kind in _DOWN:
            self._failures += 1
            # Failures come back sooner than pictures: a few of many at once are no outage.
            # During a rest they come from calls that were sent before it.
            if not self.resting_s() and (self.open or self._failures >= max(_FAILURES, in_use)):
                self._failures = 0
                self._rests += 1
                self._rest(fault, _RESTS_S[self._rests - 1] if self._rests <= len(_RESTS_S) else _LONG_REST_S)
        elif fault.kind is not Kind.OUT_OF_FILES:
            self.answered()

    def _rest(self, fault: ProviderFault, seconds: float) -> None:
        self.open = True
        self._why = str(fault)
        self._rests_until = self._clock() + seconds

    def _next(self) -> None:
        while self._line.grant() and not self.open:
            pass

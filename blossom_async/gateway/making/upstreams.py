"""The providers of this gateway, each behind its limits: a rate, so many at once, a line, a fuse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import attrs

from blossom_async.batch import Gate, RateLimit, Slots
from blossom_async.errors import InvalidRequest, Overloaded
from blossom_async.gateway.making.priority import Priority
from blossom_async.gateway.providers import Provider
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.models import ImageRequest

__all__ = ["Limits", "Upstream", "Upstreams"]

_FAILURES = 5  # in a row after which a provider is left alone; or as many as are under way, if that is more
_REST_S = 30.0  # for so long, before one call tries it again
_MONEY_REST_S = 60.0  # when the account is empty or the key refused: nothing a retry mends

_POLL_S = 3600.0  # between two looks at which models a provider offers

_DOWN = {Kind.UNAVAILABLE, Kind.UNSENT, Kind.LOST}
_SHUT = {Kind.OUT_OF_FUNDS, Kind.UNAUTHORIZED, Kind.MISCONFIGURED}


@attrs.frozen(kw_only=True)
class Limits:
    """What a provider's account allows: ``rates``, ``at_once``, and how long its line may get and last.

    Without ``wait_s`` a call waits in the line for as long as it takes.
    """

    rates: tuple[RateLimit, ...] = ()
    at_once: int = 16
    line: int = 1000
    wait_s: float | None = 240.0


class Upstream:
    """A provider and the line before it. Belongs to the event loop it is first waited on in."""

    def __init__(self, provider: Provider, limits: Limits, *, clock: Callable[[], float]) -> None:
        self.provider = provider
        self.name = provider.name
        self._limits = limits
        self._clock = clock
        self._slots = Slots(limits.at_once, priorities=len(Priority))
        self._gate = Gate(*limits.rates)
        self._failures = 0
        self._rests_until = 0.0
        self._why = ""

    @property
    def waiting(self) -> int:
        """Calls in the line."""
        return self._slots.waiting

    def resting_s(self) -> float:
        """For how long the provider is left alone; 0 when it may be called."""
        return max(0.0, self._rests_until - self._clock())

    @asynccontextmanager
    async def turn(self, *, priority: Priority) -> AsyncIterator[None]:
        """Waits for a turn at the provider; the block may call it.

        Raises ``Overloaded`` with ``retry_after_s`` when the line is full, the wait too long, or the provider
        is left alone.
        """
        if (rest_s := self.resting_s()) > 0:
            raise Overloaded(
                f"{self._why}; so {self.name} is left alone for {rest_s:.0f} s more",
                code="provider_resting",
                retry_after_s=rest_s,
            )
        if self.waiting >= self._limits.line:
            raise _too_many(self.name, self.waiting)
        try:
            async with asyncio.timeout(self._limits.wait_s):
                await self._enter(priority)
        except TimeoutError as exc:
            raise _too_many(self.name, self.waiting) from exc
        try:
            yield
        finally:
            self._slots.release()

    @property
    def cuts(self) -> int:
        """How often calls at once were cut back; for ``failed``."""
        return self._slots.cuts

    def succeeded(self) -> None:
        """The provider has made a picture."""
        self._failures = 0
        self._slots.succeeded()

    def failed(self, fault: ProviderFault, cuts: int) -> None:
        """Slows down, pauses or leaves the provider alone, as the fault asks for.

        ``cuts`` is what it was when the call was sent: refusals of one round cut once.
        """
        if fault.kind is Kind.RATE_LIMITED:
            self._slots.overloaded(cuts)
            if fault.retry_after_s is not None:
                self._gate.pause(fault.retry_after_s)
        elif fault.kind in _SHUT:
            self._why = str(fault)
            self._rests_until = self._clock() + _MONEY_REST_S
        elif fault.kind in _DOWN:
            self._failures += 1
            # Of many at once those that fail come back first, and say nothing of the others.
            enough = max(_FAILURES, self._slots.in_use)
            if self._failures >= enough:
                self._failures = enough - 1  # the next one alone decides whether it rests again
                self._why = str(fault)
                self._rests_until = self._clock() + _REST_S

    async def _enter(self, priority: Priority) -> None:
        await self._slots.acquire(priority)
        try:
            await self._gate.acquire()
        except BaseException:
            self._slots.release()
            raise


class Upstreams:
    """The providers in the order they are asked: the next only where the one before cannot, or has failed."""

    def __init__(self, *upstreams: Upstream) -> None:
        self._upstreams = list(upstreams)

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._upstreams)

    def add(self, upstream: Upstream) -> None:
        """One more, to be asked after the others."""
        self._upstreams.append(upstream)

    async def poll_models(self) -> None:
        """Asks each provider once an hour which models it offers, until it is cancelled."""
        while True:
            for upstream in self._upstreams:
                with contextlib.suppress(ProviderFault):  # what was known before remains in force
                    await upstream.provider.models()
            await asyncio.sleep(_POLL_S)

    def named(self, name: str) -> Upstream | None:
        """The upstream of that name, None when it is no longer set up."""
        return next((upstream for upstream in self._upstreams if upstream.name == name), None)

    def able(self, request: ImageRequest) -> list[Upstream]:
        """Those that can do all that is asked, in order. Raises ``InvalidRequest`` when none can."""
        refusals: list[InvalidRequest] = []
        found = []
        for upstream in self._upstreams:
            try:
                upstream.provider.check(request)
            except InvalidRequest as exc:
                refusals.append(exc)
            else:
                found.append(upstream)
        if not found:
            raise refusals[0]
        return found


def _too_many(name: str, waiting: int) -> Overloaded:
    return Overloaded(f"{waiting} pictures wait for {name}; send the request again in 5 s", retry_after_s=5.0)

"""The providers of this gateway, each behind its limits: rates, concurrency, a queue, a circuit breaker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeVar

import attrs

from blossom_async.batch import Gate, RateLimit, Slots
from blossom_async.errors import InvalidRequest, Overloaded
from blossom_async.gateway.making.priority import Priority
from blossom_async.gateway.providers import Provider
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.gateway.storage.blobs import OutOfFiles
from blossom_async.models import ImageRequest

__all__ = ["Limits", "Upstream", "Upstreams"]

T = TypeVar("T")
_FAILURES = 5  # so many in a row open the circuit breaker, or as many as are in progress if that is more
_REST_S = 30.0  # how long it stays open before a call tries the provider again
_MONEY_REST_S = 60.0  # the same if the account is empty or the key refused: a retry cannot help
_POLL_S = 3600.0  # how often a provider is asked which models it offers

_TOO_MUCH = {Kind.RATE_LIMITED, Kind.OUT_OF_FILES}
_DOWN = {Kind.UNAVAILABLE, Kind.UNSENT, Kind.LOST}
_SHUT = {Kind.OUT_OF_FUNDS, Kind.UNAUTHORIZED, Kind.MISCONFIGURED}


@attrs.frozen(kw_only=True)
class Limits:
    """What a provider's account allows: ``rates``, and ``at_once`` requests in progress.

    At most ``line`` calls are queued, each for at most ``wait_s`` seconds; None for no limit.
    """

    rates: tuple[RateLimit, ...] = ()
    at_once: int = 16
    line: int = 1000
    wait_s: float | None = 240.0


class Upstream:
    """A provider and its queue. Belongs to the event loop in which it is first awaited."""

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
        """Calls in the queue."""
        return self._slots.waiting

    def resting_s(self) -> float:
        """Seconds until the provider may be called again; 0 if it may be called."""
        return max(0.0, self._rests_until - self._clock())

    @asynccontextmanager
    async def turn(
        self, *, priority: Priority, taking: Callable[[], AbstractAsyncContextManager[T]]
    ) -> AsyncIterator[T]:
        """Waits for a turn at the provider, then enters ``taking``; the block may call the provider.

        ``taking`` acquires what else the call needs. If it raises ``OutOfFiles``, concurrency is lowered and
        this call waits for another to end. Raises anything else that ``taking`` raises, and ``Overloaded``
        with ``retry_after_s`` when the queue is full, the wait too long, or the circuit breaker open.
        """
        if (rest_s := self.resting_s()) > 0:
            raise Overloaded(
                f"{self._why}; {self.name} is not called for the next {rest_s:.0f} s, "
                "send the request again after that",
                code="provider_resting",
                retry_after_s=rest_s,
            )
        if self.waiting >= self._limits.line:
            raise _too_many(self.name, self.waiting)
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._limits.wait_s):
                    taken = await self._enter(priority, taking, held)
            except TimeoutError as exc:
                raise _too_many(self.name, self.waiting) from exc
            yield taken

    @property
    def cuts(self) -> int:
        """How often concurrency was cut so far; for ``failed``."""
        return self._slots.cuts

    def succeeded(self) -> None:
        """Records that the provider has made a picture."""
        self._failures = 0
        self._slots.succeeded()

    def failed(self, fault: ProviderFault, cuts: int) -> None:
        """Records a failure: cuts concurrency, pauses, or opens the circuit breaker, as the fault requires.

        ``cuts`` is what it was when the request was sent: the refusals of one round cut once.
        """
        if fault.kind in _TOO_MUCH:
            self._slots.overloaded(cuts)
            if fault.retry_after_s is not None:
                self._gate.pause(fault.retry_after_s)
        elif fault.kind in _SHUT:
            self._why = str(fault)
            self._rests_until = self._clock() + _MONEY_REST_S
        elif fault.kind in _DOWN:
            self._failures += 1
            # Failures come back sooner than pictures: a few of many at once are no outage.
            enough = max(_FAILURES, self._slots.in_use)
            if self._failures >= enough:
                self._failures = enough - 1  # after the rest, one more failure opens it again
                self._why = str(fault)
                self._rests_until = self._clock() + _REST_S

    async def _enter(
        self, priority: Priority, taking: Callable[[], AbstractAsyncContextManager[T]], held: AsyncExitStack
    ) -> T:
        while True:
            await self._slots.acquire(priority)
            async with AsyncExitStack() as turn:
                turn.callback(self._slots.release)
                cuts = self.cuts
                try:
                    taken = await turn.enter_async_context(taking())
                except OutOfFiles:
                    if self._slots.in_use == 1:  # nobody's end here would help
                        raise
                    self._slots.overloaded(cuts)
                    continue
                await self._gate.acquire()
                held.push_async_exit(turn.pop_all())
                return taken


class Upstreams:
    """The providers in order of preference: the next is asked if the one before cannot, or has failed."""

    def __init__(self, *upstreams: Upstream) -> None:
        self._upstreams = list(upstreams)

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._upstreams)

    def add(self, upstream: Upstream) -> None:
        """Adds one, to be asked after the others."""
        self._upstreams.append(upstream)

    async def poll_models(self) -> None:
        """Asks each provider once an hour which models it offers, until it is cancelled."""
        while True:
            for upstream in self._upstreams:
                with contextlib.suppress(ProviderFault):  # what was known before remains in force
                    await upstream.provider.models()
            await asyncio.sleep(_POLL_S)

    def named(self, name: str) -> Upstream | None:
        """The provider of that name, None if it is no longer set up."""
        return next((upstream for upstream in self._upstreams if upstream.name == name), None)

    def able(self, request: ImageRequest) -> list[Upstream]:
        """Those that can honour the whole request, in order. Raises ``InvalidRequest`` if none can."""
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
    return Overloaded(
        f"{waiting} pictures are waiting for {name}; send the request again in 5 s", retry_after_s=5.0
    )

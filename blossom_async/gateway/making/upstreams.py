"""The providers of this gateway, each behind its limits: rates, concurrency, a queue, a circuit breaker."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Generic, TypeVar

import attrs

from blossom_async.batch import Gate, RateLimit, Slots
from blossom_async.errors import GateUnavailable, InvalidRequest, Overloaded
from blossom_async.gateway.making.breaker import Breaker
from blossom_async.gateway.making.callers import Callers
from blossom_async.gateway.making.encoding import check_encodable
from blossom_async.gateway.making.pace import Pace
from blossom_async.gateway.making.priority import Priority
from blossom_async.gateway.making.provider_calls import ProviderCalls
from blossom_async.gateway.providers import Editor, Provider
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.gateway.storage.blobs import OutOfFiles
from blossom_async.models import ImageRequest, draws_from_pictures
from blossom_async.tracing import span

__all__ = ["FULL_RETRY_S", "Limits", "Turn", "Upstream", "Upstreams", "check_wait"]

FULL_RETRY_S = 5.0
"""What a caller is asked to wait when the queue is full: by then it has moved on."""

T = TypeVar("T")
_TURNS = 3  # a hurried call may wait for this many, however long a turn takes
_LATE = 2  # a call is refused once it has waited so many times what was expected
_LIST_S = 2.0  # for a list of models, which is usually known
_POLL_S = 3600.0  # how often a provider is asked which models it offers

_TOO_MUCH = {Kind.RATE_LIMITED, Kind.OUT_OF_FILES}


@attrs.frozen(kw_only=True)
class Limits:
    """What a provider's account allows: ``rates``, and ``at_once`` requests in progress.

    At most ``line`` calls are queued, each for at most ``wait_s`` seconds; None for no limit.
    Hurried calls wait for at most ``hurry_s``, or for the time of three turns if that is longer.
    """

    rates: tuple[RateLimit, ...] = ()
    at_once: int = 16
    line: int = 1000
    wait_s: float | None = 240.0
    hurry_s: float = 2.0


@attrs.frozen
class Turn(Generic[T]):
    """A turn at a provider, and what was ``taken`` for it.

    Await ``begin`` right before the call is sent: the rates hold for the calls themselves, however long
    preparing one took. It raises ``Overloaded`` while nobody can be asked for a rate shared with others.
    """

    taken: T
    begin: Callable[[], Awaitable[object]]


class Upstream:
    """A provider and its queue. Belongs to the event loop in which it is first awaited."""

    def __init__(
        self,
        provider: Provider,
        limits: Limits,
        *,
        clock: Callable[[], float],
        gate: Gate | None = None,
        shared: bool = False,
    ) -> None:
        """``gate`` has the rates if they are shared with others; by default they are this process's own.

        With ``shared`` the slots are shared as well: there is none until ``grant``.
        """
        self.provider = provider
        self.name: str = provider.name
        self.calls: ProviderCalls = ProviderCalls(provider.name, clock)
        self._limits = limits
        self._slots = Slots(limits.at_once, priorities=len(Priority))
        self.shared = shared
        if shared:
            self._slots.grant(0)
        self.gate: Gate = Gate(*limits.rates) if gate is None else gate
        self._pace = Pace(clock)
        self._line = Counter[Priority]()
        self._breaker = Breaker(provider.name, clock)

    @property
    def edits(self) -> bool:
        """Whether the provider can draw from pictures."""
        return isinstance(self.provider, Editor)

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return self._slots.waiting

    @property
    def in_progress(self) -> int:
        """Calls that hold a slot."""
        return self._slots.in_use

    @property
    def at_once(self) -> int:
        """How many calls the account allows at once."""
        return self._limits.at_once

    @property
    def granted(self) -> int:
        """How many of them this process may make."""
        return self._slots.granted

    def grant(self, slots: int) -> None:
        """Sets how many calls this process may make at once, from now on."""
        self._slots.grant(slots)

    def resting_s(self) -> float:
        """Seconds until the provider may be called again; 0 if it may be called."""
        return self._breaker.resting_s()

    def check_wait(self, callers: Callers) -> None:
        """Raises ``Overloaded`` if the line is full, or too long for them: it says when it will not be."""
        if self.waiting >= self._limits.line:
            raise _too_many(self.name, self.waiting)
        longest_s, expected_s = self._longest_s(callers), self._wait_s(callers)
        if callers.hurried and longest_s is not None and expected_s > longest_s:
            raise _too_many(self.name, self.waiting, expected_s - longest_s)

    @asynccontextmanager
    async def turn(
        self, callers: Callers, *, taking: Callable[[], AbstractAsyncContextManager[T]]
    ) -> AsyncIterator[Turn[T]]:
        """Waits for a turn at the provider, then enters ``taking``; the block may call the provider once.

        ``taking`` acquires what else the call needs. If it raises ``OutOfFiles``, concurrency is lowered and
        this call waits for another to end. Raises anything else that ``taking`` raises, and ``Overloaded``
        with ``retry_after_s`` when the queue is full, the wait too long, or the circuit breaker open. If that
        opens while this call waits, a hurried one is refused; others wait until it closes again.
        """
        self._breaker.check(self._pace.usual_s)
        self.check_wait(callers)
        async with AsyncExitStack() as held:
            try:
                with span("wait for turn", blossom_provider=self.name):
                    async with asyncio.timeout(self._limits.wait_s):
                        taken = await self._enter(callers, taking, held)
            except TimeoutError as exc:
                raise _too_many(self.name, self.waiting, self._wait_s(callers)) from exc
            yield taken

    @asynccontextmanager
    async def again(self) -> AsyncIterator[None]:
        """The block sends a request once more in its turn. Waits until circuit breaker and rates let it."""
        trial = await self._breaker.wait()
        try:
            while True:
                with contextlib.suppress(GateUnavailable):
                    begin = await self.gate.reserve()
                    await begin()
                    break
                await asyncio.sleep(FULL_RETRY_S)
            yield
        finally:
            if trial is not None:
                self._breaker.end_trial(trial)

    @property
    def away(self) -> bool:
        """Whether calls have failed in a row, and none was answered since."""
        return self._breaker.open

    @property
    def cuts(self) -> int:
        """How often concurrency was cut so far; for ``failed``."""
        return self._slots.cuts

    def succeeded(self) -> None:
        """Records that the provider has made a picture."""
        self._breaker.answered()
        self._slots.succeeded()

    def failed(self, fault: ProviderFault, cuts: int, *, sent_at: float = math.inf) -> None:
        """Records a failure: cuts concurrency, pauses, or opens the circuit breaker, as the fault requires.

        ``cuts`` is what it was when the request was sent, at ``sent_at`` of the clock: the refusals of one
        round cut once. A provider that refuses for its rate teaches it; then fewer at once would not help.
        """
        if fault.kind in _TOO_MUCH:
            pause_s = fault.retry_after_s or 0.0
            self.gate.pause(pause_s)
            if fault.kind is Kind.OUT_OF_FILES or not self.gate.refused(sent_at, pause_s):
                self._slots.overloaded(cuts)
        self._breaker.failed(fault, self._slots.in_use)

    def _longest_s(self, callers: Callers) -> float | None:
        """How long a call may wait for a slot."""
        if not callers.hurried or self._pace.usual_s is None:
            return self._limits.wait_s
        in_a_hurry_s = max(self._limits.hurry_s, _TURNS * self._pace.usual_s)
        return in_a_hurry_s if self._limits.wait_s is None else min(in_a_hurry_s, self._limits.wait_s)

    def _wait_s(self, callers: Callers) -> float:
        """How long a call that comes now is expected to wait for a slot."""
        if not self.waiting and self._slots.in_use < self._slots.usable:
            return 0.0
        ahead = sum(self._line[each] for each in Priority if each <= callers.priority)
        return self._pace.wait_s(ahead, max(1, self._slots.usable))

    async def _slot(self, callers: Callers) -> None:
        longest_s = self._longest_s(callers)
        self._line[callers.priority] += 1
        try:
            with callers.in_line():
                async with asyncio.timeout(None if longest_s is None else _LATE * longest_s):
                    await self._slots.acquire(callers.priority)
        finally:
            self._line[callers.priority] -= 1

    async def _enter(
        self, callers: Callers, taking: Callable[[], AbstractAsyncContextManager[T]], held: AsyncExitStack
    ) -> Turn[T]:
        while True:
            await self._slot(callers)
            async with AsyncExitStack() as turn:
                turn.callback(self._slots.release)
                turn.enter_context(self._pace.turn())
                cuts = self.cuts
                try:
                    taken = await turn.enter_async_context(taking())
                except OutOfFiles:
                    if self._slots.in_use == 1:  # nobody's end here would help
                        raise
                    self._slots.overloaded(cuts)
                    continue
                begin = await self._pass(callers, turn)
                held.push_async_exit(turn.pop_all())
                return Turn(taken, partial(self._available, begin))

    async def _pass(self, callers: Callers, turn: AsyncExitStack) -> Callable[[], Awaitable[float]]:
        """Returns when the rates and the circuit breaker let one call be prepared, which is then to begin."""
        trial: object | None = None
        while True:
            if callers.hurried and trial is None:
                self._breaker.check(self._pace.usual_s)
            if trial is None and (trial := await self._breaker.wait()) is not None:
                turn.callback(self._breaker.end_trial, trial)
            begin = await self._available(self.gate.reserve)
            if trial is not None or not self._breaker.open:
                return begin

    async def _available(self, gate: Callable[[], Awaitable[T]]) -> T:
        try:
            return await gate()
        except GateUnavailable as exc:
            raise Overloaded(
                f"the database that shares the rate of {self.name} cannot be reached; send the request "
                f"again in {FULL_RETRY_S:.0f} s",
                retry_after_s=FULL_RETRY_S,
            ) from exc


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

    async def may_offer(self, model: str) -> bool:
        """Whether a provider lists the model, or has no list."""
        for upstream in self._upstreams:
            try:
                async with asyncio.timeout(_LIST_S):
                    models = await upstream.provider.models()
            except (ProviderFault, TimeoutError):
                return True
            if any(model in {each.name, *each.aliases} for each in models):
                return True
        return False

    def named(self, name: str) -> Upstream | None:
        """The provider of that name, None if it is no longer set up."""
        return next((upstream for upstream in self._upstreams if upstream.name == name), None)

    def able(self, request: ImageRequest) -> list[Upstream]:
        """Those that can honour the whole request, in order. Raises ``InvalidRequest`` if none can."""
        check_encodable(request.format)
        refusals: list[InvalidRequest] = []
        found = []
        for upstream in self._upstreams:
            try:
                _check_takes_pictures(upstream, request)
                upstream.provider.check(request)
            except InvalidRequest as exc:
                refusals.append(exc)
            else:
                found.append(upstream)
        if not found:
            raise refusals[0]
        return found


def _check_takes_pictures(upstream: Upstream, request: ImageRequest) -> None:
    if draws_from_pictures(request) and not upstream.edits:
        allowed = f"none with {upstream.name}, which draws from a prompt only"
        raise InvalidRequest("image", "", allowed, seen="a picture")


def check_wait(able: Sequence[Upstream], callers: Callers) -> None:
    """Raises as ``Upstream.check_wait``, if every one of them would."""
    refusals = []
    for upstream in able:
        try:
            return upstream.check_wait(callers)
        except Overloaded as exc:
            refusals.append(exc)
    raise refusals[0]


def _too_many(name: str, waiting: int, retry_s: float = 0.0) -> Overloaded:
    retry_s = max(1.0, retry_s) if retry_s else FULL_RETRY_S
    return Overloaded(
        f"{name} is drawing as many pictures as it may at once, and {waiting} more are waiting; send the "
        f"request again in {math.ceil(retry_s)} s",
        retry_after_s=retry_s,
    )

"""How many attempts may be under way at once: a fair semaphore that adapts to what the server accepts."""

from __future__ import annotations

import asyncio
import operator
from types import TracebackType

from blossom_async.batch.line import Line

__all__ = ["Lease", "Slots"]

# Growth after a cut follows the curve of CUBIC (RFC 9438, 4.2), counted in round trips (as many successes as
# there are slots) instead of seconds, so that it suits answers of 20 ms and of 20 s: fast up to where the
# server last refused, slow around it, fast again if it no longer refuses. How steep it is depends on the
# number of slots, so that small and large servers alike refuse about 1 in 100 requests.
_FLATTEST, _STEEPEST = 0.001, 0.04
_UNIT = 60  # slots above which one more would be tried each round trip, if _STEEPEST did not cap it
_STEPS = (
    0.9,
    0.8,
    0.65,
    0.5,
)  # share of the slots kept; the later ones for cuts with no successful round between


class Lease:
    """How many slots the attempts of one event loop hold; 0 once it was closed and they were freed."""

    held = 0


class Slots:
    """``limit`` slots, of which ``usable`` may be used now. ``async with slots:`` holds one.

    Waiters are served by priority (0 first), and in the order they came within each. ``allowed`` begins at
    the limit, falls at most once per round trip while the server is overloaded, and grows back while attempts
    succeed; it stays within 1..``limit``. Event loops may share it, at once or one after another. Cancelling
    a waiter loses no slot: one that it was just given goes to the next in line.
    """

    def __init__(self, limit: int, *, priorities: int = 1) -> None:
        """Raises ``ValueError`` unless the limit is a whole number of at least 1."""
        try:
            whole = 0 if isinstance(limit, bool) else operator.index(limit)  # numpy's, too
        except TypeError:
            whole = 0
        if whole < 1:
            raise ValueError(f"max_concurrency: {limit!r} cannot be used; allowed: a whole number from 1 up")
        self.limit = whole
        self.allowed: int = whole
        self.granted: int = whole
        """How many this process may use, if it shares them with others; ``grant`` changes it."""
        self.in_use: int = 0
        self.cuts: int = 0
        self._leases: dict[asyncio.AbstractEventLoop, Lease] = {}
        self._line = Line(self.release, priorities=priorities)
        self._refused_at = float(limit)  # where the curve is flat
        self._curve = _FLATTEST
        self._rounds = 0.0  # round trips on the curve; 0 is its flat point
        self._successes = 0  # since the last cut
        self._steps = 0  # cuts without a good round between

    def __repr__(self) -> str:
        return f"<Slots: {self.in_use} in use, {self.allowed} of {self.limit} allowed>"

    def lease(self) -> Lease:
        """The count of the slots that the attempts of the running event loop hold."""
        self._free_closed_loops()
        loop = asyncio.get_running_loop()
        lease = self._leases.get(loop)
        if lease is None:
            lease = self._leases[loop] = Lease()
        return lease

    def _free_closed_loops(self) -> None:
        """Frees what event loops held that were closed without ending their tasks."""
        for loop in [loop for loop in tuple(self._leases) if loop.is_closed()]:
            lease = self._leases.pop(loop, Lease())
            self.in_use -= lease.held
            lease.held = 0
            self._line.forget_closed_loops()

    @property
    def usable(self) -> int:
        """How many may be used now."""
        return min(self.allowed, self.granted)

    def grant(self, slots: int) -> None:
        """Sets how many this process may use. Those in use beyond that end as they would have."""
        self.granted = slots
        self._hand_out()

    def try_acquire(self) -> bool:
        """Takes a slot if one is free and nobody waits for it. Never blocks."""
        # Not `usable`: this is asked for every item, and a property takes longer than both comparisons.
        if self.in_use >= self.allowed or self.in_use >= self.granted or self._line.waiting:
            return False
        self.in_use += 1
        return True

    @property
    def waiting(self) -> int:
        """Those in line for a slot."""
        return self._line.waiting

    async def acquire(self, priority: int = 0) -> None:
        """Waits for a slot."""
        if self.try_acquire():
            return
        self._free_closed_loops()
        turn = self._line.join(priority)
        self._hand_out()  # what another thread has released since
        await self._line.turn(turn)

    def release(self) -> None:
        """Returns a slot. Raises ``RuntimeError`` when none is held."""
        if self.in_use < 1:
            raise RuntimeError("a slot was released that nobody held")
        self.in_use -= 1
        if self._line.waiting:
            self._hand_out()

    def succeeded(self) -> None:
        """Reports a success of an attempt that holds a slot. May raise ``allowed`` if slots are scarce."""
        if self.allowed >= self.limit or self.in_use * 2 < self.allowed:
            return
        self._successes += 1
        if self._successes >= self.allowed:
            self._steps = 0
        self._rounds += 1 / self.allowed
        self._allow(int(self._refused_at + self._curve * self._rounds**3))

    def overloaded(self, cuts: int) -> None:
        """Reports that an attempt that holds a slot was refused or timed out. Lowers ``allowed``.

        ``cuts`` is the value of ``self.cuts`` when the attempt started. An attempt from before the last cut
        says nothing about the slots allowed since, so a hundred refusals in one round trip make one cut.
        """
        if cuts != self.cuts:
            return
        self.cuts += 1
        refused_at = min(self.in_use, self.allowed)
        kept = int(refused_at * _STEPS[min(self._steps, len(_STEPS) - 1)])
        self._steps += 1
        self._successes = 0
        self.allowed = max(1, min(kept, refused_at - 1))
        self._refused_at = float(max(1, refused_at - 1))
        self._curve = min(_STEEPEST, max(_FLATTEST, (self._refused_at / _UNIT) ** 3))
        self._rounds = -(((self._refused_at - self.allowed) / self._curve) ** (1 / 3))

    def _allow(self, slots: int) -> None:
        grown = max(self.allowed, min(slots, self.limit))
        if grown > self.allowed:
            self.allowed = grown
            self._hand_out()

    def _hand_out(self) -> None:
        # Threads switch only at calls and loops, so none runs between a comparison and the addition after it.
        while self._line.waiting and self.in_use < self.usable:
            self.in_use += 1
            if not self._line.grant():
                self.in_use -= 1

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

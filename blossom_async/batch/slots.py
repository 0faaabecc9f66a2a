"""How many attempts may be under way at once: a bounded, first-come-first-served semaphore."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

__all__ = ["Slots"]


class Slots:
    """``limit`` slots. ``async with slots:`` holds one; waiters are served in the order they came.

    Belongs to the event loop it is first waited on in. Cancelling a waiter loses no slot: one that was just
    handed to it goes on to the next in line.
    """

    def __init__(self, limit: int) -> None:
        """Raises ``ValueError`` when the limit is not a whole number of at least 1."""
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"max_concurrency: {limit!r} cannot be used; allowed: a whole number from 1 up")
        self.limit = limit
        self.in_use = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    def try_acquire(self) -> bool:
        """Takes a slot if one is free and nobody waits; never blocks."""
        if self.in_use >= self.limit or self._waiters:
            return False
        self.in_use += 1
        return True

    async def acquire(self) -> None:
        """Waits for a slot."""
        if self.try_acquire():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            else:
                self._waiters.remove(turn)
            raise

    def release(self) -> None:
        """Gives a slot back. Raises ``RuntimeError`` when none is held."""
        if self.in_use < 1:
            raise RuntimeError("a slot was released that nobody held")
        self.in_use -= 1
        while self._waiters and self.in_use < self.limit:
            turn = self._waiters.popleft()
            if not turn.done():
                self.in_use += 1
                turn.set_result(None)

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

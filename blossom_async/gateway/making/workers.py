"""Work for the processor, in threads: drawing and encoding."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["Workers"]

T = TypeVar("T")


class Workers:
    """``threads`` jobs at once; the others wait in the order they came, but for those that go ``first``.

    No more threads than this run, so that the event loop keeps its share of the processor.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="blossom-worker")
        self._free = threads
        self._waiting: deque[tuple[asyncio.Future[None], bool]] = deque()
        self._closing = False

    async def run(self, work: Callable[[], T], *, first: bool = False) -> T:
        """What the work gives. ``first`` is for the rest of something begun: it lets nothing else begin."""
        if self._closing and not first:
            raise asyncio.CancelledError
        if self._free > 0:
            self._free -= 1
        else:
            await self._turn(first=first)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._hand_over()

    def begin_nothing_more(self) -> None:
        """Cancels those that wait, but for the rest of something begun. What runs, runs to its end."""
        self._closing = True
        for turn, first in self._waiting:
            if not first:
                turn.cancel()

    def close(self) -> None:
        """Ends the threads once they are idle, without waiting for that."""
        self._pool.shutdown(wait=False)

    async def _turn(self, *, first: bool) -> None:
        turn = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)((turn, first))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had just been given the thread
                self._hand_over()
            raise

    def _hand_over(self) -> None:
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

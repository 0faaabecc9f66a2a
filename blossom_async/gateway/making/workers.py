"""Threads for CPU-bound work: drawing and encoding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from blossom_async.batch.line import Line

__all__ = ["Workers"]

T = TypeVar("T")
_REST, _NEW = 0, 1  # priorities in the line: the rest of work already started, and new work


class Workers:
    """Runs ``threads`` jobs at once. The others wait in line: those that go ``first``, then in order.

    The number of threads is bounded so that the event loop gets its share of the CPU.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="blossom-worker")
        self._free = threads
        self._line = Line(self._hand_over, priorities=2)
        self._closing = False

    async def run(self, work: Callable[[], T], *, first: bool = False) -> T:
        """What the work returns. ``first`` jumps the queue, to finish work already started."""
        if self._closing and not first:
            raise asyncio.CancelledError
        if self._free > 0:
            self._free -= 1
        else:
            await self._line.wait(_REST if first else _NEW)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._hand_over()

    def begin_nothing_more(self) -> None:
        """Cancels the jobs that wait, except those that go ``first``. A running job is finished."""
        self._closing = True
        self._line.dismiss(_NEW)

    def close(self) -> None:
        """Ends the threads once they are idle, without waiting for that."""
        self._pool.shutdown(wait=False)

    def _hand_over(self) -> None:
        if not self._line.grant():
            self._free += 1

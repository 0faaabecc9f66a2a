"""Threads for work that waits for a disk or a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from blossom_async.gateway.storage.forks import Home

__all__ = ["Threads", "in_a_thread"]

T = TypeVar("T")


class Threads:
    """At most ``most`` threads, of the process that called ``open`` last."""

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="blossom-blobs")
        self._home = Home()

    def open(self) -> None:
        """Makes this process the one that may use them."""
        self._home = Home()

    def check(self) -> None:
        """Raises ``RuntimeError`` in a process that was forked since."""
        self._home.check("the pictures")

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """What the work returns or raises. Raises as ``check``."""
        self.check()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def close(self) -> None:
        """Waits for work under way, then ends the threads; does nothing in a forked process."""
        if not self._home.is_here:
            return
        await in_a_thread(self._pool.shutdown)


async def in_a_thread(work: Callable[[], T]) -> T:
    """What the work returns. While the interpreter shuts down it is done in this thread: no other starts."""
    try:
        return await asyncio.to_thread(work)
    except RuntimeError:
        return work()

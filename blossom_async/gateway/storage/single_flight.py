"""One piece of work for all who ask for it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

__all__ = ["SingleFlight"]

Name = TypeVar("Name", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[Name, T]):
    """Runs one task for each name at a time."""

    def __init__(self) -> None:
        self._under_way: dict[Name, asyncio.Task[T]] = {}

    async def run(self, name: Name, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the work returns or raises, begun by whoever asked first.

        A caller that is cancelled does not end it for the others.
        """
        return await asyncio.shield(self.begin(name, work))

    def begin(self, name: Name, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """The task that does the work, which may be under way already.

        A task that has ended is never returned, even before its callbacks have run. Whoever asks again
        because of its result would get it for ever, and never let the loop run them.
        """
        task = self._under_way.get(name)
        if task is None or task.done():
            task = self._under_way[name] = asyncio.create_task(work())
            task.add_done_callback(partial(self._leave, name))
        return task

    async def cancel(self) -> None:
        """Gives up what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _leave(self, name: Name, task: asyncio.Task[T]) -> None:
        if self._under_way.get(name) is task:
            del self._under_way[name]
        if not task.cancelled():
            task.exception()  # retrieved, even if every caller was cancelled

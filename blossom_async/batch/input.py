"""One item after the other from an iterable or an async iterable."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sized
from typing import Generic, TypeVar

__all__ = ["Input"]

Item = TypeVar("Item")


class Input(Generic[Item]):
    """The input of a batch. ``ended`` once it has no more items, or none are wanted.

    ``total`` is the number of items if the input knows it, else None. If ``waits``, get items with
    ``await anext()``, one caller at a time; otherwise with ``next()``. Both raise what the input raises, and
    ``StopAsyncIteration`` or ``StopIteration`` at its end.
    """

    def __init__(self, items: Iterable[Item] | AsyncIterable[Item]) -> None:
        self.total: int | None = len(items) if isinstance(items, Sized) else None
        self.ended = False
        self.waits: bool = isinstance(items, AsyncIterable)
        self.next: Callable[[], Item]
        self.anext: Callable[[], Awaitable[Item]]
        if isinstance(items, AsyncIterable):
            self._async = aiter(items)
            self.anext = self._async.__anext__
        else:
            self.next = iter(items).__next__

    async def aclose(self) -> None:
        """Closes an async generator, so that its clean-up does not wait for the garbage collector."""
        if self.waits and isinstance(self._async, AsyncGenerator):
            await self._async.aclose()

"""One item after the other from an iterable or an async iterable."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from typing import Generic, TypeVar

__all__ = ["Input"]

Item = TypeVar("Item")


class Input(Generic[Item]):
    """The input of a batch. ``ended`` once it has no more items, or none are wanted.

    ``total`` is the number of items where the input knows it, else None.
    """

    def __init__(self, items: Iterable[Item] | AsyncIterable[Item]) -> None:
        self.total = len(items) if isinstance(items, Sized) else None
        self.ended = False
        self._sync: Iterator[Item] | None = None
        self._async: AsyncIterator[Item] | None = None
        if isinstance(items, AsyncIterable):
            self._async = aiter(items)
        else:
            self._sync = iter(items)

    @property
    def waits(self) -> bool:
        """Whether items are had with ``await anext()``, by one caller at a time, and not with ``next()``."""
        return self._async is not None

    def next(self) -> Item:
        """The next item. Raises ``StopIteration`` at the end and whatever the input raises."""
        assert self._sync is not None  # noqa: S101 - for the type checker
        return next(self._sync)

    async def anext(self) -> Item:
        """As ``next``; raises ``StopAsyncIteration`` at the end."""
        assert self._async is not None  # noqa: S101 - for the type checker
        return await anext(self._async)

    async def aclose(self) -> None:
        """Closes an async generator where it stands, so that what it holds open is not left to chance."""
        if isinstance(self._async, AsyncGenerator):
            await self._async.aclose()

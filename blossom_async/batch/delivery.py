"""What the consumer of a stream iterates over."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from blossom_async.batch.outcome import Outcome

__all__ = ["Delivery"]

Item = TypeVar("Item")
Value = TypeVar("Value")


class Delivery(AsyncIterator[Outcome[Item, Value]]):
    """Outcomes as they come or put in order, until ``end``. ``on_consumed`` is called for each one taken.

    For one reader at a time: a second one gets ``RuntimeError``.
    """

    on_consumed: Callable[[], None]

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self._head = 0
        self._ready: deque[Outcome[Item, Value]] = deque()
        self._early: dict[int, Outcome[Item, Value]] = {}
        self._waiting: asyncio.Future[None] | None = None
        self._ended = False
        self._failure: BaseException | None = None

    def put(self, outcome: Outcome[Item, Value]) -> None:
        """Hands an outcome to the reader, or keeps it until those before it are there."""
        if not self._ordered:
            self._ready.append(outcome)
        else:
            self._early[outcome.index] = outcome
            while (ready := self._early.pop(self._head, None)) is not None:
                self._ready.append(ready)
                self._head += 1
        if self._ready:
            self._wake()

    def end(self, failure: BaseException | None) -> None:
        """No more are to come; a failure is raised after the last one."""
        self._ended, self._failure = True, failure
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def __anext__(self) -> Outcome[Item, Value]:
        if self._waiting is not None:
            raise RuntimeError("this stream is already being read; read it from one task")
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        outcome = self._ready.popleft()
        self.on_consumed()
        return outcome

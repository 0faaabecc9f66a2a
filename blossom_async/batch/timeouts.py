"""The time one attempt may take, with one timer for all attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from blossom_async.errors import TimedOut

__all__ = ["SECONDS", "Timeout", "is_seconds"]

Value = TypeVar("Value")

SECONDS = "seconds above 0"


def is_seconds(value: object) -> bool:
    """Whether this is a positive number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


class _Watch:
    __slots__ = ("cancelling", "due", "expired", "task")

    def __init__(self, due: float, task: asyncio.Task[object]) -> None:
        self.due = due
        self.task = task
        self.cancelling = task.cancelling()
        self.expired = False


class Timeout:
    """Cancels what takes longer than ``seconds``.

    ``asyncio.timeout()`` sets and clears a timer for each use, which is a tenth of the cost of an HTTP call,
    and a scope of anyio costs more. Here all uses are equally long and expire in the order in which they
    began, so one timer for the oldest is enough. Call ``close()`` after the last one.
    """

    def __init__(self, seconds: float) -> None:
        """Raises ``ValueError`` unless the number is positive."""
        if not is_seconds(seconds):
            raise ValueError(f"timeout_s: {seconds!r} cannot be used; allowed: {SECONDS}")
        self._seconds = seconds
        self._watches: dict[_Watch, None] = {}  # in the order they began
        self._timer: asyncio.TimerHandle | None = None

    async def limit(self, work: Awaitable[Value]) -> Value:
        """The result of the work. Raises ``TimedOut`` when it takes too long."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker; coroutines run in tasks
        loop = asyncio.get_running_loop()
        watch = _Watch(loop.time() + self._seconds, task)
        self._watches[watch] = None
        if self._timer is None:
            self._timer = loop.call_at(watch.due, self._expire)
        try:
            return await work
        except asyncio.CancelledError as exc:
            if not self._settled(watch):
                raise
            raise TimedOut(f"no result within the {self._seconds:g} s allowed for one attempt") from exc
        finally:
            del self._watches[watch]
            self._settled(watch)

    def close(self) -> None:
        """Cancels the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @staticmethod
    def _settled(watch: _Watch) -> bool:
        """Revokes this timeout's cancellation. True if nobody else cancelled the task."""
        if not watch.expired:
            return False
        watch.expired = False
        return watch.task.uncancel() <= watch.cancelling

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for watch in self._watches:
            if watch.due > loop.time():
                self._timer = loop.call_at(watch.due, self._expire)
                return
            if not watch.expired:
                watch.expired = True
                watch.task.cancel()

"""Cancelling what a task waits for without ending the task, and waiting in spite of being cancelled."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TypeVar

from anyio import CancelScope

__all__ = ["Interruptible", "completion", "is_cancelled"]

T = TypeVar("T")


class Interruptible:
    """A block of one task that others can interrupt; it may be entered again and again.

    An anyio scope cancels every wait until its block is left. The code run here is written for asyncio, where
    a cancellation is raised once and the clean-up after it may wait. So the waits are shielded as soon as the
    cancellation has been delivered.
    """

    interrupted: bool = False
    _task: asyncio.Task[object] | None = None

    def __enter__(self) -> None:
        self.interrupted = False
        self._task = asyncio.current_task()
        self._scope = CancelScope().__enter__()
        self._clean_up = CancelScope().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._task = None
        self._clean_up.__exit__(kind, error, trace)
        return bool(self._scope.__exit__(kind, error, trace))

    def interrupt(self) -> None:
        """Raises ``CancelledError`` where the block waits, and ends the block there. Not for its own task."""
        if self._task is not None and not self.interrupted:
            self.interrupted = True
            requests = self._task.cancelling()
            self._scope.cancel()
            self._shield_once_delivered(self._clean_up, requests)

    def _shield_once_delivered(self, clean_up: CancelScope, requests: int) -> None:
        if self._task is None or self._clean_up is not clean_up:
            return  # that block was left without it, and perhaps another one entered
        if self._task.cancelling() > requests:
            clean_up.shield = True
        else:  # the task was about to go on; anyio tries again in the next pass of the loop
            asyncio.get_running_loop().call_soon(self._shield_once_delivered, clean_up, requests)


def is_cancelled() -> bool:
    """Whether the running task is being cancelled, and not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def completion(future: asyncio.Future[T]) -> T:
    """The result of a future or task, waited for to the end even if cancelled meanwhile.

    The cancellation is raised then.
    """
    cancelled: asyncio.CancelledError | None = None
    with CancelScope(shield=True):
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as exc:
                cancelled = exc
    if cancelled is not None:
        raise cancelled
    return future.result()

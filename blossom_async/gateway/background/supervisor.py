"""What the gateway does beside answering requests: every such job is started, watched and ended here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

__all__ = ["Supervisor"]

_log = logging.getLogger("blossom_async.gateway")


class Supervisor:
    """Runs jobs while the block runs; on leaving, cancels them and waits until they have ended.

    A job that raises is logged with its traceback and run again after ``restart_s`` seconds; one that returns
    is done.
    """

    def __init__(self, *, restart_s: float = 10.0) -> None:
        self._restart_s = restart_s
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, job: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Runs a job from now on. The log calls it by its name."""
        self._tasks.append(asyncio.create_task(self._watch(name, job), name=f"blossom {name}"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, name: str, job: Callable[[], Coroutine[Any, Any, object]]) -> None:
        while True:
            try:
                await job()
                return
            except Exception:  # noqa: BLE001 - the task's border: pictures are made and served without it
                _log.exception("the job '%s' failed; it starts again in %g s", name, self._restart_s)
            await asyncio.sleep(self._restart_s)

"""Who waits for a picture, and whether anybody still does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from blossom_async.errors import Overloaded
from blossom_async.gateway.making.priority import Priority
from blossom_async.gateway.providers import Partial, Show

__all__ = ["Callers"]


class Callers:
    """Those who wait for one picture. If ``hurried``, a long wait is refused instead of begun.

    ``preview``: they are shown the picture's preview.
    """

    def __init__(self, priority: Priority, *, hurried: bool = False, preview: bool = True) -> None:
        self.priority = priority
        self.hurried = hurried
        self.preview = preview
        self.dropped: bool = False
        """Whether the picture was given up because all of them had left."""
        self._here = 0
        self._came = False
        self._in_line: asyncio.Task[object] | None = None
        self._watching: list[Show] = []

    @contextlib.contextmanager
    def waiting(self, watch: Show | None = None) -> Iterator[None]:
        """One caller waits during the block; ``watch`` is called with the pictures on the way."""
        self._came = True
        self._here += 1
        watching = [] if watch is None else [watch]
        self._watching += watching
        try:
            yield
        finally:
            self._here -= 1
            for each in watching:
                self._watching.remove(each)
            if self._in_line is not None and not self._here:
                self.dropped = self._in_line.cancel()

    def show(self, partial: Partial) -> None:
        """Shows all who watch a picture on the way."""
        for watch in tuple(self._watching):
            watch(partial)

    @contextlib.contextmanager
    def in_line(self) -> Iterator[None]:
        """The block waits for the picture's turn. It ends with ``Overloaded`` once all callers have left.

        A picture that nobody has waited for, such as a deferred one, keeps its place.
        """
        if self._came and not self._here:
            self.dropped = True
            raise _left()
        task = self._in_line = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if task is None or not self.dropped or task.uncancel():
                raise
            raise _left() from None
        finally:
            self._in_line = None


def _left() -> Overloaded:
    return Overloaded(
        "every caller left before the picture was begun; send the request again",
        code="callers_left",
        retry_after_s=1.0,
    )

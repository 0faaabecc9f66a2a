"""Why a batch starts nothing new, what it raises, and that it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Ending"]


def _nothing(_: object) -> None:
    pass


class Ending:
    """The end of a batch, which all of its parts see coming.

    ``stopped`` says why nothing new is started. ``failure`` is raised once the items under way have ended.
    ``left``: nobody waits for outcomes any more. ``finished`` is set when the batch has ended.
    """

    def __init__(self) -> None:
        self.stopped: str | None = None
        self.failure: BaseException | None = None
        self.left = False
        self.finished: asyncio.Event = asyncio.Event()
        self.on_finished: Callable[[BaseException | None], None] = _nothing

    def fail(self, failure: BaseException) -> None:
        """Notes what to raise; the first one counts."""
        if self.failure is None:
            self.failure = failure

    def finish(self) -> None:
        """Tells all who wait that the batch has ended."""
        self.finished.set()
        self.on_finished(self.failure)

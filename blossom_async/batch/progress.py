"""Where a batch stands: what has ended and how, and the report of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import attrs

from blossom_async.batch.outage import Outage
from blossom_async.batch.outcome import Outcome
from blossom_async.errors import NotRun

__all__ = ["OnProgress", "Progress", "Tally"]


@attrs.frozen(kw_only=True, slots=False)
class Progress:
    """Where a batch stands. ``total`` is None when the input does not know its length.

    ``done`` items have a value, of which ``reused`` came from the journal or an equal item; ``failed`` items
    have an error; ``not_run`` items were never tried. ``running`` items were taken and have not ended, of
    which ``waiting`` have failed and will be tried again. ``stopped`` says why nothing new is started.
    """

    total: int | None
    done: int
    failed: int
    not_run: int
    running: int
    waiting: int
    reused: int
    elapsed_s: float
    stopped: str | None
    _outage: ClassVar[Outage | None] = None

    @property
    def outage_s(self) -> float | None:
        """For how many seconds the server has answered nothing; None while it answers.

        Unlike the fields this is of now, in any thread: no item ends in an outage, so ``on_progress`` is not
        called. A bar that redraws itself asks its last ``Progress``. A copy or a pickle has none.
        """
        return None if self._outage is None else self._outage.lasts_s

    def __getstate__(self) -> dict[str, object]:
        return attrs.asdict(self)


OnProgress = Callable[[Progress], object]


class Tally:
    """Counts the items of a batch: ``pulled`` from the input, and how they ended.

    ``on_progress`` is called by ``report``; what it raises goes to the loop's exception handler.
    """

    def __init__(self, total: int | None, on_progress: OnProgress | None, outage: Outage) -> None:
        self.pulled = 0
        self.on_progress = on_progress
        self._total = total
        self._outage = outage
        self._done = 0
        self._failed = 0
        self._not_run = 0
        self._reused = 0
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the batch began."""
        return self._loop.time() - self._started_at

    @property
    def running(self) -> int:
        """Items that were taken and have not ended."""
        return self.pulled - self._done - self._failed - self._not_run

    def count(self, outcome: Outcome[Any, Any]) -> None:
        """Adds the end of one item."""
        if outcome.ok:
            self._done += 1
            if not outcome.attempts:
                self._reused += 1
        elif isinstance(outcome.error, NotRun):
            self._not_run += 1
        else:
            self._failed += 1

    def report(self, waiting: int, stopped: str | None) -> None:
        """Tells ``on_progress`` where the batch stands."""
        assert self.on_progress is not None  # noqa: S101 - for the type checker; the caller has asked
        progress = Progress(
            total=self._total,
            done=self._done,
            failed=self._failed,
            not_run=self._not_run,
            running=self.running,
            waiting=waiting,
            reused=self._reused,
            elapsed_s=self.elapsed_s,
            stopped=stopped,
        )
        object.__setattr__(progress, "_outage", self._outage)
        try:
            self.on_progress(progress)
        except Exception as exc:  # noqa: BLE001 - a broken progress bar must not cost finished items
            self._loop.call_exception_handler({"message": "on_progress raised", "exception": exc})

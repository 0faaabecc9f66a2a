"""Jobs that wait for their next attempt, the earliest first, with one timer for all of them."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from blossom_async.batch.attempts import Job

__all__ = ["Retries"]

Item = TypeVar("Item")
Value = TypeVar("Value")


class Retries(Generic[Item, Value]):
    """A heap of jobs by the time they are due. ``on_due`` is called once when the first one is.

    ``next_due`` is that time on the loop's clock, None when no job waits.
    """

    def __init__(self, on_due: Callable[[], object]) -> None:
        self.next_due: float | None = None
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, Job[Item, Value]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Job[Item, Value]]:
        return (job for _, _, job in self._heap)

    def put(self, job: Job[Item, Value], due: float) -> None:
        """Keeps a job until that time of the loop's clock."""
        heapq.heappush(self._heap, (due, job.index, job))
        if self._heap[0][2] is job:
            self._set_timer()

    def is_due(self) -> bool:
        """Whether ``take`` would return a job."""
        return self.next_due is not None and self.next_due <= self._loop.time()

    def take(self) -> Job[Item, Value] | None:
        """The job that has been due longest; None when none is due."""
        if not self.is_due():
            return None
        job = heapq.heappop(self._heap)[2]
        self._set_timer()
        return job

    def take_least_tried(self) -> Job[Item, Value] | None:
        """The job with the fewest attempts so far, due or not; None when there is none."""
        if not self._heap:
            return None
        entry = min(self._heap, key=lambda entry: (entry[2].counted, entry[:2]))
        self._heap.remove(entry)
        heapq.heapify(self._heap)
        self._set_timer()
        return entry[2]

    def postpone(self, wait_s: Callable[[Job[Item, Value]], float]) -> None:
        """Lets each job wait so long from now, or until it was due if that is later."""
        now = self._loop.time()
        self._heap = [(max(due, now + wait_s(job)), index, job) for due, index, job in self._heap]
        heapq.heapify(self._heap)
        self._set_timer()

    def clear(self) -> list[Job[Item, Value]]:
        """Gives up all jobs and returns them."""
        jobs = [job for _, _, job in self._heap]
        self._heap.clear()
        self._set_timer()
        return jobs

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.next_due = self._heap[0][0] if self._heap else None
        if self.next_due is not None:
            self._timer = self._loop.call_at(self.next_due, self._ring)

    def _ring(self) -> None:
        if self.is_due():
            self._on_due()
        else:  # timers fire up to the clock's resolution early
            self._set_timer()

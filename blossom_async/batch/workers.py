"""The tasks of a batch. Each takes one job after another, so no item costs a task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from anyio import create_task_group
from anyio.abc import TaskGroup

from blossom_async.batch.attempts import Attempts, Job
from blossom_async.batch.cancellation import Interruptible, is_cancelled
from blossom_async.batch.ending import Ending
from blossom_async.batch.ledger import Ledger
from blossom_async.batch.line import Line
from blossom_async.batch.upcoming import Upcoming
from blossom_async.errors import NotRun, TimedOut

__all__ = ["Workers"]

Item = TypeVar("Item")
Value = TypeVar("Value")


class Workers(Generic[Item, Value]):
    """At most ``limit`` tasks, started as there is more to do. Those without a job are ``parked``.

    A worker that waits for the input does not count: another one may take its place. ``stop`` is called with
    the reason of a fatal error, and ``on_gone`` when a worker has ended.
    """

    def __init__(
        self,
        limit: int,
        parked: Line,
        upcoming: Upcoming[Item, Value],
        attempts: Attempts[Item, Value],
        ledger: Ledger[Item, Value],
        ending: Ending,
        *,
        stop: Callable[[str], None],
        on_gone: Callable[[], None],
    ) -> None:
        self.limit: int = limit
        self.parked: Line = parked
        self.upcoming: Upcoming[Item, Value] = upcoming
        self.attempts: Attempts[Item, Value] = attempts
        self.ledger: Ledger[Item, Value] = ledger
        self.ending: Ending = ending
        self.stop: Callable[[str], None] = stop
        self.all: set[_Worker[Item, Value]] = set()
        self._on_gone = on_gone
        self._group: TaskGroup | None = None

    async def work(self) -> None:
        """Returns when the batch has ended, and with it all workers."""
        async with create_task_group() as self._group:
            await self._new().work()  # the first worker needs no task of its own
            await self.ending.finished.wait()

    def start(self) -> None:
        """Starts a worker."""
        assert self._group is not None  # noqa: S101 - for the type checker; work() sets it
        self._group.start_soon(self._new().work)

    def call_in_help(self) -> None:
        """Wakes or starts a worker if there is more to do. One stays parked as long as retries wait."""
        if self.upcoming.one_is_there:
            if self.parked.grant():
                return
        elif not self.upcoming.one_comes or self.parked.waiting:
            return
        if len(self.all) - (self.upcoming.intake.puller is not None) < self.limit:
            self.start()

    def interrupt(self, *, attempts: bool) -> None:
        """Interrupts the workers that wait for the input or for a turn, and on demand their ``attempts``."""
        for worker in self.all:
            job = worker.job
            if worker is self.upcoming.intake.puller or (job is not None and (job.waiting or attempts)):
                worker.interrupt()

    def interrupt_all(self) -> None:
        """Interrupts every worker, whatever it does."""
        for worker in self.all:
            worker.interrupt()

    def gone(self, worker: _Worker[Item, Value]) -> None:
        """Notes that a worker has ended."""
        self.all.discard(worker)
        self._on_gone()

    def _new(self) -> _Worker[Item, Value]:
        worker = _Worker(self)
        self.all.add(worker)
        return worker


class _Worker(Interruptible, Generic[Item, Value]):
    """A task that takes one job after another, and the ``job`` it is at."""

    def __init__(self, workers: Workers[Item, Value]) -> None:
        self.job: Job[Item, Value] | None = None
        self._workers = workers
        self._ending = workers.ending

    async def work(self) -> None:
        """Takes jobs until no more are left, or nobody waits for them."""
        try:
            done = False
            while not (done or self._ending.left):
                cancelled: asyncio.CancelledError | None = None
                try:
                    with self:
                        done = await self._take_jobs()
                except asyncio.CancelledError as exc:
                    if is_cancelled():
                        raise
                    cancelled = exc
                job, self.job = self.job, None
                if job is not None and not self._ending.left:
                    self._cut_short(job, cancelled)
        finally:
            self._workers.gone(self)

    async def _take_jobs(self) -> bool:
        """Tries one job after another. False when interrupted, True when no more are left."""
        workers, ending = self._workers, self._ending
        upcoming, parked, everyone, limit = workers.upcoming, workers.parked, workers.all, workers.limit
        take, once, settle = upcoming.take, workers.attempts.once, workers.ledger.settle
        intake = upcoming.intake
        while (job := take() or await self._wait_for_job()) is not None:
            if parked.waiting or len(everyone) < limit + (intake.puller is not None):
                workers.call_in_help()
            self.job = job
            due = await once(job)
            if self.interrupted and job.waiting:  # its turn came just as the batch stopped
                return False
            self.job = None
            if due is not None and ending.stopped is None:
                upcoming.retries.put(job, due)
            else:
                if job.fatal is not None:
                    workers.stop(job.fatal)
                settle(job)
            if self.interrupted:  # the attempt may have ignored it
                return False
        parked.grant()  # it may no longer be needed either
        return True

    async def _wait_for_job(self) -> Job[Item, Value] | None:
        """Waits for a job; None when this worker is no longer needed."""
        workers, parked, upcoming = self._workers, self._workers.parked, self._workers.upcoming
        intake, retries = upcoming.intake, upcoming.retries
        while True:
            job: Job[Item, Value] | None = None
            if intake.must_yield:
                await intake.give_way()
            elif not intake.has_room or intake.puller is not None or upcoming.waits_for_server():
                if intake.ended and (retries.next_due is None or parked.waiting):
                    return None
                await parked.wait()
            elif intake.waits:
                if retries.next_due is not None and not parked.waiting and len(workers.all) <= workers.limit:
                    workers.start()  # for retries that come due while this one waits
                job = await intake.pull(self)
                if job is not None and len(workers.all) > workers.limit:
                    # Another worker took its place while it pulled: the next one that is free takes the job.
                    retries.put(job, asyncio.get_running_loop().time())
                    return None
            if job is None:
                job = upcoming.take()
            if job is not None:
                return job

    def _cut_short(self, job: Job[Item, Value], cancelled: asyncio.CancelledError | None) -> None:
        """Settles a job whose attempt was cancelled."""
        if not self.interrupted:
            job.error = RuntimeError("the attempt raised CancelledError although nobody cancelled it")
            job.error.__cause__ = cancelled
        elif job.number == 0:
            job.error = NotRun(self._ending.stopped or "")
        elif not job.waiting:  # otherwise it keeps the error of its last attempt
            job.error = TimedOut(f"cancelled under way: {self._ending.stopped}")
        self._workers.ledger.settle(job)

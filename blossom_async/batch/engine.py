"""Runs a coroutine function over many items: workers, back-pressure, stopping, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Generic, TypeVar, Unpack

from anyio import create_task_group
from anyio.abc import TaskGroup

from blossom_async.batch.attempts import Attempts, Job
from blossom_async.batch.cancellation import Interruptible, completion, is_cancelled
from blossom_async.batch.delivery import Delivery
from blossom_async.batch.ending import Ending
from blossom_async.batch.gate import Gate
from blossom_async.batch.input import Input
from blossom_async.batch.intake import Intake
from blossom_async.batch.ledger import Ledger
from blossom_async.batch.line import Line
from blossom_async.batch.loops import running_loop
from blossom_async.batch.options import RunOptions, RunSettings
from blossom_async.batch.outage import Outage
from blossom_async.batch.outcome import BatchResult, Outcome, carrying
from blossom_async.batch.progress import Tally
from blossom_async.batch.retry import NO_RETRY
from blossom_async.batch.slots import Slots
from blossom_async.batch.upcoming import Upcoming
from blossom_async.errors import NotRun, TimedOut

__all__ = ["run", "stream"]

Item = TypeVar("Item")
Value = TypeVar("Value")


async def run(
    attempt: Callable[[Item], Awaitable[Value]],
    items: Iterable[Item] | AsyncIterable[Item],
    **options: Unpack[RunOptions[Item]],
) -> BatchResult[Item, Value]:
    """The outcome of ``attempt(item)`` for every item, in input order; ``RunOptions`` says how.

    An exception of an attempt is that item's outcome and ends nothing else. When a deadline or a fatal error
    stops the batch, nothing new starts and untried items have ``NotRun``: the rest of a synchronous input, or
    those already taken of an async one.

    Cancelling ends all attempts and waits for them, and for the journal.

    Raises ``TypeError`` for an unknown option, naming the nearest, and for an ``on_progress`` that is a
    coroutine function; ``ValueError`` for an option that cannot be used; ``ConfigurationError`` under trio,
    for a journal that is not this batch's, in use, or cannot be written, and for an item that is not text
    where a ``key`` is needed and missing. An exception of ``items`` itself is raised when what was under way
    has ended. That exception, and one of the journal, has the outcomes until then as a ``BatchResult`` in its
    ``result``.
    """
    running_loop()
    ended: list[Outcome[Item, Value]] = []
    batch = _Batch(attempt, Input(items), ended.append, RunSettings.of(options))
    async with batch.under_way():
        await batch.ending.finished.wait()
    ended.sort(key=attrgetter("index"))
    result = BatchResult(ended, batch.tally.elapsed_s, batch.ending.stopped)
    if batch.ending.failure is not None:
        raise carrying(batch.ending.failure, result)
    return result


@asynccontextmanager
async def stream(
    attempt: Callable[[Item], Awaitable[Value]],
    items: Iterable[Item] | AsyncIterable[Item],
    *,
    ordered: bool = False,
    window: int | None = None,
    **options: Unpack[RunOptions[Item]],
) -> AsyncIterator[AsyncIterator[Outcome[Item, Value]]]:
    """As ``run``, lazily and in constant memory: the outcomes as they come, or in input order.

    Items are pulled from the input only while fewer than ``window`` (default four times
    ``max_concurrency``, at least 64) are taken and not yet consumed. Leaving the block ends all attempts
    and waits for them; an async generator given as ``items`` is closed then. When the batch stops early, the
    untried rest comes as ``NotRun`` from an input that knows its length; one that does not is not pulled
    further.

    Raises as ``run``.
    """
    running_loop()
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise ValueError(f"window: {window!r} cannot be used; allowed: a whole number from 1 up")
    outcomes: Delivery[Item, Value] = Delivery(ordered)
    batch = _Batch(attempt, Input(items), outcomes.put, RunSettings.of(options), lazy=True, window=window)
    outcomes.on_consumed = batch.intake.consumed
    batch.ending.on_finished = outcomes.end
    async with batch.under_way():
        yield outcomes


class _Worker(Interruptible):
    """A task that takes one job after another, and what it is doing."""

    job: Job[object, object] | None = None


class _Batch(Generic[Item, Value]):
    """One run: its workers pull jobs from one shared place, so no item costs a task.

    A job is due for another attempt, or made from the next item while fewer than ``window`` items are
    taken and not consumed. A worker that finds neither waits in ``_parked``, or ends when the input has.
    """

    def __init__(
        self,
        attempt: Callable[[Item], Awaitable[Value]],
        items: Input[Item],
        hand_over: Callable[[Outcome[Item, Value]], None],
        settings: RunSettings[Item],
        *,
        lazy: bool = False,
        window: int | None = None,
    ) -> None:
        own_gates = (Gate(*settings.rate_limit),) if settings.rate_limit or not settings.gates else ()
        self.ending = Ending()
        self._parked = Line()  # workers without a job
        self._patience_s = (settings.retry or NO_RETRY).max_outage_s
        self._outage = Outage(
            self._patience_s,
            left=lambda: self.tally.running if self.intake.all_taken else None,
            on_due=self._parked.grant,
            on_end=lambda: self._upcoming.after_outage(),
            on_patience=self._lose_patience,
        )
        self._attempts = Attempts(
            attempt,
            slots=settings.slots or Slots(settings.max_concurrency),
            gates=own_gates + settings.gates,
            retry=settings.retry,
            classify=settings.classify,
            timeout_s=settings.timeout_s,
            budget=settings.budget,
            outage=self._outage,
        )
        self._input = items
        self._hand_over = hand_over
        self._lazy = lazy
        self._deadline_s = settings.deadline_s
        self._ledger: Ledger[Item, Value] = Ledger(
            self._deliver,
            self._end_if_done,
            self._break_off,
            run_id=settings.run_id,
            key=settings.key,
            journal=settings.journal,
            dedup=settings.dedup,
            cost=settings.cost,
            max_cost=settings.max_cost,
        )
        self.tally = Tally(items.total, settings.on_progress, self._outage)
        self.intake = Intake(
            items,
            self._ledger,
            self.tally,
            self.ending,
            self._parked,
            window=window or max(64, 4 * settings.max_concurrency),
            on_limit=self._stop,
        )
        self._upcoming = Upcoming(self.intake, self._attempts, self._outage, self.ending, self._parked)
        self._retries = self._upcoming.retries

        self._group: TaskGroup | None = None
        self._workers: set[_Worker] = set()
        self._max_workers = settings.max_concurrency
        self._loop = asyncio.get_running_loop()

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        """The batch runs while this block does. Leaving the block ends all attempts and waits for them.

        A block inside a generator may be left by another task, or not in the reverse order of entering. A
        scope of anyio may not, so the task group has a task of its own.
        """
        try:
            await self._ledger.open(self._input.total)
            host = asyncio.create_task(self._host())
            try:
                yield
            finally:
                self._abandon()
                await completion(host)
        finally:
            self._attempts.close()
            try:
                await self._input.aclose()
            finally:
                await self._ledger.close()

    async def _host(self) -> None:
        deadline = self._loop.call_later(self._deadline_s, self._expire) if self._deadline_s else None
        try:
            async with create_task_group() as self._group:
                await self._work(self._new_worker())  # the first worker needs no task of its own
                await self.ending.finished.wait()
        finally:
            if deadline is not None:
                deadline.cancel()
            self.ending.finish()

    def _add_worker(self) -> None:
        """Starts a worker unless there are enough. One that waits for the input does not count."""
        if len(self._workers) - (self.intake.puller is not None) < self._max_workers:
            self._start_worker()

    def _start_worker(self) -> None:
        assert self._group is not None  # noqa: S101 - for the type checker; _host() sets it
        self._group.start_soon(self._work, self._new_worker())

    def _new_worker(self) -> _Worker:
        worker = _Worker()
        self._workers.add(worker)
        return worker

    def _call_in_help(self) -> None:
        """Wakes or adds a worker if there is more to do. One stays parked as long as retries wait."""
        if self._upcoming.one_is_there:
            if not self._parked.grant():
                self._add_worker()
        elif self._upcoming.one_comes and not self._parked.waiting:
            self._add_worker()

    async def _work(self, worker: _Worker) -> None:
        try:
            done = False
            while not (done or self.ending.left):
                cancelled: asyncio.CancelledError | None = None
                try:
                    with worker:
                        done = await self._take_jobs(worker)
                except asyncio.CancelledError as exc:
                    if is_cancelled():
                        raise
                    cancelled = exc
                job, worker.job = worker.job, None
                if job is not None and not self.ending.left:
                    self._cut_short(job, worker.interrupted, cancelled)  # type: ignore[arg-type]
        finally:
            self._workers.discard(worker)
            self._end_if_done()

    async def _take_jobs(self, worker: _Worker) -> bool:
        """Tries one job after another. False when interrupted, True when no more are left."""
        once, settle, intake = self._attempts.once, self._ledger.settle, self.intake
        while (job := self._upcoming.take() or await self._wait_for_job(worker)) is not None:
            if self._parked.waiting or len(self._workers) < self._max_workers + (intake.puller is not None):
                self._call_in_help()
            worker.job = job  # type: ignore[assignment]
            due = await once(job)
            if worker.interrupted and job.waiting:  # its turn came just as the batch stopped
                return False
            worker.job = None
            if due is not None and self.ending.stopped is None:
                self._retries.put(job, due)
            else:
                if job.fatal is not None:
                    self._stop(job.fatal)
                settle(job)
            if worker.interrupted:  # the attempt may have ignored it
                return False
        self._parked.grant()  # it may no longer be needed either
        return True

    def _cut_short(
        self, job: Job[Item, Value], interrupted: bool, cancelled: asyncio.CancelledError | None
    ) -> None:
        """Settles a job whose attempt was cancelled."""
        if not interrupted:
            job.error = RuntimeError("the attempt raised CancelledError although nobody cancelled it")
            job.error.__cause__ = cancelled
        elif job.number == 0:
            job.error = NotRun(self.ending.stopped or "")
        elif not job.waiting:  # otherwise it keeps the error of its last attempt
            job.error = TimedOut(f"cancelled under way: {self.ending.stopped}")
        self._ledger.settle(job)

    def _end_if_done(self) -> None:
        if not (self._workers or self._retries.next_due is not None or self._ledger.unwritten):
            self.ending.finish()

    def _lose_patience(self) -> None:
        self._stop(f"nothing was answered for {self._patience_s:g} s; raise max_outage_s to wait longer")

    async def _wait_for_job(self, worker: _Worker) -> Job[Item, Value] | None:
        """Waits for a job; None when this worker is no longer needed."""
        intake = self.intake
        while True:
            job: Job[Item, Value] | None = None
            if intake.must_yield:
                await intake.give_way()
            elif not intake.has_room or intake.puller is not None or self._upcoming.waits_for_server():
                if intake.ended and (self._retries.next_due is None or self._parked.waiting):
                    return None
                await self._parked.wait()
            elif intake.waits:
                if (
                    self._retries.next_due is not None
                    and not self._parked.waiting
                    and len(self._workers) <= self._max_workers
                ):
                    self._start_worker()  # for retries that come due while this one waits
                job = await intake.pull(worker)
                if job is not None and len(self._workers) > self._max_workers:
                    # Another worker took its place while it pulled: the next one that is free takes the job.
                    self._retries.put(job, self._loop.time())
                    return None
            if job is None:
                job = self._upcoming.take()
            if job is not None:
                return job

    def _abandon(self) -> None:
        """Cancels the attempts under way and drops the rest, which nobody waits for."""
        if not self.ending.finished.is_set():
            self._attempts.stop()
            self.ending.stopped = self.ending.stopped or "the batch was left"
            self.ending.left = True
            self._input.ended = True
            self._retries.clear()
            for worker in self._workers:
                worker.interrupt()
            self.ending.finish()

    def _break_off(self, failure: BaseException) -> None:
        self.intake.fail(failure)
        self._stop(str(failure) or type(failure).__name__)

    def _expire(self) -> None:
        self._stop(f"the deadline of {self._deadline_s:g} s has passed", cancel=True)

    def _stop(self, reason: str, *, cancel: bool = False) -> None:
        """Starts nothing new. Attempts under way may end by themselves, or are cancelled."""
        if self.ending.stopped is None:
            self._attempts.stop()
            self.ending.stopped = reason
            if self._input.waits or (self._lazy and self._input.total is None):
                self._input.ended = True
        for worker in self._workers:
            job = worker.job
            if worker is self.intake.puller or (job is not None and (job.waiting or cancel)):
                worker.interrupt()
        for waiting in self._retries.clear():
            if waiting.number == 0:
                waiting.error = NotRun(reason)
            self._ledger.settle(waiting)
        self._parked.grant_all()
        self._end_if_done()

    def _deliver(self, outcome: Outcome[Item, Value]) -> None:
        tally = self.tally
        tally.count(outcome)
        if not self._lazy:
            self.intake.consumed()
        self._hand_over(outcome)
        if tally.on_progress is not None:
            tally.report(len(self._retries), self.ending.stopped)

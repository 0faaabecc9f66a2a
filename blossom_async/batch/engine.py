"""Runs a coroutine function over many items: workers, order, back-pressure, stopping, cancellation."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Generic, TypeVar, Unpack

from blossom_async.batch.attempts import Attempts, Job
from blossom_async.batch.gate import Gate
from blossom_async.batch.input import Input
from blossom_async.batch.ledger import Ledger
from blossom_async.batch.options import RunOptions, RunSettings
from blossom_async.batch.outcome import BatchResult, Outcome
from blossom_async.batch.progress import Tally
from blossom_async.batch.retries import Retries
from blossom_async.batch.slots import Slots
from blossom_async.errors import NotRun, TimedOut

__all__ = ["run", "stream"]

Item = TypeVar("Item")
Value = TypeVar("Value")

_PULLS_BETWEEN_YIELDS = 64  # attempts that never wait would otherwise keep the loop to themselves


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
    coroutine function; ``ValueError`` for an option that cannot be used; ``ConfigurationError`` for a journal
    that is not this batch's, in use, or cannot be written, and for an item that is not text where a ``key``
    is needed and missing; and an exception of ``items`` itself, when what was under way has ended.
    """
    ended: list[Outcome[Item, Value]] = []
    batch = _Batch(attempt, Input(items), ended.append, RunSettings.of(options))
    async with batch.under_way():
        await batch.end
    batch.raise_for_failure()
    ended.sort(key=attrgetter("index"))
    return BatchResult(ended, batch.elapsed_s, batch.stopped)


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
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise ValueError(f"window: {window!r} cannot be used; allowed: a whole number from 1 up")
    outcomes: _Outcomes[Item, Value] = _Outcomes(ordered)
    batch = _Batch(attempt, Input(items), outcomes.put, RunSettings.of(options), lazy=True, window=window)
    outcomes.attach(batch)
    async with batch.under_way():
        yield outcomes


class _Worker:
    """A task that takes one job after the other."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self.job: Job[object, object] | None = None
        self.pulling = False
        self.interrupted = False

    def interrupt(self) -> None:
        """Cancels what the worker waits for, not the worker."""
        if not self.interrupted:
            self.interrupted = True
            self.task.cancel()

    def resume(self) -> bool:
        """Whether a cancellation was this interruption and nothing else; then it is over."""
        if not self.interrupted:
            return False
        self.interrupted = False
        return self.task.uncancel() == 0


class _Batch(Generic[Item, Value]):
    """One run: its workers pull jobs from one shared place, so no item costs a task.

    A job is due for another attempt, or made from the next item while fewer than ``window`` items are
    taken and not consumed. A worker that finds neither waits in ``_parked``, or ends when the input has. The
    group is asyncio's: anyio's starts no task from a timer's callback, and a retry that is due may need one.
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
        self._attempts = Attempts(
            attempt,
            slots=settings.slots or Slots(settings.max_concurrency),
            gates=own_gates + settings.gates,
            retry=settings.retry,
            classify=settings.classify,
            timeout_s=settings.timeout_s,
            budget=settings.budget,
        )
        self._input = items
        self._hand_over = hand_over
        self._lazy = lazy
        self._window = window or max(64, 4 * settings.max_concurrency)
        self._deadline_s = settings.deadline_s
        self._ledger: Ledger[Item, Value] = Ledger(
            self._deliver,
            self._end_if_done,
            self._break_off,
            key=settings.key,
            journal=settings.journal,
            dedup=settings.dedup,
            cost=settings.cost,
            max_cost=settings.max_cost,
        )

        self._group: asyncio.TaskGroup | None = None
        self._workers: set[_Worker] = set()
        self._max_workers = settings.max_concurrency
        self._parked: deque[asyncio.Future[None]] = deque()
        self._pulling = False
        self._since_yield = 0
        self._retries: Retries[Item, Value] = Retries(self._call_in_help)
        self._deadline: asyncio.TimerHandle | None = None

        self._tally = Tally(items.total, settings.on_progress)
        self._failure: BaseException | None = None
        self.stopped: str | None = None

        self._loop = asyncio.get_running_loop()
        self.end = self._loop.create_future()

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        """The batch works while this block runs. When it ends all attempts do, and they are waited for."""
        failure: BaseException | None = None
        try:
            await self._ledger.open(self._input.total)
            async with asyncio.TaskGroup() as self._group:
                if self._deadline_s is not None:
                    self._deadline = self._loop.call_later(self._deadline_s, self._expire)
                self._add_worker()
                try:
                    yield
                except BaseException as exc:  # noqa: BLE001 - raised below, outside the group that would wrap it
                    failure = exc
                if failure is not None or not self.end.done():
                    self._abandon()
                if self._deadline is not None:
                    self._deadline.cancel()
        finally:
            self._attempts.close()
            try:
                await self._input.aclose()
            finally:
                await self._ledger.close()
        if failure is not None:
            raise failure

    @property
    def elapsed_s(self) -> float:
        """Seconds since the batch began."""
        return self._tally.elapsed_s

    def raise_for_failure(self) -> None:
        """Raises what ended the batch from without: an exception of its input."""
        if self._failure is not None:
            raise self._failure

    def consumed(self) -> None:
        """One outcome has left the window: a parked worker may go on."""
        self._tally.consumed += 1
        if self._parked:
            self._wake_one()

    def _add_worker(self) -> None:
        assert self._group is not None  # noqa: S101 - for the type checker; under_way() sets it
        worker = _Worker()
        self._workers.add(worker)
        worker.task = self._group.create_task(self._work(worker))

    def _call_in_help(self) -> None:
        """Sees to it that somebody looks for work: who waits for some, else a new worker if one may be."""
        if not self._wake_one() and self._may_add_worker():
            self._add_worker()

    def _may_add_worker(self) -> bool:
        return len(self._workers) - self._pulling < self._max_workers

    def _wake_one(self) -> bool:
        while self._parked:
            turn = self._parked.popleft()
            if not turn.done():
                turn.set_result(None)
                return True
        return False

    def _wake_all(self) -> None:
        while self._wake_one():
            pass

    async def _work(self, worker: _Worker) -> None:
        try:
            while (job := self._take() or await self._wait_for_job(worker)) is not None:
                if (self._parked or self._may_add_worker()) and self._more_to_do():
                    self._call_in_help()
                worker.job = job  # type: ignore[assignment]
                try:
                    due = await self._attempts.once(job)
                except asyncio.CancelledError as exc:
                    due = None
                    self._cut_short(worker, job, exc)
                else:
                    if worker.interrupted:  # an attempt may end well in spite of it
                        worker.resume()
                worker.job = None
                if due is not None and self.stopped is None:
                    self._retries.put(job, due)
                else:
                    self._settle(job)
        finally:
            self._workers.discard(worker)
            self._end_if_done()

    def _cut_short(self, worker: _Worker, job: Job[Item, Value], cancelled: asyncio.CancelledError) -> None:
        """Gives a job whose attempt was cancelled its error; raises when the worker itself was meant."""
        if not worker.resume():
            if worker.task.cancelling():
                raise cancelled
            job.error = RuntimeError("the attempt ended with a CancelledError that nobody had asked for")
            job.error.__cause__ = cancelled
        elif job.number == 0:
            job.error = NotRun(self.stopped or "")
        elif not job.waiting:  # else it keeps the error of its last attempt
            job.error = TimedOut(f"cancelled under way: {self.stopped}")

    def _end_if_done(self) -> None:
        waiting = self._retries.next_due is not None
        if not (self._workers or waiting or self._ledger.unwritten or self.end.done()):
            self.end.set_result(None)

    def _has_room(self) -> bool:
        return not self._input.ended and self._tally.pulled - self._tally.consumed < self._window

    def _more_to_do(self) -> bool:
        return self._retries.is_due() or (self._has_room() and not self._pulling)

    def _take(self) -> Job[Item, Value] | None:
        """A job to make now, without waiting; None when there is none, or others should have their turn."""
        if self._retries.next_due is not None and (due := self._retries.take()) is not None:
            return due
        if self._input.waits:
            return None
        while self._has_room() and self._since_yield < _PULLS_BETWEEN_YIELDS:
            self._since_yield += 1
            try:
                item = self._input.next()
            except StopIteration:
                self._input_ended()
            except Exception as exc:  # noqa: BLE001 - raised to the caller once the running items have ended
                self._fail(exc)
            else:
                if (job := self._admit(item)) is not None:
                    return job
        return None

    async def _wait_for_job(self, worker: _Worker) -> Job[Item, Value] | None:
        """As ``_take``, waiting; None when this worker is no longer needed."""
        while True:
            job: Job[Item, Value] | None = None
            if self._since_yield >= _PULLS_BETWEEN_YIELDS:
                self._since_yield = 0
                await asyncio.sleep(0)
            elif self._input.ended:
                return None
            elif not self._has_room() or self._pulling:
                turn = self._loop.create_future()
                self._parked.append(turn)
                await turn
            elif self._input.waits:
                job = await self._pull(worker)
                if job is not None and len(self._workers) > self._max_workers:
                    # While this one pulled, another took its place: the next to be free takes the job.
                    self._retries.put(job, self._loop.time())
                    return None
            if job is None:
                job = self._take()
            if job is not None:
                return job

    async def _pull(self, worker: _Worker) -> Job[Item, Value] | None:
        """A job made from the next item of an async input; None when that gave none."""
        self._pulling = worker.pulling = True
        job = None
        try:
            job = self._admit(await self._input.anext())
        except StopAsyncIteration:
            self._input_ended()
        except asyncio.CancelledError as exc:
            if not worker.resume():
                if worker.task.cancelling():
                    raise
                self._fail(RuntimeError("the input ended with a CancelledError that nobody had asked for"))
                self._failure.__cause__ = exc  # type: ignore[union-attr]
            self._input_ended()
        except Exception as exc:  # noqa: BLE001 - as in _take
            self._fail(exc)
        finally:
            self._pulling = worker.pulling = False
        worker.resume()
        return job

    def _admit(self, item: Item) -> Job[Item, Value] | None:
        """A job for the next item; None when it ends without one, or with that of an equal item."""
        job: Job[Item, Value] = Job(self._tally.pulled, item, self._loop.time(), self._ledger.run_id)
        self._tally.pulled += 1
        if self._ledger.idle and self.stopped is None:
            return job
        try:
            if self._ledger.answers(job):
                return None
        except Exception as exc:  # noqa: BLE001 - as in _take
            self._fail(exc)
            return None
        if self.stopped is None and (reason := self._ledger.refusal(job)) is not None:
            self._stop(reason)
        if self.stopped is not None:
            job.cost = None
            job.error = NotRun(self.stopped)
            self._settle(job)
            return None
        return job

    def _input_ended(self) -> None:
        self._input.ended = True
        self._wake_all()

    def _fail(self, failure: BaseException) -> None:
        if self._failure is None:
            self._failure = failure
        self._input_ended()

    def _abandon(self) -> None:
        """Nobody waits for the rest. What under way withstands its cancellation is the last of its worker."""
        self.stopped = self.stopped or "the batch was left"
        self._input.ended = True
        self._retries.clear()
        for worker in self._workers:
            worker.task.cancel()

    def _break_off(self, failure: BaseException) -> None:
        self._fail(failure)
        self._stop(str(failure) or type(failure).__name__)

    def _expire(self) -> None:
        self._stop(f"the deadline of {self._deadline_s:g} s has passed", cancel=True)

    def _stop(self, reason: str, *, cancel: bool = False) -> None:
        """Starts nothing new. Attempts under way end by themselves, or are cancelled."""
        if self.stopped is None:
            self.stopped = reason
            if self._input.waits or (self._lazy and self._input.total is None):
                self._input.ended = True
        for worker in self._workers:
            job = worker.job
            if worker.pulling or (job is not None and (job.waiting or cancel)):
                worker.interrupt()
        for waiting in self._retries.clear():
            if waiting.number == 0:
                waiting.error = NotRun(reason)
            self._settle(waiting)
        self._wake_all()
        self._end_if_done()

    def _settle(self, job: Job[Item, Value]) -> None:
        if job.fatal is not None:
            self._stop(job.fatal)
        self._ledger.settle(job)

    def _deliver(self, outcome: Outcome[Item, Value]) -> None:
        self._tally.count(outcome)
        if not self._lazy:
            self.consumed()
        self._hand_over(outcome)
        if self._tally.on_progress is not None:
            self._tally.report(len(self._retries), self.stopped)


class _Outcomes(AsyncIterator[Outcome[Item, Value]]):
    """What the consumer of a stream iterates over: finished items, as they come or put in order."""

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self._head = 0
        self._ready: deque[Outcome[Item, Value]] = deque()
        self._early: dict[int, Outcome[Item, Value]] = {}
        self._waiting: asyncio.Future[None] | None = None

    def attach(self, batch: _Batch[Item, Value]) -> None:
        self._batch = batch
        batch.end.add_done_callback(self._wake)

    def put(self, outcome: Outcome[Item, Value]) -> None:
        if not self._ordered:
            self._ready.append(outcome)
        else:
            self._early[outcome.index] = outcome
            while (ready := self._early.pop(self._head, None)) is not None:
                self._ready.append(ready)
                self._head += 1
        if self._ready:
            self._wake()

    def _wake(self, _: object = None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def __anext__(self) -> Outcome[Item, Value]:
        if self._waiting is not None:
            raise RuntimeError("this stream is already being read; read it from one task")
        while not self._ready:
            if self._batch.end.done():
                self._batch.raise_for_failure()
                raise StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        outcome = self._ready.popleft()
        self._batch.consumed()
        return outcome

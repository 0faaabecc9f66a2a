"""Runs a coroutine function over many items: workers, back-pressure, stopping, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Generic, TypeVar, Unpack

from blossom_async.batch.attempts import Attempts
from blossom_async.batch.cancellation import completion
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
from blossom_async.batch.workers import Workers
from blossom_async.errors import NotRun

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


class _Batch(Generic[Item, Value]):
    """One run: its workers pull jobs from one shared place, so no item costs a task.

    ``intake`` makes jobs of items, ``_upcoming`` says which one is next, ``_workers`` try them, ``_attempts``
    decides what follows, and ``_ledger`` records how they ended. Here they are put together and stopped.
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

        self._workers = Workers(
            settings.max_concurrency,
            self._parked,
            self._upcoming,
            self._attempts,
            self._ledger,
            self.ending,
            stop=self._stop,
            on_gone=self._end_if_done,
        )
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
            await self._workers.work()
        finally:
            if deadline is not None:
                deadline.cancel()
            self.ending.finish()

    def _end_if_done(self) -> None:
        if not (self._workers.all or self._retries.next_due is not None or self._ledger.unwritten):
            self.ending.finish()

    def _lose_patience(self) -> None:
        self._stop(f"nothing was answered for {self._patience_s:g} s; raise max_outage_s to wait longer")

    def _abandon(self) -> None:
        """Cancels the attempts under way and drops the rest, which nobody waits for."""
        if not self.ending.finished.is_set():
            self._attempts.stop()
            self.ending.stopped = self.ending.stopped or "the batch was left"
            self.ending.left = True
            self._input.ended = True
            self._retries.clear()
            self._workers.interrupt_all()
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
        self._workers.interrupt(attempts=cancel)
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

"""Runs a coroutine function over many items: workers, order, back-pressure, cancellation."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
    Sized,
)
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from blossom_async.batch.gate import Gate, RateLimitLike, rate_limits
from blossom_async.batch.outcome import BatchResult, Outcome, Progress
from blossom_async.batch.slots import Slots

__all__ = ["attempt_once", "run", "stream"]

Item = TypeVar("Item")
Value = TypeVar("Value")
Attempt = Callable[[Item], Awaitable[Value]]
OnProgress = Callable[[Progress], object]

_EXHAUSTED = object()
_PULLS_BETWEEN_YIELDS = 64  # attempts that never wait would otherwise keep the loop to themselves


async def run(
    attempt: Attempt[Item, Value],
    items: Iterable[Item] | AsyncIterable[Item],
    *,
    max_concurrency: int = 64,
    rate_limit: RateLimitLike | Iterable[RateLimitLike] | None = None,
    on_progress: OnProgress | None = None,
    slots: Slots | None = None,
    gates: Sequence[Gate] = (),
) -> BatchResult[Item, Value]:
    """The outcome of ``attempt(item)`` for every item, in input order.

    At most ``max_concurrency`` attempts are under way at once and no window of a ``rate_limit`` holds more
    starts than it states. ``slots`` and ``gates`` add limits shared with other runs. An exception of an
    attempt is that item's outcome and ends nothing else; an exception of ``items`` itself is raised when
    what was under way has ended. ``on_progress`` is called after each item; what it raises goes to the
    loop's exception handler. Cancelling ends all attempts and waits for them.

    Raises ``ValueError`` for a bad limit.
    """
    ended: list[Outcome[Item, Value]] = []
    batch = _Batch(attempt, items, max_concurrency, rate_limit, on_progress, slots, gates, ended.append)
    started = asyncio.get_running_loop().time()
    async with anyio.create_task_group() as workers:
        batch.start(workers)
    batch.raise_for_source()
    ended.sort(key=lambda outcome: outcome.index)
    return BatchResult(ended, asyncio.get_running_loop().time() - started)


@asynccontextmanager
async def stream(
    attempt: Attempt[Item, Value],
    items: Iterable[Item] | AsyncIterable[Item],
    *,
    ordered: bool = False,
    window: int | None = None,
    max_concurrency: int = 64,
    rate_limit: RateLimitLike | Iterable[RateLimitLike] | None = None,
    on_progress: OnProgress | None = None,
    slots: Slots | None = None,
    gates: Sequence[Gate] = (),
) -> AsyncIterator[AsyncIterator[Outcome[Item, Value]]]:
    """As ``run``, lazily and in constant memory: the outcomes as they come, or in input order.

    Items are pulled from the input only while fewer than ``window`` (default four times
    ``max_concurrency``) are taken and not yet consumed. Leaving the block ends all attempts and waits for
    them.

    Raises ``ValueError`` for a bad limit.
    """
    if window is None:
        window = 4 * max_concurrency
    if window < 1:
        raise ValueError(f"window: {window!r} cannot be used; allowed: a whole number from 1 up")
    outcomes: _Outcomes[Item, Value] = _Outcomes(ordered)
    batch = _Batch(
        attempt, items, max_concurrency, rate_limit, on_progress, slots, gates, outcomes.put, window=window
    )
    outcomes.batch = batch
    failure: BaseException | None = None
    async with anyio.create_task_group() as workers:
        batch.start(workers)
        try:
            yield outcomes
        except BaseException as exc:  # noqa: BLE001 - raised again below, outside the group that would wrap it
            failure = exc
        workers.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def attempt_once(
    attempt: Attempt[Item, Value], item: Item, slots: Slots | None, gates: Sequence[Gate]
) -> Value:
    """One attempt under the limits: slot first, rate token last, then the call with no wait between.

    A token taken before waiting for a slot would be stamped too early, and old tokens would go out together.
    """
    if slots is not None:
        await slots.acquire()
    try:
        for gate in gates:
            await gate.acquire()
        return await attempt(item)
    finally:
        if slots is not None:
            slots.release()


class _Batch(Generic[Item, Value]):
    """The workers of one run: they pull from one shared input, so no item costs a task."""

    def __init__(
        self,
        attempt: Attempt[Item, Value],
        items: Iterable[Item] | AsyncIterable[Item],
        max_concurrency: int,
        rate_limit: RateLimitLike | Iterable[RateLimitLike] | None,
        on_progress: OnProgress | None,
        slots: Slots | None,
        gates: Sequence[Gate],
        deliver: Callable[[Outcome[Item, Value]], None],
        window: int | None = None,
    ) -> None:
        own_limits = rate_limits(rate_limit)
        self._attempt = attempt
        self._input = _Input(items)
        self._max_workers = Slots(max_concurrency).limit
        self._gates = (*gates, Gate(*own_limits)) if own_limits else tuple(gates)
        self._slots = slots
        self._on_progress = on_progress
        self._deliver = deliver
        self._window = window
        self._workers: TaskGroup | None = None
        self._working = 0
        self._pulled = 0
        self._consumed = 0
        self._done = 0
        self._failed = 0
        self._parked: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._source_error: Exception | None = None
        self.when_ended: Callable[[], None] | None = None

    def start(self, workers: TaskGroup) -> None:
        self._workers = workers
        self._add_worker()

    @property
    def ended(self) -> bool:
        return self._working == 0

    def raise_for_source(self) -> None:
        if self._source_error is not None:
            raise self._source_error

    def consumed(self) -> None:
        """One outcome has left the window: a parked worker may go on."""
        self._consumed += 1
        while self._parked:
            turn = self._parked.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _add_worker(self) -> None:
        assert self._workers is not None  # noqa: S101 - for the type checker; start() sets it
        self._working += 1
        self._workers.start_soon(self._work)

    async def _work(self) -> None:
        try:
            while await self._one():
                pass
        finally:
            self._working -= 1
            if self._working == 0 and self.when_ended is not None:
                self.when_ended()

    async def _one(self) -> bool:
        """Takes one item to its end; False when the input has no more."""
        while self._window is not None and self._pulled - self._consumed >= self._window:
            turn = self._loop.create_future()
            self._parked.append(turn)
            await turn
        if self._pulled % _PULLS_BETWEEN_YIELDS == 0:
            await asyncio.sleep(0)
        pulled = await self._pull()
        if pulled is None:
            return False
        index, item = pulled
        if self._working < self._max_workers:
            self._add_worker()
        started = self._loop.time()
        value: Value | None = None
        error: Exception | None = None
        try:
            value = await attempt_once(self._attempt, item, self._slots, self._gates)
        except Exception as exc:  # noqa: BLE001 - it becomes the item's outcome
            error = exc
        self._end(Outcome(index, item, value, error, 1, self._loop.time() - started))
        return True

    async def _pull(self) -> tuple[int, Item] | None:
        if self._source_error is not None:
            return None
        try:
            item = await self._input.next()
        except Exception as exc:  # noqa: BLE001 - raised to the caller once the running items have ended
            self._source_error = exc
            return None
        if item is _EXHAUSTED:
            return None
        index = self._pulled
        self._pulled += 1
        return index, item  # type: ignore[return-value]

    def _end(self, outcome: Outcome[Item, Value]) -> None:
        if outcome.error is None:
            self._done += 1
        else:
            self._failed += 1
        self._deliver(outcome)
        if self._on_progress is not None:
            self._report(self._on_progress)

    def _report(self, on_progress: OnProgress) -> None:
        progress = Progress(
            total=self._input.total,
            done=self._done,
            failed=self._failed,
            running=self._pulled - self._done - self._failed,
            elapsed_s=self._loop.time() - self._started_at,
        )
        try:
            on_progress(progress)
        except Exception as exc:  # noqa: BLE001 - a broken progress bar must not cost finished items
            self._loop.call_exception_handler({"message": "on_progress raised", "exception": exc})


class _Input(Generic[Item]):
    """One item after the other from an iterable or an async iterable, for many workers."""

    def __init__(self, items: Iterable[Item] | AsyncIterable[Item]) -> None:
        self.total = len(items) if isinstance(items, Sized) else None
        self._ended = False
        self._sync: Iterator[Item] | None = None
        self._async: AsyncIterator[Item] | None = None
        if isinstance(items, AsyncIterable):
            self._async = aiter(items)
            self._turn = asyncio.Lock()  # a generator refuses a second anext() while one is under way
        else:
            self._sync = iter(items)

    async def next(self) -> Item | object:
        if self._ended:
            return _EXHAUSTED
        if self._sync is not None:
            item: Item | object = next(self._sync, _EXHAUSTED)
        else:
            assert self._async is not None  # noqa: S101 - for the type checker
            async with self._turn:
                item = _EXHAUSTED if self._ended else await anext(self._async, _EXHAUSTED)
        self._ended = item is _EXHAUSTED
        return item


class _Outcomes(AsyncIterator[Outcome[Item, Value]]):
    """What the consumer of a stream iterates over: finished items, as they come or put in order."""

    def __init__(self, ordered: bool) -> None:
        self.batch: _Batch[Item, Value]
        self._ordered = ordered
        self._head = 0
        self._ready: deque[Outcome[Item, Value]] = deque()
        self._early: dict[int, Outcome[Item, Value]] = {}
        self._waiting: asyncio.Future[None] | None = None

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

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def __anext__(self) -> Outcome[Item, Value]:
        if self._waiting is not None:
            raise RuntimeError("this stream is already being read; read it from one task")
        while not self._ready:
            if self.batch.ended:
                self.batch.raise_for_source()
                raise StopAsyncIteration
            self.batch.when_ended = self._wake
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        outcome = self._ready.popleft()
        self.batch.consumed()
        return outcome

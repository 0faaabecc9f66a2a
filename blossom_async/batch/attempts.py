"""One attempt at one item, from the slot to the verdict: the same for a batch and for a single call."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import attrs

from blossom_async.batch.gate import Gate, pass_gates
from blossom_async.batch.loops import running_loop
from blossom_async.batch.outage import Outage
from blossom_async.batch.retry import (
    NO_RETRY,
    Classify,
    Fail,
    Fatal,
    Retry,
    RetryAtOnce,
    RetryBudget,
    RetryPolicy,
    Throttle,
    classify,
)
from blossom_async.batch.slots import Slots
from blossom_async.batch.timeouts import Timeout
from blossom_async.errors import GateUnavailable, ResponseError

__all__ = [
    "Attempt",
    "Attempts",
    "Job",
    "current_attempt",
    "digest",
    "key_of_run",
    "new_job",
    "new_run_id",
    "run_one",
]

Item = TypeVar("Item")
Value = TypeVar("Value")


@attrs.frozen
class Attempt:
    """The attempt under way: the ``index`` of its item in the input, and its ``number``, from 1.

    ``key`` is what to send as ``Idempotency-Key``: 32 hexadecimal digits, the same for all attempts of one
    item and different for every other item, also when a batch is resumed from its journal. In a run with a
    ``run_id`` it follows from that and from the item's key alone: it is the same wherever and whenever the
    item is sent.
    """

    index: int
    number: int
    key: str


class Job(Generic[Item, Value]):
    """One item on its way to a value or an error."""

    named = False  # its run has an id that the caller gave
    number = 0  # of the attempt under way or last made
    counted = 0  # attempts that count against the policy's max_attempts
    throttled = 0
    throttled_since: float | None = None
    stale = False  # whether it was repeated at once, after a stale connection
    waiting = True  # for a slot or at a gate
    fatal: str | None = None
    cost: Decimal | None = None
    value: Value | None = None
    error: Exception | None = None
    ended = False
    followers: list[Job[Item, Value]] | None = None  # equal items that get the same answer
    item_key = ""
    index: int
    item: Item
    started: float
    run_id: str


def new_job(index: int, item: Item, started: float, run_id: str) -> Job[Item, Any]:
    """A job that nothing has been tried for yet."""
    job: Job[Item, Any] = Job()  # a constructor of its own takes twice as long
    job.index = index
    job.item = item
    job.started = started
    job.run_id = run_id
    job.number = 0
    job.fatal = None
    return job


_current: ContextVar[Job[object, object]] = ContextVar("blossom_async_job")


def current_attempt() -> Attempt:
    """The attempt that the running code belongs to. Raises ``LookupError`` outside of one."""
    job = _current.get(None)
    if job is None:
        raise LookupError("no attempt is under way here; call this in the function given to run()")
    if job.named:
        key = _key(job.run_id, job.item_key)
    else:
        key = digest(f"{job.run_id}\n{job.index}\n{job.item_key}")
    return Attempt(job.index, job.number, key)


def key_of_run(run_id: str, key: str) -> str:
    """``Attempt.key`` of the item with that key, in a run with that ``run_id``."""
    return _key(run_id, digest(key))


def _key(run_id: str, item_key: str) -> str:
    return digest(f"{run_id}\n{item_key}")


def digest(text: str) -> str:
    """A text as 32 hexadecimal digits."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def new_run_id() -> str:
    """A random id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


class Attempts(Generic[Item, Value]):
    """Makes attempts under shared limits and decides what follows each of them."""

    def __init__(
        self,
        attempt: Callable[[Item], Awaitable[Value]],
        *,
        slots: Slots,
        gates: Sequence[Gate],
        retry: RetryPolicy | None,
        classify: Classify = classify,
        timeout_s: float | None = None,
        budget: RetryBudget | None = None,
        outage: Outage,
    ) -> None:
        """Raises ``ValueError`` for an invalid timeout."""
        self._attempt = attempt
        self._slots = slots
        self._lease = slots.lease()
        self._gates = gates
        self._note_start = gates[-1].learned.starts.append  # at the widest gate, which is the server's
        self._repeats = retry is not None
        self._policy = retry or NO_RETRY
        self._classify = classify
        self._timeout = None if timeout_s is None else Timeout(timeout_s)
        self._stopped = False
        self._budget = budget or RetryBudget(self._policy.budget)
        self._outage = outage

    async def once(self, job: Job[Item, Value]) -> float | None:
        """Tries once. Returns None when the job has its value or final error, else when to try again.

        It takes the slot first and the rate token last, and then calls with no wait in between: a token taken
        before waiting for a slot would carry too early a time, and old tokens would leave together.

        A job whose turn comes after ``stop`` is not tried and stays ``waiting``. So does a job whose turn
        comes in an outage, unless it is the probe: it is due when the outage ends. A gate that is unavailable
        ends the job, and is fatal to the run.
        """
        job.waiting = True
        outage, slots, lease = self._outage, self._slots, self._lease
        started = job.started
        if not slots.try_acquire():
            await slots.acquire()
            started = asyncio.get_running_loop().time()
        lease.held += 1
        try:
            for gate in self._gates:
                if gate.closed:
                    try:
                        started = await pass_gates(self._gates)
                    except GateUnavailable as exc:
                        self._not_started(job, exc)
                        return None
                    break
            else:
                if job.number:
                    started = asyncio.get_running_loop().time()
                self._note_start(started)
            if self._stopped:
                return None
            if outage.away and job is not outage.prober:
                return asyncio.get_running_loop().time()
            job.waiting = False
            job.number += 1
            if job.number == 1 and self._repeats:
                self._budget.first_attempt()
            cuts = slots.cuts
            _current.set(job)  # type: ignore[arg-type]
            try:
                if self._timeout is None:
                    job.value = await self._attempt(job.item)
                else:
                    job.value = await self._timeout.limit(self._attempt(job.item))
            except Exception as exc:  # noqa: BLE001 - it becomes the item's outcome
                job.error = exc
                return self._decide(job, exc, cuts, started)
            job.error = None
            if outage.failures:
                outage.answered(job)
            if slots.allowed < slots.limit:
                slots.succeeded()
            return None
        finally:
            if job is outage.prober:
                outage.prober = None
            if lease.held:
                lease.held -= 1
                slots.release()

    def stop(self) -> None:
        """From now on no attempt starts."""
        self._stopped = True

    def close(self) -> None:
        """Releases the timers. Call it after the last attempt."""
        self._outage.close()
        if self._timeout is not None:
            self._timeout.close()

    def _not_started(self, job: Job[Item, Value], error: GateUnavailable) -> None:
        """Ends a job and the run: no other job could start either."""
        if not self._stopped:  # else it stays ``waiting``
            job.waiting = False
            job.error = error
            job.fatal = str(error)

    def _decide(self, job: Job[Item, Value], error: Exception, cuts: int, started: float) -> float | None:
        try:
            verdict = self._classify(error)
        except Exception as exc:  # noqa: BLE001 - becomes the item's outcome, with the error it was to classify
            exc.__context__ = error
            job.error = exc
            return None
        match verdict:
            case Fail():
                if isinstance(error, ResponseError):  # an answer, though not the one wished for
                    self._outage.answered(job)
                return None
            case Fatal(reason):
                self._outage.answered(job)
                job.fatal = reason
                return None
            case Throttle(pause_s):
                self._outage.answered(job)
                return self._throttled(job, error, pause_s, cuts, started)
            case RetryAtOnce() if self._repeats and not job.stale:
                job.stale = True
                self._outage.failed(job, stale=True)
                return asyncio.get_running_loop().time()
            case Retry(overloaded=True) if not self._outage.away:  # in an outage it says nothing of the load
                self._slots.overloaded(cuts)
        if not (isinstance(verdict, RetryAtOnce) or verdict.away):
            self._outage.answered(job)
        elif self._repeats:
            self._outage.failed(job)
        return self._repeated(job, error)

    def left(self, job: Job[Item, Value]) -> int:
        """How many attempts at a job may still be made."""
        return self._policy.max_attempts - job.counted

    def backoff_s(self, job: Job[Item, Value]) -> float:
        """A random wait after an outage, as after a first failure; none for a job that was not tried."""
        return self._policy.wait_s(1) if job.counted else 0.0

    def _throttled(
        self, job: Job[Item, Value], error: Exception, pause_s: float | None, cuts: int, started: float
    ) -> float | None:
        asked = pause_s if pause_s is not None and math.isfinite(pause_s) and pause_s > 0 else 0.0
        longest = self._policy.max_throttle_s
        if asked > longest:
            job.fatal = (
                f"the server asks for a pause of {asked:g} s; allowed: at most {longest:g} s; raise "
                "max_throttle_s to wait for it"
            )
            return None
        for gate in self._gates:
            gate.pause(asked, at_most_s=longest)
        server = self._gates[-1]
        if not (_too_soon(error) and server.refused(started, asked)):
            self._slots.overloaded(cuts)
        if not self._repeats:
            return None
        now = asyncio.get_running_loop().time()
        if job.throttled_since is None:
            job.throttled_since = now
        job.throttled += 1
        due = now + max(asked, self._policy.wait_s(job.throttled))
        if due - job.throttled_since > longest:
            error.add_note(f"not tried again: the server has throttled this item for {longest:g} s")
            return None
        return due

    def _repeated(self, job: Job[Item, Value], error: Exception) -> float | None:
        job.counted += 1
        if job.counted >= self._policy.max_attempts:
            return None
        if not self._budget.take():
            error.add_note("not tried again: too many items fail and the retry budget is used up")
            return None
        return asyncio.get_running_loop().time() + self._policy.wait_s(job.counted)


def _too_soon(error: Exception) -> bool:
    """Whether it is the rate that was refused, and not the load."""
    return not isinstance(error, ResponseError) or error.status == 429


class _NoOutage(Outage):
    """For a single call, of which no other could be the probe."""

    def failed(self, job: object, *, stale: bool = False) -> None:
        """Notes nothing."""


async def run_one(
    attempt: Callable[[Item], Awaitable[Value]],
    item: Item,
    slots: Slots | None = None,
    gates: Sequence[Gate] = (),
    *,
    retry: RetryPolicy | None = None,
    classify: Classify = classify,
    timeout_s: float | None = None,
    budget: RetryBudget | None = None,
) -> Value:
    """The value of ``attempt(item)``, tried like an item of a batch and under the same limits.

    Raises the error of the last attempt, and ``ConfigurationError`` under trio. No slot is held while it
    waits for the next attempt. Arguments as for ``run``.
    """
    loop = running_loop()
    attempts = Attempts(
        attempt,
        slots=slots if slots is not None else Slots(1),
        gates=gates or (Gate(),),
        retry=retry,
        classify=classify,
        timeout_s=timeout_s,
        budget=budget,
        outage=_NoOutage(math.inf),
    )
    job: Job[Item, Value] = new_job(0, item, loop.time(), new_run_id())
    try:
        while (due := await attempts.once(job)) is not None:  # noqa: ASYNC110 - waits for a time, not a state
            await asyncio.sleep(due - loop.time())
    finally:
        attempts.close()
    if job.error is not None:
        try:
            raise job.error
        finally:
            del job  # the error's traceback holds this frame: without this they would keep each other
    return job.value  # type: ignore[return-value]

"""Which jobs need no attempt, what the others may cost, and the record of how they ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Generic, TypeVar

from blossom_async.batch.attempts import Job, digest, new_run_id
from blossom_async.batch.journal import Journal, OpenJournal
from blossom_async.batch.outcome import Done, Failed, Outcome
from blossom_async.batch.spending import Spending
from blossom_async.errors import ConfigurationError, JournalMismatch, NotRun

__all__ = ["Ledger"]

Item = TypeVar("Item")
Value = TypeVar("Value")

_NOTHING = Decimal(0)


class Ledger(Generic[Item, Value]):
    """Deduplication, cost and journal, between the workers of a batch and its consumer.

    ``deliver`` receives each outcome when it may be handed out. ``settled`` is called after a group was
    written, and ``failed`` with the error after which nothing more can be written. ``unwritten`` counts the
    outcomes that wait for the journal. ``run_id`` is the one given, or the journal's once it is open. An
    ``idle`` ledger has nothing to check before an item is sent.
    """

    def __init__(
        self,
        deliver: Callable[[Outcome[Item, Value]], None],
        settled: Callable[[], None],
        failed: Callable[[BaseException], None],
        *,
        run_id: str | None,
        key: Callable[[Item], str] | None,
        journal: Journal | None,
        dedup: bool,
        cost: Callable[[Item], float | Decimal] | None,
        max_cost: Decimal | None,
    ) -> None:
        self.run_id: str = run_id or new_run_id()
        self._named = run_id is not None
        self.unwritten: int = 0
        self._deliver = deliver
        self._settled = settled
        self._failed = failed
        self._broken = False
        self._loop = asyncio.get_running_loop()
        self._key = key
        self._keyed = key is not None or journal is not None or dedup or self._named
        self._leaders: dict[str, Job[Item, Value]] | None = {} if dedup else None
        self._spending = Spending(cost, max_cost) if cost is not None and max_cost is not None else None
        self._journal: OpenJournal[Item, Value] | None = None
        if journal is not None:
            self._journal = OpenJournal(journal, self._on_disk, self._not_on_disk, run_id=run_id)
        self.idle: bool = not self._keyed and self._spending is None

    async def open(self, total: int | None) -> None:
        """Opens and reads the journal, if there is one. ``total`` is the number of items, if known.

        Raises ``ConfigurationError`` when it is not this batch's, in use, or cannot be written.
        """
        if self._journal is None:
            return
        await self._journal.open()
        if not self._named:
            self.run_id = self._journal.run_id
        if self._spending is not None:
            self._spending.spent = self._journal.spent
        if total is not None and self._journal.length > total:
            raise JournalMismatch(
                f"journal {self._journal.path}: has item {self._journal.length - 1} on record, this batch "
                f"has {total} items; delete the journal, use another one, or run the batch it belongs to"
            )

    async def close(self) -> None:
        """Returns when everything settled is on disk, even if cancelled meanwhile."""
        if self._journal is not None:
            await self._journal.close()

    def answers(self, job: Job[Item, Value]) -> bool:
        """Whether a job needs no attempt, because the journal or an equal item has or will have the answer.

        If ``cost`` or ``key`` raises, the item fails with that, and the failure is not recorded. Raises
        ``ConfigurationError`` for an item without a key, or one that is not the journal's.
        """
        if self._keyed and self._key is None and not isinstance(job.item, str):
            raise ConfigurationError(
                f"key: missing, and item {job.item!r:.80} is not text; allowed: a function from an item to a "
                "str that is the same for equal items only"
            )
        try:
            self._look_at(job)
        except asyncio.CancelledError as exc:  # nothing was awaited, so this task was not cancelled
            job.error = RuntimeError("key or cost raised CancelledError although nobody cancelled it")
            job.error.__cause__ = exc
        except Exception as exc:  # noqa: BLE001 - it becomes the item's outcome
            job.error = exc
        if job.error is not None:
            job.cost = None
            self.settle(job, recorded=True)
            return True
        return self._keyed and (self._on_record(job) or self._follows(job))

    def refusal(self, job: Job[Item, Value]) -> str | None:
        """Reserves the price of a job. Returns why it exceeds ``max_cost``, or None when reserved."""
        if self._spending is None or job.cost is None or self._spending.reserve(job.cost):
            return None
        price, job.cost = job.cost, None
        spent, most = self._spending.spent, self._spending.max_cost
        seen = f"item {job.index} may cost {price}, and {spent} of max_cost {most} are spent"
        return f"{seen}; raise it for the rest"

    def settle(self, job: Job[Item, Value], *, recorded: bool = False) -> None:
        """Passes the end of a job to the journal first, if there is one, and then to the consumer."""
        elapsed_s = self._loop.time() - job.started
        outcome: Outcome[Item, Value]
        if job.error is None:
            outcome = Done(job.index, job.item, job.value, job.number, elapsed_s)  # type: ignore[arg-type]
        else:
            outcome = Failed(job.index, job.item, job.error, job.number, elapsed_s)
        if self.idle:
            self._deliver(outcome)
            return
        job.ended = True
        cost = _NOTHING
        if self._spending is not None and job.cost is not None:
            cost = self._spending.settle(job.cost, job.error)
        if self._journal is None or recorded or isinstance(job.error, NotRun):
            self._deliver(outcome)
        else:
            self._record(self._journal, outcome, job.item_key, cost)
        if self._leaders is not None:
            self._share(job, self._leaders)

    def _look_at(self, job: Job[Item, Value]) -> None:
        """Sets the price and the key of a job. Raises what the caller's functions raise."""
        if self._spending is not None:
            job.cost = self._spending.price(job.item)
        if self._keyed:
            key = job.item if self._key is None else self._key(job.item)
            if not isinstance(key, str):
                raise TypeError(f"key: {key!r:.80} cannot be used; allowed: a str")
            job.item_key = digest(key)
            job.named = self._named

    def _on_record(self, job: Job[Item, Value]) -> bool:
        found = self._journal.recall(job.index, job.item_key) if self._journal is not None else None
        if found is None:
            return False
        if not found.finished:
            if self._spending is not None:
                self._spending.spent -= found.cost  # sent again under the same key, it costs once
            return False
        job.value, job.cost = found.value, None  # its cost was counted when the journal was opened
        if self._leaders is not None:
            self._leaders.setdefault(job.item_key, job)
        self.settle(job, recorded=True)
        return True

    def _follows(self, job: Job[Item, Value]) -> bool:
        if self._leaders is None:
            return False
        leader = self._leaders.setdefault(job.item_key, job)
        if leader is job:
            return False
        job.cost = None
        if leader.ended:
            job.value = leader.value
            self.settle(job)
        else:
            leader.followers = leader.followers or []
            leader.followers.append(job)
        return True

    def _share(self, job: Job[Item, Value], leaders: dict[str, Job[Item, Value]]) -> None:
        """Ends the equal items that waited for this one. Later ones share a value, but not an error."""
        if job.error is not None and leaders.get(job.item_key) is job:
            del leaders[job.item_key]
        followers, job.followers = job.followers or (), None
        for follower in followers:
            follower.value, follower.error = job.value, job.error
            follower.number = 0 if job.error is None else job.number
            self.settle(follower)

    def _record(
        self, journal: OpenJournal[Item, Value], outcome: Outcome[Item, Value], key: str, cost: Decimal
    ) -> None:
        if not self._broken:
            try:
                journal.append(outcome, key, cost)
            except Exception as exc:  # noqa: BLE001 - encode() is the caller's; the batch ends with its error
                self._broken = True
                self._failed(exc)
            else:
                self.unwritten += 1
                return
        self._deliver(outcome)

    def _on_disk(self, outcomes: list[Outcome[Item, Value]]) -> None:
        self.unwritten -= len(outcomes)
        for outcome in outcomes:
            self._deliver(outcome)
        self._settled()

    def _not_on_disk(self, failure: BaseException, outcomes: list[Outcome[Item, Value]]) -> None:
        """Writing has failed. What was paid for is handed out all the same."""
        self._broken = True
        self._failed(failure)
        self._on_disk(outcomes)

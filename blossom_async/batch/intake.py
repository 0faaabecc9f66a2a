"""Makes jobs of the items of the input, while there is room for more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from blossom_async.batch.attempts import Job, new_job
from blossom_async.batch.cancellation import Interruptible, is_cancelled
from blossom_async.batch.ending import Ending
from blossom_async.batch.input import Input
from blossom_async.batch.ledger import Ledger
from blossom_async.batch.line import Line
from blossom_async.batch.progress import Tally
from blossom_async.errors import NotRun

__all__ = ["Intake"]

Item = TypeVar("Item")
Value = TypeVar("Value")

_PULLS_BETWEEN_YIELDS = 64  # attempts that never wait would otherwise keep the loop to themselves


class Intake(Generic[Item, Value]):
    """Takes items while fewer than ``window`` are taken and not consumed.

    A synchronous input gives them to ``take``; one that ``waits`` gives them to ``pull``, for one ``puller``
    at a time. What the input raises ends the batch. ``parked`` is told when there is room again, and when no
    more items are to come. ``on_limit`` gets the reason why an item would exceed ``max_cost``, and stops the
    batch.
    """

    def __init__(
        self,
        items: Input[Item],
        ledger: Ledger[Item, Value],
        tally: Tally,
        ending: Ending,
        parked: Line,
        *,
        window: int,
        on_limit: Callable[[str], object],
    ) -> None:
        self.waits: bool = items.waits
        self.puller: Interruptible | None = None
        self._input = items
        self._ledger = ledger
        self._tally = tally
        self._ending = ending
        self._parked = parked
        self._room = window
        self._on_limit = on_limit
        self._since_yield = 0
        self._loop = asyncio.get_running_loop()

    @property
    def ended(self) -> bool:
        """Whether the input has no more items, or none are wanted."""
        return self._input.ended

    @property
    def has_room(self) -> bool:
        """Whether another item may be taken."""
        return self._room > 0 and not self._input.ended

    @property
    def all_taken(self) -> bool:
        """Whether no more items are to come, as far as the input tells beforehand."""
        return self._input.ended or self._tally.pulled == self._input.total

    @property
    def must_yield(self) -> bool:
        """Whether ``take`` gives nothing before ``give_way`` has let other tasks run."""
        return self._since_yield >= _PULLS_BETWEEN_YIELDS

    async def give_way(self) -> None:
        """Lets other tasks run."""
        self._since_yield = 0
        await asyncio.sleep(0)

    def consumed(self) -> None:
        """Notes that one outcome has left the window."""
        self._room += 1
        if self._parked.waiting:
            self._parked.grant()

    def take(self) -> Job[Item, Value] | None:
        """A job for the next item; None when there is none, or when it is time to yield to other tasks."""
        source = self._input
        if source.waits:
            return None
        while self._room > 0 and not source.ended and self._since_yield < _PULLS_BETWEEN_YIELDS:
            self._since_yield += 1
            try:
                item = source.next()
            except StopIteration:
                self.end()
            except Exception as exc:  # noqa: BLE001 - raised to the caller once the items under way have ended
                self.fail(exc)
            else:
                if (job := self._admit(item)) is not None:
                    return job
        return None

    async def pull(self, puller: Interruptible) -> Job[Item, Value] | None:
        """A job for the next item of an input that waits; None when there is none."""
        self.puller = puller
        try:
            item = await self._input.anext()
        except StopAsyncIteration:
            self.end()
            return None
        except asyncio.CancelledError as exc:
            if puller.interrupted or is_cancelled():
                raise
            failure = RuntimeError("the input raised CancelledError although nobody cancelled it")
            failure.__cause__ = exc
            self.fail(failure)
            return None
        except Exception as exc:  # noqa: BLE001 - as in take
            self.fail(exc)
            return None
        finally:
            self.puller = None
        return self._admit(item)

    def end(self) -> None:
        """No more items are taken."""
        self._input.ended = True
        self._parked.grant_all()

    def fail(self, failure: BaseException) -> None:
        """Takes no more items. The failure is raised once the items under way have ended."""
        self._ending.fail(failure)
        self.end()

    def _admit(self, item: Item) -> Job[Item, Value] | None:
        """A job for the next item; None when the item ends without an attempt or follows an equal one."""
        tally, ledger, ending = self._tally, self._ledger, self._ending
        job: Job[Item, Value] = new_job(tally.pulled, item, self._loop.time(), ledger.run_id)
        tally.pulled += 1
        self._room -= 1
        if ledger.idle and ending.stopped is None:
            return job
        try:
            if ledger.answers(job):
                return None
        except Exception as exc:  # noqa: BLE001 - as in take
            self.fail(exc)
            return None
        if ending.stopped is None and (reason := ledger.refusal(job)) is not None:
            self._on_limit(reason)
        if ending.stopped is not None:
            job.cost = None
            job.error = NotRun(ending.stopped)
            ledger.settle(job)
            return None
        return job

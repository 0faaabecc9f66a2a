"""Which job of a batch is next: a probe in an outage, a retry that is due, or a new item."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

from blossom_async.batch.attempts import Attempts, Job
from blossom_async.batch.ending import Ending
from blossom_async.batch.intake import Intake
from blossom_async.batch.line import Line
from blossom_async.batch.outage import Outage
from blossom_async.batch.retries import Retries

__all__ = ["Upcoming"]

Item = TypeVar("Item")
Value = TypeVar("Value")


class Upcoming(Generic[Item, Value]):
    """The jobs to come: those of ``retries``, and new ones from ``intake``. ``parked`` waits for them."""

    def __init__(
        self,
        intake: Intake[Item, Value],
        attempts: Attempts[Item, Value],
        outage: Outage,
        ending: Ending,
        parked: Line,
    ) -> None:
        self.intake: Intake[Item, Value] = intake
        self.retries: Retries[Item, Value] = Retries(parked.grant)
        self._attempts = attempts
        self._outage = outage
        self._ending = ending
        self._parked = parked

    @property
    def one_is_there(self) -> bool:
        """Whether another worker would find a job, or an input to wait for."""
        if self._outage.away:
            return False
        return self.retries.is_due() or (self.intake.has_room and self.intake.puller is None)

    @property
    def one_comes(self) -> bool:
        """Whether a parked worker will be woken: for a retry, or for a probe in an outage."""
        return self._outage.away or self.retries.next_due is not None

    def waits_for_server(self) -> bool:
        """Whether there is nothing to do in an outage before the next probe."""
        if not self._outage.away or self._ending.stopped is not None:
            return False
        return not self.intake.waits or self._outage.prober is not None or len(self.retries) > 0

    def after_outage(self) -> None:
        """Retries the victims of an outage as if they had just failed, so not all at once."""
        self.retries.postpone(self._attempts.backoff_s)
        self._parked.grant_all()

    def take(self) -> Job[Item, Value] | None:
        """A job that can start now; None when there is none, or when it is time to yield to other tasks."""
        if self._outage.away and self._ending.stopped is None:
            return self._take_probe()
        if self.retries.next_due is not None and (due := self.retries.take()) is not None:
            return due
        return self.intake.take()

    def _take_probe(self) -> Job[Item, Value] | None:
        """In an outage, one job at a time; none is given its last attempt while there are others."""
        intake, retries = self.intake, self.retries
        new = intake.has_room and not (intake.waits or intake.all_taken)
        lefts = [self._attempts.left(job) for job in retries]
        if not (new or lefts):
            return intake.take()  # notices the end of the input
        if not self._outage.is_time(math.inf if new else sum(lefts) - len(lefts)):
            return None
        if not new or max(lefts, default=0) > 1:
            job = retries.take_least_tried()
        elif (job := intake.take()) is None and intake.ended:
            return self._take_probe()
        self._outage.prober = job
        return job

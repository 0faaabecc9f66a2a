"""What has become of a picture that was asked for earlier, by whichever process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from blossom_async.errors import Conflict, Gone
from blossom_async.gateway.making.orders import Order
from blossom_async.gateway.making.paid import Paid
from blossom_async.gateway.making.recovery import Recovery
from blossom_async.gateway.making.upstreams import FULL_RETRY_S
from blossom_async.gateway.making.verdicts import key_reused, stored_problem
from blossom_async.gateway.storage.records import (
    Claim,
    ClaimState,
    IdempotencyEntry,
    ImageRecord,
    Records,
)
from blossom_async.gateway.storage.records import calls as call_records

__all__ = ["Earlier"]

_POLL_S = 0.1
_FRESH = timedelta(minutes=1)  # by the clocks of two gateways; a server writes after a second at most
_ELSEWHERE_S = 30.0  # how long a caller waits for a picture that another process makes


class Earlier:
    """Finds the picture or the claim of an earlier request, and waits for the picture."""

    def __init__(self, records: Records, paid: Paid, recovery: Recovery, now: Callable[[], datetime]) -> None:
        self._records = records
        self._paid = paid
        self._recovery = recovery
        self._now = now

    async def standing(self, order: Order) -> IdempotencyEntry | Claim | None:
        """What the order's key was used for; None for a new key, or without one."""
        if order.key is None:
            return None
        return await self._records.read(partial(call_records.standing, order.tenant, order.key))

    async def replayed(self, order: Order, standing: IdempotencyEntry | Claim) -> ImageRecord | Claim:
        """The picture or the claim of an earlier request under the same key.

        Raises as ``Generation.create``.
        """
        if standing.fingerprint != order.fingerprint:
            raise key_reused()
        if isinstance(standing, IdempotencyEntry):
            record = await self._records.get(standing.image_id)
            return await self._lasting(_replayable(record, self._now()))
        claim = await self._recovery.resume(standing)
        if order.request.defer and claim.state is not ClaimState.UNKNOWN:
            return claim
        if claim.state is not ClaimState.RUNNING:
            raise stored_problem(claim)
        task = self._paid.under_way.get(claim.image_id)
        return await (self._elsewhere(claim) if task is None else self.made(claim, task))

    async def made(self, claim: Claim, task: asyncio.Task[ImageRecord]) -> ImageRecord:
        """The picture that this process makes, unless another has taken it over."""
        try:
            return await asyncio.shield(task)
        except Conflict as exc:
            if exc.code != "finished_elsewhere":
                raise
        return await self._elsewhere(claim)

    async def pending(self, image_id: str) -> Claim | None:
        """The claim of a picture that is still being made, or that failed. None for any other id."""
        return await self._records.read(partial(call_records.claim_by_id, image_id))

    async def wait(self, image_id: str, timeout_s: float) -> None:
        """Returns when the picture's claim has ended, or after this time."""
        if (task := self._paid.under_way.get(image_id)) is not None:
            await asyncio.wait([task], timeout=timeout_s)
            return
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        while loop.time() < ends:  # another process makes it
            claim = await self.pending(image_id)
            if claim is None or claim.state is not ClaimState.RUNNING:
                return
            await asyncio.sleep(_POLL_S)

    async def _elsewhere(self, claim: Claim) -> ImageRecord:
        """The picture that another process makes."""
        await self.wait(claim.image_id, _ELSEWHERE_S)
        record = await self._records.get(claim.image_id)
        if record is not None:
            return await self._lasting(record)
        left = await self.pending(claim.image_id)
        if left is not None and left.state is not ClaimState.RUNNING:
            raise stored_problem(left)
        raise Conflict(
            "the picture of this Idempotency-Key is still being made; ask again with the same key",
            code="in_progress",
            retry_after_s=FULL_RETRY_S,
        )

    async def _lasting(self, made: ImageRecord) -> ImageRecord:
        """The picture, once it is sure to outlast a crash: its own process may not have been told yet."""
        if self._now() - made.created_at < _FRESH:
            await self._records.settled()
        return made


def _replayable(record: ImageRecord | None, now: datetime) -> ImageRecord:
    """The picture made under a key. Raises ``Gone`` when its URL no longer works."""
    if record is None or record.deleted_at is not None:
        raise Gone("the picture made under this Idempotency-Key was deleted; use a new key for a new one")
    if record.has_expired(now):
        raise Gone("the picture made under this Idempotency-Key has expired; use a new key for a new one")
    return record

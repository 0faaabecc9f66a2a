"""What came of the attempts at a picture, from the moment before each is sent until it is on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import TypeVar

import attrs

from blossom_async.errors import Overloaded, PaymentRequired
from blossom_async.gateway.making.failpoints import reached
from blossom_async.gateway.making.staging import Staging
from blossom_async.gateway.making.verdicts import Settled, unsent
from blossom_async.gateway.providers import Artwork, Delivery
from blossom_async.gateway.storage.blobs import OutOfFiles, Reserved
from blossom_async.gateway.storage.records import Claim, ProviderAttempt, Records
from blossom_async.gateway.storage.records import calls as call_records

__all__ = ["Answer", "Results", "once_files_can_be_opened"]

T = TypeVar("T")
_TRIES = 60  # a second apart, while this machine may open no more files


@attrs.frozen(kw_only=True)
class Answer:
    """A provider's answer, which is staged, and the attempt that brought it."""

    attempt: ProviderAttempt
    given: Artwork | Delivery


class Results:
    """Writes down attempts and what came of them. What cannot be written yet is kept in memory."""

    def __init__(self, records: Records, staging: Staging, now: Callable[[], datetime]) -> None:
        self._records = records
        self._staging = staging
        self._now = now
        self._unrecorded: dict[tuple[str, str | None], Artwork | Delivery | Settled] = {}
        """What came of the latest attempt at a picture, by the claim's holder, until that is on the disk.
        What this process knew before it was taken for dead says nothing of what others have sent since."""

    def unrecorded(self, claim: Claim) -> Artwork | Delivery | Settled | None:
        """What came of the latest attempt, if that is not on the disk."""
        return self._unrecorded.get(_holder(claim))

    def forget(self, claim: Claim) -> None:
        """Keeps nothing in memory for a claim that has ended, or that another process has."""
        self._unrecorded.pop(_holder(claim), None)

    async def begun(self, claim: Claim, attempt: ProviderAttempt, daily_budget: int | None) -> Settled | None:
        """None once the attempt is on the disk and may be sent. Raises ``PaymentRequired``."""
        # Whatever fails: it may be on the disk, and it was not sent.
        self._unrecorded[_holder(claim)] = unsent(attempt)
        try:
            await self._records.write(partial(call_records.begin_attempt, claim, attempt, daily_budget))
        except PaymentRequired:
            self.forget(claim)
            raise
        except Overloaded as exc:
            return await self._settled(claim, unsent(attempt, exc))
        self.forget(claim)
        return None

    async def recorded(
        self,
        claim: Claim,
        attempt: ProviderAttempt,
        result: Artwork | Delivery | Settled,
        reserved: Reserved | None = None,
    ) -> Answer | Settled:
        """The result, once it is on disk."""
        if isinstance(result, Settled):
            return await self._settled(claim, result)
        self._unrecorded[_holder(claim)] = result  # also after a failure: it is paid, and staged again later
        await once_files_can_be_opened(partial(self._staging.put, claim.image_id, result, reserved))
        self.forget(claim)
        reached("staged")
        return Answer(attempt=attempt, given=result)

    async def _settled(self, claim: Claim, result: Settled) -> Settled:
        """A failure, which is recorded before the next provider is asked; otherwise, with the claim's end."""
        self._unrecorded[_holder(claim)] = result
        if result.elsewhere and result.end is not None:
            await self._records.write(partial(call_records.end_attempt, claim, result.end, self._now()))
            self.forget(claim)
        return result


async def once_files_can_be_opened(work: Callable[[], Awaitable[T]]) -> T:
    """What the work returns. Waits for others to close files, because the picture is paid for."""
    for _ in range(_TRIES):
        try:
            return await work()
        except OutOfFiles as exc:
            failure = exc
            await asyncio.sleep(exc.retry_after_s or 0)
    raise failure


def _holder(claim: Claim) -> tuple[str, str | None]:
    return claim.image_id, claim.owner

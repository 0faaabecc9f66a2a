"""Takes over the claims of processes that died, by a crash or a kill."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from blossom_async.errors import Overloaded
from blossom_async.gateway.making.callers import Callers
from blossom_async.gateway.making.paid import Paid
from blossom_async.gateway.making.priority import Priority
from blossom_async.gateway.making.staging import Staging
from blossom_async.gateway.making.upstreams import Upstreams
from blossom_async.gateway.storage.owners import Living
from blossom_async.gateway.storage.records import Claim, ClaimState, Records
from blossom_async.gateway.storage.records import calls as call_records

__all__ = ["Recovery"]

_EVERY_S = 3.0
_CLEARED_EVERY = timedelta(hours=1)

_log = logging.getLogger("blossom_async.gateway")


class Recovery:
    """Makes sure that a living process, this one or another, works on every running claim."""

    def __init__(
        self,
        upstreams: Upstreams,
        records: Records,
        staging: Staging,
        paid: Paid,
        owner: Living,
        now: Callable[[], datetime],
    ) -> None:
        self._upstreams = upstreams
        self._records = records
        self._staging = staging
        self._paid = paid
        self._owner = owner
        self._now = now

    async def run(self) -> None:
        """Takes over the claims of dead processes until it is cancelled. Clears staging every hour."""
        cleared: datetime | None = None
        while True:
            try:
                await self._adopt_orphans()
                now = self._now()
                if cleared is None or abs(now - cleared) >= _CLEARED_EVERY:
                    await self._clear_staging(now)
                    cleared = now
            except Overloaded as exc:  # of the database; the next round tries again
                _log.warning("unfinished calls could not be looked at: %s", exc.code)
            except Exception:  # noqa: BLE001 - the task's border: what was left unfinished must not stay so
                _log.exception("unfinished calls could not be looked at; they are looked at again")
            await asyncio.sleep(_EVERY_S)

    async def resume(self, claim: Claim) -> Claim:
        """The claim. If it is running or can run again, a living process works on it afterwards."""
        if claim.state is ClaimState.UNKNOWN:
            return await self._reopen(claim)
        if claim.state is ClaimState.RUNNING and claim.owner is not None:
            if await asyncio.to_thread(self._owner.has_ended, claim.owner):
                await self._adopt(claim.owner)
            elif claim.owner == self._owner.name and claim.image_id not in self._paid.under_way:
                self._paid.start(claim, Callers(Priority.INTERACTIVE))  # its task failed because of the disk
        return claim

    async def _reopen(self, claim: Claim) -> Claim:
        """Runs an unknown claim again if its answer is staged, or its provider recognises the key."""
        if await self._staging.get(claim.image_id) is None:
            tried = await self._records.read(partial(call_records.attempts_of, claim.image_id))
            upstream = self._upstreams.named(tried[-1].provider)
            if upstream is None or not upstream.provider.keyed:
                return claim
        reopen = partial(call_records.reopen, claim.image_id, self._owner.name)
        again = await self._records.write(reopen)
        if again is None:
            return claim
        self._paid.start(again, Callers(Priority.INTERACTIVE))
        return again

    async def _adopt_orphans(self) -> None:
        for name in await self._records.read(call_records.owners):
            # Claims of this process without a task failed because of the disk.
            if name == self._owner.name or await asyncio.to_thread(self._owner.has_ended, name):
                await self._adopt(name)

    async def _adopt(self, name: str) -> None:
        for claim in await self._records.write(partial(call_records.adopt, name, self._owner.name)):
            if name != self._owner.name:
                await self._staging.take_over(claim.image_id)
            if claim.image_id not in self._paid.under_way:
                _log.info("taking over a call of a dead process")
                self._paid.start(claim, Callers(Priority.BATCH))

    async def _clear_staging(self, now: datetime) -> None:
        """Removes the staged files of ended claims, of processes that died or of calls released by hand."""
        async for image_id in self._staging.ids(before=now):
            claim = await self._records.read(partial(call_records.claim_by_id, image_id))
            # A claim is always written before its file, so a file without one is not in use.
            if claim is None or claim.state is ClaimState.FAILED:
                await self._records.settled()  # until its end is on the disk, it may still be needed
                await self._staging.delete(image_id)
                await self._staging.drop(image_id)

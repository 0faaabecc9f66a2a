"""From a valid request to a stored picture, paid at most once.

What costs nothing is made at once: bytes first, then the row. What may cost money is claimed before: the
call is on the disk, then the attempt, and only then does a byte leave for the provider. What came back is
staged on the disk before anything else is done with it. So a process that ends at any moment leaves one of
four things behind, and ``recover`` knows what to do with each: a call not sent (it is sent), an attempt that
may have been sent (again under the same key where the provider takes one; otherwise nobody knows, and a
person decides), a staged answer (it is adopted), or a stored picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import string
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime
from functools import partial
from typing import Any

import attrs

from blossom_async.errors import (
    Conflict,
    Gone,
    InvalidRequest,
    Overloaded,
    Rejected,
)
from blossom_async.gateway.making.paid import Paid
from blossom_async.gateway.making.priority import Priority
from blossom_async.gateway.making.staging import Staging
from blossom_async.gateway.making.storing import Storing
from blossom_async.gateway.making.upstreams import Upstream, Upstreams
from blossom_async.gateway.making.verdicts import stored_problem
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.storage.blobs import LocalBlobs
from blossom_async.gateway.storage.owners import Owner
from blossom_async.gateway.storage.records import (
    Claim,
    ClaimState,
    IdempotencyEntry,
    ImageRecord,
    Records,
)
from blossom_async.gateway.storage.records import calls as call_records
from blossom_async.models import MAX_SEED, Estimate, ImageRequest, to_json

__all__ = ["Generation", "new_id"]

_Making = asyncio.Task[tuple[ImageRecord | Claim, bool]]
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FULL_RETRY_S = 5.0  # by then some of those that wait have been made
_POLL_S = 0.1
_ELSEWHERE_S = 30.0  # how long a caller waits for a picture that another process makes
_RECOVER_S = 5.0

_log = logging.getLogger("blossom_async.gateway")


class Generation:
    """Makes pictures and stores them."""

    def __init__(
        self,
        upstreams: Upstreams,
        records: Records,
        blobs: LocalBlobs,
        staging: Staging,
        workers: Workers,
        owner: Owner,
        *,
        secret: bytes,
        now: Callable[[], datetime],
        most: int = 1000,
        daily_budget: int | None = None,
    ) -> None:
        """At most ``most`` pictures are under way or wait. Attempts have keys made of ``secret``.

        ``daily_budget`` is in millionths of a US dollar, for API keys without one of their own; None: no
        limit.
        """
        self._upstreams = upstreams
        self._records = records
        self._storing = Storing(blobs, workers, now)
        self._staging = staging
        self._owner = owner
        self._now = now
        self._most = most
        self._paid = Paid(
            upstreams, records, staging, self._storing, secret=secret, now=now, daily_budget=daily_budget
        )
        self._under_way: dict[tuple[str, str], tuple[str, _Making]] = {}
        self._entered = 0

    @property
    def waiting(self) -> int:
        """Pictures being made, or waiting for it."""
        return self._entered + len(self._paid.under_way)

    @property
    def made(self) -> Counter[tuple[str, ...]]:
        """Pictures stored, by provider and format."""
        return self._storing.made

    async def create(
        self,
        request: ImageRequest,
        *,
        tenant: str,
        payer: str,
        key: str | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> tuple[ImageRecord | Claim, bool]:
        """The stored picture, and whether it is a replay of one made earlier under the same key.

        ``payer`` is the name of the API key whose budget it is. The same ``tenant`` and idempotency ``key``
        with the same request never makes a second picture, also when the first is still under way, its
        caller has gone, or another process makes it. With ``defer`` it is the claim, which is on the disk.

        Raises ``InvalidRequest``, ``Rejected`` when the key was used for another request, ``Gone`` when its
        picture was deleted or has expired, ``Overloaded`` when too many are waiting, ``PaymentRequired``
        beyond the caller's budget, ``Conflict`` (``outcome_unknown``) when it may have been paid and nobody
        knows, ``Conflict`` (``in_progress``) when another process still makes it, and what the provider's
        failure becomes.
        """
        if request.use_custom_cdn:
            raise InvalidRequest("use_custom_cdn", True, "False here: a client with a cdn_prefix sets it")
        able = self._upstreams.able(request)
        free = not able[0].provider.remote and not request.defer
        if key is None:
            if free:
                return await self._make(able[0], request, tenant, None, priority), False
            return await self._claimed(request, tenant, payer, None, "", priority=priority), False
        fingerprint = hashlib.sha256(to_json(request)).hexdigest()
        joined = (tenant, key) in self._under_way
        if not joined:  # noted before anything is waited for: nobody may come in between
            making: Coroutine[Any, Any, tuple[ImageRecord | Claim, bool]]
            if free:
                making = self._make_once(able[0], request, tenant, key, fingerprint, priority)
            else:
                making = self._claimed_once(request, tenant, payer, key, fingerprint, priority=priority)
            task = asyncio.create_task(making)
            self._under_way[tenant, key] = fingerprint, task
            task.add_done_callback(lambda ended: self._ended((tenant, key), ended))
        started_as, task = self._under_way[tenant, key]
        if started_as != fingerprint:
            raise _key_reused()
        # Shielded: a caller that goes away must not cost the picture its key would bring back.
        record, replayed = await asyncio.shield(task)
        return record, replayed or joined

    def estimate(self, request: ImageRequest) -> Estimate:
        """What it would cost. Raises ``InvalidRequest`` when nobody can make it."""
        provider = self._upstreams.able(request)[0].provider
        usd = provider.price(request)
        return Estimate(credits=request.cost, usd=None if usd is None else float(usd), provider=provider.name)

    def may_cost(self, request: ImageRequest) -> bool:
        """Whether its provider may charge for it. Raises ``InvalidRequest`` if none can make it."""
        return self._upstreams.able(request)[0].provider.remote

    async def claimed(self, tenant: str, key: str) -> Claim | None:
        """The claim under a key: it is under way, or was paid, or may have been, without a picture so far."""
        return await self._records.read(partial(call_records.claim_by_key, tenant, key))

    async def pending(self, image_id: str) -> Claim | None:
        """The call of a picture that is not there yet, or never will be."""
        return await self._records.read(partial(call_records.claim_by_id, image_id))

    async def forget(self, call: Claim) -> None:
        """Takes a call without a picture away, with its words.

        Raises ``Conflict`` while it is under way, and for one that may have been paid: that stays until it
        is released.
        """
        if call.state is not ClaimState.FAILED:
            raise Conflict(
                "the picture is still being made, or may have been paid; delete it once that is known",
                code="in_progress",
                retry_after_s=_FULL_RETRY_S,
            )
        await self._records.write(partial(call_records.forget, call.image_id), erases=True)

    async def wait(self, image_id: str, timeout_s: float) -> None:
        """Returns when the picture's call has ended, or after this time."""
        if (task := self._paid.under_way.get(image_id)) is not None:
            await asyncio.wait([task], timeout=timeout_s)
            return
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        while loop.time() < ends:  # another process makes it
            call = await self.pending(image_id)
            if call is None or call.state is not ClaimState.RUNNING:
                return
            await asyncio.sleep(_POLL_S)

    async def recover(self) -> None:
        """Takes over, for as long as it runs, what ended processes have left unfinished."""
        cleared = False
        while True:
            try:
                await self._adopt_orphans()
                if not cleared:
                    await self._clear_staging()
                    cleared = True
            except Overloaded as exc:  # the database; the next round may find it well again
                _log.warning("unfinished calls could not be looked at: %s", exc.code)
            except Exception:  # noqa: BLE001 - the task's border: what was left unfinished must not stay so
                _log.exception("unfinished calls could not be looked at; they are looked at again")
            await asyncio.sleep(_RECOVER_S)

    async def settle(self) -> None:
        """Waits for pictures whose callers have gone."""
        tasks = [*(task for _, task in self._under_way.values()), *self._paid.under_way.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Ends what is under way, as a kill would: what was claimed is taken up at the next start."""
        self._paid.stop()

    def _ended(self, key: tuple[str, str], task: _Making) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # seen, also when every caller has gone

    # What costs nothing

    async def _make_once(
        self,
        upstream: Upstream,
        request: ImageRequest,
        tenant: str,
        key: str,
        fingerprint: str,
        priority: Priority,
    ) -> tuple[ImageRecord | Claim, bool]:
        earlier = await self._records.find_idempotent(tenant, key)
        claimed = await self._records.read(partial(call_records.claim_by_key, tenant, key))
        if earlier is None and claimed is not None:  # a deferred one
            return await self._standing(claimed, fingerprint), True
        if earlier is None:
            entry = IdempotencyEntry(tenant=tenant, key=key, fingerprint=fingerprint, image_id=new_id())
            try:
                return await self._make(upstream, request, tenant, entry, priority), False
            except Conflict:  # another process of this gateway was first
                earlier = await self._records.find_idempotent(tenant, key)
                if earlier is None:
                    raise
        return await self._replay(earlier, fingerprint), True

    async def _make(
        self,
        upstream: Upstream,
        request: ImageRequest,
        tenant: str,
        entry: IdempotencyEntry | None,
        priority: Priority,
    ) -> ImageRecord:
        with self._room():
            seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
            pinned = attrs.evolve(request, seed=seed)
            async with upstream.turn(priority=priority):
                given = await upstream.provider.generate(pinned, seed, key="")
            image_id = entry.image_id if entry else new_id()
            record = await self._storing.store(image_id, tenant, pinned, upstream.name, given)
            try:
                await self._records.add(record, entry)
            except (Conflict, Overloaded) as exc:
                # After any other failure the row may be there all the same, and a row needs its bytes.
                if isinstance(exc, Conflict) or exc.code == "storage_full":
                    await self._storing.remove(record)
                raise
            self._storing.made[record.provider, record.request.format] += 1
            return record

    # What may cost money

    async def _claimed_once(
        self,
        request: ImageRequest,
        tenant: str,
        payer: str,
        key: str,
        fingerprint: str,
        *,
        priority: Priority,
    ) -> tuple[ImageRecord | Claim, bool]:
        made = await self._claimed(request, tenant, payer, key, fingerprint, priority=priority)
        return made, False

    async def _claimed(
        self,
        request: ImageRequest,
        tenant: str,
        payer: str,
        key: str | None,
        fingerprint: str,
        *,
        priority: Priority,
    ) -> ImageRecord | Claim:
        seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        pinned = attrs.evolve(request, seed=seed)
        call = Claim(
            image_id=new_id(),
            tenant=tenant,
            payer=payer,
            key=key,
            fingerprint=fingerprint,
            request=pinned,
            owner=self._owner.name,
            created_at=self._now(),
        )
        with self._room():
            standing = await self._records.write(partial(call_records.claim, call))
            task = None if standing is not call else self._paid.start(call, priority)
        if isinstance(standing, IdempotencyEntry):
            return await self._replay(standing, fingerprint)
        if task is None:
            return await self._standing(standing, fingerprint)
        return call if request.defer else await asyncio.shield(task)

    async def _standing(self, call: Claim, fingerprint: str) -> ImageRecord | Claim:
        """What another call under the same key has come to."""
        if call.fingerprint != fingerprint:
            raise _key_reused()
        request = call.request
        if call.state is ClaimState.FAILED:
            if request.defer:
                return call
            raise stored_problem(call)
        if call.state is ClaimState.UNKNOWN:
            again = await self._again(call)
            if again is None:
                raise stored_problem(call)
            task = self._paid.start(again, Priority.INTERACTIVE)
            return again if request.defer else await asyncio.shield(task)
        if request.defer:
            return call
        if call.owner is not None and self._owner.has_ended(call.owner):
            await self._adopt(call.owner)
        if call.owner == self._owner.name and call.image_id not in self._paid.under_way:
            self._paid.start(call, Priority.INTERACTIVE)  # its task ended on an error of the disk
        if (mine := self._paid.under_way.get(call.image_id)) is not None:
            return await asyncio.shield(mine)
        await self.wait(call.image_id, _ELSEWHERE_S)
        record = await self._records.get(call.image_id)
        if record is not None:
            return record
        left = await self.pending(call.image_id)
        if left is not None and left.state is not ClaimState.RUNNING:
            raise stored_problem(left)
        raise Conflict(
            "the picture of this Idempotency-Key is still being made; ask again with the same key",
            code="in_progress",
            retry_after_s=_FULL_RETRY_S,
        )

    async def _again(self, call: Claim) -> Claim | None:
        """An unknown call that may be sent again because its provider knows it by its key."""
        tried = await self._records.read(partial(call_records.attempts_of, call.image_id))
        upstream = self._upstreams.named(tried[-1].provider)
        if upstream is None or not upstream.provider.keyed:
            return None
        reopen = partial(call_records.reopen, call.image_id, self._owner.name)
        return await self._records.write(reopen)

    async def _adopt_orphans(self) -> None:
        for name in await self._records.read(call_records.owners):
            # What is this process's own and not under way ended on an error of the disk.
            if name == self._owner.name or await asyncio.to_thread(self._owner.has_ended, name):
                await self._adopt(name)

    async def _clear_staging(self) -> None:
        """Removes staged answers of calls that have ended: their process died before it could."""
        async for image_id in self._staging.ids(before=self._now()):
            if await self.pending(image_id) is None:  # a call is claimed before anything of it is staged
                await self._staging.delete(image_id)

    async def _adopt(self, name: str) -> None:
        adopted = await self._records.write(partial(call_records.adopt, name, self._owner.name))
        for call in adopted:
            if call.image_id in self._paid.under_way:
                continue
            _log.info("a call that an ended process left behind is taken over")
            self._paid.start(call, Priority.BATCH)

    async def _replay(self, entry: IdempotencyEntry, fingerprint: str) -> ImageRecord:
        if entry.fingerprint != fingerprint:
            raise _key_reused()
        record = await self._records.get(entry.image_id)
        if record is None or record.deleted_at is not None:
            raise Gone("the picture made under this Idempotency-Key was deleted; use a new key for a new one")
        if record.expires_at is not None and self._now() >= record.expires_at:
            raise Gone("the picture made under this Idempotency-Key has expired; use a new key for a new one")
        return record

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        self.check_room()
        self._entered += 1
        try:
            yield
        finally:
            self._entered -= 1

    def check_room(self, count: int = 1) -> None:
        """Raises ``Overloaded`` when so many more cannot be made now."""
        if self.waiting + count > self._most:
            raise Overloaded(
                f"{self.waiting} pictures are waiting to be made; "
                f"send the request again in {_FULL_RETRY_S:g} s",
                retry_after_s=_FULL_RETRY_S,
            )


def new_id() -> str:
    """128 random bits in base62: 22 characters."""
    number = secrets.randbits(128)
    digits = []
    for _ in range(22):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def _key_reused() -> Rejected:
    return Rejected(
        "this Idempotency-Key was used for another request; use a new key for each request",
        code="idempotency_key_reused",
    )

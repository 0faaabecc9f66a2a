"""From a valid request to a stored picture."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import string
from collections.abc import Callable
from datetime import datetime, timedelta

import attrs

from blossom_async.errors import Conflict, Gone, InvalidRequest, Overloaded, Rejected
from blossom_async.gateway.blobs import LocalBlobs
from blossom_async.gateway.encoding import encode
from blossom_async.gateway.providers import Provider
from blossom_async.gateway.records import IdempotencyEntry, ImageRecord, Records
from blossom_async.gateway.workers import Workers
from blossom_async.models import MAX_SEED, ImageRequest, to_json

__all__ = ["Generation", "new_id"]

_Making = asyncio.Task[tuple[ImageRecord, bool]]
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


class Generation:
    """Makes pictures and stores them: bytes first, then the row that makes them visible."""

    def __init__(
        self,
        provider: Provider,
        records: Records,
        blobs: LocalBlobs,
        workers: Workers,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._provider = provider
        self._records = records
        self._blobs = blobs
        self._workers = workers
        self._now = now
        self._under_way: dict[tuple[str, str], tuple[str, _Making]] = {}

    async def create(
        self, request: ImageRequest, *, tenant: str = "", key: str | None = None
    ) -> tuple[ImageRecord, bool]:
        """The stored picture, and whether it is a replay of one made earlier under the same key.

        The same ``tenant`` and idempotency ``key`` with the same request never makes a second picture,
        also when the first is still under way or its caller has gone. Raises ``InvalidRequest``,
        ``Rejected`` when the key was used for another request, ``Gone`` when its picture was deleted or has
        expired, and
        what the provider and the stores raise.
        """
        if request.use_custom_cdn:
            raise InvalidRequest("use_custom_cdn", True, "False here: a client with a cdn_prefix sets it")
        self._provider.check(request)
        if key is None:
            return await self._make(request, None), False
        fingerprint = hashlib.sha256(to_json(request)).hexdigest()
        joined = (tenant, key) in self._under_way
        if not joined:  # noted before anything is waited for: nobody may come in between
            entry = IdempotencyEntry(tenant=tenant, key=key, fingerprint=fingerprint, image_id=new_id())
            task = asyncio.create_task(self._make_once(request, entry))
            self._under_way[tenant, key] = fingerprint, task
            task.add_done_callback(lambda ended: self._ended((tenant, key), ended))
        started_as, task = self._under_way[tenant, key]
        if started_as != fingerprint:
            raise _key_reused()
        # Shielded: a caller that goes away must not cost the picture its key would bring back.
        record, replayed = await asyncio.shield(task)
        return record, replayed or joined

    async def settle(self) -> None:
        """Waits for pictures whose callers have gone."""
        await asyncio.gather(*(task for _, task in self._under_way.values()), return_exceptions=True)

    def _ended(self, key: tuple[str, str], task: _Making) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # seen, also when every caller has gone

    async def _make_once(self, request: ImageRequest, entry: IdempotencyEntry) -> tuple[ImageRecord, bool]:
        earlier = await self._records.find_idempotent(entry.tenant, entry.key)
        if earlier is None:
            try:
                return await self._make(request, entry), False
            except Conflict:  # another process of this gateway was first
                earlier = await self._records.find_idempotent(entry.tenant, entry.key)
                if earlier is None:
                    raise
        return await self._replay(earlier, entry.fingerprint), True

    async def _replay(self, entry: IdempotencyEntry, fingerprint: str) -> ImageRecord:
        if entry.fingerprint != fingerprint:
            raise _key_reused()
        record = await self._records.get(entry.image_id)
        if record is None or record.deleted_at is not None:
            raise Gone("the picture made under this Idempotency-Key was deleted; use a new key for a new one")
        if record.expires_at is not None and self._now() >= record.expires_at:
            raise Gone("the picture made under this Idempotency-Key has expired; use a new key for a new one")
        return record

    async def _make(self, request: ImageRequest, entry: IdempotencyEntry | None) -> ImageRecord:
        seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        artwork = await self._provider.generate(request, seed)

        def to_file() -> tuple[bytes, str]:
            data = encode(artwork.pixels, request.format, notes=artwork.notes)
            return data, hashlib.sha256(data).hexdigest()

        data, sha256 = await self._workers.run(to_file, first=True)
        created_at = self._now()
        expires_in = request.expires_in
        record = ImageRecord(
            id=entry.image_id if entry else new_id(),
            request=attrs.evolve(request, seed=seed),
            sha256=sha256,
            file_size=len(data),
            provider=self._provider.name,
            model=artwork.model,
            seed=seed,
            cost=request.cost,
            created_at=created_at,
            expires_at=None if expires_in is None else created_at + timedelta(seconds=expires_in),
        )
        await self._blobs.put(record.id, request.format, data)
        try:
            await self._records.add(record, entry)
        except (Conflict, Overloaded) as exc:
            # After any other failure the row may be there all the same, and a row needs its bytes.
            if isinstance(exc, Conflict) or exc.code == "storage_full":
                await self._blobs.delete(record.id, request.format)
            raise
        return record


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

"""From a valid request to a stored picture."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import string
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import attrs

from blossom_async.errors import Conflict, Gone, InvalidRequest, Overloaded, Rejected
from blossom_async.gateway.blobs import LocalBlobs
from blossom_async.gateway.encoding import dominant_colour, encode, thumbhash
from blossom_async.gateway.providers import Artwork, Provider
from blossom_async.gateway.records import IdempotencyEntry, ImageRecord, Records, StoredFile
from blossom_async.gateway.workers import Workers
from blossom_async.models import MAX_SEED, ImageRequest, to_json

__all__ = ["Generation", "new_id"]

_Making = asyncio.Task[tuple[ImageRecord, bool]]
_FULL_RETRY_S = 5.0
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


class Generation:
    """Makes pictures and stores them: bytes first, then the row that makes them visible.

    At most ``most`` at once; further ones are refused before anything is done for them.
    """

    def __init__(
        self,
        provider: Provider,
        records: Records,
        blobs: LocalBlobs,
        workers: Workers,
        *,
        now: Callable[[], datetime],
        most: int = 1000,
    ) -> None:
        self._provider = provider
        self._records = records
        self._blobs = blobs
        self._workers = workers
        self._now = now
        self._most = most
        self.waiting = 0
        """Pictures being made, or waiting for it."""
        self.made: Counter[tuple[str, ...]] = Counter()
        """Pictures stored, by provider and format."""
        self._under_way: dict[tuple[str, str], tuple[str, _Making]] = {}

    async def create(
        self, request: ImageRequest, *, tenant: str, key: str | None = None
    ) -> tuple[ImageRecord, bool]:
        """The stored picture, and whether it is a replay of one made earlier under the same key.

        The same ``tenant`` and idempotency ``key`` with the same request never makes a second picture,
        also when the first is still under way or its caller has gone. Raises ``InvalidRequest``,
        ``Rejected`` when the key was used for another request, ``Gone`` when its picture was deleted or has
        expired, ``Overloaded`` when too many are waiting, and what the provider and the stores raise.
        """
        if request.use_custom_cdn:
            raise InvalidRequest("use_custom_cdn", True, "False here: a client with a cdn_prefix sets it")
        self._provider.check(request)
        if key is None:
            return await self._make(request, tenant, None), False
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
                return await self._make(request, entry.tenant, entry), False
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

    async def _make(self, request: ImageRequest, tenant: str, entry: IdempotencyEntry | None) -> ImageRecord:
        if self.waiting >= self._most:
            raise Overloaded(
                f"{self.waiting} pictures are waiting to be made; "
                f"send the request again in {_FULL_RETRY_S:g} s",
                retry_after_s=_FULL_RETRY_S,
            )
        self.waiting += 1
        try:
            return await self._made(request, tenant, entry)
        finally:
            self.waiting -= 1

    async def _made(self, request: ImageRequest, tenant: str, entry: IdempotencyEntry | None) -> ImageRecord:
        seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        artwork = await self._provider.generate(request, seed)
        finished = await self._workers.run(partial(_finished, artwork, request), first=True)
        created_at = self._now()
        expires_in = request.expires_in
        record = ImageRecord(
            id=entry.image_id if entry else new_id(),
            tenant=tenant,
            request=attrs.evolve(request, seed=seed),
            width=finished.width,
            height=finished.height,
            files=tuple(finished.files),
            thumbhash=finished.thumbhash,
            dominant_color=finished.dominant_color,
            provider=self._provider.name,
            model=artwork.model,
            seed=seed,
            cost=request.cost,
            created_at=created_at,
            expires_at=None if expires_in is None else created_at + timedelta(seconds=expires_in),
        )
        for file, data in finished.files.items():
            await self._blobs.put(record.id, file.format, data)
        try:
            await self._records.add(record, entry)
        except (Conflict, Overloaded) as exc:
            # After any other failure the row may be there all the same, and a row needs its bytes.
            if isinstance(exc, Conflict) or exc.code == "storage_full":
                for file in record.files:
                    await self._blobs.delete(record.id, file.format)
            raise
        self.made[record.provider, record.request.format] += 1
        return record


@attrs.frozen(kw_only=True, eq=False)
class _Finished:
    """A picture ready to be stored: its files and their bytes, the one for everybody last."""

    width: int
    height: int
    files: dict[StoredFile, bytes]
    thumbhash: str
    dominant_color: str


def _finished(artwork: Artwork, request: ImageRequest) -> _Finished:
    """For one of the threads: encoding is work for the processor."""
    made = {
        file_format: encode(
            artwork.pixels,
            file_format,
            compression=compression,
            preset=request.quality_preset,
            notes=artwork.notes,
        )
        for file_format, compression in _formats(request)
    }
    fallback = made[next(reversed(made))]
    files = {
        StoredFile(
            format=file_format, sha256=hashlib.sha256(file.data).hexdigest(), file_size=len(file.data)
        ): file.data
        for file_format, file in made.items()
        if file is fallback or len(file.data) < len(fallback.data)
    }
    return _Finished(
        width=fallback.width,
        height=fallback.height,
        files=files,
        thumbhash=thumbhash(artwork.pixels),
        dominant_color=dominant_colour(artwork.pixels),
    )


def _formats(request: ImageRequest) -> tuple[tuple[str, str | None], ...]:
    """Formats to store and how each is compressed, the one for everybody last."""
    if request.format != "auto":
        return ((request.format, request.compression),)
    fallback = "png" if request.transparency or request.compression == "lossless" else "jpg"
    # webp's default is lossless, which is heavier than the jpg beside it.
    lighter = (
        "lossy" if request.compression is None and request.quality_preset is None else request.compression
    )
    return (("webp", lighter), (fallback, request.compression))


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

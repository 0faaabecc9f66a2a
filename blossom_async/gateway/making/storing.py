"""From a provider's answer to the stored files of a picture."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import attrs

from blossom_async.gateway.making.finishing import Finish, Finished
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers import Artwork, Delivery
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.records import ImageRecord, StoredFile
from blossom_async.models import CONTENT_TYPES, ImageRequest
from blossom_async.tracing import span

__all__ = ["Storing", "headers_of"]

_FOR_GOOD = "public, max-age=31536000, immutable"


class Storing:
    """Finishes pictures in worker threads and stores their files. The caller stores the rows."""

    def __init__(self, blobs: Blobs, workers: Workers, now: Callable[[], datetime], finish: Finish) -> None:
        self._blobs = blobs
        self._workers = workers
        self._now = now
        self._finish = finish
        self.made: Counter[tuple[str, ...]] = Counter()
        """How many pictures have been stored, rows included, by provider and format."""

    async def store(
        self,
        image_id: str,
        tenant: str,
        request: ImageRequest,
        provider: str,
        given: Artwork | Delivery,
        *,
        preview: bool = True,
    ) -> ImageRecord:
        """The record of the picture, once its files are stored; without ``preview`` it has none.

        Raises ``ProviderFault`` for a delivery that cannot be decoded, and as ``Blobs.put``.
        """
        made = await self._workers.run(partial(self._finish, given, request, provider, preview), first=True)
        record = _record(image_id, tenant, request, provider, given.model, made, self._now())
        files = []
        for file, data in made.files.items():
            headers = headers_of(record, file)
            with span("store file", blossom_format=file.format, blossom_bytes=len(data)):
                stands = await self._blobs.put(image_id, file.format, data, headers=headers)
            files.append(
                file if stands == data else await self._workers.run(partial(_described, file, stands))
            )
        return attrs.evolve(record, files=tuple(files))

    async def remove(self, record: ImageRecord) -> None:
        """Removes the files of a picture that got no row. Raises as ``Blobs.delete``."""
        for file in record.files:
            await self._blobs.delete(record.id, file.format)


def _described(file: StoredFile, stands: bytes) -> StoredFile:
    """The file that a process stored whose claim was taken over: it may encode in another way."""
    sha256 = hashlib.sha256(stands).hexdigest()
    return attrs.evolve(file, sha256=sha256, file_size=len(stands))


def headers_of(record: ImageRecord, file: StoredFile) -> dict[str, str]:
    """The headers of an object that a CDN may serve from the bucket, where no gateway checks the viewer."""
    wish = record.request
    for_good = wish.open_to_all and record.expires_at is None
    return {
        "Content-Type": CONTENT_TYPES[file.format],
        "Cache-Control": wish.cache_control or _FOR_GOOD if for_good else "private, no-store",
    }


def _record(
    image_id: str,
    tenant: str,
    request: ImageRequest,
    provider: str,
    model: str,
    made: Finished,
    created_at: datetime,
) -> ImageRecord:
    expires_in = request.expires_in
    return ImageRecord(
        id=image_id,
        tenant=tenant,
        request=request,
        width=made.width,
        height=made.height,
        files=tuple(made.files),
        thumbhash=made.thumbhash,
        dominant_color=made.dominant_color,
        provider=provider,
        model=model,
        seed=request.seed or 0,
        cost=request.cost,
        created_at=created_at,
        expires_at=None if expires_in is None else created_at + timedelta(seconds=expires_in),
    )

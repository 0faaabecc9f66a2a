"""Pictures in fewer pixels: made from the stored ones at the first request, and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from datetime import datetime
from functools import partial

from cachetools import LRUCache

from blossom_async.errors import ServerFailed
from blossom_async.gateway.making.decoding import Undecodable
from blossom_async.gateway.making.orders import new_id
from blossom_async.gateway.making.resizing import narrowed
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.records import ImageRecord, Records, StoredFile, Variant
from blossom_async.gateway.storage.records import variants as statements
from blossom_async.gateway.storage.single_flight import SingleFlight
from blossom_async.models import CONTENT_TYPES, ImageRequest

__all__ = ["Variants", "widths_below"]

_REMEMBERED = 20_000

_Key = tuple[str, int, str]


class Variants:
    """Makes each variant once, for all who ask at the same time, and stores it like a picture's own files."""

    def __init__(
        self, records: Records, blobs: Blobs, workers: Workers, *, now: Callable[[], datetime]
    ) -> None:
        self._records = records
        self._blobs = blobs
        self._workers = workers
        self._now = now
        self._known: LRUCache[_Key, Variant] = LRUCache(_REMEMBERED)
        self._flight: SingleFlight[_Key, Variant | None] = SingleFlight()
        self.made: int = 0

    async def get(self, record: ImageRecord, file: StoredFile, width: int) -> Variant | None:
        """One of the picture's files in that width, below its own; None if the picture is gone by now.

        A caller that is cancelled does not end what others wait for. Raises ``FileNotFoundError`` and
        ``ServerFailed`` if the file cannot be used, and ``Overloaded`` as ``Blobs`` and ``Records``.
        """
        key = record.id, width, file.format
        known = self._known.get(key)
        if known is not None:
            return known
        return await self._flight.run(key, partial(self._found_or_made, record, file, width))

    async def close(self) -> None:
        """Gives up what is being made."""
        await self._flight.cancel()

    async def _found_or_made(self, record: ImageRecord, file: StoredFile, width: int) -> Variant | None:
        variant = await self._records.read(partial(statements.find, record.id, width, file.format))
        if variant is None:
            variant = await self._made(record, file, width)
        if variant is not None:
            self._known[record.id, width, file.format] = variant
        return variant

    async def _made(self, record: ImageRecord, file: StoredFile, width: int) -> Variant | None:
        whole = await self._blobs.read(record.id, file.format)
        try:
            data, sha256 = await self._workers.run(
                partial(_hashed, whole, file.format, record, width), first=True
            )
        except Undecodable as exc:
            raise ServerFailed(
                "The picture is known, but its stored file is damaged.", code="bytes_missing"
            ) from exc
        smaller = StoredFile(format=file.format, sha256=sha256, file_size=len(data))
        made = Variant(id=new_id(), image_id=record.id, width=width, file=smaller)
        headers = {"Content-Type": CONTENT_TYPES[file.format]}
        await self._blobs.put(made.id, file.format, data, headers=headers)
        counts = await self._records.write(partial(statements.add, made, self._now()))
        if counts != made:  # nothing refers to the file
            await self._blobs.delete(made.id, file.format)
        self.made += 1
        return counts


def widths_below(request: ImageRequest, width: int, listed: Collection[int]) -> tuple[int, ...]:
    """The widths below its own in which a picture is served; ``listed`` are those of the settings."""
    return tuple(sorted(below for below in request.widths or listed if below < width))


def _hashed(whole: bytes, file_format: str, record: ImageRecord, width: int) -> tuple[bytes, str]:
    data = narrowed(whole, file_format, record, width)
    return data, hashlib.sha256(data).hexdigest()

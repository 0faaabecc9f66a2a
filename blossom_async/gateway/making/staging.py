"""Keeps what a provider delivered on disk until the picture is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal

import attrs
import orjson

from blossom_async.gateway.providers import Artwork, Delivery
from blossom_async.gateway.storage.blobs import Blobs, Reserved
from blossom_async.models import ImageRequest

__all__ = ["STAGED", "Staging"]

STAGED = "staged"
"""The extension of the files."""

_BYTES_A_PIXEL = 3  # of a file that cannot be compressed
_HEAD_BYTES = 64 * 1024


class Staging:
    """Deliveries by the id of their picture. A file is a line of JSON, then the bytes as delivered."""

    def __init__(self, files: Blobs) -> None:
        self._files = files

    @asynccontextmanager
    async def reserved(self, image_id: str, request: ImageRequest) -> AsyncIterator[Reserved | None]:
        """A place for the delivery of this request: an open file with room on the disk.

        Raises as ``Blobs.put``.
        """
        size = request.width * request.height * _BYTES_A_PIXEL + _HEAD_BYTES
        place = await self._files.reserve(image_id, STAGED, size)
        try:
            yield place
        finally:
            await self._files.release(place)

    async def put(self, image_id: str, given: Artwork | Delivery, place: Reserved | None = None) -> None:
        """Stores a delivery; once this returns, it survives a power cut. Raises as ``Blobs.put``.

        An artwork is not stored, because drawing it again costs nothing.
        """
        if isinstance(given, Delivery):
            told = {**attrs.asdict(given), "data": None, "usd": None if given.usd is None else str(given.usd)}
            await self._files.put(image_id, STAGED, given.data, place, head=orjson.dumps(told) + b"\n")

    async def get(self, image_id: str) -> Delivery | None:
        """The delivery, None if there is none."""
        try:
            head, _, data = (await self._files.read(image_id, STAGED)).partition(b"\n")
        except FileNotFoundError:
            return None
        told = orjson.loads(head)
        usd = None if told["usd"] is None else Decimal(told["usd"])
        return Delivery(**{**told, "data": data, "usd": usd})

    async def delete(self, image_id: str) -> None:
        """Removes the delivery, if there is one."""
        await self._files.delete(image_id, STAGED)

    async def take_over(self, image_id: str) -> None:
        """Frees what a dead process had reserved for the picture."""
        await self._files.discard(image_id)

    async def ids(self, before: datetime) -> AsyncIterator[str]:
        """The pictures whose delivery was staged before this time."""
        for folder in await self._files.folders():
            for image_id, _ in await self._files.files_before(folder, before):
                yield image_id

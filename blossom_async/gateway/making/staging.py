"""Keeps what a provider is given and what it delivered on disk until the picture is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal

import attrs
import orjson

from blossom_async.gateway.providers import NO_INPUTS, Artwork, Delivery, Inputs
from blossom_async.gateway.storage.blobs import Blobs, Reserved
from blossom_async.models import ImageRequest, draws_from_pictures

__all__ = ["GIVEN", "STAGED", "Staging"]

STAGED = "staged"
"""The extension of deliveries."""

GIVEN = "given"
"""The extension of pictures to draw from."""

_BYTES_A_PIXEL = 3  # of a file that cannot be compressed
_HEAD_BYTES = 64 * 1024


class Staging:
    """Deliveries by the id of their picture. A file is a line of JSON, then the bytes as delivered.

    The pictures it is drawn from are in one file in the same way: the lengths, then the bytes of each.
    """

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

    async def keep(self, image_id: str, inputs: Inputs) -> None:
        """Stores what the picture is drawn from. Durable and raises as ``put``."""
        files = inputs.pictures if inputs.mask is None else (*inputs.pictures, inputs.mask)
        head = orjson.dumps([len(file) for file in files]) + b"\n"
        await self._files.put(image_id, GIVEN, b"".join(files), head=head)

    async def inputs(self, image_id: str, request: ImageRequest) -> Inputs | None:
        """What the picture is drawn from, None if that is lost. Most requests name nothing."""
        if not draws_from_pictures(request):
            return NO_INPUTS
        try:
            head, _, data = (await self._files.read(image_id, GIVEN)).partition(b"\n")
        except FileNotFoundError:
            return None
        files, start = [], 0
        for size in orjson.loads(head):
            files.append(data[start : start + size])
            start += size
        mask = None if request.mask is None else files.pop()
        return Inputs(tuple(files), mask)

    async def delete(self, image_id: str) -> None:
        """Removes the delivery, if there is one.

        A power cut may bring it back. Recovery then removes it again, since its claim has ended.
        """
        await self._files.delete(image_id, STAGED, lasting=False)

    async def drop(self, image_id: str) -> None:
        """Removes what the picture is drawn from, if there is any."""
        await self._files.delete(image_id, GIVEN)

    async def take_over(self, image_id: str) -> None:
        """Frees what a dead process had reserved for the picture."""
        await self._files.discard(image_id)

    async def ids(self, before: datetime) -> AsyncIterator[str]:
        """The pictures of which anything was staged before this time."""
        for folder in await self._files.folders():
            for image_id, _ in await self._files.files_before(folder, before):
                yield image_id

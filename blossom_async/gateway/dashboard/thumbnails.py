"""Small versions of pictures, made on first use and cached in memory."""

from __future__ import annotations

import io
from functools import partial

from cachetools import LRUCache

from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.records import ImageRecord

__all__ = ["Thumbnails"]

_SIDE = 512  # pixels; a card is at most half as wide
_KEPT = 32 << 20  # bytes


class Thumbnails:
    """WebP of at most 512 pixels a side. The 32 MiB used last stay in memory."""

    def __init__(self, blobs: Blobs, workers: Workers) -> None:
        self._blobs = blobs
        self._workers = workers
        self._made: LRUCache[str, bytes] = LRUCache(_KEPT, getsizeof=len)

    async def get(self, picture: ImageRecord) -> bytes:
        """The thumbnail. Raises ``FileNotFoundError`` and ``Overloaded`` as ``Blobs.read``."""
        known = self._made.get(picture.id)
        if known is not None:
            return known
        data = await self._blobs.read(picture.id, picture.main_file.format)
        # Ahead of pictures waiting to be drawn, so that the dashboard stays quick while a batch runs.
        small = await self._workers.run(partial(_shrunk, data), first=True)
        self._made[picture.id] = small
        return small

    def drop(self, image_id: str) -> None:
        """Drops the thumbnail of a deleted picture."""
        self._made.pop(image_id, None)


def _shrunk(data: bytes) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("RGB", (_SIDE, _SIDE))  # a jpg is read at the size that is needed
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
        picture.save(out, "WEBP", quality=80, method=2)
    return out.getvalue()

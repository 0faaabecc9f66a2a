"""The preview of a stored picture, made when it is first asked for."""

from __future__ import annotations

import contextlib
from functools import partial

import attrs
import numpy as np

from blossom_async.gateway.making.decoding import PREVIEW_PX, Undecodable, decoded
from blossom_async.gateway.making.encoding import dominant_colour, thumbhash
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.records import ImageRecord, Records
from blossom_async.gateway.storage.records.images import add_preview

__all__ = ["Previews"]


class Previews:
    """Completes records of pictures that were made for callers who see no preview, as OpenAI's clients."""

    def __init__(self, records: Records, blobs: Blobs, workers: Workers) -> None:
        self._records = records
        self._blobs = blobs
        self._workers = workers

    async def completed(self, record: ImageRecord) -> ImageRecord:
        """The record with its preview, unless its file is gone. Raises as ``Records`` and ``Blobs``."""
        if record.thumbhash is not None or record.deleted_at is not None:
            return record
        with contextlib.suppress(FileNotFoundError, Undecodable):
            data = await self._blobs.read(record.id, record.main_file.format)
            preview, colour = await self._workers.run(partial(_preview, data, record))
            await self._records.write(partial(add_preview, record.id, preview, colour))
            return attrs.evolve(record, thumbhash=preview, dominant_color=colour)
        return record


def _preview(data: bytes, record: ImageRecord) -> tuple[str, str]:
    transparency = record.request.transparency
    file_format = record.main_file.format
    image = decoded(data, file_format, orientation=1, transparency=transparency, at_least=PREVIEW_PX)
    pixels = np.asarray(image)
    return thumbhash(pixels), dominant_colour(pixels)

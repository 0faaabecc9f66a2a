"""Stored pictures, as their owner finds, reads and deletes them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from blossom_async.errors import Gone, InvalidRequest, NotFound
from blossom_async.gateway.serving.hot import bytes_missing
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.records import ImageRecord, Records, overview, variants

__all__ = ["Pictures"]


_FILTERS = ("q", "state", "tracking_id", "limit", "cursor")
_STATES = ("live", "expired", "all")
_MAX_WORDS = 200
_USUAL, _MOST = 100, 1000
_NUMBER = re.compile("[0-9]{1,4}", re.ASCII)


class Pictures:
    """The stored pictures, each for its own tenant only."""

    def __init__(
        self, records: Records, lookups: Lookups, blobs: Blobs, *, now: Callable[[], datetime]
    ) -> None:
        self._records = records
        self._lookups = lookups
        self._blobs = blobs
        self._now = now

    async def known(self, image_id: str, tenant: str) -> ImageRecord:
        """The picture, even if it is deleted. Raises ``NotFound``, also for another tenant's."""
        record = await self._records.get(image_id)
        if record is None or record.tenant != tenant:
            raise NotFound("this gateway has no picture with that id")
        return record

    async def page(self, tenant: str, query: Mapping[str, str]) -> overview.Page:
        """A page of the tenant's pictures that were not deleted, as the query of ``GET /v1/images`` asks.

        Raises ``InvalidRequest``.
        """
        unknown = next((name for name in query if name not in _FILTERS), None)
        if unknown is not None:
            raise InvalidRequest(unknown, query[unknown], f"only {', '.join(_FILTERS)}")
        words, state = query.get("q", "").strip(), query.get("state", "live")
        limit, cursor = query.get("limit", str(_USUAL)), query.get("cursor")
        if len(words) > _MAX_WORDS:
            raise InvalidRequest("q", words, f"at most {_MAX_WORDS} characters")
        if state not in _STATES:
            raise InvalidRequest("state", state, f"one of {', '.join(_STATES)}")
        if not _NUMBER.fullmatch(limit) or not 1 <= int(limit) <= _MOST:
            raise InvalidRequest("limit", limit, f"a whole number from 1 to {_MOST}")
        before = None if cursor is None else overview.point_of(cursor)
        if cursor is not None and before is None:
            raise InvalidRequest("cursor", cursor, "the next of an earlier page, or none")
        asked = partial(
            overview.page,
            tenant,
            words,
            "kept" if state == "all" else state,
            before,
            int(limit),
            self._now(),
            tracking_id=query.get("tracking_id"),
        )
        return await self._records.study(asked)

    async def not_deleted(self, image_id: str, tenant: str) -> ImageRecord:
        """The picture, even if it has expired. Raises ``NotFound``, and ``Gone`` if it was deleted."""
        record = await self.known(image_id, tenant)
        _check_not_deleted(record)
        return record

    async def read(self, record: ImageRecord) -> bytes:
        """The bytes of the picture's main file. Raises ``Gone``, and ``ServerFailed`` if they are lost."""
        if record.has_expired(self._now()):
            raise Gone("the picture has expired", code="expired")
        try:
            return await self._blobs.read(record.id, record.main_file.format)
        except FileNotFoundError:
            await self.not_deleted(record.id, record.tenant)  # else it was deleted meanwhile
            raise bytes_missing("are missing") from None

    async def delete(self, image_id: str, tenant: str) -> None:
        """Deletes row and files, even if the caller disconnects in between.

        Raises ``Gone`` if it was deleted before; files left over from then, after a crash or a disk failure,
        are removed now.
        """
        record = await self.known(image_id, tenant)
        await asyncio.shield(self._erase(record))
        _check_not_deleted(record)

    async def _erase(self, record: ImageRecord) -> None:
        await self._records.delete(record.id, self._now())
        self._lookups.forget(record.id)
        files = await self._records.read(partial(variants.files_of, [record]))
        for file_id, file_format in files[record.id]:
            await self._blobs.delete(file_id, file_format)
        if len(files[record.id]) > len(record.files):
            await self._records.write(partial(variants.forget, [record.id]))


def _check_not_deleted(record: ImageRecord) -> None:
    if record.deleted_at is not None:
        raise Gone("the picture was deleted", code="deleted")

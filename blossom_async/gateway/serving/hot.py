"""The bytes of pictures: from memory for those used last, from the disk for all others."""

from __future__ import annotations

from cachetools import LRUCache

from blossom_async.errors import ServerFailed
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.records import StoredFile
from blossom_async.models import FORMATS

__all__ = ["HotBytes", "bytes_missing"]

_SHARE = 8  # a picture above this part of the capacity is always read from its file


class HotBytes:
    """Reads pictures, and keeps those used last in memory: at most ``capacity`` bytes of them."""

    def __init__(self, blobs: Blobs, capacity: int = 64 << 20) -> None:
        self._blobs = blobs
        self._largest = capacity // _SHARE
        self._kept: LRUCache[tuple[str, str], bytes] = LRUCache(capacity, getsizeof=len)
        self.hits: int = 0
        self.misses: int = 0

    def at_hand(self, image_id: str, file: StoredFile) -> bytes | int | None:
        """The whole picture, if it is in memory: its bytes, or a descriptor as of ``Blobs.at_hand``."""
        descriptor = self._blobs.at_hand(image_id, file.format, file.file_size)
        found = self._kept.get((image_id, file.format)) if descriptor is None else descriptor
        self.hits += found is not None
        return found

    async def whole(self, image_id: str, file: StoredFile, *, wanted: bool) -> bytes | None:
        """The whole picture; None if it is not ``wanted`` or too large to keep, once its file was checked.

        Raises ``FileNotFoundError``, ``Overloaded`` when the file cannot be read, and ``ServerFailed``
        (``bytes_missing``) when its size is not the recorded one.
        """
        key = image_id, file.format
        kept = self._kept.get(key)
        if kept is not None:
            self.hits += 1
            return kept
        self.misses += 1
        if not wanted or file.file_size > self._largest:
            _check_size(await self._blobs.size(image_id, file.format), file)
            return None
        data = await self._blobs.read(image_id, file.format)
        _check_size(len(data), file)
        self._kept[key] = data
        return data

    async def part(self, image_id: str, file: StoredFile, start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to ``stop``, read from the file. Raises as ``Blobs.read``."""
        return await self._blobs.read(image_id, file.format, start, stop)

    def drop(self, image_id: str) -> None:
        """Forgets a picture that is gone."""
        for file_format in FORMATS:
            self._kept.pop((image_id, file_format), None)


def bytes_missing(what: str) -> ServerFailed:
    """The error for a picture whose file is not what its record says."""
    return ServerFailed(
        f"The picture is known, but its bytes {what} where the gateway keeps them.", code="bytes_missing"
    )


def _check_size(size: int, file: StoredFile) -> None:
    if size != file.file_size:
        raise bytes_missing(f"are {size} and should be {file.file_size}")

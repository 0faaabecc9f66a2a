"""Fetches the pictures of a running batch and adds their thumbnails to the gallery, in order."""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import aiohttp

from blossom_async.cli.gallery import Gallery, Thumbnail, thumbnail
from blossom_async.cli.results import Result
from blossom_async.models import IMAGE_ID

__all__ = ["Thumbs"]

_MAX_PICTURE = 72 * 1024 * 1024  # bytes; 4096 x 4096 of raw RGBA is 64 MiB
_ID = re.compile(IMAGE_ID, re.ASCII)
_AT_ONCE = 8


class Thumbs:
    """Makes cards for a gallery, a few at a time. Leaving the block writes the remaining ones.

    If a thumbnail fails, its card has none; the picture exists all the same. If the block is cancelled, the
    remaining cards have none.
    """

    def __init__(self, gallery: Gallery, session: aiohttp.ClientSession, base_url: str) -> None:
        self._gallery = gallery
        self._session = session
        self._base_url = base_url
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="blossom-thumbs")
        self._under_way: deque[tuple[Result, asyncio.Task[Thumbnail | None] | None]] = deque()

    async def add(self, result: Result) -> None:
        """Starts a card; waits while too many are in progress."""
        making = asyncio.create_task(self._make(result.info.id)) if result.info is not None else None
        self._under_way.append((result, making))
        while len(self._under_way) > _AT_ONCE:
            await self._write_first()

    def add_without(self, result: Result) -> None:
        """Adds a card without a thumbnail; does not wait."""
        self._under_way.append((result, None))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._under_way:
                await self._write_first()
        finally:
            await self._give_up()

    async def _write_first(self) -> None:
        result, making = self._under_way[0]
        thumb = await making if making is not None else None
        self._under_way.popleft()
        self._gallery.add(result, thumb)

    async def _give_up(self) -> None:
        """Adds the remaining cards without waiting for thumbnails."""
        making = [task for _, task in self._under_way if task is not None]
        for task in making:
            task.cancel()
        for result, _ in self._under_way:
            self._gallery.add(result, None)
        self._under_way.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*making, return_exceptions=True)

    async def _make(self, image_id: str) -> Thumbnail | None:
        if not _ID.fullmatch(image_id):  # else a gateway's answer could choose the path
            return None
        # From the gateway's own address: its public URL or CDN may not be reachable from here.
        try:
            async with self._session.get(
                f"{self._base_url}/image/{image_id}", allow_redirects=False
            ) as response:
                data = await _body(response) if response.status == 200 else None
            if data is None:
                return None
            return await asyncio.get_running_loop().run_in_executor(self._threads, thumbnail, data)
        except (aiohttp.ClientError, OSError, ValueError):
            return None


async def _body(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, None if it is too long, whatever its Content-Length says."""
    data = bytearray()
    async for part in response.content.iter_any():
        data += part
        if len(data) > _MAX_PICTURE:
            return None
    return bytes(data)

"""Removes what is no longer needed: files of expired pictures, orphaned files, old salts. Packs texts."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from blossom_async.errors import Overloaded
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.records import ImageRecord, Records, statistics, texts, variants
from blossom_async.gateway.storage.records import upkeep as statements
from blossom_async.gateway.storage.records import views as view_records

__all__ = ["ORPHAN_AGE", "Upkeep"]

ORPHAN_AGE = timedelta(hours=24)
"""A file is written before its row. A file this old without a row was left by a process that died."""

_TOGETHER = 200  # pictures swept in one step
_STEPS = 60  # runs in which every folder is searched once

_log = logging.getLogger("blossom_async.gateway")


class Upkeep:
    """Sweeps expired pictures, clears orphaned files, forgets old salts and packs texts, in turns.

    The row of an expired picture stays: its URL keeps answering 410, and the picture can be made again. Files
    are removed before rows are marked, so that a process that dies in between can start over. Several
    processes may share one data folder.
    """

    def __init__(
        self,
        records: Records,
        blobs: Blobs,
        *,
        every_s: float,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records = records
        self._blobs = blobs
        self._every_s = every_s
        self._now = now
        self._clock = clock
        self._origin: datetime | None = None  # when ``clock`` was 0
        self._folders: list[str] = []  # not searched yet in this round
        self._step = 0
        self.swept: int = 0
        self.orphans: int = 0

    async def run(self) -> None:
        """Does everything every ``every_s`` seconds, until it is cancelled."""
        while True:
            try:
                await self.sweep()
                await self.clear_orphans()
                await self.forget_salts()
                await self.tend_texts()
                await self.recount()
            except Overloaded as exc:
                _log.warning("the upkeep waits: %s", exc.detail)
            await asyncio.sleep(self._every_s)

    async def sweep(self) -> int:
        """Removes the files of all expired pictures; returns how many pictures.

        A picture whose file cannot be removed is left for the next time.
        """
        now = self._now()
        swept = 0
        last: ImageRecord | None = None
        while due := await self._records.read(partial(statements.expired_unswept, now, last, _TOGETHER)):
            last = due[-1]
            files = await self._records.read(partial(variants.files_of, due))
            bare = [image_id for image_id in files if await self._emptied(files[image_id])]
            await self._records.write(partial(statements.mark_swept, bare, now))
            swept += len(bare)
        self.swept += swept
        return swept

    async def clear_orphans(self) -> int:
        """Removes old files without a picture in the next sixtieth of the folders; returns how many."""
        then = self._slower_now() - ORPHAN_AGE
        if not self._folders:
            self._folders = await self._blobs.folders()
            self._step = math.ceil(len(self._folders) / _STEPS)
        part, self._folders = self._folders[: self._step], self._folders[self._step :]
        removed = 0
        for folder in part:
            files = await self._blobs.files_before(folder, then)
            for start in range(0, len(files), _TOGETHER):
                some = files[start : start + _TOGETHER]
                ids = {image_id for image_id, _ in some}
                kept = await self._records.read(partial(statements.having_files, ids))
                for image_id, extension in some:
                    if image_id not in kept:
                        await self._blobs.delete(image_id, extension)
                        removed += 1
        self.orphans += removed
        return removed

    async def forget_salts(self) -> None:
        """Deletes the salts of viewers' hashes two days after they were made."""
        if await self._records.read(partial(view_records.salts_to_forget, self._now())):
            await self._records.write(partial(view_records.forget_salts, self._now()), erases=True)

    async def tend_texts(self) -> None:
        """Makes searches find what earlier versions stored, and quick: packs the texts of new pictures."""
        while await self._records.write(texts.add_missing):
            pass
        while await self._records.read(texts.any_outlived):
            if not await self._records.write(texts.erase_outlived, erases=True):
                break  # another process is at it
        while await self._records.write(texts.pack):
            pass

    async def recount(self) -> None:
        """Completes the statistics that an earlier version has left behind."""
        while await self._records.read(statistics.any_uncounted):
            if not await self._records.write(statistics.recount, erases=True):
                break  # another process is at it

    def _slower_now(self) -> datetime:
        """Now, or earlier after the clock was set ahead: files being written would look a day old."""
        passed = timedelta(seconds=self._clock())
        if self._origin is None:
            self._origin = self._now() - passed
        return min(self._now(), self._origin + passed)

    async def _emptied(self, files: Sequence[tuple[str, str]]) -> bool:
        try:
            for file_id, file_format in files:
                await self._blobs.delete(file_id, file_format)
        except Overloaded as exc:
            _log.warning("the files of an expired picture cannot be removed yet: %s", exc.detail)
            return False
        return True

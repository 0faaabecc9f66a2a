"""What was read from the database, cached while it is known to be valid.

Pictures, API keys and access keys change in one way only: they are deleted or revoked. Every such change
increments the database's revision, whichever process makes it. So reading the revision tells whether all that
is cached is still valid, and the latest revisions say which pictures are not. The first request after
``RECHECK_S`` seconds reads it; where there are many, it is read earlier, so that none of them has to wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import sqlalchemy as sa
from cachetools import LRUCache

from blossom_async.gateway.storage.records import AccessKey, ApiKey, ImageRecord, Records
from blossom_async.gateway.storage.records import keys as key_records
from blossom_async.gateway.storage.single_flight import SingleFlight

__all__ = ["AWAY_S", "RECHECK_S", "Lookups"]

RECHECK_S = 0.4
"""How long a delete or a revocation by another process may go unseen. A second is promised."""

AWAY_S = 600.0
"""How long pictures without rules are served while the database is out of reach."""

_PATIENCE_S = 1.0
_PICTURES = 20_000
_KEYS = 10_000

K = TypeVar("K")
V = TypeVar("V")


class Lookups:
    """Looks up pictures and keys by what a request names them. Raises what ``Records`` raises."""

    def __init__(self, records: Records, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._records = records
        self._clock = clock
        self._images: LRUCache[str, ImageRecord] = LRUCache(_PICTURES)
        self._access_keys: LRUCache[str, AccessKey] = LRUCache(_KEYS)
        self._api_keys: LRUCache[bytes, ApiKey] = LRUCache(_KEYS)
        self._revision: int | None = None
        self._holds_until = -1.0
        self._again_at = self._looked_at = -1.0
        self._notices = 0  # of deletes: a look that was under way before the latest does not count
        self._round = 0  # grows with each ``forget``: an answer to an earlier question is not cached
        self._checking: SingleFlight[None, None] = SingleFlight()

    def remembered(self, image_id: str) -> ImageRecord | None:
        """The picture, if it is cached and valid, without waiting for the database."""
        return self._images.get(image_id) if self._holds() else None

    @property
    def state(self) -> int:
        """Grows with whatever is forgotten."""
        return self._round

    def unchanged(self, state: int) -> bool:
        """Whether all that was remembered in that state is still valid, without waiting for the database."""
        return self._round == state and self._holds()

    def _holds(self) -> bool:
        left_s = self._holds_until - self._clock()
        if 0 < left_s < RECHECK_S / 2:
            self._checking.begin(None, self._recheck)
        return left_s > 0

    async def image(self, image_id: str) -> ImageRecord | None:
        """The picture of that id, even if it is deleted or expired.

        While the database is out of reach, and for ``AWAY_S`` at most, pictures without rules are as they
        were last known: any cache may still show them, too.
        """
        if (open_one := await self._while_away(image_id)) is not None:
            return open_one
        await self._check()
        known = self._images.get(image_id)
        if known is None:
            asked_in = self._round
            known = await self._records.get(image_id)
            if known is not None and asked_in == self._round:
                self._images[image_id] = known
        return known

    async def access_key(self, access_id: str) -> AccessKey | None:
        """The access key that a signed URL names, even if it is revoked."""
        return await self._key(self._access_keys, access_id, partial(key_records.access_key_by_id, access_id))

    async def api_key(self, digest: bytes) -> ApiKey | None:
        """The API key with this SHA-256, even if it is revoked."""
        return await self._key(self._api_keys, digest, partial(key_records.api_key_by_digest, digest))

    def forget(self, image_id: str | None = None) -> None:
        """Drops a picture from the cache; by default everything.

        Call it after this process has deleted or revoked something, before answering.
        """
        self._round += 1
        if image_id is not None:
            self._images.pop(image_id, None)
            return
        self._images.clear()
        self._forget_keys()

    def look_again(self) -> None:
        """Has the next request look for deletes at once. Any thread may call it."""
        self._notices += 1
        self._looked_at = -AWAY_S  # something was deleted: no picture is served before the look
        self._holds_until = -1.0

    def _forget_keys(self) -> None:
        self._access_keys.clear()
        self._api_keys.clear()

    async def _key(
        self, memory: LRUCache[K, V], name: K, question: Callable[[sa.Connection], V | None]
    ) -> V | None:
        await self._check()
        known = memory.get(name)
        if known is None:
            asked_in = self._round
            known = await self._records.read(question)
            if known is not None and asked_in == self._round:
                memory[name] = known
        return known

    async def _while_away(self, image_id: str) -> ImageRecord | None:
        """A cached picture without rules, if the database does not say whether it is still valid."""
        if self._holds() or self._open(image_id) is None:
            return None
        if self._clock() >= self._again_at:
            await asyncio.wait([self._checking.begin(None, self._recheck)], timeout=_PATIENCE_S)
            if self._holds():
                return None
            self._again_at = self._clock() + _PATIENCE_S
        return self._open(image_id)

    def _open(self, image_id: str) -> ImageRecord | None:
        known = self._images.get(image_id)
        if known is None or not known.request.open_to_all:
            return None
        return known if self._clock() < self._looked_at + AWAY_S else None

    async def _check(self) -> None:
        if self._clock() >= self._holds_until:
            await self._checking.run(None, self._recheck)

    async def _recheck(self) -> None:
        looked_at, notices = self._clock(), self._notices
        revision = await self._records.read(key_records.current_revision)
        if revision != self._revision:
            await self._forget_what_is_gone(revision)
            self._revision = revision
        if notices == self._notices:
            self._looked_at, self._holds_until = looked_at, looked_at + RECHECK_S

    async def _forget_what_is_gone(self, revision: int) -> None:
        gone = None
        if self._revision is not None:
            since = partial(key_records.removed_since, self._revision, revision)
            gone = await self._records.read(since)
        if gone is None:
            self.forget()
            return
        for image_id in gone:
            if image_id is None:
                self._round += 1
                self._forget_keys()
            else:
                self.forget(image_id)

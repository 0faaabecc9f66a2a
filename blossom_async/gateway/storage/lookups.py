"""What was read from the database, cached while it is known to be valid.

Pictures, API keys and access keys change in one way only: they are deleted or revoked. Every such change
increments the database's revision, whichever process makes it. So reading the revision tells whether all that
is cached is still valid, and the latest revisions say which pictures are not. The first request after
``RECHECK_S`` seconds reads it; where there are many, it is read earlier, so that none of them has to wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

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


class _Cache:
    """What was read."""

    def __init__(self) -> None:
        self.images: LRUCache[str, ImageRecord] = LRUCache(_PICTURES)
        self.access_keys: LRUCache[str, AccessKey] = LRUCache(_KEYS)
        self.api_keys: LRUCache[bytes, ApiKey] = LRUCache(_KEYS)
        self.round = 0  # grows with each ``forget``: an answer to an earlier question is not cached

    def forget(self, image_id: str) -> None:
        self.round += 1
        self.images.pop(image_id, None)

    def forget_keys(self) -> None:
        self.round += 1
        self.access_keys.clear()
        self.api_keys.clear()

    def forget_all(self) -> None:
        self.images.clear()
        self.forget_keys()


class _Validity:
    """Until when all that is cached is known to be valid."""

    def __init__(self, records: Records, cache: _Cache, clock: Callable[[], float]) -> None:
        self._records = records
        self._cache = cache
        self._clock = clock
        self._revision: int | None = None
        self._holds_until = -1.0
        self._again_at = self._looked_at = -1.0
        self._notices = 0  # of deletes: a look that was under way before the latest does not count
        self._checking: SingleFlight[None, None] = SingleFlight()

    def holds(self) -> bool:
        left_s = self._holds_until - self._clock()
        if 0 < left_s < RECHECK_S / 2:
            self._checking.begin(None, self._recheck)
        return left_s > 0

    def held_of_late(self) -> bool:
        """Whether it was known to be valid ``AWAY_S`` ago, or since."""
        return self._clock() < self._looked_at + AWAY_S

    async def check(self) -> None:
        """Returns once it is valid. Raises as ``Records``."""
        if self._clock() >= self._holds_until:
            await self._checking.run(None, self._recheck)

    async def holds_soon(self) -> bool:
        """As ``holds``, after a look; False while the database gives no answer soon."""
        if self._clock() < self._again_at:
            return False
        await asyncio.wait([self._checking.begin(None, self._recheck)], timeout=_PATIENCE_S)
        if not self.holds():
            self._again_at = self._clock() + _PATIENCE_S
            return False
        return True

    def look_again(self) -> None:
        self._notices += 1
        self._looked_at = -AWAY_S  # something was deleted: no picture is served before the look
        self._holds_until = -1.0

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
            self._cache.forget_all()
            return
        for image_id in gone:
            if image_id is None:
                self._cache.forget_keys()
            else:
                self._cache.forget(image_id)


class Lookups:
    """Looks up pictures and keys by what a request names them. Raises what ``Records`` raises."""

    def __init__(self, records: Records, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._records = records
        self._cache = _Cache()
        self._validity = _Validity(records, self._cache, clock)

    def remembered(self, image_id: str) -> ImageRecord | None:
        """The picture, if it is cached and valid, without waiting for the database."""
        return self._cache.images.get(image_id) if self._validity.holds() else None

    @property
    def state(self) -> int:
        """Grows with whatever is forgotten."""
        return self._cache.round

    def unchanged(self, state: int) -> bool:
        """Whether all that was remembered in that state is still valid, without waiting for the database."""
        return self._cache.round == state and self._validity.holds()

    async def image(self, image_id: str) -> ImageRecord | None:
        """The picture of that id, even if it is deleted or expired.

        While the database is out of reach, and for ``AWAY_S`` at most, pictures without rules are as they
        were last known: any cache may still show them, too.
        """
        if (open_one := await self._while_away(image_id)) is not None:
            return open_one
        return await self._found(self._cache.images, image_id, lambda: self._records.get(image_id))

    async def access_key(self, access_id: str) -> AccessKey | None:
        """The access key that a signed URL names, even if it is revoked."""
        question = partial(key_records.access_key_by_id, access_id)
        return await self._found(self._cache.access_keys, access_id, lambda: self._records.read(question))

    async def api_key(self, digest: bytes) -> ApiKey | None:
        """The API key with this SHA-256, even if it is revoked."""
        question = partial(key_records.api_key_by_digest, digest)
        return await self._found(self._cache.api_keys, digest, lambda: self._records.read(question))

    def forget(self, image_id: str | None = None) -> None:
        """Drops a picture from the cache; by default everything.

        Call it after this process has deleted or revoked something, before answering.
        """
        if image_id is None:
            self._cache.forget_all()
        else:
            self._cache.forget(image_id)

    def look_again(self) -> None:
        """Has the next request look for deletes at once. Any thread may call it."""
        self._validity.look_again()

    async def _found(
        self, cached: LRUCache[K, V], name: K, look: Callable[[], Awaitable[V | None]]
    ) -> V | None:
        await self._validity.check()
        known = cached.get(name)
        if known is None:
            asked_in = self._cache.round
            known = await look()
            if known is not None and asked_in == self._cache.round:
                cached[name] = known
        return known

    async def _while_away(self, image_id: str) -> ImageRecord | None:
        """A cached picture without rules, if the database does not say whether it is still valid."""
        if self._validity.holds() or self._open(image_id) is None:
            return None
        return None if await self._validity.holds_soon() else self._open(image_id)

    def _open(self, image_id: str) -> ImageRecord | None:
        known = self._cache.images.get(image_id)
        if known is None or not known.request.open_to_all:
            return None
        return known if self._validity.held_of_late() else None

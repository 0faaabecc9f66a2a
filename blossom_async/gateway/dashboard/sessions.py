"""Who is logged in: kept in this process's memory, so that logging out ends it and a restart ends all."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta

import attrs

from blossom_async.gateway.callers.keys import digest
from blossom_async.gateway.storage.lookups import Lookups

__all__ = ["LIFETIME", "Sessions"]

LIFETIME = timedelta(hours=12)
_MAX_SESSIONS = 1000


@attrs.frozen
class _Session:
    tenant: str
    key: bytes
    until: datetime


class Sessions:
    """Sessions by the SHA-256 of their token; of more than a thousand the oldest end."""

    def __init__(self, lookups: Lookups, *, now: Callable[[], datetime]) -> None:
        self._lookups = lookups
        self._now = now
        self._held: OrderedDict[bytes, _Session] = OrderedDict()  # all live equally long: oldest first

    def begin(self, tenant: str, key: str) -> str:
        """The token of a new session of whoever holds this API key. It lives 12 h."""
        while self._held and (
            len(self._held) >= _MAX_SESSIONS or next(iter(self._held.values())).until <= self._now()
        ):
            self._held.popitem(last=False)
        token = secrets.token_urlsafe(32)
        self._held[_name(token)] = _Session(tenant, digest(key), self._now() + LIFETIME)
        return token

    async def tenant(self, token: str) -> str | None:
        """Whose pictures the session opens; None once it has ended, or its key was revoked."""
        session = self._held.get(_name(token))
        if session is None:
            return None
        # A key that the database does not have is one of the settings, which hold as long as this process.
        key = await self._lookups.api_key(session.key)
        if session.until <= self._now() or (key is not None and key.revoked_at is not None):
            self.end(token)
            return None
        return session.tenant

    def end(self, token: str) -> None:
        """The token opens nothing any more, if it ever did."""
        self._held.pop(_name(token), None)


def _name(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

"""Who is logged in: kept in this process's memory, so that a restart logs everybody out."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

import attrs
from cachetools import TTLCache

from blossom_async.gateway.callers.keys import digest
from blossom_async.gateway.storage.lookups import Lookups

__all__ = ["LIFETIME_S", "Sessions"]

LIFETIME_S = 12 * 3600
_MAX_SESSIONS = 1000


@attrs.frozen
class _Session:
    tenant: str
    key: bytes


class Sessions:
    """Sessions by the SHA-256 of their token: at most 1,000, those used last.

    ``clock`` counts seconds and never jumps: setting the machine's time neither ends nor prolongs a session.
    """

    def __init__(self, lookups: Lookups, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookups = lookups
        self._held: TTLCache[bytes, _Session] = TTLCache(_MAX_SESSIONS, LIFETIME_S, timer=clock)

    def begin(self, tenant: str, key: str) -> str:
        """The token of a new session for the holder of this API key. It lasts 12 hours."""
        token = secrets.token_urlsafe(32)
        self._held[_name(token)] = _Session(tenant, digest(key))
        return token

    async def tenant(self, token: str) -> str | None:
        """Whose pictures the session opens; None once it has ended or its key was revoked."""
        session = self._held.get(_name(token))
        if session is None:
            return None
        # A key that the database does not have is one of the settings, which hold as long as this process.
        key = await self._lookups.api_key(session.key)
        if key is not None and key.revoked_at is not None:
            self.end(token)
            return None
        return session.tenant

    def end(self, token: str) -> None:
        """Ends the session. A token that opens nothing changes nothing."""
        self._held.pop(_name(token), None)


def _name(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

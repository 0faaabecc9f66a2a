"""Who is logged in: kept in this process's memory, or in the database that several gateways share."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial

import attrs
from cachetools import TTLCache

from blossom_async.gateway.callers.keys import digest
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.records import Caller, Records
from blossom_async.gateway.storage.records import sessions as statements

__all__ = ["LIFETIME_S", "Sessions", "SharedSessions"]

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

    async def begin(self, tenant: str, key: str) -> str:
        """The token of a new session for the holder of this API key. It lasts 12 hours."""
        token = secrets.token_urlsafe(32)
        await self._keep(_name(token), _Session(tenant, digest(key)))
        return token

    async def tenant(self, token: str) -> str | None:
        """Whose pictures the session opens; None once it has ended or its key was revoked."""
        opened = await self.opened(token)
        return None if opened is None else opened[0].tenant

    async def opened(self, token: str) -> tuple[Caller, bytes] | None:
        """The holder of the key that the session began with, and the key's digest; None as for ``tenant``."""
        session = await self._find(_name(token))
        if session is None:
            return None
        key = await self._lookups.api_key(session.key)
        valid = self._is_given(session.key) if key is None else key.revoked_at is None
        if not valid:
            await self.end(token)
            return None
        return Caller(session.tenant, "" if key is None else key.name), session.key

    async def end(self, token: str) -> None:
        """Ends the session. A token that opens nothing changes nothing."""
        await self._drop(_name(token))

    def _is_given(self, _: bytes) -> bool:
        """Whether a key that the database does not have is one of the settings, which outlive the session."""
        return True

    async def _keep(self, name: bytes, session: _Session) -> None:
        self._held[name] = session

    async def _find(self, name: bytes) -> _Session | None:
        return self._held.get(name)

    async def _drop(self, name: bytes) -> None:
        self._held.pop(name, None)


class SharedSessions(Sessions):
    """Sessions in the database: who has logged in at one gateway, has done so at all of them.

    They last by the clock of the database: one gateway whose own is ahead ends none of the others.
    """

    def __init__(self, lookups: Lookups, records: Records, given_keys: Iterable[str]) -> None:
        super().__init__(lookups)
        self._records = records
        self._given = frozenset(map(digest, given_keys))

    def _is_given(self, key: bytes) -> bool:
        return key in self._given  # it may have been removed since, at a restart

    async def _keep(self, name: bytes, session: _Session) -> None:
        lasts = timedelta(seconds=LIFETIME_S)
        await self._records.write(partial(statements.begin, name, session.tenant, session.key, lasts))

    async def _find(self, name: bytes) -> _Session | None:
        found = await self._records.read(partial(statements.find, name))
        return None if found is None else _Session(*found)

    async def _drop(self, name: bytes) -> None:
        await self._records.write(partial(statements.end, name))


def _name(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

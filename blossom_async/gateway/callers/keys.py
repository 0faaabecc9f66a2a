"""API keys: those of the settings, and those made by ``blossom keys``."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import string
from collections.abc import Iterable

from cachetools import LRUCache

from blossom_async.errors import RateLimited, Unauthenticated
from blossom_async.gateway.callers.limits import Meter, Quota
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.records import Caller

__all__ = [
    "MAIN_TENANT",
    "ApiKeys",
    "bearer",
    "digest",
    "new_access_id",
    "new_api_key",
]

MAIN_TENANT = "main"
"""The tenant of the settings' keys, and the default of ``blossom keys create``."""

_ID_ALPHABET = string.ascii_letters + string.digits


_PROVEN = 10_000


class ApiKeys:
    """Finds the holder of an API key. Keeps only digests of keys.

    ``wrong`` limits the invalid keys of each sender; None for no limit. A sender over the limit is refused,
    except with keys that were valid before: guessing stops, and nobody is locked out by others who share the
    address.
    """

    def __init__(self, keys: Iterable[str], lookups: Lookups, wrong: Meter | None = None) -> None:
        self.wrong: int = 0
        """Invalid keys so far."""
        self.refused: int = 0
        """Keys that were not looked at, because their sender had sent too many invalid ones."""
        self._digests = tuple(digest(key) for key in keys)
        self._lookups = lookups
        self._limit = wrong
        self._proven: LRUCache[bytes, None] = LRUCache(_PROVEN)

    async def caller(self, authorization: str | None, sender: str = "") -> Caller:
        """The holder of the key in an ``Authorization: Bearer`` header.

        Raises ``Unauthenticated`` if there is none, or if it is unknown or revoked; and as ``holder``.
        """
        key = bearer(authorization)
        if key is None:
            raise Unauthenticated(
                "this call needs the header 'Authorization: Bearer <API key>'; "
                "clients take it from api_key= or BLOSSOM_API_KEY"
            )
        holder = await self.holder(key, sender)
        if holder is None:
            raise Unauthenticated(
                "the API key is not valid at this gateway; clients take it from api_key= or BLOSSOM_API_KEY"
            )
        return holder

    async def holder(self, key: str, sender: str = "") -> Caller | None:
        """The holder of a key, or None if it is invalid.

        Raises ``RateLimited`` if ``sender`` has sent too many invalid ones.
        """
        presented = digest(key)
        if self._limit is not None and presented not in self._proven:
            self._check_attempts_left(self._limit.look(sender))
        holder = await self._holder(presented)
        if holder is not None:
            self._proven[presented] = None
            return holder
        self._proven.pop(presented, None)
        self.wrong += 1
        if self._limit is not None:
            self._limit.take(sender)
        return None

    async def _holder(self, presented: bytes) -> Caller | None:
        # Every digest of the settings is compared, each in constant time. The database looks a digest up: how
        # near a guess comes to a digest tells nothing about the 256 random bits behind it.
        matches = [hmac.compare_digest(presented, known) for known in self._digests]
        if any(matches):
            return Caller(MAIN_TENANT, "")
        known = await self._lookups.api_key(presented)
        if known is None or known.revoked_at is not None:
            return None
        return Caller(known.tenant, known.name)

    def _check_attempts_left(self, quota: Quota) -> None:
        if not quota.admitted:
            self.refused += 1
            raise RateLimited(
                "too many invalid API keys came from this address; "
                f"send the right one in {math.ceil(quota.more_in_s)} s",
                code="too_many_wrong_keys",
                retry_after_s=quota.more_in_s,
            )


def bearer(authorization: str | None) -> str | None:
    """The key in an ``Authorization: Bearer`` header, or None."""
    scheme, _, key = (authorization or "").partition(" ")
    return (key.strip() or None) if scheme.lower() == "bearer" else None


def digest(key: str) -> bytes:
    """The SHA-256 of a key, which is stored in its place."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def new_api_key() -> str:
    """A new key: 256 random bits, with a prefix that secret scanners recognise."""
    return f"blossom_{secrets.token_urlsafe(32)}"


def new_access_id() -> str:
    """A new id for an access key in signed URLs: 71 random bits, not secret."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(12))

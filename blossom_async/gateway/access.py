"""Who may call the private API."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from blossom_async.errors import Unauthenticated

__all__ = ["ApiKeys"]


class ApiKeys:
    """The API keys of this gateway, held as digests only."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    def tenant(self, authorization: str | None) -> str:
        """A stable name for the holder of the key in an ``Authorization: Bearer`` header.

        Every key is compared, each in constant time. Raises ``Unauthenticated``.
        """
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthenticated(
                "this call needs the header 'Authorization: Bearer <API key>'; "
                "clients take it from api_key= or BLOSSOM_API_KEY"
            )
        presented = _digest(key.strip())
        matches = [hmac.compare_digest(presented, digest) for digest in self._digests]
        if not any(matches):
            raise Unauthenticated(
                "the API key is not one of this gateway's; clients take it from api_key= or BLOSSOM_API_KEY"
            )
        return presented.hex()[:16]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()

"""Signed URLs of pictures, and the access keys they are signed under."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from blossom_async.errors import Conflict, shown
from blossom_async.gateway.callers.keys import new_access_id
from blossom_async.gateway.serving.signing import Signer, expiry
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.records import AccessKey, Claim, ImageRecord, Records
from blossom_async.gateway.storage.records import keys as key_records
from blossom_async.models import SignedUrl, SignRequest

__all__ = ["SignedUrls"]


class SignedUrls:
    """Signs URLs that start with ``public_url``, and revokes what they were signed under."""

    def __init__(
        self,
        records: Records,
        lookups: Lookups,
        signer: Signer,
        *,
        public_url: str,
        now: Callable[[], datetime],
    ) -> None:
        self._records = records
        self._lookups = lookups
        self._signer = signer
        self._public_url = public_url
        self._now = now

    async def access_key(self, tenant: str, name: str) -> AccessKey:
        """The tenant's access key of that name, created if needed. Raises ``Conflict`` if it was revoked."""
        make = partial(key_records.access_key, tenant, name, new_access_id(), self._now())
        key = await self._records.write(make)
        if key.revoked_at is not None:
            raise Conflict(
                f"the access key {shown(name)} was revoked; sign under another name",
                code="access_key_revoked",
            )
        return key

    def signed(self, made: ImageRecord | Claim, key: AccessKey, wish: SignRequest) -> SignedUrl:
        """A URL of the picture, signed under the key."""
        exp = expiry(self._now(), wish.signature_ttl, stable=wish.stable)
        path = f"/generated/{made.id}.{made.request.format}" if wish.cdn else f"/image/{made.id}"
        url = f"{self._public_url}{path}?{self._signer.sign(path, key.access_id, exp)}"
        return SignedUrl(url=url, expires_at=datetime.fromtimestamp(exp, UTC))

    async def revoke(self, tenant: str, name: str) -> None:
        """Invalidates every URL signed under the name, for good."""
        revoke = partial(key_records.revoke_access_key, tenant, name, new_access_id(), self._now())
        await self._records.write(revoke)
        self._lookups.forget()

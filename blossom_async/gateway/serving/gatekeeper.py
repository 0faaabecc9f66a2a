"""Who may see a picture: every check of a request, in the order that tells strangers the least."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from operator import attrgetter
from typing import Protocol

import attrs
from aiohttp import web

from blossom_async.errors import Gone, PermissionDenied
from blossom_async.gateway.callers.keys import ApiKeys, bearer
from blossom_async.gateway.http.addresses import client_address, network
from blossom_async.gateway.serving import signing
from blossom_async.gateway.serving.access import Viewer, check_access
from blossom_async.gateway.serving.urls import PictureUrl, no_picture
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.records import Claim, ImageRecord
from blossom_async.models import ImageRequest

__all__ = ["Admitted", "Gatekeeper", "Unfinished", "check_live"]

_FORMAT = attrgetter("format")


@attrs.frozen
class Admitted:
    """A picture that this viewer may see now. ``signed_until`` is when its signed URL expires."""

    record: ImageRecord | Claim
    signed_until: datetime | None


class Unfinished(Protocol):
    """Knows the pictures that are still being made."""

    async def pending(self, image_id: str) -> Claim | None:
        """The claim of a picture that is being made or could not be made; None for any other."""

    async def wait(self, image_id: str, timeout_s: float) -> None:
        """Waits until the picture is made or has failed, at most this long."""


class Gatekeeper:
    """Decides who sees which picture."""

    def __init__(
        self,
        keys: ApiKeys,
        lookups: Lookups,
        signer: signing.Signer,
        *,
        trusted_proxies: Sequence[IPv4Network | IPv6Network] = (),
        unfinished: Unfinished | None = None,
        widths: Collection[int] = (),
    ) -> None:
        self._keys = keys
        self._lookups = lookups
        self._signer = signer
        self._trusted = tuple(trusted_proxies)
        self._unfinished = unfinished
        self._widths = frozenset(widths)

    async def admit(
        self, url: PictureUrl, viewer: Callable[[], Awaitable[Viewer]], now: datetime
    ) -> Admitted:
        """The picture, if every check passes. ``viewer`` is called only for pictures with restrictions.

        Raises ``NotFound``, ``Gone``, ``Unauthenticated``, ``PermissionDenied``, ``RateLimited``,
        ``ResponseError`` with status 400, and what ``Lookups`` raises.
        """
        signature = None if url.query is None else signing.parse(url.query)
        signed_until = None
        signed_for = None
        if signature is not None:
            access_id = self._signer.verify(url.path, signature, now)
            key = await self._lookups.access_key(access_id)
            if key is None or key.revoked_at is not None:
                raise PermissionDenied("The key this URL was signed with was revoked.", code="key_revoked")
            signed_until = datetime.fromtimestamp(signature.exp, UTC)
            signed_for = key.tenant
        known = self._lookups.remembered(url.image_id) or await self._lookups.image(url.image_id)
        record = await self._made_later(url, now) if known is None else self._live(known, url, now)
        request = record.request
        if signed_for not in (None, record.tenant) or (request.require_signature and signature is None):
            raise signing.bad_signature()
        if request.restricted:
            check_access(
                require_auth=request.require_auth,
                owner=record.tenant,
                ip_whitelist=request.ip_whitelist or (),
                allowed_domains=request.allowed_domains or (),
                viewer=await viewer(),
            )
        return Admitted(record, signed_until)

    def open_to_all(self, url: PictureUrl, now: datetime) -> ImageRecord | None:
        """The picture, if it is remembered and everyone may see it; else None, and ``admit`` decides.

        Raises ``NotFound`` and ``Gone``.
        """
        known = None if url.query is not None else self._lookups.remembered(url.image_id)
        if known is None or not known.request.open_to_all:
            return None
        return self._live(known, url, now)

    async def viewer(self, request: web.Request) -> Viewer:
        """Who sent the request. Raises ``RateLimited`` after too many wrong API keys."""
        authorization = request.headers.getall("Authorization", [])
        key = bearer(authorization[0]) if len(authorization) == 1 else None
        address = client_address(request.remote, request.headers.getall("X-Forwarded-For", []), self._trusted)
        holder = None if key is None else await self._keys.holder(key, network(address))
        return Viewer(
            address=address,
            authorization_tenant=None if holder is None else holder.tenant,
            origins=request.headers.getall("Origin", []),
            referers=request.headers.getall("Referer", []),
        )

    async def _made_later(self, url: PictureUrl, now: datetime) -> Claim | ImageRecord:
        claim = None if self._unfinished is None else await self._unfinished.pending(url.image_id)
        if claim is None and (made := await self._lookups.image(url.image_id)) is not None:
            return self._live(made, url, now)  # it was finished between the two look-ups
        if claim is None or not claim.request.defer:
            raise no_picture()
        self._check_offered(url, claim.request, ())
        return claim

    def _live(self, record: ImageRecord, url: PictureUrl, now: datetime) -> ImageRecord:
        check_live(record, now)
        self._check_offered(url, record.request, map(_FORMAT, record.files))
        return record

    def _check_offered(self, url: PictureUrl, request: ImageRequest, stored: Iterable[str]) -> None:
        if url.extension not in (None, request.format, *stored):
            raise no_picture()
        if url.width is not None and url.width not in (
            self._widths if request.widths is None else request.widths
        ):
            raise no_picture()


def check_live(record: ImageRecord, now: datetime) -> None:
    """Raises ``Gone`` for a picture that was deleted (``deleted``) or has expired (``expired``)."""
    if record.deleted_at is not None:
        raise Gone("This picture was deleted.", code="deleted")
    if record.has_expired(now):
        at = record.expires_at or now
        raise Gone(f"This picture expired at {at.isoformat(timespec='seconds')}.", code="expired")

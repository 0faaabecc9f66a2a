"""Serving pictures: the order of checks, then the bytes."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from operator import attrgetter
from typing import Protocol

import attrs
from aiohttp import web

from blossom_async.errors import (
    Gone,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ResponseError,
    shown,
)
from blossom_async.gateway.callers.keys import ApiKeys, bearer
from blossom_async.gateway.counting.analytics import Views, day_number, is_speculative, viewer
from blossom_async.gateway.http.addresses import client_address, network
from blossom_async.gateway.http.connection import Connection
from blossom_async.gateway.serving import signing
from blossom_async.gateway.serving.access import Viewer, check_access, site_allowed
from blossom_async.gateway.serving.answers import PIECE, Streamed, Whole, fits, written
from blossom_async.gateway.serving.caching import Plan, cache_control, evaluate, http_date, negotiated, vary
from blossom_async.gateway.serving.hot import HotBytes, bytes_missing
from blossom_async.gateway.storage.blobs import LocalBlobs
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.records import Claim, ImageRecord, StoredFile
from blossom_async.models import CONTENT_TYPES, FORMATS, IMAGE_ID, ExplainRequest, Explanation

__all__ = ["Admitted", "Public", "Unfinished"]

_METHODS = ("GET", "HEAD", "OPTIONS")
_FORMATS = "|".join((*FORMATS, "auto"))
_PATH = re.compile(
    rf"/image/(?P<id>{IMAGE_ID})|/generated/(?P<cdn_id>{IMAGE_ID})\.(?P<extension>{_FORMATS})",
    re.ASCII,
)
_PATH_AT_END = re.compile(
    rf"/(?:image/|generated/(?=[0-9A-Za-z]+\.))(?P<id>{IMAGE_ID})(?:\.(?:{_FORMATS}))?$", re.ASCII
)
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
}
_FORMAT = attrgetter("format")
_KEPT = ("Cache-Control", "ETag", "Vary", *_ALWAYS)  # with 304, of those that are there
_PREFLIGHT_S = 600
_VIEWERS = 1024
_ADDRESSES = 4096
_HEADS = 4096


@attrs.frozen
class _Address:
    """What a URL names: ``path`` as it was sent, and the extension of a CDN's URL."""

    path: str
    image_id: str
    extension: str | None


@attrs.frozen
class Admitted:
    """A picture that this viewer may see now. ``signed_until`` is when the signed URL in use ends."""

    record: ImageRecord | Claim
    signed_until: datetime | None


@attrs.frozen(eq=False)
class _Head:
    """The headers of a picture. ``written`` is its head of 200, where every request has the same one."""

    headers: dict[str, str]
    written: bytes | None = None


class Unfinished(Protocol):
    """Who knows of pictures that are not there yet."""

    async def pending(self, image_id: str) -> Claim | None:
        """The call of a picture that is not there yet, or never will be."""

    async def wait(self, image_id: str, timeout_s: float) -> None:
        """Returns when the picture's call has ended, or after this time."""


class Public:
    """``GET`` and ``HEAD`` of ``/image/{id}`` and ``/generated/{id}.{ext}``.

    A picture that is deleted or revoked is gone at once, in other processes of the gateway within a second.
    The last ``hot_bytes`` that were served stay in memory: the bytes of an id never change.
    """

    def __init__(
        self,
        keys: ApiKeys,
        lookups: Lookups,
        blobs: LocalBlobs,
        signer: signing.Signer,
        *,
        trusted_proxies: Sequence[IPv4Network | IPv6Network] = (),
        now: Callable[[], datetime],
        views: Views | None = None,
        unfinished: Unfinished | None = None,
        wait_s: float = 25.0,
        hot_bytes: int = 64 << 20,
    ) -> None:
        self._unfinished = unfinished
        self._wait_s = wait_s
        self._keys = keys
        self._lookups = lookups
        self._signer = signer
        self._trusted = tuple(trusted_proxies)
        self._now = now
        self._views = views
        self._who = lru_cache(maxsize=_VIEWERS)(self._viewer_of)  # who looks at one picture looks at more
        self.bytes = HotBytes(blobs, hot_bytes)
        self._heads: dict[tuple[str, str], _Head] = {}

    def routes(self) -> list[web.RouteDef]:
        """Every method and everything below the two folders, so that all of it meets the same checks."""
        return [web.route("*", f"/{folder}/{{_:.*}}", self.serve) for folder in ("image", "generated")]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """The picture, or an error that says why not. The order of the checks is the security.

        Raises ``NotFound``, ``Gone``, ``Unauthenticated``, ``PermissionDenied``, ``ServerFailed``
        (``bytes_missing``), ``Overloaded``, ``ResponseError`` with status 400 or 412, and aiohttp's own 405
        and 416, which carry ``Allow`` and ``Content-Range``.
        """
        started = time.perf_counter()
        _check_method(request)
        address = _address(request.rel_url.raw_path, request.raw_path)
        if request.method == "OPTIONS":
            return await self._preflight(request, address)
        now = self._now()
        admitted = await self.admit(address, _query(request.raw_path), lambda: self._viewer(request), now)
        record = admitted.record
        if isinstance(record, Claim):
            return await self._awaited(request, record)
        file = _file(record, address, request)
        head = self._head(record, admitted.signed_until, file, request, now)
        plan = _plan(request, record, file, head.headers["ETag"], now)
        answer = await self._answer(request, record, file, plan, head)
        if record.request.tracking_id is not None and plan.status == 200:
            self._count(request, record, now, started)
        return answer

    async def _awaited(self, request: web.Request, claim: Claim) -> web.StreamResponse:
        """A deferred picture: itself once it is there, 202 while it is not, or why it never will be."""
        if self._unfinished is None:
            raise _not_found()
        if claim.state == "running":
            await self._unfinished.wait(claim.image_id, self._wait_s)
            left = await self._unfinished.pending(claim.image_id)
            if left is None:
                return await self.serve(request)  # anew: what was checked may have changed meanwhile
            claim = left
        if claim.state != "running":
            raise _never_made(claim)
        headers = {"Cache-Control": "no-store", "Retry-After": "2"}
        return web.json_response({"state": "pending", "id": claim.image_id}, status=202, headers=headers)

    async def admit(
        self,
        address: _Address,
        query: str | None,
        viewer: Callable[[], Awaitable[Viewer]],
        now: datetime,
    ) -> Admitted:
        """The picture, once every check has passed. ``viewer`` is asked only where who asks matters.

        ``query`` is what stands behind the question mark, None without one.
        """
        signature = _signature(query)
        signed_until = None
        signed_for = None
        if signature is not None:
            access_id = self._signer.verify(address.path, signature, now)
            key = await self._lookups.access_key(access_id)
            if key is None or key.revoked_at is not None:
                raise PermissionDenied("The key this URL was signed with was revoked.", code="key_revoked")
            signed_until = datetime.fromtimestamp(signature.exp, UTC)
            signed_for = key.tenant
        known = self._lookups.remembered(address.image_id) or await self._lookups.image(address.image_id)
        record = await self._made_later(address, now) if known is None else self._live(known, address, now)
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

    async def explain(self, record: ImageRecord, asked: ExplainRequest, now: datetime) -> Explanation:
        """How a viewer would be answered at that time; for the picture's owner, with the rule that decides.

        Raises ``InvalidRequest`` for a URL that is not this picture's, or an address that is none.
        """
        target = asked.url.partition("#")[0]
        path, mark, query = target.partition("?")
        found = _PATH_AT_END.search(path)
        if found is None or found["id"] != record.id:
            raise InvalidRequest("url", asked.url, f"a URL of this picture, such as /image/{record.id}")
        who = client_address(asked.address, (), ())
        if asked.address is not None and who is None:
            raise InvalidRequest("address", asked.address, "an IPv4 or IPv6 address")

        async def viewer() -> Viewer:
            return Viewer(
                address=who,
                authorization_tenant=record.tenant if asked.authorized else None,
                origins=[asked.origin] if asked.origin is not None else [],
                referers=[asked.referer] if asked.referer is not None else [],
            )

        try:
            address = _address(found[0], found[0])
            await self.admit(address, query if mark else None, viewer, now)
        except ResponseError as exc:
            return Explanation(status=exc.status, code=exc.code, detail=_owners_detail(exc, record, asked))
        return Explanation(status=200, code="ok", detail="Every rule of this picture lets this viewer in.")

    async def _made_later(self, address: _Address, now: datetime) -> Claim | ImageRecord:
        claim = None if self._unfinished is None else await self._unfinished.pending(address.image_id)
        if claim is None and (made := await self._lookups.image(address.image_id)) is not None:
            return self._live(made, address, now)  # it was finished between the two looks
        if claim is None or not claim.request.defer:
            raise _not_found()
        if address.extension not in (None, claim.request.format):
            raise _not_found()
        return claim

    def _live(self, record: ImageRecord, address: _Address, now: datetime) -> ImageRecord:
        if record.deleted_at is not None:
            self.bytes.drop(record.id)
            raise Gone("This picture was deleted.", code="deleted")
        if record.expires_at is not None and now >= record.expires_at:
            self.bytes.drop(record.id)
            raise Gone(
                f"This picture expired at {record.expires_at.isoformat(timespec='seconds')}.", code="expired"
            )
        if address.extension not in (None, record.request.format, *map(_FORMAT, record.files)):
            raise _not_found()
        return record

    def _head(
        self,
        record: ImageRecord,
        signed_until: datetime | None,
        file: StoredFile,
        request: web.Request,
        now: datetime,
    ) -> _Head:
        """For a picture that anybody may see for good every request has the same one, and it is kept."""
        if signed_until is not None or record.expires_at is not None or record.request.restricted:
            return _Head(_headers(record, signed_until, file, request, now))
        head = self._heads.get((record.id, file.format))
        if head is None:
            headers = _headers(record, None, file, request, now)
            head = self._heads[record.id, file.format] = _Head(headers, written(headers, file.file_size))
            if len(self._heads) > _HEADS:
                del self._heads[next(iter(self._heads))]
        return head

    def _count(self, request: web.Request, record: ImageRecord, now: datetime, started: float) -> None:
        """Has the view counted when the last byte is sent, if it will be one."""
        views, tracking_id, connection = self._views, record.request.tracking_id, request.protocol
        if views is None or tracking_id is None or not isinstance(connection, Connection):
            return
        if request.method != "GET" or is_speculative(request.headers):
            return
        picture = (record.tenant, tracking_id, day_number(now), record.id)
        forwarded = tuple(request.headers.getall("X-Forwarded-For", ())) if self._trusted else ()
        who = self._who(request.remote, forwarded, request.headers.get("User-Agent", ""))

        def sent() -> None:
            views.add(picture, who, int((time.perf_counter() - started) * 1_000_000))

        connection.sent = sent

    def _viewer_of(self, peer: str | None, forwarded: tuple[str, ...], agent: str) -> bytes:
        address = client_address(peer, forwarded, self._trusted)
        return viewer(address, agent.encode("utf-8", "surrogateescape"))

    def _client_address(self, request: web.Request) -> IPv4Address | IPv6Address | None:
        return client_address(request.remote, request.headers.getall("X-Forwarded-For", []), self._trusted)

    async def _viewer(self, request: web.Request) -> Viewer:
        authorization = request.headers.getall("Authorization", [])
        key = bearer(authorization[0]) if len(authorization) == 1 else None
        address = self._client_address(request)
        holder = None if key is None else await self._keys.holder(key, network(address))
        return Viewer(
            address=address,
            authorization_tenant=None if holder is None else holder.tenant,
            origins=request.headers.getall("Origin", []),
            referers=request.headers.getall("Referer", []),
        )

    async def _preflight(self, request: web.Request, address: _Address) -> web.Response:
        """What a browser asks before a script's request: only pages of ``allowed_domains`` may make it."""
        headers = {"Allow": ", ".join(_METHODS), "Cache-Control": "no-store"}
        record = await self._lookups.image(address.image_id)
        if record is not None and record.deleted_at is None and "Origin" in request.headers:
            headers |= _cors(record, request)
            if "Access-Control-Allow-Origin" in headers:
                headers["Access-Control-Allow-Methods"] = ", ".join(_METHODS[:2])
                headers["Access-Control-Allow-Headers"] = "Authorization, Range, If-None-Match"
                headers["Access-Control-Max-Age"] = str(_PREFLIGHT_S)
        return web.Response(status=204, headers=headers)

    async def _answer(
        self,
        request: web.Request,
        record: ImageRecord,
        file: StoredFile,
        plan: Plan,
        head: _Head,
    ) -> web.StreamResponse:
        if plan.status == 304:
            kept = {name: head.headers[name] for name in _KEPT if name in head.headers}
            return web.Response(status=304, headers=kept)
        data = await self._data(record, file, wanted=request.method == "GET")
        if head.written is not None and plan.status == 200 and data is not None and fits(data, request):
            return Whole(request, head.written, data)
        headers = {**head.headers, "Content-Length": str(plan.stop - plan.start)}
        if plan.content_range is not None:
            headers["Content-Range"] = plan.content_range
        if request.method == "HEAD":
            return web.Response(status=plan.status, headers=headers)
        if data is not None and plan.stop - plan.start <= PIECE:
            return web.Response(status=plan.status, headers=headers, body=data[plan.start : plan.stop])

        async def piece(start: int, stop: int) -> bytes:
            if data is not None:
                return data[start:stop]
            return await self.bytes.part(record.id, file, start, stop)

        return Streamed(request, plan, headers, piece)

    async def _data(self, record: ImageRecord, file: StoredFile, *, wanted: bool) -> bytes | None:
        try:
            return await self.bytes.whole(record.id, file, wanted=wanted)
        except FileNotFoundError as exc:
            # A picture deleted after its record was looked up: the second look says so.
            self._lookups.forget()
            again = await self._lookups.image(record.id)
            if again is not None:
                self._live(again, _Address("", record.id, None), self._now())
            raise bytes_missing("are missing") from exc


def _check_method(request: web.Request) -> None:
    if request.method not in _METHODS:
        raise web.HTTPMethodNotAllowed(request.method, _METHODS)


@lru_cache(maxsize=_ADDRESSES)
def _address(path: str, target: str) -> _Address:
    # The path as it was sent: aiohttp's decoded parameters hold "../" for %2e%2e%2f and NUL for %00.
    found = _PATH.fullmatch(path)
    if found is None or "#" in target:
        raise _not_found()
    return _Address(path, found["id"] or found["cdn_id"], found["extension"])


def _query(target: str) -> str | None:
    _, mark, query = target.partition("?")
    return query if mark else None


def _signature(query: str | None) -> signing.Signature | None:
    if query is None:
        return None
    signature = signing.parse(query)
    if signature is None:
        raise ResponseError(
            "A picture's URL has no empty query; send it without the question mark.",
            status=400,
            code="malformed_query",
        )
    return signature


def _file(record: ImageRecord, address: _Address, request: web.Request) -> StoredFile:
    if len(record.files) == 1:
        return record.main_file
    by_format = {file.format: file for file in record.files}
    if address.extension in by_format:
        return by_format[address.extension]
    return by_format[negotiated(request.headers.getall("Accept", []), tuple(by_format))]


def _plan(request: web.Request, record: ImageRecord, file: StoredFile, etag: str, now: datetime) -> Plan:
    plan = evaluate(
        request.method,
        request.headers,
        etag=etag,
        last_modified=record.created_at,
        size=file.file_size,
        now=now,
    )
    if plan.status == 412:
        raise ResponseError(
            "The picture is not the one the request's conditions name.",
            status=412,
            code="precondition_failed",
        )
    if plan.status == 416 and plan.content_range is not None:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": plan.content_range})
    return plan


def _headers(
    record: ImageRecord, signed_until: datetime | None, file: StoredFile, request: web.Request, now: datetime
) -> dict[str, str]:
    wish = record.request
    headers = {
        "Content-Type": CONTENT_TYPES[file.format],
        "Content-Disposition": f'inline; filename="{record.id}.{file.format}"',
        "ETag": _etag(record, file),
        "Last-Modified": http_date(record.created_at),
        "Cache-Control": cache_control(
            wish.cache_control,
            record.expires_at,
            now,
            restricted=wish.restricted,
            signed_until=signed_until,
        ),
        "Accept-Ranges": "bytes",
        # A page elsewhere cannot send the key anyway; all others are made to be shown on pages elsewhere.
        "Cross-Origin-Resource-Policy": "same-site" if wish.require_auth else "cross-origin",
        **_ALWAYS,
    }
    varied = vary(
        require_auth=wish.require_auth,
        allowed_domains=wish.allowed_domains or (),
        negotiated=len(record.files) > 1,
    )
    if varied is not None:
        headers["Vary"] = varied
    if wish.restricted or signed_until is not None:
        headers["X-Robots-Tag"] = "noindex"
    if wish.allowed_domains is not None:
        headers |= _cors(record, request)
    return headers


def _etag(record: ImageRecord, file: StoredFile) -> str:
    if record.request.etag is None:
        return f'"{file.sha256}"'
    several = len(record.files) > 1
    return f'"{record.request.etag}-{file.format}"' if several else f'"{record.request.etag}"'


def _cors(record: ImageRecord, request: web.Request) -> dict[str, str]:
    origins = request.headers.getall("Origin", [])
    domains = record.request.allowed_domains
    if domains is None or len(origins) != 1 or not site_allowed(origins, (), domains):
        return {}
    return {
        "Access-Control-Allow-Origin": origins[0],
        "Access-Control-Expose-Headers": "ETag, Content-Length",
    }


def _owners_detail(refused: ResponseError, record: ImageRecord, asked: ExplainRequest) -> str:
    """What strangers are not told: which rule it was, and what it was held against."""
    request = record.request
    if refused.code == "address_not_allowed":
        rules = ", ".join(request.ip_whitelist or ())
        return f"ip_whitelist allows {rules}; the viewer's address is {asked.address or 'not known'}."
    if refused.code == "site_not_allowed":
        rules = ", ".join(request.allowed_domains or ())
        sent = f"Origin {shown(asked.origin)} and Referer {shown(asked.referer)}"
        return f"allowed_domains allows {rules}; the viewer sends {sent}, and each that is sent must match."
    if refused.code == "bad_signature" and "?" not in asked.url:
        return "require_signature is set and the URL has no signature; give out signed URLs."
    return refused.detail


def _never_made(claim: Claim) -> ResponseError:
    """What viewers are told. The owner's budget, keys and providers are none of their business."""
    refused = claim.problem is not None and claim.problem["status"] == 422
    return ResponseError(
        "This picture could not be made; its owner can see why.",
        status=422 if refused else 502,
        code="content_refused" if refused else "not_made",
    )


def _not_found() -> NotFound:
    return NotFound("There is no picture under this URL.")

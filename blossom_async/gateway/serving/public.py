"""Serves pictures: first the checks, then the bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

import attrs
from aiohttp import web
from aiohttp.http import RawRequestMessage
from multidict import MultiMapping, istr

from blossom_async.errors import Gone, ResponseError
from blossom_async.gateway.counting.analytics import Views, day_number, is_speculative, viewer
from blossom_async.gateway.http.addresses import client_address
from blossom_async.gateway.http.connection import Connection
from blossom_async.gateway.http.problems import new_request_id
from blossom_async.gateway.http.ready import Ready
from blossom_async.gateway.serving.answers import PIECE, Streamed
from blossom_async.gateway.serving.caching import Plan, asks_for_less, evaluate, http_date
from blossom_async.gateway.serving.gatekeeper import Gatekeeper, Unfinished, check_live
from blossom_async.gateway.serving.heads import NOT_WITH_304, chosen_file, cors, head_of, picture_headers
from blossom_async.gateway.serving.hot import HotBytes, bytes_missing
from blossom_async.gateway.serving.urls import PictureUrl, no_picture, picture_url
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.records import Claim, ClaimState, ImageRecord, StoredFile, Variant
from blossom_async.models import ImageRequest

__all__ = ["Public", "Variants"]

_METHODS = ("GET", "HEAD", "OPTIONS")
_FOLDERS = ("/image/", "/generated/")
_EXPECT = istr("Expect")  # faster to look up
_PREPARED = 20_000  # as many as the pictures that are remembered
_PREFLIGHT_S = 600
_VIEWERS = 1024


class Variants(Protocol):
    """Offers stored pictures in smaller widths."""

    async def get(self, record: ImageRecord, file: StoredFile, width: int) -> Variant | None:
        """One of the picture's files in that width, below its own; None if the picture is gone by now.

        Raises ``FileNotFoundError``, ``ServerFailed`` and ``Overloaded``.
        """


@attrs.frozen(kw_only=True)
class _Prepared:
    """A picture that everyone may see, found when ``Lookups`` was in this state.

    ``head`` is that of its 200, except for date and request id.
    """

    route: str
    record: ImageRecord
    file: StoredFile
    head: bytes
    state: int


class Public:
    """``GET`` and ``HEAD`` of ``/image/{id}`` and ``/generated/{id}.{ext}``, or with ``/w640`` after the id.

    A deleted picture, or one whose key was revoked, is gone at once; in other processes within a second, or
    once the database can be reached again.
    """

    def __init__(
        self,
        gatekeeper: Gatekeeper,
        lookups: Lookups,
        hot: HotBytes,
        *,
        trusted_proxies: Sequence[IPv4Network | IPv6Network] = (),
        now: Callable[[], datetime],
        views: Views | None = None,
        unfinished: Unfinished | None = None,
        variants: Variants | None = None,
        wait_s: float = 25.0,
    ) -> None:
        self._gatekeeper = gatekeeper
        self._lookups = lookups
        self._hot = hot
        self._trusted = tuple(trusted_proxies)
        self._now = now
        self._views = views
        self._unfinished = unfinished
        self._variants = variants
        self._wait_s = wait_s
        self._prepared: dict[str, _Prepared] = {}
        self._who = lru_cache(maxsize=_VIEWERS)(self._viewer_of)  # most viewers look at several pictures

    def routes(self) -> list[web.RouteDef]:
        """All methods and all paths below the two folders, so that all meet the same checks."""
        return [web.route("*", f"{folder}{{_:.*}}", self.serve) for folder in _FOLDERS]

    def at_once(self, asked: RawRequestMessage, peer: str | None) -> Ready | None:
        """The whole picture, if nothing has to be waited for and everyone may see it.

        None for any other request: it is for ``serve``.
        """
        path, headers = asked.path, asked.headers
        if asks_for_less(headers) or _EXPECT in headers:
            return None
        prepared = self._prepared.get(path)
        if prepared is None or not self._lookups.unchanged(prepared.state):
            prepared = self._prepare(path, headers)
        body = None if prepared is None else self._hot.at_hand(prepared.record.id, prepared.file)
        if prepared is None or body is None:
            return None
        head = b"%b%bX-Request-Id: %b\r\n\r\n" % (
            prepared.head,
            _date_line(int(time.time())),
            new_request_id().encode(),
        )
        seen = None
        if prepared.record.request.tracking_id is not None:
            seen = self._count(prepared.record, headers, peer, self._now(), time.perf_counter())
        return Ready(prepared.route, head, body, prepared.file.file_size, seen)

    def _prepare(self, path: str, headers: MultiMapping[str]) -> _Prepared | None:
        """What to send for the path, by the same rules as ``serve``; None if ``serve`` must decide."""
        if not path.startswith(_FOLDERS):
            return None
        now, state = self._now(), self._lookups.state
        try:
            url = picture_url(path, path)
            record = self._gatekeeper.open_to_all(url, now)
        except ResponseError:
            return None
        if record is None or (url.width is not None and url.width < record.width):
            return None
        file = chosen_file(record, url.extension, headers.getall("Accept", ()))
        if file.file_size > PIECE:
            return None
        told = picture_headers(record, file, signed_until=None, origins=(), now=now)
        prepared = _Prepared(
            route="/image/{_}" if url.extension is None else "/generated/{_}",
            record=record,
            file=file,
            head=head_of(told, file.file_size),
            state=state,
        )
        if record.expires_at is None and (len(record.files) == 1 or url.extension == file.format):
            if len(self._prepared) == _PREPARED:
                self._prepared.clear()
            self._prepared[path] = prepared  # every request for the path gets the same
        return prepared

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """The picture.

        Raises ``NotFound``, ``Gone``, ``Unauthenticated``, ``PermissionDenied``, ``ServerFailed``
        (``bytes_missing``), ``Overloaded``, ``ResponseError`` with status 400 or 412, and aiohttp's own 405
        and 416, which carry ``Allow`` and ``Content-Range``.
        """
        started = time.perf_counter()
        _check_method(request)
        url = picture_url(request.rel_url.raw_path, request.raw_path)
        if request.method == "OPTIONS":
            return await self._preflight(request, url)
        now = self._now()
        try:
            admitted = await self._gatekeeper.admit(url, partial(self._gatekeeper.viewer, request), now)
        except Gone as exc:
            if exc.code != "signature_expired":  # then only the URL is gone, not the picture
                self._hot.drop(url.image_id)
            raise
        record = admitted.record
        if isinstance(record, Claim):
            return await self._awaited(request, record)
        file = chosen_file(record, url.extension, request.headers.getall("Accept", ()))
        stored_as, width = record.id, None
        if url.width is not None and url.width < record.width:
            variant = await self._variant(record, file, url.width)
            stored_as, width, file = variant.id, variant.width, variant.file
        headers = picture_headers(
            record,
            file,
            width,
            signed_until=admitted.signed_until,
            origins=request.headers.getall("Origin", ()),
            now=now,
        )
        plan = _plan(request, record, file, headers["ETag"], now)
        answer = await self._answer(request, record, stored_as, file, plan, headers)
        connection = request.protocol
        if request.method == "GET" and plan.status == 200 and isinstance(connection, Connection):
            connection.sent = self._count(record, request.headers, request.remote, now, started)
        return answer

    async def _awaited(self, request: web.Request, claim: Claim) -> web.StreamResponse:
        """A deferred picture once it is made, 202 while it is being made, or an error if it failed."""
        if self._unfinished is None:
            raise no_picture()
        if claim.state is ClaimState.RUNNING:
            await self._unfinished.wait(claim.image_id, self._wait_s)
            left = await self._unfinished.pending(claim.image_id)
            if left is None:
                return await self.serve(request)  # check again: the rules may have changed meanwhile
            claim = left
        if claim.state is not ClaimState.RUNNING:
            raise _never_made(claim)
        headers = {"Cache-Control": "no-store", "Retry-After": "2"}
        headers |= cors(claim.request, request.headers.getall("Origin", ()))
        return web.json_response({"state": "pending", "id": claim.image_id}, status=202, headers=headers)

    def _count(
        self,
        record: ImageRecord,
        headers: MultiMapping[str],
        peer: str | None,
        now: datetime,
        started: float,
    ) -> Callable[[], None] | None:
        """What counts the view once its last byte is sent; None if it is not to be counted."""
        views, tracking_id = self._views, record.request.tracking_id
        if views is None or tracking_id is None or is_speculative(headers):
            return None
        picture = (record.tenant, tracking_id, day_number(now), record.id)
        forwarded = tuple(headers.getall("X-Forwarded-For", ())) if self._trusted else ()
        who = self._who(peer, forwarded, headers.get("User-Agent", ""))
        return lambda: views.add(picture, who, int((time.perf_counter() - started) * 1_000_000))

    def _viewer_of(self, peer: str | None, forwarded: tuple[str, ...], agent: str) -> bytes:
        address = client_address(peer, forwarded, self._trusted)
        return viewer(address, agent.encode("utf-8", "surrogateescape"))

    async def _preflight(self, request: web.Request, url: PictureUrl) -> web.Response:
        """The answer to a CORS preflight, which browsers send before some requests of scripts."""
        headers = {"Allow": ", ".join(_METHODS), "Cache-Control": "no-store"}
        wish = await self._wish(url.image_id)
        allowed = {} if wish is None else cors(wish, request.headers.getall("Origin", ()))
        if allowed:
            headers |= allowed
            headers["Access-Control-Allow-Methods"] = ", ".join(_METHODS[:2])
            headers["Access-Control-Allow-Headers"] = "Authorization, Range, If-None-Match, Cache-Control"
            headers["Access-Control-Max-Age"] = str(_PREFLIGHT_S)
        return web.Response(status=204, headers=headers)

    async def _wish(self, image_id: str) -> ImageRequest | None:
        """The request of a picture that is there or is being made."""
        if (record := await self._lookups.image(image_id)) is not None:
            return None if record.deleted_at is not None else record.request
        claim = None if self._unfinished is None else await self._unfinished.pending(image_id)
        return claim.request if claim is not None and claim.request.defer else None

    async def _answer(
        self,
        request: web.Request,
        record: ImageRecord,
        stored_as: str,
        file: StoredFile,
        plan: Plan,
        headers: dict[str, str],
    ) -> web.StreamResponse:
        if plan.status == 304:
            kept = {name: value for name, value in headers.items() if name not in NOT_WITH_304}
            return web.Response(status=304, headers=kept)
        data = await self._data(record, stored_as, file, wanted=request.method == "GET")
        headers = {**headers, "Content-Length": str(plan.stop - plan.start)}
        if plan.content_range is not None:
            headers["Content-Range"] = plan.content_range
        if request.method == "HEAD":
            return web.Response(status=plan.status, headers=headers)
        if data is not None and plan.stop - plan.start <= PIECE:
            return web.Response(status=plan.status, headers=headers, body=data[plan.start : plan.stop])

        async def piece(start: int, stop: int) -> bytes:
            if data is not None:
                return data[start:stop]
            return await self._hot.part(stored_as, file, start, stop)

        return Streamed(request, plan, headers, piece)

    async def _data(
        self, record: ImageRecord, stored_as: str, file: StoredFile, *, wanted: bool
    ) -> bytes | None:
        try:
            return await self._hot.whole(stored_as, file, wanted=wanted)
        except FileNotFoundError as exc:
            raise await self._missing(record) from exc

    async def _variant(self, record: ImageRecord, file: StoredFile, width: int) -> Variant:
        if self._variants is None:
            raise no_picture()
        try:
            variant = await self._variants.get(record, file, width)
        except FileNotFoundError as exc:
            raise await self._missing(record) from exc
        if variant is None:
            raise await self._missing(record)
        return variant

    async def _missing(self, record: ImageRecord) -> ResponseError:
        """Why bytes are missing: the picture may have been deleted after its record was looked up."""
        self._lookups.forget(record.id)
        again = await self._lookups.image(record.id)
        if again is not None:
            try:
                check_live(again, self._now())
            except Gone as gone:
                return gone
        return bytes_missing("are missing")


def _check_method(request: web.Request) -> None:
    if request.method not in _METHODS:
        raise web.HTTPMethodNotAllowed(request.method, _METHODS)


def _plan(request: web.Request, record: ImageRecord, file: StoredFile, etag: str, now: datetime) -> Plan:
    plan = evaluate(
        request.method,
        request.headers,
        etag=etag,
        last_modified=min(record.created_at, now),
        size=file.file_size,
        now=now,
    )
    if plan.status == 412:
        raise ResponseError(
            "The picture does not meet the request's If-Match or If-Unmodified-Since.",
            status=412,
            code="precondition_failed",
        )
    if plan.status == 416 and plan.content_range is not None:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": plan.content_range})
    return plan


def _never_made(claim: Claim) -> ResponseError:
    """The error that viewers see. It says nothing of the owner's budget, keys and providers."""
    refused = claim.problem is not None and claim.problem["status"] == 422
    return ResponseError(
        "This picture could not be made; its owner can see why.",
        status=422 if refused else 502,
        code="content_refused" if refused else "not_made",
    )


@lru_cache(maxsize=1)
def _date_line(second: int) -> bytes:
    return f"Date: {http_date(datetime.fromtimestamp(second, UTC))}\r\n".encode()

"""Serving pictures: the order of checks, then the bytes."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime

import attrs
from aiohttp import web

from blossom_async.errors import Gone, NotFound, Overloaded, ResponseError, ServerFailed
from blossom_async.gateway.blobs import LocalBlobs
from blossom_async.gateway.caching import Plan, cache_control, evaluate, http_date
from blossom_async.gateway.encoding import CONTENT_TYPES
from blossom_async.gateway.records import ImageRecord, Records
from blossom_async.models import FORMATS, IMAGE_ID

__all__ = ["Public"]

_METHODS = ("GET", "HEAD", "OPTIONS")
_FORMATS = "|".join(FORMATS)
_PATH = re.compile(
    rf"/image/(?P<id>{IMAGE_ID})|/generated/(?P<cdn_id>{IMAGE_ID})\.(?P<extension>{_FORMATS})",
    re.ASCII,
)
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_PIECE = 256 << 10  # written at once; bounds what a slow viewer holds in memory
_HOT_SHARE = 8  # a picture above this part of the hot memory is sent from its file

_log = logging.getLogger("blossom_async.gateway")


@attrs.frozen
class _Address:
    image_id: str
    extension: str | None


class Public:
    """``GET`` and ``HEAD`` of ``/image/{id}`` and ``/generated/{id}.{ext}``.

    The record is looked up for every request, so a picture that is deleted or expires is gone at once.
    Its bytes never change under an id: the ``hot_bytes`` used last are kept in memory.
    """

    def __init__(
        self,
        records: Records,
        blobs: LocalBlobs,
        *,
        now: Callable[[], datetime],
        hot_bytes: int = 64 << 20,
    ) -> None:
        self._records = records
        self._blobs = blobs
        self._now = now
        self._hot = _Hot(hot_bytes)

    def routes(self) -> list[web.RouteDef]:
        """Every method and everything below the two folders, so that all of it meets the same checks."""
        return [web.route("*", f"/{folder}/{{_:.*}}", self.serve) for folder in ("image", "generated")]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """The picture, or an error that says why not. The order of the checks is the security.

        Raises ``NotFound``, ``Gone``, ``ServerFailed`` (``bytes_missing``), ``Overloaded``, ``ResponseError``
        with status 400 or 412, and aiohttp's own 405 and 416, which carry ``Allow`` and ``Content-Range``.
        """
        _check_method(request)
        address = _address(request)
        if request.method == "OPTIONS":
            return web.Response(
                status=204, headers={"Allow": ", ".join(_METHODS), "Cache-Control": "no-store"}
            )
        _check_query(request)
        now = self._now()
        record = await self._live(address, now)
        headers = _headers(record, now)
        plan = _plan(request, record, headers["ETag"], now)
        return await self._answer(request, record, plan, headers)

    async def _live(self, address: _Address, now: datetime) -> ImageRecord:
        record = await self._records.get(address.image_id)
        if record is None:
            raise _not_found()
        if record.deleted_at is not None:
            self._hot.drop(record.id)
            raise Gone("This picture was deleted.")
        if record.expires_at is not None and now >= record.expires_at:
            self._hot.drop(record.id)
            raise Gone(f"This picture expired at {record.expires_at.isoformat(timespec='seconds')}.")
        if address.extension not in (None, record.request.format):
            raise _not_found()
        return record

    async def _answer(
        self, request: web.Request, record: ImageRecord, plan: Plan, headers: dict[str, str]
    ) -> web.StreamResponse:
        if plan.status == 304:
            kept = {name: headers[name] for name in ("Cache-Control", "ETag", *_ALWAYS)}
            return web.Response(status=304, headers=kept)
        headers["Content-Length"] = str(plan.stop - plan.start)
        if plan.content_range is not None:
            headers["Content-Range"] = plan.content_range
        data = await self._bytes(record, wanted=request.method == "GET")
        if request.method == "HEAD":
            return web.Response(status=plan.status, headers=headers)
        if data is not None and plan.stop - plan.start <= _PIECE:
            return web.Response(status=plan.status, headers=headers, body=data[plan.start : plan.stop])

        async def piece(start: int, stop: int) -> bytes:
            if data is not None:
                return data[start:stop]
            return await self._blobs.read(record.id, record.request.format, start, stop)

        return _Streamed(request, plan, headers, piece)

    async def _bytes(self, record: ImageRecord, *, wanted: bool) -> bytes | None:
        """The whole picture when it is wanted and small enough for the memory; always: that it is there."""
        data = self._hot.get(record.id)
        if data is not None:
            return data
        extension = record.request.format
        try:
            if wanted and record.file_size <= self._hot.limit:
                data = await self._blobs.read(record.id, extension)
            size = await self._blobs.size(record.id, extension) if data is None else len(data)
        except FileNotFoundError as exc:
            # A picture deleted after its record was looked up: the second look says so.
            await self._live(_Address(record.id, None), self._now())
            raise _bytes_missing("are missing") from exc
        if size != record.file_size:
            raise _bytes_missing(f"are {size} and should be {record.file_size}")
        if data is not None:
            self._hot.put(record.id, data)
        return data


class _Streamed(web.StreamResponse):
    """A picture sent piece by piece. A failure on the way cuts the connection."""

    def __init__(
        self,
        request: web.Request,
        plan: Plan,
        headers: dict[str, str],
        piece: Callable[[int, int], Awaitable[bytes]],
    ) -> None:
        super().__init__(status=plan.status, headers=headers)
        self._request = request
        self._plan = plan
        self._piece = piece

    async def write_eof(self, data: bytes = b"") -> None:
        for start in range(self._plan.start, self._plan.stop, _PIECE):
            stop = min(start + _PIECE, self._plan.stop)
            try:
                piece = await self._piece(start, stop)
            except (FileNotFoundError, Overloaded) as exc:
                raise self._cut(str(exc)) from exc
            if len(piece) < stop - start:
                raise self._cut(f"the file ends at byte {start + len(piece)}")
            await self.write(piece)
        await super().write_eof(data)

    def _cut(self, reason: str) -> ConnectionError:
        # The status is sent and cannot be taken back: only a cut connection still says that this is not all.
        _log.error("a picture was cut while it was sent: %s", reason)
        if self._request.transport is not None:
            self._request.transport.abort()
        return ConnectionResetError(reason)


class _Hot:
    """Bytes by id, those used last, at most ``capacity`` bytes of them."""

    def __init__(self, capacity: int) -> None:
        self.limit = capacity // _HOT_SHARE
        self._capacity = capacity
        self._held = 0
        self._pictures: OrderedDict[str, bytes] = OrderedDict()

    def get(self, image_id: str) -> bytes | None:
        data = self._pictures.get(image_id)
        if data is not None:
            self._pictures.move_to_end(image_id)
        return data

    def put(self, image_id: str, data: bytes) -> None:
        self.drop(image_id)
        self._pictures[image_id] = data
        self._held += len(data)
        while self._held > self._capacity:
            _, oldest = self._pictures.popitem(last=False)
            self._held -= len(oldest)

    def drop(self, image_id: str) -> None:
        self._held -= len(self._pictures.pop(image_id, b""))


def _check_method(request: web.Request) -> None:
    if request.method not in _METHODS:
        raise web.HTTPMethodNotAllowed(request.method, _METHODS)


def _address(request: web.Request) -> _Address:
    # The path as it was sent: aiohttp's decoded parameters hold "../" for %2e%2e%2f and NUL for %00.
    found = _PATH.fullmatch(request.rel_url.raw_path)
    if found is None or "#" in request.raw_path:
        raise _not_found()
    return _Address(found["id"] or found["cdn_id"], found["extension"])


def _check_query(request: web.Request) -> None:
    if "?" in request.raw_path:
        raise ResponseError(
            "A picture's URL has no query parameters; send it without the question mark and what follows.",
            status=400,
            code="unknown_parameter",
        )


def _plan(request: web.Request, record: ImageRecord, etag: str, now: datetime) -> Plan:
    plan = evaluate(
        request.method,
        request.headers,
        etag=etag,
        last_modified=record.created_at,
        size=record.file_size,
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


def _headers(record: ImageRecord, now: datetime) -> dict[str, str]:
    wish = record.request
    return {
        "Content-Type": CONTENT_TYPES[wish.format],
        "Content-Disposition": f'inline; filename="{record.id}.{wish.format}"',
        "ETag": f'"{wish.etag or record.sha256}"',
        "Last-Modified": http_date(record.created_at),
        "Cache-Control": cache_control(wish.cache_control, record.expires_at, now),
        "Accept-Ranges": "bytes",
        **_ALWAYS,
    }


def _not_found() -> NotFound:
    return NotFound("There is no picture under this URL.")


def _bytes_missing(what: str) -> ServerFailed:
    return ServerFailed(
        f"The picture is known, but its bytes {what} on the gateway's disk.", code="bytes_missing"
    )

"""Every error of the gateway as ``application/problem+json`` (RFC 9457), never stored by a cache."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

import orjson
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

from blossom_async.errors import InvalidRequest, Overloaded, ResponseError, ServerFailed
from blossom_async.gateway.callers.limits import Room

__all__ = ["ERROR_CODE", "Connection", "problems"]

ERROR_CODE: web.ResponseKey[str] = web.ResponseKey("error_code", str)
"""Of an answer that is a problem: its code."""

_SERVER = "blossom"  # without versions
_MAX_DETAIL = 500  # characters; what a caller named is shown in it, and that may be a megabyte
_PROBLEM = "application/problem+json"
_FIRST_REQUEST_S = 30.0
_UNREAD_S = 30.0
_GOODBYE_S = 1.0
_FULL_RETRY_S = 2.0
_CLOSING = {"request_timeout", "incomplete_body"}  # where the rest of the body is not waited for

_RANDOM = random.Random()  # noqa: S311 - an id is no secret, and asking the kernel takes ten times as long

_log = logging.getLogger("blossom_async.gateway")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Turns what a handler raises into an answer, and gives every answer a request id and a server's name."""
    request_id = _new_request_id()
    try:
        response = await handler(request)
    except ResponseError as exc:
        return _problem(exc, request_id)
    except InvalidRequest as exc:
        rejected = ResponseError(str(exc), status=422, code="invalid_request", field=exc.field)
        return _problem(rejected, request_id)
    except web.HTTPException as exc:  # aiohttp's own: no such route, wrong method, body too large
        return _refusal(exc, request_id)
    except Exception:  # noqa: BLE001 - the task's border: it is logged, and the caller learns where to look
        _log.exception("request %s failed", request_id)
        return _problem(ServerFailed("the gateway failed; its log has the request id"), request_id)
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
        response.headers["Server"] = _SERVER
    return response


class Connection(web.RequestHandler):
    """A connection that says as a problem, too, what aiohttp refuses before any handler is asked.

    aiohttp's own answer and log quote the line at fault, which may hold an API key or a prompt. Here neither
    the answer nor the log has anything of the request: the log gets the name of the exception's class.

    Where ``room`` has none left the connection is answered 503 and closed, whatever comes over it; where
    ``lobby`` has none either, it is closed. It is also closed when no request has come within 30 s.
    """

    def __init__(
        self,
        manager: web.Server,
        *,
        room: Room,
        lobby: Room,
        counter: AbstractAccessLogger,
        **options: Any,
    ) -> None:
        # The access log is aiohttp's hook after each answer. Nothing is written to a log.
        super().__init__(manager, access_log=_log, access_log_class=lambda *_: counter, **options)  # type: ignore[arg-type]
        self.sent: Callable[[], None] | None = None
        """What to call once the answer under way is written to its last byte: a picture that was asked for,
        to someone who is still there."""
        self._room = room
        self._lobby = lobby
        self._entered: Room | None = None
        self._answered = False
        self._deadline: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to read requests, if there is room for it."""
        loop = asyncio.get_running_loop()
        out = cast("asyncio.Transport", transport)
        if self._room.enter():
            self._entered = self._room
            super().connection_made(transport)
            self._deadline = loop.call_later(_FIRST_REQUEST_S, self._check_begun)
        elif self._lobby.enter():
            self._entered = self._lobby
            out.write(_full())
            # Closed at once, the answer would be lost with what the other side is still sending.
            self._deadline = loop.call_later(_GOODBYE_S, out.abort)
        else:
            out.abort()

    def pause_writing(self) -> None:
        """The other side takes nothing for now. It has 30 s to take some of what waits for it."""
        super().pause_writing()
        if self.transport is not None:
            self._stuck = asyncio.get_running_loop().call_later(_UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It has."""
        if self._stuck is not None:
            self._stuck.cancel()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Reads on, where there was room."""
        if self._entered is self._room:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Makes room."""
        for timer in (self._deadline, self._stuck):
            if timer is not None:
                timer.cancel()
        if self._entered is not None:
            self._entered.leave()
        if self._entered is self._room:
            super().connection_lost(exc)

    def _check_begun(self) -> None:
        if not self._answered and not self._request_in_progress:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP, or to a failure outside the handlers; then the connection ends."""
        request_id = _new_request_id()
        _tell(exc, request_id)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, so that no other can be sent")
        if status < 500:
            error = ResponseError("this is not valid HTTP/1.1", status=status, code="malformed_request")
        else:
            error = ServerFailed("the gateway failed; its log has the request id", status=status)
        answer = _problem(error, request_id)
        answer.force_close()
        return answer

    def log_exception(self, *_: object, exc_info: BaseException | None = None, **__: object) -> None:
        """What aiohttp logs of a connection that failed: the class only."""
        _tell(exc_info, "of no id")

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends the answer. A refusal raised before the middleware, as for ``Expect``, becomes a problem."""
        self._answered = True
        if isinstance(resp, web.HTTPException):
            resp = _refusal(resp, _new_request_id())
        sent, self.sent = self.sent, None
        resp, gone = await super().finish_response(request, resp, start_time)
        if sent is not None and not gone and resp.status == web.HTTPOk.status_code:
            sent()
        return resp, gone


def _new_request_id() -> str:
    return f"{_RANDOM.getrandbits(64):016x}"


def _full() -> bytes:
    """A whole answer for a connection that there is no room for."""
    error = Overloaded("the gateway has no connection to spare", retry_after_s=_FULL_RETRY_S)
    body, headers = _told(error, _new_request_id())
    headers |= {"Content-Type": _PROBLEM, "Content-Length": str(len(body)), "Connection": "close"}
    lines = ["HTTP/1.1 503 Service Unavailable", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _tell(exc: BaseException | None, request_id: str) -> None:
    # What any stranger can cause is no more than information: it must not fill the log of who runs this.
    callers = isinstance(exc, HttpProcessingError | web.RequestPayloadError | ConnectionError)
    level = logging.INFO if callers else logging.ERROR
    _log.log(level, "request %s failed outside the handlers: %s", request_id, type(exc).__name__)


def _refusal(exc: web.HTTPException, request_id: str) -> web.Response:
    refused = ResponseError(exc.reason, status=exc.status, code=exc.reason.lower().replace(" ", "_"))
    answer = _problem(refused, request_id)
    for name in ("Allow", "Content-Range"):
        if name in exc.headers:
            answer.headers[name] = exc.headers[name]
    return answer


def _problem(error: ResponseError, request_id: str) -> web.Response:
    body, headers = _told(error, request_id)
    answer = web.Response(status=error.status, body=body, content_type=_PROBLEM, headers=headers)
    answer[ERROR_CODE] = error.code
    if error.code in _CLOSING:
        answer.force_close()
    return answer


def _told(error: ResponseError, request_id: str) -> tuple[bytes, dict[str, str]]:
    body: dict[str, object] = {
        "type": "about:blank",
        "title": error.code.replace("_", " "),
        "status": error.status,
        "code": error.code,
        "detail": _shortened(error.detail),
        "request_id": request_id,
    }
    if error.field is not None:
        body["field"] = _shortened(error.field)
    headers = {"Cache-Control": "no-store", "X-Request-Id": request_id, "Server": _SERVER}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return orjson.dumps(body), headers


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_DETAIL else f"{text[: _MAX_DETAIL - 3]}..."

"""Connections: how many are accepted, how long each may be idle, and the answer to malformed requests."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from blossom_async.errors import Overloaded, ResponseError, ServerFailed
from blossom_async.gateway.http.problems import PROBLEM, new_request_id, problem, problem_parts, refusal
from blossom_async.gateway.http.ready import ReadyHandler

__all__ = ["Connection", "Room"]

_FIRST_REQUEST_S = 30.0
_UNREAD_S = 30.0
_GOODBYE_S = 1.0
_FULL_RETRY_S = 2.0

_log = logging.getLogger("blossom_async.gateway")


class Room:
    """A counter with a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held: int = 0
        self.refused: int = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def enter(self, *, spare: bool = True) -> bool:
        """Counts one more; False at the limit, or if not ``spare``. After True, call ``leave`` once."""
        if self.held >= self._limit or not spare:
            self.refused += 1
            return False
        self.held += 1
        self._empty.clear()
        return True

    def leave(self) -> None:
        """Counts one less."""
        self.held -= 1
        if not self.held:
            self._empty.set()

    async def empty(self) -> None:
        """Waits until nothing is counted."""
        await self._empty.wait()


class Connection(ReadyHandler):
    """A connection that also answers requests aiohttp rejects with problem+json.

    aiohttp's own answer and log quote the line at fault, which may hold an API key or a prompt. Here neither
    shows anything of the request: the log gets the name of the exception's class.

    If ``room`` is full, or the descriptor is above ``last_descriptor``, the connection is answered 503 and
    closed; if ``lobby`` is full too, it is closed without an answer. A connection is also closed if no
    request arrives within 30 s.
    """

    def __init__(
        self,
        manager: web.Server,
        *,
        room: Room,
        lobby: Room,
        last_descriptor: int = sys.maxsize,
        **options: Any,
    ) -> None:
        super().__init__(manager, access_log=_log, **options)
        self.sent: Callable[[], None] | None = None
        """Called once the last byte of the current answer is written, if it was a 200 and the peer is still
        connected."""
        self._room = room
        self._lobby = lobby
        self._last_descriptor = last_descriptor
        self._entered: Room | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Reads requests if there is room, else answers 503."""
        loop = asyncio.get_running_loop()
        out = cast("asyncio.Transport", transport)
        spare = out.get_extra_info("socket").fileno() <= self._last_descriptor
        if self._room.enter(spare=spare):
            self._entered = self._room
            super().connection_made(transport)
            self._deadline = loop.call_later(_FIRST_REQUEST_S, self._check_begun)
        elif self._lobby.enter():
            self._entered = self._lobby
            self.close()  # nothing that arrives is parsed
            out.write(_full())
            # Closing at once would lose the answer: the peer may still be sending.
            self._deadline = loop.call_later(_GOODBYE_S, out.abort)
        else:
            self.close()
            out.abort()

    def pause_writing(self) -> None:
        """The peer has stopped reading; the connection is closed if that lasts 30 s."""
        super().pause_writing()
        if self.transport is not None:
            self._stuck = asyncio.get_running_loop().call_later(_UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The peer is reading again."""
        if self._stuck is not None:
            self._stuck.cancel()
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Frees its place."""
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
        """The answer to malformed HTTP, or to a failure outside the handlers; it closes the connection."""
        request_id = new_request_id()
        _log_failure(exc, request_id)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, so no other can be sent")
        if status < 500:
            error = ResponseError(_said(exc), status=status, code="malformed_request")
        else:
            error = ServerFailed("the gateway failed; find the request id in its log", status=status)
        answer = problem(error, request_id)
        answer.force_close()
        return answer

    def log_exception(self, *_: object, exc_info: BaseException | None = None, **__: object) -> None:
        """Logs only the class of the exception that ended a connection."""
        _log_failure(exc_info, "(without id)")

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends the answer; one that aiohttp raised before the middleware becomes a problem."""
        self._answered = True
        if isinstance(resp, web.HTTPException):
            resp = refusal(resp, new_request_id())
        sent, self.sent = self.sent, None
        resp, gone = await super().finish_response(request, resp, start_time)
        if sent is not None and not gone and resp.status == web.HTTPOk.status_code:
            sent()
        return resp, gone


def _said(exc: BaseException | None) -> str:
    if isinstance(exc, LineTooLong):
        return "the URL or a header is longer than 8,190 bytes; send less, such as fewer cookies"
    return "the request is not valid HTTP/1.1"


def _full() -> bytes:
    """The bytes of a whole answer, for a connection that is refused."""
    error = Overloaded("the gateway has no connection to spare; try again later", retry_after_s=_FULL_RETRY_S)
    body, headers = problem_parts(error, new_request_id())
    headers |= {"Content-Type": PROBLEM, "Content-Length": str(len(body)), "Connection": "close"}
    lines = ["HTTP/1.1 503 Service Unavailable", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _log_failure(exc: BaseException | None, request_id: str) -> None:
    # What any stranger can cause is logged as INFO, so that it cannot fill the operator's log.
    callers = isinstance(exc, HttpProcessingError | web.RequestPayloadError | ConnectionError)
    level = logging.INFO if callers else logging.ERROR
    _log.log(level, "request %s failed outside the handlers: %s", request_id, type(exc).__name__)

"""A connection: how many there may be, how long it may be silent, and what it answers to what is no HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

from blossom_async.errors import Overloaded, ResponseError, ServerFailed
from blossom_async.gateway.http.problems import PROBLEM, new_request_id, problem, refusal, told

__all__ = ["Connection", "Room"]

_FIRST_REQUEST_S = 30.0
_UNREAD_S = 30.0
_GOODBYE_S = 1.0
_FULL_RETRY_S = 2.0

_log = logging.getLogger("blossom_async.gateway")


class Room:
    """Counts what is there at once: at most ``limit``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0
        self.refused = 0

    def enter(self) -> bool:
        """Whether there was room; then ``leave`` is to be called once."""
        if self.held >= self._limit:
            self.refused += 1
            return False
        self.held += 1
        return True

    def leave(self) -> None:
        """Makes room again."""
        self.held -= 1


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
        request_id = new_request_id()
        _tell(exc, request_id)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, so that no other can be sent")
        if status < 500:
            error = ResponseError("this is not valid HTTP/1.1", status=status, code="malformed_request")
        else:
            error = ServerFailed("the gateway failed; its log has the request id", status=status)
        answer = problem(error, request_id)
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
            resp = refusal(resp, new_request_id())
        sent, self.sent = self.sent, None
        resp, gone = await super().finish_response(request, resp, start_time)
        if sent is not None and not gone and resp.status == web.HTTPOk.status_code:
            sent()
        return resp, gone


def _full() -> bytes:
    """A whole answer for a connection that there is no room for."""
    error = Overloaded("the gateway has no connection to spare", retry_after_s=_FULL_RETRY_S)
    body, headers = told(error, new_request_id())
    headers |= {"Content-Type": PROBLEM, "Content-Length": str(len(body)), "Connection": "close"}
    lines = ["HTTP/1.1 503 Service Unavailable", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _tell(exc: BaseException | None, request_id: str) -> None:
    # What any stranger can cause is no more than information: it must not fill the log of who runs this.
    callers = isinstance(exc, HttpProcessingError | web.RequestPayloadError | ConnectionError)
    level = logging.INFO if callers else logging.ERROR
    _log.log(level, "request %s failed outside the handlers: %s", request_id, type(exc).__name__)

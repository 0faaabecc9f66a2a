"""Answers that are ready once their request is parsed: sent at once, without a task of their own."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

import attrs
from aiohttp import HttpVersion11, web
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD

from blossom_async.gateway.http.metrics import RequestCounter

__all__ = ["Find", "Finder", "Ready", "ReadyHandler", "nothing"]

_log = logging.getLogger("blossom_async.gateway")
_SUITS = hasattr(HttpRequestParser, "message_consumed") and all(
    hasattr(web.RequestHandler, name)
    for name in ("_messages", "_next_keepalive_close_time", "_parser", "_waiter")
)
"""Whether this aiohttp has the parts that are used here. If not, its handlers answer everything."""


@attrs.define(eq=False)
class Ready:
    """A complete answer with status 200. The metrics count it under ``route``. ``size`` is that of its body.

    ``body`` is the bytes, or the descriptor of a file in the page cache, which the system sends without
    copying. ``seen``, if given, is called once the last byte is written and the peer is still connected.
    """

    route: str
    head: bytes
    body: bytes | int
    size: int
    seen: Callable[[], None] | None = None


Find = Callable[[RawRequestMessage, str | None], Ready | None]
"""What answers a request, by its parsed head and the peer's address; None leaves it to the handlers."""


def nothing(_: RawRequestMessage, __: str | None) -> None:
    """Leaves every request to the handlers."""


@attrs.define(eq=False)
class Finder:
    """Holds the ``find`` that all connections of a gateway use; it may be replaced."""

    find: Find


class ReadyHandler(web.RequestHandler):
    """A connection that asks the ``finder`` first, and aiohttp only if no answer is ready.

    That saves the tasks, request, response and routing of aiohttp: most of the time of a short answer. Only
    GETs are answered so, over HTTP/1.1, on a connection that stays and has nothing else under way.
    """

    def __init__(
        self, manager: web.Server, *, finder: Finder, counter: RequestCounter, **options: Any
    ) -> None:
        # aiohttp calls the access logger after each answer; this one counts and writes no log.
        super().__init__(manager, access_log_class=lambda *_: counter, **options)  # type: ignore[arg-type]
        self._finder = finder
        self._counter = counter
        self._answered = False
        self._wire: _Wire | None = None
        self._seen: Callable[[], None] | None = None  # of an answer that the peer has yet to read

    def data_received(self, data: bytes) -> None:
        """Parses what arrived, and sends the answer if it is ready."""
        waiter = self._waiter if _SUITS else None
        if waiter is None or waiter.done() or self._messages:  # an earlier request is under way
            super().data_received(data)
            return
        self._waiter = None  # by which aiohttp wakes the task that calls the handlers
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        if len(self._messages) == 1 and self._answered_at_once():
            self._messages.clear()
            if self._parser is not None:
                self._parser.message_consumed()
        elif self._messages:
            waiter.set_result(None)

    def resume_writing(self) -> None:
        """The peer is reading again."""
        super().resume_writing()
        seen, self._seen = self._seen, None
        if seen is not None:
            seen()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leaves the socket to the transport."""
        if self._wire is not None:
            self._wire.detach()
        super().connection_lost(exc)

    def _answered_at_once(self) -> bool:
        message, payload = self._messages[0]
        transport, started = self.transport, self._loop.time()
        if (
            not isinstance(message, RawRequestMessage)  # not valid HTTP
            or message.method != "GET"
            or message.version != HttpVersion11
            or message.should_close
            or message.upgrade
            or payload is not EMPTY_PAYLOAD
            or transport is None
            or transport.get_write_buffer_size()
        ):
            return False
        peer = self.peername
        answer = self._finder.find(message, peer[0] if isinstance(peer, tuple) else peer)
        if answer is None:
            return False
        self._answered = True
        if isinstance(answer.body, int):
            if self._wire is None:
                self._wire = _Wire(transport)
            self._wire.send_file(answer.head, answer.body, answer.size)
        else:
            # Not writelines: on some Pythons it ignores back-pressure (CVE-2024-12254).
            transport.write(answer.head)
            transport.write(answer.body)
        if transport.is_closing():
            return True
        if self._paused:
            self._seen = answer.seen
        elif answer.seen is not None:
            answer.seen()
        now = self._loop.time()
        self._next_keepalive_close_time = now + self.keepalive_timeout
        self._counter.count(answer.route, message.method, 200, now - started, len(answer.head) + answer.size)
        return True


class _Wire:
    """A socket beside its transport, which has nothing left to write."""

    def __init__(self, transport: asyncio.Transport) -> None:
        # A second object for the same descriptor: event loops let nobody else send on theirs.
        sock = transport.get_extra_info("socket")
        self._descriptor = sock.fileno()
        self._socket = socket.socket(sock.family, sock.type, sock.proto, fileno=self._descriptor)
        self._socket.setblocking(False)
        self._transport = transport

    def detach(self) -> None:
        """Leaves the descriptor to the transport alone."""
        self._socket.detach()

    def send_file(self, head: bytes, file: int, size: int) -> None:
        """Sends head and file. What the peer cannot take yet goes to the transport; a failure disconnects."""
        of_head = of_file = 0
        try:
            try:
                of_head = self._socket.send(head, socket.MSG_MORE)
                if of_head == len(head):
                    of_file = os.sendfile(self._descriptor, file, 0, size)
            except BlockingIOError:
                pass
            if of_file < size:
                rest = os.pread(file, size - of_file, of_file)
                if len(rest) < size - of_file:
                    raise OSError(f"the file ends at byte {of_file + len(rest)}")
                self._transport.write(head[of_head:] + rest)
        except OSError as exc:
            if not isinstance(exc, ConnectionError):
                _log.error("a picture was cut off while it was being sent: %s", exc)
            self._transport.abort()

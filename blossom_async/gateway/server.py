"""Serves the gateway on a socket, and drains it at the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

from aiohttp import web, web_app

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.app import FIND, STATUS, create_app
from blossom_async.gateway.http.connection import Connection, Room
from blossom_async.gateway.http.logs import AccessLines
from blossom_async.gateway.http.metrics import RequestCounter
from blossom_async.gateway.http.open_files import allow_files, last_for_connections, most_refused
from blossom_async.gateway.http.ready import Finder, nothing
from blossom_async.gateway.settings import Settings

__all__ = ["accepting", "listen", "serving"]

_BACKLOG = 1024
_AT_A_TIME = 16  # connections accepted in a pass of the event loop
_TURNS_OF_ACCEPTING = 3  # asyncio accepts, makes the transport and tells the protocol in one each
_KEEPALIVE_S = 75.0  # longer than our client's, so that the client closes idle connections first
_DRAIN_S = 25.0
_LAST_S = 0.5  # for requests that were sent before the sender learnt of the end
_OTHER_FILES = 2500  # besides connections: pictures, the database, connections that are refused
_LINGER_S = 10.0  # keeps reading a refused body for so long, so that its sender reads the answer

_listening: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _close_in_child() -> None:
    # A forked process would keep the port in use, and the connections made to it waiting.
    for sock in _listening:
        sock.close()


os.register_at_fork(after_in_child=_close_in_child)


def _forget_handlers() -> None:
    # aiohttp caches handlers for the whole process, and with them would keep 1.6 MB of each ended gateway.
    cached = getattr(web_app, "_cached_build_middleware", None)
    if cached is not None:  # a version without this private name may keep nothing
        cached.cache_clear()


async def accepting(sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    """A server of the event loop on a listening socket, which accepts a few connections in each pass.

    asyncio would accept as many as may wait in the backlog, all in one pass. A crowd of callers would so come
    between any two steps of every picture that is being made, and none would be finished in time.
    """
    server = await asyncio.get_running_loop().create_server(protocol, sock=sock, backlog=_AT_A_TIME)
    sock.listen(_BACKLOG)  # the others wait there
    return server


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ``ConfigurationError`` if the address is in use or not on this machine."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        _listening.add(sock)
        return sock
    except (OSError, UnicodeError) as exc:
        advice = "choose another with --port or BLOSSOM_PORT (0 picks a free one)"
        if isinstance(exc, socket.gaierror | UnicodeError) or exc.errno == errno.EADDRNOTAVAIL:
            advice = "set --host or BLOSSOM_HOST to an address of this machine, without scheme and port"
        reason = getattr(exc, "strerror", None) or exc
        raise ConfigurationError(f"cannot listen on {host} port {port}: {reason}; {advice}") from exc


@asynccontextmanager
async def serving(
    settings: Settings, sock: socket.socket, *, instance: str = "", own_key: str | None = None
) -> AsyncIterator[str]:
    """Serves on the socket while the block runs; yields the URL that pictures' URLs start with.

    On leaving, ``/readyz`` answers 503 for ``drain_delay_s`` and every answer closes its connection; then no
    connection is accepted any more, requests under way finish, and idle connections end once those on the
    wire have arrived. All of it takes at most 30 s. ``instance`` and ``own_key`` as for ``create_app``.
    Raises this process's limit of open files to the highest allowed.
    """
    allow_files(settings.max_connections + _OTHER_FILES)
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    public_url = (settings.public_url or f"http://{shown}:{port}").rstrip("/")
    instance = instance or secrets.token_hex(8)
    try:
        app = create_app(settings, public_url=public_url, instance=instance, own_key=own_key)
    except BaseException:
        sock.close()
        raise
    status = app[STATUS]
    room = Room(settings.max_connections)
    status.metrics.gauge("blossom_connections", "Open connections.", lambda: room.held)
    status.metrics.counter(
        "blossom_connections_refused", "Connections refused at the limit.", lambda: room.refused
    )
    # Only of a request that goes through the handlers there is a line in the log.
    finder = Finder(nothing if settings.access_log == "all" else app[FIND])
    drain_s = _DRAIN_S - settings.drain_delay_s
    # A handler whose caller has gone is cancelled; work under an Idempotency-Key has a task of its own.
    runner = web.AppRunner(app, shutdown_timeout=drain_s, handler_cancellation=True)
    loop = asyncio.get_running_loop()
    try:
        await runner.setup()
        # Not web.SockSite, which makes connections of aiohttp's own class only.
        connection = partial(
            Connection,
            cast("web.Server", runner.server),
            loop=loop,
            room=room,
            lobby=Room(most_refused()),
            last_descriptor=last_for_connections(),
            counter=RequestCounter(status.metrics, AccessLines(settings.access_log)),
            finder=finder,
            keepalive_timeout=_KEEPALIVE_S,
            lingering_time=_LINGER_S,
            auto_decompress=False,
        )
        listening = await accepting(sock, connection)
        try:
            yield public_url
        finally:
            status.stage = "draining"
            finder.find = nothing  # every answer has to say that its connection ends
            await asyncio.sleep(settings.drain_delay_s)
            loop.remove_reader(sock)  # asyncio leaks what it accepts in the turns before ``close``
            for _ in range(_TURNS_OF_ACCEPTING):
                await asyncio.sleep(0)
            listening.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(room.empty(), _LAST_S)
    finally:
        ends = loop.time() + drain_s
        await runner.cleanup()
        with contextlib.suppress(TimeoutError):  # slow viewers are still being sent their answers
            await asyncio.wait_for(room.empty(), ends - loop.time())
        sock.close()
        _forget_handlers()

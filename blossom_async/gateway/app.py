"""The only wiring: which parts the gateway is made of, and how it is served."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import cast

import orjson
from aiohttp import http_parser, web

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.access import ApiKeys
from blossom_async.gateway.api import MAX_BODY, Api
from blossom_async.gateway.blobs import LocalBlobs
from blossom_async.gateway.encoding import warm_up
from blossom_async.gateway.generation import Generation
from blossom_async.gateway.problems import Connection, problems
from blossom_async.gateway.providers.offline import Offline
from blossom_async.gateway.public import Public
from blossom_async.gateway.records import Records
from blossom_async.gateway.settings import Settings, check_keys
from blossom_async.gateway.workers import Workers

__all__ = ["create_app", "listen", "serving"]

_BACKLOG = 1024
_KEEPALIVE_S = 75.0  # longer than the client's, so that the client is the one to close an idle connection
_DRAIN_S = 30.0
_LINGER_S = 10.0  # for the rest of a refused body, so that its sender gets to read the answer


def create_app(settings: Settings, *, public_url: str, instance: str = "") -> web.Application:
    """The gateway as an aiohttp application. ``public_url`` is what the URLs it gives out begin with.

    ``instance`` is answered by ``/healthz``, so that a process can tell its own gateway from another.
    Raises ``ConfigurationError`` when it would listen beyond loopback without API keys or parse HTTP in pure
    Python, and when it starts if the data folder cannot be used.
    """
    _check_parser()
    check_keys(settings)
    workers = Workers(settings.render_threads)
    records = Records(settings.data_dir / "records.sqlite")
    blobs = LocalBlobs(settings.data_dir / "images")
    generation = Generation(Offline(workers.run), records, blobs, workers, now=_now)
    api = Api(ApiKeys(settings.api_keys), generation, records, blobs, public_url=public_url, now=_now)
    public = Public(records, blobs, now=_now)

    async def parts(_: web.Application) -> AsyncIterator[None]:
        await blobs.open()
        await records.open()
        warming = asyncio.create_task(workers.run(warm_up))
        try:
            yield
        finally:
            await warming
            workers.begin_nothing_more()  # nobody waits any more: the requests have been answered or are gone
            await generation.settle()
            await records.close()
            await blobs.close()
            workers.close()

    async def healthz(_: web.Request) -> web.Response:
        body = {"service": "blossom", "status": "ok", "instance": instance}
        return web.Response(
            body=orjson.dumps(body), content_type="application/json", headers={"Cache-Control": "no-store"}
        )

    app = web.Application(middlewares=[problems], client_max_size=MAX_BODY)
    app.cleanup_ctx.append(parts)
    app.on_response_prepare.append(_name_server)
    app.add_routes([web.get("/healthz", healthz), *api.routes(), *public.routes()])
    return app


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ``ConfigurationError`` when the address is taken or not this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {exc.strerror or exc}; "
            "choose another with --port or BLOSSOM_PORT (0 takes any free one)"
        ) from exc


@asynccontextmanager
async def serving(settings: Settings, sock: socket.socket, *, instance: str = "") -> AsyncIterator[str]:
    """Serves on the socket while the block runs; gives the URL that pictures are reached under.

    On leaving, requests under way have 30 s to finish.
    """
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    public_url = (settings.public_url or f"http://{shown}:{port}").rstrip("/")
    app = create_app(settings, public_url=public_url, instance=instance or secrets.token_hex(8))
    # A handler whose caller has gone is cancelled; what goes on under an Idempotency-Key is not its own.
    runner = web.AppRunner(app, shutdown_timeout=_DRAIN_S, handler_cancellation=True)
    loop = asyncio.get_running_loop()
    try:
        await runner.setup()
        # Not web.SockSite: it makes connections of aiohttp's own class only.
        connection = partial(
            Connection,
            cast("web.Server", runner.server),
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # as web.AppRunner takes it: no log
            keepalive_timeout=_KEEPALIVE_S,
            lingering_time=_LINGER_S,
            auto_decompress=False,
        )
        listening = await loop.create_server(connection, sock=sock, backlog=_BACKLOG)
        try:
            yield public_url
        finally:
            listening.close()
    finally:
        await runner.cleanup()
        sock.close()


def _check_parser() -> None:
    # Most of aiohttp's request smuggling advisories are of its pure Python parser only.
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigurationError(
            "aiohttp parses HTTP in pure Python here, which is not safe enough for a server; "
            "unset AIOHTTP_NO_EXTENSIONS, or install an aiohttp wheel made for this platform"
        )


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "blossom"  # without versions


def _now() -> datetime:
    return datetime.now(UTC)

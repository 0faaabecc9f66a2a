"""One exchange with a service: a failure says whether anything was sent; an answer's size is limited."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import gzip
import json
import pickle
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import aiohttp
import pybase64
import pytest
from aiohappyeyeballs import AddrInfoType
from aiohttp import web
from yarl import URL

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.making.accounts import Account, connected
from blossom_async.gateway.making.upstreams import Limits, Upstreams
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.gateway.providers.wire import MAX_BYTES, Secret, Wire, provider_session, service_url
from blossom_async.models import ImageRequest
from blossom_async.testing.pictures import draw
from tests.ports import reserved_port
from tests.waiting import GROWING_S

CANARY = "canary-0123456789-abcdefgh"

_Reader: TypeAlias = asyncio.StreamReader
_Writer: TypeAlias = asyncio.StreamWriter


@asynccontextmanager
async def listening(talk: Callable[[_Reader, _Writer], Awaitable[None]]) -> AsyncIterator[URL]:
    """A server that says what ``talk`` writes, byte for byte, and then closes the connection."""
    talks: list[asyncio.Task[None]] = []

    async def serve(reader: _Reader, writer: _Writer) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    def begin(reader: _Reader, writer: _Writer) -> None:
        talks.append(asyncio.create_task(serve(reader, writer)))

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        yield URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        await asyncio.gather(*talks)


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[URL]:
    """A web server with one handler for all paths."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, sock).start()
    try:
        yield URL(f"http://127.0.0.1:{sock.getsockname()[1]}/")
    finally:
        await runner.cleanup()


async def accident(url: URL, *, method: str = "POST", timeout_s: float = 30.0) -> ProviderFault:
    """The fault that asking this address ends in."""
    async with provider_session() as session:
        wire = Wire("p", session, timeout_s=timeout_s, connect_s=5.0)
        with pytest.raises(ProviderFault) as caught:
            await wire.ask(method, url, headers={}, json={"prompt": "x"} if method == "POST" else None)
    return caught.value


# What left


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_refused_connection_left_nothing(method: str) -> None:
    """It is safe to repeat."""
    with reserved_port() as port:
        fault = await accident(URL(f"http://127.0.0.1:{port}/"), method=method)
    assert (fault.kind, fault.charged, fault.safe_to_repeat) == (Kind.UNSENT, "no", True)


async def test_a_host_without_an_address_left_nothing() -> None:
    """Names that do not resolve."""
    fault = await accident(URL("http://provider.invalid/"))
    assert (fault.kind, fault.charged) == (Kind.UNSENT, "no")


async def test_a_failed_handshake_left_nothing() -> None:
    """TLS comes before the request."""

    async def talk(reader: _Reader, writer: _Writer) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listening(talk) as url:
        fault = await accident(url.with_scheme("https"))
    assert (fault.kind, fault.charged) == (Kind.UNSENT, "no")


async def test_an_address_that_the_guard_refuses_left_nothing() -> None:
    """The guard sees the address that is about to be connected to."""

    def guard(info: AddrInfoType) -> socket.socket:
        raise PermissionError(errno.EACCES, "not this one")

    async with provider_session(guard) as session:
        with pytest.raises(ProviderFault) as caught:
            await Wire("p", session, timeout_s=5, connect_s=5).ask(
                "GET", URL("http://127.0.0.1:9/"), headers={}
            )
    assert caught.value.kind is Kind.UNSENT


async def test_a_connection_that_ends_after_the_request_is_lost() -> None:
    """Nobody knows whether the server began."""
    arrived = []

    async def talk(reader: _Reader, writer: _Writer) -> None:
        arrived.append(await reader.readuntil(b"\r\n\r\n"))

    async with listening(talk) as url:
        fault = await accident(url)
    assert (fault.kind, fault.charged, fault.safe_to_repeat) == (Kind.LOST, "unknown", False)
    assert len(arrived) == 1


async def test_a_get_that_is_repeated_into_a_refusal_is_lost_not_unsent() -> None:
    """aiohttp sends a GET again when the connection ends: the second failing says nothing of the first."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)

    async def answer_once() -> None:
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(sock)
        sock.close()
        await loop.sock_recv(connection, 65536)
        connection.close()

    url = URL(f"http://127.0.0.1:{sock.getsockname()[1]}/")
    answering_once = asyncio.create_task(answer_once())
    fault = await accident(url, method="GET")
    await answering_once
    assert (fault.kind, fault.charged) == (Kind.LOST, "unknown")


async def test_silence_is_lost_after_the_time_allowed() -> None:
    """The total time ends it."""

    arrived = []

    async def talk(reader: _Reader, writer: _Writer) -> None:
        arrived.append(await reader.read(1))
        await reader.read()

    for timeout_s in GROWING_S:
        async with listening(talk) as url:
            fault = await accident(url, timeout_s=timeout_s)
        if arrived:
            break
    assert (fault.kind, fault.charged) == (Kind.LOST, "unknown")
    assert f"{timeout_s:g} s" in fault.detail


PICTURE = draw("a lake", width=16, height=16, format="png", transparent=False).data


@pytest.mark.parametrize("body", [b"half", PICTURE[:-1], b'{"data": []}', b'{"data": [{"b64_json": "iVBO'])
async def test_a_body_that_is_cut_off_is_lost(body: bytes) -> None:
    """Half an answer is none."""

    async def talk(reader: _Reader, writer: _Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + body)
        await writer.drain()

    async with listening(talk) as url:
        fault = await accident(url, method="GET")
    assert fault.kind is Kind.LOST


_JSON = json.dumps({"data": [{"b64_json": pybase64.b64encode(PICTURE).decode()}]}).encode()


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, _JSON), (200, PICTURE), (400, b'{"error": {"message": "too wide"}}')],
    ids=["JSON", "a picture", "a refusal"],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_what_is_whole_counts_although_more_was_announced(
    status: int, body: bytes, chunked: bool
) -> None:
    """Or although the last chunk is missing: the picture is paid, and all of it is there."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body) + 9}"

    async def talk(reader: _Reader, writer: _Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} X\r\n{framing}\r\n\r\n".encode())
        writer.write(b"%x\r\n%b\r\n" % (len(body), body) if chunked else body)
        await writer.drain()

    async with listening(talk) as url, provider_session() as session:
        wire = Wire("p", session, timeout_s=30.0, connect_s=5.0)
        answer = await wire.ask("GET", url, headers={})
    assert (answer.status, answer.body) == (status, body)


async def test_with_a_session_that_does_not_note_it_everything_may_have_left() -> None:
    """The safe side of not knowing."""
    async with aiohttp.ClientSession() as session:
        wire = Wire("p", session, timeout_s=5, connect_s=5)
        with reserved_port() as port, pytest.raises(ProviderFault) as caught:
            await wire.ask("GET", URL(f"http://127.0.0.1:{port}/"), headers={})
    assert (caught.value.kind, caught.value.charged) == (Kind.LOST, "unknown")


# What is read


@pytest.mark.parametrize("compressed", [False, True])
async def test_an_endless_answer_is_not_read_to_its_end(compressed: bool) -> None:
    """Row 81: at most 64 MiB, counted after decompression."""
    sent = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        if compressed:
            response.enable_compression()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while sent < 16 * MAX_BYTES:
                await response.write(bytes(2**20))
                sent += 2**20
        return response

    async with answering(handle) as url:
        fault = await accident(url)
    assert fault.kind is Kind.BAD_CONTENT
    assert "67,108,864 bytes" in fault.detail
    assert sent < 16 * MAX_BYTES
    if not compressed:  # but for what was on its way
        assert sent < 2 * MAX_BYTES


_ONCE = gzip.compress(b"a picture")


@pytest.mark.parametrize(
    ("sent", "coding", "read"),
    [
        (_ONCE, "x-gzip", b"a picture"),
        (_ONCE, None, b"a picture"),
        (_ONCE, "identity, gzip", b"a picture"),
        (gzip.compress(_ONCE), "gzip", b"a picture"),
        (gzip.compress(_ONCE), "gzip, gzip", b"a picture"),
        (_ONCE[:-4], None, _ONCE[:-4]),
        (_ONCE[:-8] + bytes(8), "x-gzip", _ONCE[:-8] + bytes(8)),
    ],
    ids=["x-gzip", "untold", "a list", "twice, told once", "twice", "cut off", "damaged"],
)
async def test_gzip_is_known_by_its_first_bytes(sent: bytes, coding: str | None, read: bytes) -> None:
    """RFC 9110, 8.4. What is damaged stays as it came."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=sent, headers={"Content-Encoding": coding} if coding else {})

    async with answering(handle) as url, provider_session() as session:
        answer = await Wire("p", session, timeout_s=5, connect_s=5).ask("POST", url, headers={}, json={})
    assert answer.body == read


async def test_gzip_is_inflated_to_64_mib_at_most() -> None:
    """Also where no header told of it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(bytes(MAX_BYTES + 1), 1))

    async with answering(handle) as url:
        fault = await accident(url)
    assert (fault.kind, fault.charged) == (Kind.BAD_CONTENT, "unknown")
    assert "67,108,864 bytes" in fault.detail


@pytest.mark.parametrize("headers", [{"Policy": "x" * 60_000}, {f"X-{n}": "x" for n in range(900)}])
async def test_an_answer_may_have_long_headers_and_many(headers: dict[str, str]) -> None:
    """Policies and cookies; OpenAI's own client reads them, too."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=b"a picture", headers=headers)

    async with answering(handler) as url, provider_session() as session:
        answer = await Wire("p", session, timeout_s=5, connect_s=5).ask("POST", url, headers={}, json={})
    assert answer.body == b"a picture"


async def test_a_redirect_is_an_answer() -> None:
    """Row 78: the key goes nowhere else."""
    asked = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        raise web.HTTPFound("/elsewhere")

    async with answering(handle) as url, provider_session() as session:
        answer = await Wire("p", session, timeout_s=5, connect_s=5).ask("GET", url, headers={})
    assert answer.status == 302
    assert asked == ["/"]


async def test_the_environments_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 80."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"here")

    with reserved_port() as port:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        async with answering(handle) as url, provider_session() as session:
            answer = await Wire("p", session, timeout_s=5, connect_s=5).ask("GET", url, headers={})
    assert answer.body == b"here"


# Keys and addresses


def test_a_secret_shows_itself_to_who_asks_for_it_only() -> None:
    """No repr, no text, no copy on disk."""
    secret = Secret(f"  {CANARY}\n")
    assert secret.reveal() == CANARY
    for shown in (repr(secret), str(secret), f"{secret}", f"{[secret]!r}"):
        assert CANARY not in shown
    for written in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError) as caught:
            written(secret)
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "  ", f"{CANARY}\nX-Other: 1", f"{CANARY} two", f"{CANARY}é", "x" * 5000]
)
def test_what_cannot_be_a_key_is_refused_without_being_shown(text: str) -> None:
    """Also what would end a header line."""
    with pytest.raises(ConfigurationError) as caught:
        Secret(text)
    assert "canary" not in str(caught.value)
    assert "characters" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "gen.example", "ftp://a.example", "http://", "http://u:canary@a.example", "http://["]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """And not shown: it may hold a password."""
    with pytest.raises(ConfigurationError) as caught:
        service_url("p", url)
    assert "canary" not in str(caught.value)


def test_an_address_keeps_its_path_and_query() -> None:
    """Without the slash at its end."""
    assert (
        str(service_url("p", "https://a.example/v1/?api-version=1")) == "https://a.example/v1?api-version=1"
    )
    assert str(service_url("p", "https://a.example/")) == "https://a.example"


# What it publishes


@pytest.mark.parametrize("provider", ["openai", "pollinations"])
async def test_the_quotas_of_a_provider_reach_the_gate_before_it(provider: str) -> None:
    """With each answer to a request that draws, and not with the list of its models."""

    async def answer(request: web.Request) -> web.Response:
        draws = request.method == "POST" or "prompt" in request.path
        headers = {"RateLimit-Policy": '"all";q=1;w=3600'} if draws else {}
        return web.json_response({"error": {"message": "no"}}, status=400, headers=headers)

    upstreams = Upstreams()
    async with answering(answer) as url:
        base = str(url) if provider == "openai" else str(url / "prompt")
        account = Account(provider=provider, limits=Limits(), url=base, model="flux")
        async with connected(upstreams, [account], Workers(1)):
            (upstream,) = upstreams
            await upstream.gate.acquire()
            with pytest.raises(ProviderFault):
                await upstream.provider.models()
            assert not upstream.gate.closed
            with pytest.raises(ProviderFault):
                await upstream.provider.generate(ImageRequest("a lake"), 1, key="k")
            waiting = asyncio.create_task(upstream.gate.acquire())
            await asyncio.sleep(0)
            assert upstream.gate.closed
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait([waiting])

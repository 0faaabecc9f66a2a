"""One exchange with a gateway, against servers that answer well, badly or not at all."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import NoneType
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer
from aioresponses import aioresponses

from blossom_async.batch import Throttle, classify, pause_s
from blossom_async.errors import (
    BlossomError,
    ConfigurationError,
    Gone,
    NotFound,
    Overloaded,
    ProviderFailed,
    RateLimited,
    Rejected,
    ResponseError,
    ServerFailed,
    StaleConnection,
    TimedOut,
    TransportError,
    Unauthenticated,
    class_for_status,
)
from blossom_async.gateway.background.webhooks import webhook_session
from blossom_async.models import ImageInfo
from blossom_async.transport import Exchange, Transport, http_session
from blossom_async.warmup import warmup_session
from tests.ports import reserved_port
from tests.scarcity import no_files_left
from tests.test_models import INFO

CREATE = Exchange("POST", "/v1/images", ImageInfo, b"{}", idempotency_key="k")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler, timeout_s: float = 10.0, path: str = "") -> AsyncIterator[Transport]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server, http_session(timeout_s) as session:
        yield Transport(str(server.make_url("")).rstrip("/") + path, "a-key", session)


def always(**answer: Any) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(**answer)

    return handler


async def test_an_answer_becomes_a_model() -> None:
    """What a gateway says of a picture is structured."""
    async with answering(always(body=INFO, content_type="application/json")) as transport:
        info = await transport.send(CREATE)
    assert info.id == "A" * 22


@pytest.mark.parametrize("headers", [{"Policy": "x" * 60_000}, {f"X-{n}": "x" for n in range(900)}])
async def test_an_answer_may_have_long_headers_and_many(headers: dict[str, str]) -> None:
    """What stands in front of a gateway, of a picture and of the receiver of webhooks adds its own."""
    app = web.Application()
    app.router.add_get("/", always(headers=headers))
    async with TestServer(app) as server, http_session() as ours, webhook_session() as webhooks:
        async with warmup_session({f"{server.host}:{server.port}"}, 5.0) as warmup:
            for session in (ours, webhooks, warmup):
                async with session.get(server.make_url("/")) as answer:
                    assert answer.status == 200


async def test_an_answer_without_content_is_none() -> None:
    """Where nothing is to be said, nothing is read, and content is no answer of a gateway."""
    revoke = Exchange("POST", "/v1/access-keys/a/revoke", NoneType, b"")
    async with answering(always(status=204)) as transport:
        await transport.send(revoke)
    async with answering(always(text="hello")) as transport:
        with pytest.raises(ConfigurationError, match="is not a Blossom gateway"):
            await transport.send(revoke)


async def test_the_key_and_the_idempotency_key_are_sent() -> None:
    """Every call carries the API key, a creating one its Idempotency-Key."""
    seen: dict[str, str | None] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(
            auth=request.headers.get("Authorization"),
            key=request.headers.get("Idempotency-Key"),
            body=(await request.read()).decode(),
        )
        return web.Response(body=INFO, content_type="application/json")

    async with answering(handler) as transport:
        await transport.send(CREATE)
    assert seen == {"auth": "Bearer a-key", "key": "k", "body": "{}"}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Unauthenticated),
        (404, NotFound),
        (410, Gone),
        (422, Rejected),
        (429, RateLimited),
        (500, ServerFailed),
        (502, ProviderFailed),
        (503, Overloaded),
        (418, ResponseError),
        (599, ServerFailed),
    ],
)
async def test_each_status_has_its_error(status: int, error: type[ResponseError]) -> None:
    """The problem's words arrive as fields of the error of that status."""
    body = b'{"detail":"why","code":"c","field":"width","request_id":"r1","status":%d}' % status
    answer = always(
        status=status,
        body=body,
        content_type="application/problem+json",
        headers={"Retry-After": "7"},
    )
    async with answering(answer) as transport:
        with pytest.raises(error) as caught:
            await transport.send(CREATE)
    told = caught.value
    assert type(told) is error
    assert (told.status, told.code, told.detail, told.field) == (status, "c", "why", "width")
    assert (told.request_id, told.retry_after_s) == ("r1", 7.0)
    assert "why" in str(told)
    assert "r1" in str(told)


def test_statuses_and_classes_agree() -> None:
    """The one table between status and class holds both ways."""
    for status in range(400, 600):
        assert class_for_status(status).status in {status, 500}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_proxy_that_fails_is_an_outage(status: int) -> None:
    """A 5xx in a proxy's own words is the error of its status, not a wrong address."""
    async with answering(always(status=status, text="<html>", content_type="text/html")) as transport:
        with pytest.raises(class_for_status(status)):
            await transport.send(CREATE)


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "<html>hello", "content_type": "text/html"},
        {"body": b"[]", "content_type": "application/json"},
        {"body": b'{"service":"other"}', "content_type": "application/json"},
        {"status": 404, "text": "nginx", "content_type": "text/html"},
        {"status": 302, "headers": {"Location": "http://127.0.0.1:9/"}},
    ],
)
async def test_something_else_at_the_address_is_said(answer: dict[str, Any]) -> None:
    """What is no gateway is a configuration error in one line that names the address."""
    async with answering(always(**answer)) as transport:
        with pytest.raises(
            ConfigurationError, match="that is not a Blossom gateway; check base_url"
        ) as caught:
            await transport.probe(5.0)
        assert transport.base_url in str(caught.value)
        assert "\n" not in str(caught.value)


async def test_an_address_with_v1_says_what_to_leave_out() -> None:
    """OpenAI's clients need it, this one adds it."""
    async with answering(always(status=404, text="", content_type="text/html"), path="/v1") as transport:
        with pytest.raises(ConfigurationError, match="leave /v1 out of base_url"):
            await transport.probe(5.0)


async def test_no_file_for_a_connection_is_overload() -> None:
    """It passes, counts as no attempt, and does not mean that the gateway is gone."""
    async with http_session(10) as session:
        transport = Transport("http://127.0.0.1:1", None, session)

        async def no_other() -> tuple[str, str]:
            raise AssertionError("another gateway was looked for")

        transport.successor = no_other
        with no_files_left(), pytest.raises(Overloaded, match="ulimit -n") as refused:
            await transport.send(CREATE)
    assert classify(refused.value) == Throttle(1.0)


async def test_nobody_there_is_a_transport_error() -> None:
    """A refused connection says where nobody answered."""
    with reserved_port() as port:
        address = f"http://127.0.0.1:{port}"
        async with http_session(5.0) as session:
            with pytest.raises(
                TransportError, match=f"no answer from {address}: Connection refused"
            ) as caught:
                await Transport(address, None, session).probe(5.0)
    assert not isinstance(caught.value, TimedOut)


class TestTls:
    """What goes wrong with TLS is called that."""

    @asynccontextmanager
    async def closing_at_once(self, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
        async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello\n")
            writer.close()

        async with await asyncio.start_server(close, "127.0.0.1", 0, ssl=tls) as server:
            yield server.sockets[0].getsockname()[1]

    async def said(self, address: str) -> str:
        async with http_session(5.0) as session:
            with pytest.raises(TransportError) as caught:
                await Transport(address, None, session).probe(5.0)
        return str(caught.value)

    async def test_a_certificate_of_nobody_we_trust(self) -> None:
        """Why it is not accepted, and where to name those to trust."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("localhost").configure_cert(tls)
        async with self.closing_at_once(tls) as port:
            said = await self.said(f"https://localhost:{port}")
        assert "TLS: its certificate is not accepted (" in said
        assert "SSL_CERT_FILE" in said

    async def test_https_for_a_server_without_it(self) -> None:
        """The scheme is named."""
        async with self.closing_at_once(None) as port:
            assert "TLS: " in (said := await self.said(f"https://127.0.0.1:{port}"))
        assert "write http:// in base_url" in said

    async def test_http_for_a_server_with_tls(self) -> None:
        """The other way round."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("localhost").configure_cert(tls)
        async with self.closing_at_once(tls) as port:
            assert "if it speaks TLS, write https://" in await self.said(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_says_where_it_leads(status: int) -> None:
    """So that the address can be mended; what may be a token in it is left out."""
    there = {"Location": "https://pictures.example/healthz?token=secret"}
    async with answering(always(status=status, headers=there)) as transport:
        with pytest.raises(ConfigurationError) as caught:
            await transport.probe(5.0)
    assert f"answered {status}, which leads to 'https://pictures.example/healthz'" in str(caught.value)
    assert "check base_url" in str(caught.value)


async def test_a_session_that_raises_for_a_status_takes_no_answer_away() -> None:
    """The gateway's own error comes, not aiohttp's."""
    body = b'{"detail":"change the prompt","code":"content_refused"}'
    app = web.Application()
    app.router.add_post("/v1/images", always(status=422, body=body, content_type="application/problem+json"))
    async with TestServer(app) as server, aiohttp.ClientSession(raise_for_status=True) as session:
        transport = Transport(str(server.make_url("")), None, session)
        with pytest.raises(Rejected, match="change the prompt"):
            await transport.send(CREATE)


async def test_a_connection_cut_before_the_answer_is_a_stale_one() -> None:
    """Nothing of an answer came: the request may be repeated at once under its key."""

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with answering(handler) as transport:
        with pytest.raises(StaleConnection):
            await transport.send(CREATE)


async def test_a_gateway_that_wants_a_pause_is_heard() -> None:
    """A quota that is used up pauses whoever asked to hear of it, on success too."""
    pauses: list[float | None] = []
    headers = {"RateLimit": '"burst";r=0;t=3'}
    async with answering(always(body=INFO, content_type="application/json", headers=headers)) as transport:
        transport.on_quotas = lambda headers, _: pauses.append(pause_s(headers))
        await transport.send(CREATE)
    assert pauses == [3.0]


async def test_a_connection_cut_mid_answer_is_a_transport_error() -> None:
    """Half an answer is none."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with answering(handler) as transport:
        with pytest.raises(TransportError) as caught:
            await transport.probe(5.0)
    assert not isinstance(caught.value, StaleConnection)


async def test_too_slow_is_timed_out() -> None:
    """The time for one call includes the last byte; the error is a ``TimeoutError`` too."""
    waiting = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        await waiting.wait()
        return web.Response()

    async with answering(handler, timeout_s=0.05) as transport:
        with pytest.raises(TimedOut) as caught:
            await transport.send(CREATE)
        with pytest.raises(TimedOut):
            await transport.probe(0.01)
        waiting.set()
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, BlossomError)


async def test_an_answer_with_another_type_of_value_is_no_gateway() -> None:
    """An odd single answer, without a server: aioresponses stands in for one."""
    async with http_session(5.0) as session:
        transport = Transport("http://gateway.test", None, session)
        with aioresponses() as mocked:
            mocked.post("http://gateway.test/v1/images", body=b'{"url":3}', content_type="application/json")
            with pytest.raises(ConfigurationError, match=r"a body that is not a valid ImageInfo: url: .*str"):
                await transport.send(CREATE)


@pytest.mark.parametrize(
    "address",
    ["", "images.example.com", "ftp://x", "http://", "http://u:p@x", "http://x?y=1", "http://x:99999"],
)
async def test_an_address_that_is_none_is_refused(address: str) -> None:
    """base_url must be an http(s) address, said before anything is sent."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConfigurationError, match="base_url"):
            Transport(address, None, session)


async def test_a_key_has_no_repr() -> None:
    """A transport in a log gives no key away."""
    async with aiohttp.ClientSession() as session:
        assert "secret" not in repr(Transport("http://x", "secret", session))


async def test_a_closed_session_is_said() -> None:
    """Not a bare error of aiohttp."""
    session = aiohttp.ClientSession()
    await session.close()
    with pytest.raises(ConfigurationError, match="is closed; open a new one"):
        await Transport("http://127.0.0.1:1", None, session).send(CREATE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_session_with_a_login_of_its_own_is_said() -> None:
    """It cannot carry the API key too."""
    async with aiohttp.ClientSession(auth=aiohttp.BasicAuth("me", "pw")) as session:
        with pytest.raises(ConfigurationError, match=r"session given to .* cannot be used: .*AUTH"):
            await Transport("http://127.0.0.1:1", "a-key", session).send(CREATE)


async def test_an_endless_answer_is_not_kept() -> None:
    """More than a gateway ever says is cut off."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(64):
            await response.write(b" " * (64 << 10))
        return response

    async with answering(handler) as transport:
        with pytest.raises(TransportError, match="more than 1048576 bytes"):
            await transport.send(CREATE)


async def test_a_hiccup_of_a_known_gateway_is_no_wrong_address() -> None:
    """Once a gateway has answered, one odd answer does not end a whole batch."""

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/healthz":
            return web.json_response({"service": "blossom"})
        return web.Response(text="<html>", content_type="text/html")

    async with answering(handler) as transport:
        await transport.probe(5.0)
        with pytest.raises(TransportError, match="no gateway does"):
            await transport.send(CREATE)


async def test_no_error_holds_the_key() -> None:
    """Neither an error nor what it came from has the API key in it."""

    async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/9 what\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(garbage, "127.0.0.1", 0) as server, http_session(5.0) as session:
        port = server.sockets[0].getsockname()[1]
        transport = Transport(f"http://127.0.0.1:{port}", "a-secret-key", session)
        with pytest.raises(TransportError, match="it is not HTTP") as caught:
            await transport.probe(5.0)
    error: BaseException | None = caught.value
    while error is not None:
        assert "a-secret-key" not in f"{error!r}{error.args}"
        error = error.__cause__ or error.__context__


async def test_a_deeply_nested_problem_is_an_error_like_any_other() -> None:
    """What the gateway says of a refusal is taken only if it is text."""
    body = b'{"detail":' + b"[" * 900 + b"]" * 900 + b',"code":{}}'
    async with answering(always(status=422, body=body, content_type="application/problem+json")) as transport:
        with pytest.raises(Rejected, match="refused"):
            await transport.send(CREATE)

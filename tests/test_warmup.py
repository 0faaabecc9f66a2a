"""Untrusted URLs are requested only at allowed addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from blossom_async.errors import InvalidRequest, Overloaded, RateLimited, TransportError
from blossom_async.guard import is_public
from blossom_async.models import PreloadResult
from blossom_async.warmup import check_url, preload_one, validate, warmup_hosts, warmup_session

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[URL]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        yield server.make_url("/picture")


async def preload(url: URL, method: str = "auto", *, own: bool = True) -> PreloadResult:
    async with warmup_session({f"{url.host}:{url.port}"} if own else set(), 5.0) as session:
        return await preload_one(session, url, method)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    """Addresses of the internet, also in their IPv6 spellings."""
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "192.88.99.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2002:7f00:1::", "::7f00:1",
        "fec0::1", "3fff::1", "5f00::1", "100:0:0:1::1", "::ffff:0:127.0.0.1", "2001:db8::5efe:7f00:1",
        "localhost", "",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    """Private, link-local and loopback ones, however they are wrapped."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0", "①②⑦.⓪.⓪.①"]
)
async def test_private_hosts_are_not_connected_to(host: str) -> None:
    """Whatever the spelling, a stranger's URL reaches nothing on this machine."""
    reached: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response()

    async with answering(handler) as url:
        result = await preload(URL(f"http://{host}:{url.port}/picture"), own=False)
    assert result.status is None
    assert result.error
    assert not reached


async def test_redirects_to_private_hosts_are_not_followed() -> None:
    """The rule holds for every hop."""
    reached: list[str] = []

    async def inside(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response()

    async with answering(inside) as secret:

        async def handler(_: web.Request) -> web.Response:
            raise web.HTTPFound(secret)

        async with answering(handler) as url:
            result = await preload(url)
    assert result.status is None
    assert "not a public address" in str(result.error)
    assert not reached


async def test_own_hosts_are_reached_by_name_too() -> None:
    """The client's own gateway may be on this machine."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    async with answering(handler) as url:
        for host in ("127.0.0.1", "localhost"):
            assert (await preload(url.with_host(host), "GET")).bytes == 5


@pytest.mark.parametrize(
    ("status", "valid"), [(200, True), (204, True), (404, False), (410, False), (403, False)]
)
async def test_validate_is_what_the_server_says(status: int, valid: bool) -> None:
    """Below 400 is valid, 4xx is not."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with answering(handler) as url, warmup_session({f"{url.host}:{url.port}"}, 5.0) as session:
        assert await validate(session, url) is valid


@pytest.mark.parametrize(("status", "error"), [(429, RateLimited), (503, Overloaded)])
async def test_validate_raises_when_the_server_does_not_say(status: int, error: type[Exception]) -> None:
    """An overloaded server has not said that the URL is invalid."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with answering(handler) as url, warmup_session({f"{url.host}:{url.port}"}, 5.0) as session:
        with pytest.raises(error):
            await validate(session, url)


async def test_validate_raises_without_an_answer() -> None:
    """Nobody there is an outage."""
    async with warmup_session({"127.0.0.1:1"}, 5.0) as session:
        with pytest.raises(TransportError):
            await validate(session, URL("http://127.0.0.1:1/picture"))


async def test_auto_falls_back_to_the_first_byte() -> None:
    """A server that refuses HEAD is asked for one byte by GET."""
    asked: list[tuple[str, str | None]] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append((request.method, request.headers.get("Range")))
        return web.Response(status=405 if request.method == "HEAD" else 206, text="a")

    async with answering(handler) as url:
        result = await preload(url)
    assert asked == [("HEAD", None), ("GET", "bytes=0-0")]
    assert (result.status, result.bytes) == (206, 1)


@pytest.mark.parametrize(
    ("headers", "state"),
    [
        ({}, "unknown"),
        ({"X-Cache": "HIT from edge"}, "hit"),
        ({"X-Cache": "MISS"}, "miss"),
        ({"Cache-Status": "Edge; hit"}, "hit"),
        ({"Cache-Status": "Edge; fwd=uri-miss"}, "miss"),
        ({"Age": "30"}, "hit"),
        ({"Age": "0"}, "unknown"),
    ],
)
async def test_the_cache_state_is_read_from_the_answer(headers: dict[str, str], state: str) -> None:
    """What caches say of themselves is told as hit, miss or unknown."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(headers=headers)

    async with answering(handler) as url:
        assert (await preload(url)).cache == state


async def test_no_credentials_are_sent() -> None:
    """A stranger's server sees no key and no cookie."""
    seen: dict[str, str] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(request.headers)
        response = web.Response()
        response.set_cookie("a", "b")
        return response

    async with answering(handler) as url, warmup_session({f"{url.host}:{url.port}"}, 5.0) as session:
        await preload_one(session, url, "GET")
        await preload_one(session, url, "GET")
    assert not {"Authorization", "Cookie", "Proxy-Authorization"} & set(seen)


@pytest.mark.parametrize(
    "url", ["", "x", "file:///etc/passwd", "http://u:p@x/", "javascript:1", 3, None, "http://"]
)
def test_what_is_no_web_url_is_refused(url: object) -> None:
    """Only http(s) URLs without a user are taken."""
    with pytest.raises(InvalidRequest, match="url"):
        check_url(url)


async def test_own_hosts_only() -> None:
    """`warmup="own"`: a server that passes strangers' URLs on reaches its gateway and nothing else."""

    async def picture(_: web.Request) -> web.Response:
        return web.Response(body=b"picture")

    async with answering(picture) as own, answering(picture) as other:
        async with warmup_session({f"{own.host}:{own.port}"}, 5.0, warmup_hosts("own")) as session:
            assert (await preload_one(session, own, "GET")).status == 200
            refused = await preload_one(session, other, "GET")
            assert refused.status is None
            assert "127.0.0.1 is not an address of a host that warmup allows" in str(refused.error)
            public = await preload_one(session, URL("http://8.8.8.8/"), "GET")
            assert "8.8.8.8 is not an address of a host that warmup allows" in str(public.error)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost:{port}", "127.0.0.1"])
async def test_listed_hosts_are_reached_also_where_they_are_private(host: str) -> None:
    """A list names what else may be reached, by host for any port or by host and port."""

    async def picture(_: web.Request) -> web.Response:
        return web.Response(body=b"picture")

    async with answering(picture) as server:
        url = server.with_host("127.0.0.1" if host[0] == "1" else "localhost")
        hosts = warmup_hosts([host.format(port=server.port)])
        async with warmup_session((), 5.0, hosts) as session:
            assert (await preload_one(session, url, "GET")).status == 200
        async with warmup_session((), 5.0, warmup_hosts(["localhost:1"])) as session:
            assert (await preload_one(session, url, "GET")).status is None


async def test_a_redirect_leaves_the_listed_hosts_no_more_than_a_url_does() -> None:
    """The rule is applied to where a redirect leads."""

    async def elsewhere(_: web.Request) -> web.Response:
        raise AssertionError("reached")

    async with answering(elsewhere) as other:

        async def redirect(_: web.Request) -> web.Response:
            raise web.HTTPFound(other)

        async with answering(redirect) as server:
            hosts = warmup_hosts([f"127.0.0.1:{server.port}"])
            async with warmup_session((), 5.0, hosts) as session:
                assert (await preload_one(session, server, "GET")).status is None


@pytest.mark.parametrize("wish", ["private", "", None, 7, ["http://a.b/"], ["a b"], [7], ["user@host"], [""]])
def test_a_warmup_that_is_none(wish: object) -> None:
    """What is allowed is said at once."""
    with pytest.raises(InvalidRequest, match="'public', 'own' or a list of hosts"):
        warmup_hosts(wish)  # type: ignore[arg-type]

"""Guarded requests to URLs from callers: do they work, and warm them up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection

import aiohttp
from yarl import URL

from blossom_async.errors import InvalidRequest, TimedOut, TransportError, class_for_status
from blossom_async.guard import Guard
from blossom_async.headers import HEADER_LIMITS
from blossom_async.models import PreloadResult

__all__ = ["METHODS", "check_url", "preload_one", "validate", "warmup_hosts", "warmup_session"]

METHODS = ("auto", "HEAD", "GET")
_PER_HOST = 8
_HOST = re.compile(r"[^\s/@?#\\]+")
_HEAD_REFUSED = {403, 405, 501}
_DRAIN = 64 * 1024


def warmup_hosts(wish: str | Collection[str]) -> frozenset[str] | None:
    """The hosts to connect to besides the client's own; None for every public address.

    ``wish`` is ``public``, ``own`` (no other hosts), or a list of hosts, with a port or for any port. Raises
    ``InvalidRequest``.
    """
    allowed = "'public', 'own' or a list of hosts, such as ['cdn.myapp.com', 'images.local:8080']"
    if wish == "public":
        return None
    if wish == "own":
        return frozenset()
    if isinstance(wish, str | bytes) or not isinstance(wish, Collection):
        raise InvalidRequest("warmup", wish, allowed)
    return frozenset(_host(host, allowed) for host in wish)


def _host(host: object, allowed: str) -> str:
    try:
        url = URL(f"//{host}") if isinstance(host, str) and _HOST.fullmatch(host) else URL()
        named, port = url.host, url.explicit_port
    except ValueError:
        named = port = None
    if named is None:
        raise InvalidRequest("warmup", host, allowed)
    return named if port is None else f"{named}:{port}"


def warmup_session(
    own_hosts: Collection[str], timeout_s: float, hosts: frozenset[str] | None = None
) -> aiohttp.ClientSession:
    """A session for untrusted URLs: it connects only to ``own_hosts`` ("host:port") and to ``hosts``.

    ``hosts`` come from ``warmup_hosts``; None stands for every public address. The rule is applied to each
    address before connecting to it, so it holds for IP literals, for every DNS answer and for each redirect.
    The session sends no credentials or cookies and uses no proxy.
    """
    guard = Guard({*own_hosts, *(hosts or ())}, public=hosts is None)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0, limit_per_host=_PER_HOST, resolver=guard.resolver(), socket_factory=guard.socket
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Sec-Purpose": "prefetch"},  # nobody is looking, so the gateway counts no view
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        auto_decompress=False,
        **HEADER_LIMITS,
    )


def check_url(value: object) -> URL:
    """An http(s) URL without user and password. Raises ``InvalidRequest``."""
    allowed = "an http(s) URL without user and password"
    if not isinstance(value, str):
        raise InvalidRequest("url", value, allowed)
    try:
        url = URL(value)
        sound = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
    except ValueError:
        sound = False
    if not sound:
        raise InvalidRequest("url", value, allowed)
    if url.user or url.password:
        raise InvalidRequest("url", value, allowed, seen="a URL with a user in it")
    return url


async def validate(session: aiohttp.ClientSession, url: URL) -> bool:
    """Whether the URL works: False only if the server says no (4xx).

    An outage does not make a URL invalid: raises ``TransportError`` if there is no answer, ``TimedOut``, and
    the ``ResponseError`` for 429 and 5xx.
    """
    try:
        status = await _status(session, url)
    except TimeoutError as exc:
        raise TimedOut(f"no answer from {url.host} in the time allowed") from exc
    except (aiohttp.ClientError, OSError, UnicodeError) as exc:
        raise TransportError(f"no answer from {url.host}: {exc}") from exc
    if status == 429 or status >= 500:
        raise class_for_status(status)(f"{url.host} answered {status}; whether the URL is valid is unknown")
    return status < 400


async def _status(session: aiohttp.ClientSession, url: URL) -> int:
    async with session.head(url, max_redirects=3, allow_redirects=True) as response:
        if response.status not in {405, 501}:
            return response.status
    async with session.get(url, max_redirects=3, headers={"Range": "bytes=0-0"}) as response:
        return response.status


async def preload_one(session: aiohttp.ClientSession, url: URL, method: str) -> PreloadResult:
    """One warm-up request. Errors are in the result; nothing is raised.

    ``auto`` sends HEAD, then GET of the first byte if HEAD is refused; ``GET`` fetches the whole picture.
    """
    clock = asyncio.get_running_loop().time
    started = clock()
    status: int | None = None
    received = 0
    cache = "unknown"
    error: str | None = None
    try:
        first = "HEAD" if method == "auto" else method
        status, received, cache = await _fetch(session, url, first, {})
        if method == "auto" and status in _HEAD_REFUSED:
            status, received, cache = await _fetch(session, url, "GET", {"Range": "bytes=0-0"})
        if status >= 400:
            error = f"answered {status}"
    except TimeoutError:
        error = "no complete answer in the time allowed"
    except (aiohttp.ClientError, OSError, UnicodeError) as exc:
        error = str(exc) or type(exc).__name__
    ms = (clock() - started) * 1000
    return PreloadResult(url=str(url), status=status, ms=ms, bytes=received, cache=cache, error=error)


async def _fetch(
    session: aiohttp.ClientSession, url: URL, method: str, headers: dict[str, str]
) -> tuple[int, int, str]:
    received = 0
    async with session.request(
        method, url, headers=headers, max_redirects=3, allow_redirects=True
    ) as response:
        whole = not headers and method == "GET"
        async for chunk in response.content.iter_any():
            received += len(chunk)
            if not whole and received > _DRAIN:
                break
        return response.status, received, _cache_state(response.headers.get)


def _cache_state(header: Callable[[str], str | None]) -> str:
    for name in ("Cache-Status", "X-Cache", "X-Cache-Status", "CF-Cache-Status"):
        said = (header(name) or "").lower()
        if "hit" in said:
            return "hit"
        if "miss" in said or "fwd" in said:
            return "miss"
    return "hit" if (header("Age") or "0") not in {"", "0"} else "unknown"

"""One HTTP exchange with a gateway: authentication, JSON, and status to error."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import orjson
from yarl import URL

from blossom_async.batch.hints import pause_s, retry_after_s
from blossom_async.errors import (
    ConfigurationError,
    NotFound,
    ResponseError,
    StaleConnection,
    TimedOut,
    TransportError,
    class_for_status,
    shown,
)
from blossom_async.models import from_json

__all__ = ["Transport", "http_session", "http_url"]

T = TypeVar("T")

# Below the idle time of the usual servers and proxies, so that this side closes first: a POST on a
# connection the server has just closed fails.
_KEEPALIVE_S = 15.0
MAX_ANSWER = 1024 * 1024
"""Bytes of an answer: an ``ImageInfo`` with the longest metadata is a fiftieth of it."""


def http_session(timeout_s: float | None = None) -> aiohttp.ClientSession:
    """The one session of a client. Its pool has no limit: the batch engine owns the queue, the pool never.

    ``timeout_s`` for each request; None where the engine keeps the time.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=_KEEPALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=30.0),
        skip_auto_headers=("Accept-Encoding", "User-Agent"),  # answers are short; every header is work
    )


def http_url(value: str, name: str) -> URL:
    """An absolute http(s) URL without user, query or fragment. Raises ``ConfigurationError``."""
    try:
        url = URL(value)
        sound = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
        sound = sound and value.isprintable() and " " not in value  # yarl drops line breaks silently
    except (ValueError, TypeError):
        sound = False
    if not sound or url.user or url.password or url.query_string or url.fragment:
        raise ConfigurationError(
            f"{name}: {_without_secrets(value)} is no address; allowed: http(s)://host[:port][/path], "
            "for example https://images.example.com"
        )
    return url


def _without_secrets(value: object) -> str:
    """An address as a message may show it: what may be a password or a token is left out."""
    if isinstance(value, str) and ("@" in value or "?" in value):
        return "one with a user, password or query in it"
    return shown(value)


class Transport:
    """Talks to one gateway over a session it does not own.

    ``successor``, when set, is asked once for another address and key if no answer comes from this one.
    ``on_pause``, when set, hears after how many seconds the gateway wants the next request, when it says so.
    """

    def __init__(self, base_url: str, api_key: str | None, session: aiohttp.ClientSession) -> None:
        """Raises ``ConfigurationError`` when ``base_url`` is no http(s) address."""
        self.base_url = str(http_url(base_url, "base_url")).rstrip("/")
        self.api_key = api_key
        self.session = session
        self.place = self.base_url  # what a journal calls the gateway
        self.successor: Callable[[], Awaitable[tuple[str, str]]] | None = None
        self.on_pause: Callable[[float], None] | None = None
        self._moving = asyncio.Lock()
        self._known = False  # a gateway has answered here

    def __repr__(self) -> str:
        return f"<Transport {self.base_url}>"

    async def probe(self, timeout_s: float) -> None:
        """Makes sure that a Blossom gateway answers. Raises as ``post``."""
        try:
            async with asyncio.timeout(timeout_s):
                health = _json(await self._answer("GET", "/healthz"))
        except TimeoutError as exc:
            raise TimedOut(f"no complete answer from {self.base_url} in {timeout_s:g} s") from exc
        except NotFound as exc:  # a gateway, under another path
            raise self._stranger("404") from exc
        if not isinstance(health, dict) or health.get("service") != "blossom":
            raise self._stranger("200 without a gateway's health report")
        self._known = True

    async def get(self, path: str, kind: type[T]) -> T:
        """The answer to a question. Raises as ``post``."""
        return self._structured(await self._answer("GET", path), kind)

    async def post(
        self,
        path: str,
        body: bytes,
        kind: type[T],
        *,
        idempotency_key: str | None = None,
        urgent: bool = True,
    ) -> T:
        """The answer to a JSON body; ``idempotency_key`` for what must not be made twice.

        What is not ``urgent`` lets others go first.

        Raises ``TransportError`` when none came (``StaleConnection`` when not even its first byte did),
        ``TimedOut`` when it took too long, the ``ResponseError`` of its status, and ``ConfigurationError``
        when something other than a gateway answered.
        """
        return self._structured(await self._answer("POST", path, body, idempotency_key, urgent=urgent), kind)

    async def tell(self, path: str) -> None:
        """A POST that is answered without content. Raises as ``post``."""
        await self._answer("POST", path, b"")

    def _structured(self, data: bytes, kind: type[T]) -> T:
        try:
            return from_json(data, kind)
        except ValueError as exc:
            raise self._stranger(f"a body that is {exc}") from exc

    async def _answer(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        idempotency_key: str | None = None,
        *,
        urgent: bool = True,
    ) -> bytes:
        asked = self.base_url
        try:
            return await self._exchange(method, path, body, idempotency_key, urgent=urgent)
        except TransportError as exc:
            if self.successor is None or isinstance(exc, TimedOut):
                raise
            async with self._moving:
                if self.base_url == asked:
                    self.base_url, self.api_key = await self.successor()
            return await self._exchange(method, path, body, idempotency_key, urgent=urgent)

    async def _exchange(
        self, method: str, path: str, body: bytes | None, idempotency_key: str | None, *, urgent: bool
    ) -> bytes:
        headers = {"Accept": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        if not urgent:
            headers["Priority"] = "u=5"  # RFC 9218: below the usual 3
        headers_came = False
        failure: TransportError
        try:
            async with self.session.request(
                method, self.base_url + path, data=body, headers=headers, allow_redirects=False
            ) as response:
                headers_came = True
                data = await _bounded(response)
        except TimeoutError as exc:  # aiohttp's timeouts are among its ClientErrors too: these first
            raise TimedOut(f"no complete answer from {self.base_url} in the time allowed") from exc
        except aiohttp.ClientConnectorError as exc:
            raise TransportError(
                f"no answer from {self.base_url}: {_reason(exc)}; is the gateway running there?"
            ) from exc
        except (aiohttp.ClientError, OSError, UnicodeError) as exc:
            unanswered = not headers_came and not isinstance(exc, aiohttp.ClientResponseError)
            kind = StaleConnection if unanswered else TransportError
            failure = kind(f"no answer from {self.base_url}: {_reason(exc)}")
        else:
            if response.status >= 300:
                raise self._refusal(response, data)
            if self.on_pause is not None and "RateLimit" in response.headers:
                self.on_pause(pause_s(response.headers) or 0.0)
            return data
        raise failure  # without its cause: aiohttp's errors hold the request's headers, and so the API key

    def _refusal(
        self, response: aiohttp.ClientResponse, data: bytes
    ) -> ResponseError | ConfigurationError | TransportError:
        status = response.status
        problem = _json(data) if response.content_type == "application/problem+json" else None
        if isinstance(problem, dict):
            return class_for_status(status)(
                _text_or_none(problem.get("detail")) or "refused",
                status=status,
                code=_text_or_none(problem.get("code")) or "error",
                field=_text_or_none(problem.get("field")),
                request_id=_text_or_none(problem.get("request_id")),
                retry_after_s=retry_after_s(response.headers),
            )
        if status == 429 or status >= 500:  # a proxy before the gateway may say this in its own words
            return class_for_status(status)(
                f"{self.base_url} answered {status} {response.content_type}",
                status=status,
                retry_after_s=retry_after_s(response.headers),
            )
        return self._stranger(f"{status} {response.content_type}")

    def _stranger(self, answer: str) -> ConfigurationError | TransportError:
        if self._known:  # a proxy's hiccup, not a wrong address
            return TransportError(f"{self.base_url} answered {answer}, which no gateway does")
        return ConfigurationError(
            f"{self.base_url} answered {answer}: that is no Blossom gateway; "
            "check base_url or BLOSSOM_BASE_URL"
        )


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """The body, at most ``MAX_ANSWER`` bytes of it. Raises ``ClientPayloadError`` for more."""
    if response.content_length is not None and response.content_length <= MAX_ANSWER:
        return await response.read()
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > MAX_ANSWER:
            raise aiohttp.ClientPayloadError(f"an answer of more than {MAX_ANSWER} bytes")
    return bytes(data)


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _reason(exc: BaseException) -> str:
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "the name is not known"
    if isinstance(exc, aiohttp.ClientConnectorError) and exc.os_error.errno in errno.errorcode:
        return os.strerror(exc.os_error.errno)  # type: ignore[arg-type]
    if isinstance(exc, aiohttp.ClientResponseError):
        return "it is not HTTP"
    return str(exc) or type(exc).__name__

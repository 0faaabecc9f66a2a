"""One HTTP exchange with a gateway: authentication, JSON, and status to error."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import warnings
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar, cast

import aiohttp
import attrs
import orjson
from yarl import URL

from blossom_async.batch.hints import retry_after_s
from blossom_async.errors import (
    ConfigurationError,
    NotFound,
    Overloaded,
    ResponseError,
    StaleConnection,
    TimedOut,
    TransportError,
    class_for_status,
    shown,
)
from blossom_async.headers import HEADER_LIMITS
from blossom_async.models import from_json
from blossom_async.tracing import inject, note_answer, span

__all__ = ["MAX_ANSWER", "Exchange", "File", "Health", "Transport", "http_session", "http_url"]

T = TypeVar("T")

# Shorter than the idle time of the usual servers and proxies, so that this side closes first: a POST on a
# connection that the server has just closed fails.
_KEEPALIVE_S = 15.0
_NO_FILES = {errno.EMFILE, errno.ENFILE}
_NO_FILES_RETRY_S = 1.0
_PROXY_HINT = "check HTTP_PROXY or HTTPS_PROXY, or list the host in NO_PROXY"
MAX_ANSWER = 1024 * 1024
"""Bytes of an answer: fifty times an ``ImageInfo`` with the longest metadata."""


class _Connector(aiohttp.TCPConnector):
    """Leaves the connections of a parent process alone.

    To close them in a forked process would take them out of the parent's event loop: the two share its epoll.
    """

    def __init__(self) -> None:
        # No limit on connections, because the batch engine does the queueing.
        super().__init__(limit=0, ttl_dns_cache=300, keepalive_timeout=_KEEPALIVE_S)
        self._process = os.getpid()

    def __del__(self, _warnings: Any = warnings) -> None:
        if os.getpid() == self._process:
            super().__del__(_warnings)


def http_session(timeout_s: float | None = None, *, proxy: URL | None = None) -> aiohttp.ClientSession:
    """The session of a client. ``timeout_s`` limits each request; None where the engine limits it."""
    return aiohttp.ClientSession(
        proxy=proxy,
        connector=_Connector(),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=30.0),
        # To leave these two out would take aiohttp longer than to send them.
        headers={"Accept-Encoding": "identity", "User-Agent": "blossom"},
        **HEADER_LIMITS,
    )


def http_url(value: str, name: str) -> URL:
    """An absolute http(s) URL without user, query or fragment. Raises ``ConfigurationError``."""
    try:
        url = URL(value)
        sound = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
        sound = sound and value.isprintable() and " " not in value  # yarl drops line breaks silently
        (url.raw_host or "").encode("idna")  # raises for what no name server can be asked, such as a..b
    except (ValueError, TypeError):
        sound = False
    if not sound or url.user or url.password or url.query_string or url.fragment:
        raise ConfigurationError(
            f"{name}: {_without_secrets(value)} is not a valid address; "
            "allowed: http(s)://host[:port][/path], for example https://images.example.com"
        )
    return url


def _without_secrets(value: object) -> str:
    """An address as a message may show it: without anything that may be a password or a token."""
    if isinstance(value, str) and ("@" in value or "?" in value):
        return "an address with a user, password or query"
    return shown(value)


@attrs.frozen
class File:
    """An answer that is a file instead of JSON."""

    data: bytes = attrs.field(repr=False)
    content_type: str


@attrs.define  # not frozen: that would cost each call of a batch a microsecond
class Exchange(Generic[T]):
    """A request to a gateway, and what its answer is read into: ``NoneType`` for one without content.

    ``idempotency_key`` for what must not be done twice. What is not ``urgent`` lets others go first.
    ``largest`` is how many bytes of an answer are read. ``replayed`` says, once it was answered, that an
    earlier request under the key was answered alike.
    """

    method: str
    path: str
    answer: type[T]
    body: bytes | None = None
    idempotency_key: str | None = None
    urgent: bool = True
    largest: int = MAX_ANSWER
    replayed: bool = attrs.field(default=False, init=False)


@attrs.frozen
class Health:
    """What a gateway reports of itself."""

    service: str = ""
    public_url: str | None = None


class Transport:
    """Talks to one gateway over a session it does not own.

    ``successor``, when set, is asked for another address and key if no answer comes from this one.
    ``on_quotas``, when set, is called with the headers of an answer that tells what may still be asked, and
    with when its request was sent.
    """

    def __init__(self, base_url: str, api_key: str | None, session: aiohttp.ClientSession) -> None:
        """Raises ``ConfigurationError`` when ``base_url`` is not an http(s) address."""
        self.base_url: str = str(http_url(base_url, "base_url")).rstrip("/")
        self.api_key = api_key
        self.session = session
        self.place: str = self.base_url  # what a journal calls the gateway
        self.public_url: str = self.base_url  # what the URLs of pictures start with
        self.successor: Callable[[], Awaitable[tuple[str, str]]] | None = None
        self.on_quotas: Callable[[Mapping[str, str], float], None] | None = None
        self._moving = asyncio.Lock()
        self._known = False  # a gateway has answered here

    def __repr__(self) -> str:
        return f"<Transport {self.base_url}>"

    async def probe(self, timeout_s: float) -> None:
        """Makes sure that a Blossom gateway answers. Raises as ``send``."""
        try:
            async with asyncio.timeout(timeout_s):
                health = await self.send(Exchange("GET", "/healthz", Health))
        except TimeoutError as exc:
            raise TimedOut(f"no complete answer from {self.base_url} in {timeout_s:g} s") from exc
        except StaleConnection as exc:
            hint = "; if it speaks TLS, write https://" if self.base_url.startswith("http:") else ""
            raise TransportError(f"{exc}{hint}") from exc
        except NotFound as exc:  # a gateway, under another path
            raise self._not_a_gateway("404") from exc
        if health.service != "blossom":
            raise self._not_a_gateway("200 without a gateway's health report")
        self._known = True
        self.public_url = health.public_url or self.base_url

    async def send(self, exchange: Exchange[T]) -> T:
        """The gateway's answer.

        Raises ``TransportError`` when none came (``StaleConnection`` when not even its first byte did),
        ``TimedOut`` when it took too long, the ``ResponseError`` of its status, ``Overloaded`` also while
        this process may open no connection, and ``ConfigurationError`` when something other than a gateway
        answered.
        """
        moved = False
        while True:
            address = self.base_url
            headers_came = False
            sent_at = asyncio.get_running_loop().time()
            try:
                with span(exchange.method, "CLIENT", http_request_method=exchange.method) as current:
                    headers = self._headers(exchange)
                    inject(headers)
                    async with self.session.request(
                        exchange.method,
                        address + exchange.path,
                        data=exchange.body,
                        headers=headers,
                        allow_redirects=False,
                        raise_for_status=False,
                    ) as response:
                        headers_came = True
                        data = await _bounded(response, exchange.largest)
                        note_answer(current, response.status)
            except (aiohttp.ClientError, OSError, UnicodeError) as exc:  # a TimeoutError is an OSError
                if isinstance(exc, OSError) and exc.errno in _NO_FILES:
                    raise _out_of_files(exc) from exc
                error = _translated(exc, address, headers_came=headers_came)
            except (RuntimeError, ValueError) as exc:  # of aiohttp, about the session
                raise _unusable(exc, closed=self.session.closed) from exc
            else:
                exchange.replayed = "Idempotent-Replayed" in response.headers
                if self.on_quotas is not None and "RateLimit" in response.headers:
                    self.on_quotas(response.headers, sent_at)
                return self._read(response, data, exchange.answer)
            if moved or not await self._moved_from(address, error):
                raise error
            moved = True

    def _headers(self, exchange: Exchange[T]) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        if exchange.body is not None:
            headers["Content-Type"] = "application/json"
        if exchange.idempotency_key is not None:
            headers["Idempotency-Key"] = exchange.idempotency_key
        if not exchange.urgent:
            headers["Priority"] = "u=5"  # RFC 9218: less urgent than the usual 3
        return headers

    async def _moved_from(self, address: str, error: TransportError) -> bool:
        """Whether there is another address to send to."""
        if self.successor is None or isinstance(error, TimedOut):
            return False
        async with self._moving:
            if self.base_url == address:
                self.base_url, self.api_key = await self.successor()
        return True

    def _read(self, response: aiohttp.ClientResponse, data: bytes, kind: type[T]) -> T:
        if response.status >= 300:
            raise self._refusal(response, data)
        if kind is File:
            return cast(T, File(data, response.content_type))
        try:
            return from_json(data or b"null", kind)
        except ValueError as exc:
            raise self._not_a_gateway(f"a body that is {exc}") from exc

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
        if status == 429 or status >= 500:  # a proxy in front of the gateway answers in its own words
            return class_for_status(status)(
                f"{self.base_url} answered {status} {response.content_type}",
                status=status,
                retry_after_s=retry_after_s(response.headers),
            )
        if 300 <= status < 400:
            return self._not_a_gateway(f"{status}, which leads to {_without_query(response)}")
        if status == 407:
            return self._not_a_gateway(f"407, asking for a login at its proxy; {_PROXY_HINT}")
        return self._not_a_gateway(f"{status} {response.content_type}")

    def _not_a_gateway(self, answer: str) -> ConfigurationError | TransportError:
        if self._known:  # a proxy's hiccup, not a wrong address
            return TransportError(f"{self.base_url} answered {answer}, which no gateway does")
        hint = "leave /v1 out of" if self.base_url.endswith("/v1") else "check"
        return ConfigurationError(
            f"{self.base_url} answered {answer}: that is not a Blossom gateway; "
            f"{hint} base_url or BLOSSOM_BASE_URL"
        )


def _out_of_files(exc: OSError) -> Overloaded:
    return Overloaded(
        f"this process may open no more connections ({os.strerror(exc.errno or 0)}); "
        "make fewer calls at once, or allow it more files with ulimit -n",
        retry_after_s=_NO_FILES_RETRY_S,
    )


def _translated(exc: Exception, address: str, *, headers_came: bool) -> TransportError:
    error: TransportError
    connected = not isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ClientResponseError)
    if isinstance(exc, TimeoutError):  # aiohttp's timeouts are among its ClientErrors too: these first
        error = TimedOut(f"no complete answer from {address} in the time allowed")
    elif connected and not headers_came:
        error = StaleConnection(f"no answer from {address}: {_reason(exc)}")
    else:
        error = TransportError(f"no answer from {address}: {_reason(exc)}")
    if not isinstance(exc, aiohttp.ClientResponseError):  # that one holds the request's headers: the API key
        error.__cause__ = exc
    return error


def _unusable(exc: Exception, *, closed: bool) -> ConfigurationError | TransportError:
    if not threading.main_thread().is_alive():
        return TransportError("no new connection can be made: the program is ending; make the call earlier")
    if closed:
        return ConfigurationError("the client, or the session that it was given, is closed; open a new one")
    return ConfigurationError(f"the session given to BlossomClient cannot be used: {exc}")


async def _bounded(response: aiohttp.ClientResponse, largest: int) -> bytes:
    """The body. Raises ``ClientPayloadError`` for one of more than ``largest`` bytes."""
    content = response.content
    if content.is_eof():  # as most do, it came with its headers
        data = content.read_nowait()
    elif response.content_length is not None and response.content_length <= largest:
        data = await response.read()
    else:
        taken = bytearray()
        async for chunk in content.iter_any():
            taken += chunk
            if len(taken) > largest:
                break
        data = bytes(taken)
    if len(data) > largest:
        raise aiohttp.ClientPayloadError(f"an answer of more than {largest} bytes")
    return data


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _without_query(response: aiohttp.ClientResponse) -> str:
    """Where a redirect leads, without what may be a token."""
    target = response.headers.get("Location")
    return shown(target.partition("?")[0]) if target else "no Location"


def _reason(exc: BaseException) -> str:
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        why = getattr(exc.certificate_error, "verify_message", "") or str(exc.certificate_error)
        return (
            f"TLS: its certificate is not accepted ({why}); use the host name that it is for, or name a file "
            "of certificates to trust in SSL_CERT_FILE"
        )
    if isinstance(exc, aiohttp.ClientSSLError):
        return f"TLS: {exc.os_error}; if it speaks plain HTTP, write http:// in base_url"
    if isinstance(exc, aiohttp.ClientProxyConnectionError):
        number = exc.os_error.errno
        return (
            f"its proxy {exc.host}:{exc.port} cannot be reached ({os.strerror(number) if number else exc}); "
            f"{_PROXY_HINT}"
        )
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return f"its proxy answered {exc.status} {exc.message}; {_PROXY_HINT}"
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "unknown host name; check base_url or BLOSSOM_BASE_URL"
    if isinstance(exc, aiohttp.ClientConnectorError):
        number = exc.os_error.errno
        return f"{os.strerror(number) if number else 'connection closed'}; is the gateway running there?"
    if isinstance(exc, aiohttp.ClientResponseError):
        return "it is not HTTP; if it speaks TLS, write https:// in base_url"
    return str(exc) or type(exc).__name__

"""One HTTP exchange with a provider's service; what a broken exchange says about the charge."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import re
import socket
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import NoReturn

import aiohttp
import attrs
import orjson
from aiohttp.abc import AbstractResolver
from yarl import URL

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.providers.answers import picture_of
from blossom_async.gateway.providers.containers import Unusable, format_of, look
from blossom_async.gateway.providers.events import Events, Watch
from blossom_async.gateway.providers.faults import Kind, ProviderFault, request_id
from blossom_async.gateway.providers.unpacking import Unpacking
from blossom_async.guard import AddressInfo
from blossom_async.headers import HEADER_LIMITS
from blossom_async.models import CONTENT_TYPES

__all__ = [
    "MAX_BYTES",
    "Answer",
    "Heed",
    "Secret",
    "Wire",
    "heed_nothing",
    "provider_session",
    "service_url",
]

MAX_BYTES = 64 * 2**20
"""The largest answer that is read, after decompression."""

Heed = Callable[[Mapping[str, str], float], None]
"""Told the headers of an answer, and when its request was sent on the clock of the event loop."""

_KEPT_ALIVE_S = 15.0
_GZIP = b"\x1f\x8b\x08"  # RFC 1952, 2.3.1
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_MOST_LAYERS = 3  # of gzip, one in another
_NO_FILES = {errno.EMFILE, errno.ENFILE}
_NO_FILES_RETRY_S = 1.0
_VISIBLE = re.compile(r"[!-~]{1,4096}", re.ASCII)


class Secret:
    """An API key that never appears in a repr, message or pickle.

    Strips surrounding white space. Raises ``ConfigurationError`` for a text that cannot be a key.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        if not _VISIBLE.fullmatch(self._text):
            raise ConfigurationError(
                f"a text of {len(text)} characters cannot be an API key; allowed: one line of visible ASCII "
                "characters; set the key again, or leave it unset to send none"
            )

    def reveal(self) -> str:
        """The key itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")


@attrs.frozen
class Answer:
    """A complete answer. Header names are case-insensitive.

    ``files`` were in the body as base64; in their place it has the names that they have here.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=False)
    files: Mapping[str, bytes] = attrs.field(factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the status says success, as any 2xx does (RFC 9110, 15.3)."""
        return 200 <= self.status < 300

    @property
    def is_page(self) -> bool:
        """Whether it is HTML."""
        return re.match(rb"(?i)\s*<(?:!doctype html|html)", self.body[:256]) is not None

    @property
    def content_type(self) -> str:
        """The header of that name, with its parameters."""
        return self.headers.get("Content-Type", "")


def service_url(name: str, base_url: str) -> URL:
    """The URL of a service, without surrounding blanks and trailing slashes.

    Raises ``ConfigurationError`` for an invalid one.
    """
    try:
        url = URL(base_url.strip())
        sound = url.scheme in {"http", "https"} and bool(url.host) and not (url.user or url.password)
    except ValueError:
        sound = False
    if not sound:
        raise ConfigurationError(
            f"the URL of {name} is invalid; allowed: an http(s) URL without user and password, such as "
            "https://api.example.com/v1"
        )
    return url.with_path(url.raw_path.rstrip("/"), encoded=True, keep_query=True)


@attrs.define
class _Passage:
    """Whether anything of a request was sent; assumed until the session's trace says otherwise."""

    sent: bool = True


async def _note_start(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    if isinstance(context.trace_request_ctx, _Passage):
        context.trace_request_ctx.sent = False


async def _note_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    if isinstance(context.trace_request_ctx, _Passage):
        context.trace_request_ctx.sent = True


def provider_session(
    socket_factory: Callable[[AddressInfo], socket.socket] | None = None,
    resolver: AbstractResolver | None = None,
    proxy: URL | None = None,
) -> aiohttp.ClientSession:
    """A session for providers: without ``.netrc`` and cookies, and it notes what was sent.

    With any other session every failure counts as ``LOST``. ``socket_factory`` makes the socket for an
    address, or raises ``PermissionError`` for a forbidden one; with ``resolver`` it guards the sessions that
    fetch the URLs providers give.
    """
    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(_note_start)
    trace.on_request_headers_sent.append(_note_sent)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,
            keepalive_timeout=_KEPT_ALIVE_S,
            socket_factory=socket_factory,
            resolver=resolver,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "blossom"},
        trace_configs=[trace],
        trust_env=False,
        proxy=proxy,
        **HEADER_LIMITS,
    )


def heed_nothing(_: Mapping[str, str], __: float) -> None:
    """For a provider whose quotas nobody keeps to."""


class Wire:
    """Sends requests to one provider's service and turns every failure into a ``ProviderFault``.

    ``timeout_s`` is for the whole exchange, ``connect_s`` for getting a connection. ``heed`` is told the
    headers of each answer to a request that draws.
    """

    def __init__(
        self,
        provider: str,
        session: aiohttp.ClientSession,
        *,
        timeout_s: float,
        connect_s: float,
        heed: Heed = heed_nothing,
    ) -> None:
        self._provider = provider
        self._session = session
        self._timeout_s = timeout_s
        self._heed = heed
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=connect_s)

    async def ask(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str],
        json: Mapping[str, object] | None = None,
        files: Sequence[tuple[str, str, bytes]] = (),
        draws: bool = False,
        watch: Watch | None = None,
    ) -> Answer:
        """The answer, whatever its status; redirects are not followed.

        With ``files``, each with field and name, the body is a form instead of JSON. Of an answer in events
        the body is the last one, and ``watch`` is given each as it arrives.

        Sends the request once, except that aiohttp repeats a ``GET`` whose connection closes before the
        answer begins. Raises ``ProviderFault``: ``UNSENT``, ``OUT_OF_FILES``, ``LOST``, or ``BAD_CONTENT``
        for an answer of more than ``MAX_BYTES``.
        """
        data: bytes | aiohttp.FormData | None = None
        if json is not None and files:
            data = _form(json, files)
        elif json is not None:
            data = orjson.dumps(json)
            headers = {**headers, "Content-Type": "application/json"}
        passage = _Passage()
        sent_at = asyncio.get_running_loop().time()
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=data,
                allow_redirects=False,
                timeout=self._timeout,
                trace_request_ctx=passage,
            ) as response:
                if draws:
                    self._heed(response.headers, sent_at)
                return Answer(response.status, response.headers, *await self._read(response, watch))
        except TimeoutError as exc:
            raise self._accident(passage, f"no complete answer within {self._timeout_s:g} s") from exc
        except (aiohttp.ClientError, OSError, UnicodeError) as exc:
            if not passage.sent and isinstance(exc, OSError) and exc.errno in _NO_FILES:
                detail = f"no connection to {url.host}: {os.strerror(exc.errno)}"
                raise ProviderFault(
                    self._provider,
                    Kind.OUT_OF_FILES,
                    detail,
                    charged="no",
                    retry_after_s=_NO_FILES_RETRY_S,
                ) from exc
            what = "the connection broke" if passage.sent else f"no connection to {url.host}"
            raise self._accident(passage, f"{what} ({type(exc).__name__})") from exc

    async def knows(self, url: URL, headers: Mapping[str, str]) -> bool:
        """Whether the path exists at the service: False if it answers 404, 405 or an HTML page."""
        try:
            answer = await self.ask("GET", url, headers=headers)
        except ProviderFault:
            return True  # it cannot be told
        return answer.status not in {404, 405} and not answer.is_page

    async def _read(
        self, response: aiohttp.ClientResponse, watch: Watch | None
    ) -> tuple[bytes, Mapping[str, bytes]]:
        events = watch is not None and response.content_type == "text/event-stream"
        body: Unpacking | Events = Events(watch) if watch is not None and events else Unpacking()
        size, broken = 0, None
        try:
            async for part in response.content.iter_any():
                size += len(part)
                if size > MAX_BYTES:
                    response.close()
                    raise self._too_long(response)
                body.feed(part)
        except (aiohttp.ClientError, OSError) as exc:
            broken = exc
        read, files = body.end()
        if broken is not None and not await asyncio.to_thread(_is_whole, response.ok, read, files):
            raise broken
        if read.startswith(_GZIP):
            read = await asyncio.to_thread(_inflated, read)
            if len(read) > MAX_BYTES:
                raise self._too_long(response)
        if events and not read:
            raise self._accident(_Passage(), "its events ended without a picture")
        return read, files

    def _too_long(self, response: aiohttp.ClientResponse) -> ProviderFault:
        return ProviderFault(
            self._provider,
            Kind.BAD_CONTENT,
            f"sent more than {MAX_BYTES:,} bytes, too many for a picture",
            charged="unknown",
            request_id=request_id(response.headers),
        )

    def _accident(self, passage: _Passage, detail: str) -> ProviderFault:
        if passage.sent:
            return ProviderFault(self._provider, Kind.LOST, detail, charged="unknown")
        return ProviderFault(self._provider, Kind.UNSENT, detail, charged="no")


def _is_whole(ok: bool, body: bytes, files: Mapping[str, bytes]) -> bool:
    """Whether the picture, or the refusal, is all there although the exchange broke.

    Some servers announce more bytes than they have, or close the connection in place of the last chunk.
    """
    try:
        if format_of(body) is not None:
            look(body)
            return True
        document = orjson.loads(body)
        return picture_of(document, files) is not None if ok else isinstance(document, dict)
    except (Unusable, orjson.JSONDecodeError):
        return False


def _inflated(body: bytes) -> bytes:
    """The body without gzip that no header told of, or told of in words that aiohttp does not know.

    Those are ``x-gzip`` and lists (RFC 9110, 8.4). Ends one byte after ``MAX_BYTES``; damaged gzip stays.
    """
    for _ in range(_MOST_LAYERS):
        if not body.startswith(_GZIP):
            break
        layer = zlib.decompressobj(_GZIP_WINDOW)
        try:
            inside = layer.decompress(body, MAX_BYTES + 1)
        except zlib.error:
            break
        if not layer.eof and len(inside) <= MAX_BYTES:
            break
        body = inside
    return body


def _form(fields: Mapping[str, object], files: Sequence[tuple[str, str, bytes]]) -> aiohttp.FormData:
    form = aiohttp.FormData(quote_fields=False)
    for name, value in fields.items():
        form.add_field(name, value if isinstance(value, str) else orjson.dumps(value).decode())
    for field, name, data in files:
        file = io.BytesIO(data)  # sent in pieces; aiohttp warns of bytes that are longer than 1 MiB
        form.add_field(field, file, filename=name, content_type=CONTENT_TYPES[name.rpartition(".")[2]])
    return form

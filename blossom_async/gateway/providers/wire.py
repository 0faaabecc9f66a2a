"""One exchange with a provider's service over HTTP: what leaves, what is read, what an accident means."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import NoReturn

import aiohttp
import attrs
import orjson
from aiohappyeyeballs import AddrInfoType
from yarl import URL

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.providers.faults import Kind, ProviderFault, request_id

__all__ = ["MAX_BYTES", "Answer", "Secret", "Wire", "provider_session", "service_url"]

MAX_BYTES = 64 * 2**20
"""Of an answer, after decompression."""

_KEPT_ALIVE_S = 15.0
_VISIBLE = re.compile(r"[!-~]{1,4096}", re.ASCII)


class Secret:
    """An API key that no repr, message or pickle has.

    Raises ``ConfigurationError`` for what cannot be a key; white space around it is taken off.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        if not _VISIBLE.fullmatch(self._text):
            raise ConfigurationError(
                f"a text of {len(text)} characters is no API key: a key is one line of visible ASCII "
                "characters; set it again, or leave it away to go without"
            )

    def reveal(self) -> str:
        """The key itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not written down")


@attrs.frozen
class Answer:
    """A whole answer. Headers are looked up in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=False)


def service_url(name: str, base_url: str) -> URL:
    """The address of a service, without a slash at its end. Raises ``ConfigurationError``."""
    try:
        url = URL(base_url)
        sound = url.scheme in {"http", "https"} and bool(url.host) and not (url.user or url.password)
    except ValueError:
        sound = False
    if not sound:
        raise ConfigurationError(
            f"{name} cannot be reached under this address: it must be an http(s) URL without user and "
            "password, such as https://api.example.com/v1; set its URL again"
        )
    return url.with_path(url.raw_path.rstrip("/"), encoded=True, keep_query=True)


@attrs.define
class _Passage:
    """Whether anything of a request has left. Until the session's trace says otherwise it may have."""

    sent: bool = True


async def _note_start(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    if isinstance(context.trace_request_ctx, _Passage):
        context.trace_request_ctx.sent = False


async def _note_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    if isinstance(context.trace_request_ctx, _Passage):
        context.trace_request_ctx.sent = True


def provider_session(
    socket_factory: Callable[[AddrInfoType], socket.socket] | None = None,
    resolver: aiohttp.abc.AbstractResolver | None = None,
) -> aiohttp.ClientSession:
    """A session for providers: no proxies, ``.netrc`` or cookies, and it knows what has been sent.

    With a session of another kind every accident counts as ``LOST``. ``socket_factory`` makes the socket for
    an address about to be connected to, and raises ``PermissionError`` for one that is not allowed: with its
    ``resolver`` the guard of sessions that fetch the URLs which providers give.
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
    )


class Wire:
    """A way to one provider's service. Every accident becomes a ``ProviderFault`` here.

    ``timeout_s`` is for the whole exchange, ``connect_s`` for coming to a connection.
    """

    def __init__(
        self, provider: str, session: aiohttp.ClientSession, *, timeout_s: float, connect_s: float
    ) -> None:
        self._provider = provider
        self._session = session
        self._timeout_s = timeout_s
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=connect_s)

    async def ask(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str],
        json: object = None,
        redirects: int = 0,
    ) -> Answer:
        """The answer, of whatever status; a redirect is one too, unless ``redirects`` are allowed.

        Sends once, but for a ``GET`` whose connection ends before the answer begins: aiohttp repeats that
        on another. Raises ``ProviderFault``: ``UNSENT``, ``LOST``, and ``BAD_CONTENT`` for more than
        ``MAX_BYTES``.
        """
        data = None
        if json is not None:
            data = orjson.dumps(json)
            headers = {**headers, "Content-Type": "application/json"}
        passage = _Passage()
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=data,
                allow_redirects=redirects > 0,
                max_redirects=redirects + 1,
                timeout=self._timeout,
                trace_request_ctx=passage,
            ) as response:
                return Answer(response.status, response.headers, await self._read(response))
        except TimeoutError as exc:
            raise self._accident(passage, f"no complete answer within {self._timeout_s:g} s") from exc
        except (aiohttp.ClientError, OSError, UnicodeError) as exc:
            what = "the connection broke" if passage.sent else f"no connection to {url.host}"
            raise self._accident(passage, f"{what} ({type(exc).__name__})") from exc

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        parts = []
        size = 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > MAX_BYTES:
                response.close()
                raise ProviderFault(
                    self._provider,
                    Kind.BAD_CONTENT,
                    f"an answer of more than {MAX_BYTES:,} bytes, which is no picture",
                    charged="unknown",
                    request_id=request_id(response.headers),
                )
            parts.append(part)
        return b"".join(parts)

    def _accident(self, passage: _Passage, detail: str) -> ProviderFault:
        if passage.sent:
            return ProviderFault(self._provider, Kind.LOST, detail, charged="unknown")
        return ProviderFault(self._provider, Kind.UNSENT, detail, charged="no")

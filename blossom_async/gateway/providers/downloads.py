"""Fetches the pictures that a service answers as URLs, exactly as they are written."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Awaitable, Callable
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
import attrs
from yarl import URL

from blossom_async.gateway.providers.answers import opened
from blossom_async.gateway.providers.containers import format_of
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.gateway.providers.wire import Answer, Wire

__all__ = ["Downloads", "exact_url"]

_REDIRECTS = 10
_AGAIN_S = (0.5, 2.0)
_TRIES_TO_CONNECT = 60  # while this machine may open no more files
_PASSING = {404, 408, 425, 429}
_MOVED = {300, 301, 302, 303, 307, 308}
_ESCAPED = re.compile(r"\\u00([0-7][0-9a-f])", re.ASCII | re.IGNORECASE)  # of JSON
_IN_TEXT = re.compile(r"(?i)https?://[^\s\"'<>()]+")
_HOST = re.compile(r"\s*[\w-]+(?:\.[\w-]+)+(?::[0-9]+)?/", re.ASCII)
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))  # what a request line can hold


class Downloads:
    """Fetches pictures for one provider, without its key.

    ``session`` decides by its ``socket_factory`` which addresses are allowed. ``sleep`` waits before a
    picture that is not there yet is asked for again, as some services give the URL first.
    """

    def __init__(
        self,
        provider: str,
        session: aiohttp.ClientSession,
        *,
        timeout_s: float,
        connect_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._provider = provider
        self._sleep = sleep
        self._wire = Wire(provider, session, timeout_s=timeout_s, connect_s=connect_s)

    async def picture(self, reference: str, base: URL, request_id: str | None) -> Answer:
        """The answer from the URL, after at most ten redirects. A picture is taken out of JSON or base64,
        and one whose URL is in JSON there is fetched.

        A relative URL starts at ``base`` or, as some servers mean it, at the root. One that was escaped once
        too often, lacks its scheme, or stands in quotes or Markdown, is tried as it was meant, too. Raises
        ``ProviderFault``: ``BAD_CONTENT`` that was charged, since the service has made the picture.
        """
        problem = "it is not an http(s) URL"
        written = dict.fromkeys((reference, _meant(reference)))
        urls = dict.fromkeys(exact_url(each, at) for each in written for at in (base, base.origin()))
        for wait_s in (0.0, *_AGAIN_S):
            if wait_s:
                await self._sleep(wait_s)
            passing, unready = False, None
            for url in filter(None, urls):
                found = await self._found(url)
                if isinstance(found, Answer) and not _is_unready(found):
                    return found
                if isinstance(found, Answer):
                    passing, unready = True, found
                else:
                    problem, may_pass = found
                    passing |= may_pass
            if not passing:
                break
        if unready is not None:  # what it is will be told from its bytes
            return unready
        # Not `from` the download's fault: the API's answer decides about the charge.
        raise ProviderFault(
            self._provider,
            Kind.BAD_CONTENT,
            f"sent a URL that gives no picture: {problem}",
            charged="yes",
            request_id=request_id,
        )

    async def _found(self, url: URL, *, documents: int = 1) -> Answer | tuple[str, bool]:
        """The answer, or why there is none and whether a later try may succeed.

        So many ``documents`` may name the picture's URL in their turn.
        """
        for _ in range(_REDIRECTS + 1):
            try:
                answer = await self._asked(url)
            except ProviderFault as exc:
                return exc.detail, exc.kind is Kind.LOST
            if answer.ok:
                found, _ = await opened(answer.body, answer.content_type, answer.files)
                if isinstance(found, bytes) and format_of(found) is not None:
                    return attrs.evolve(answer, body=found, files={})
                named = exact_url(found, url) if isinstance(found, str) and documents else None
                behind = None if named is None else await self._found(named, documents=documents - 1)
                if isinstance(behind, Answer) and format_of(behind.body) is not None:
                    return behind
                return answer
            following = exact_url(answer.headers.get("Location", ""), url)
            if answer.status not in _MOVED or following is None:
                break
            url = following
        return f"{url.host} answered {answer.status}", answer.status in _PASSING or answer.status >= 500

    async def _asked(self, url: URL) -> Answer:
        """The answer. Waits while this machine can open no connection: the picture is paid for."""
        for _ in range(_TRIES_TO_CONNECT):
            try:
                return await self._wire.ask("GET", url, headers={})
            except ProviderFault as exc:
                if exc.kind is not Kind.OUT_OF_FILES:
                    raise
                fault = exc
                await self._sleep(exc.retry_after_s or 0.0)
        raise fault


def _is_unready(answer: Answer) -> bool:
    """Whether it is a success without a picture: nothing, or the state of the work as JSON."""
    return not answer.body or (format_of(answer.body) is None and answer.body.lstrip()[:1] == b"{")


def _meant(reference: str) -> str:
    """The URL without what HTML, JSON or Markdown put around or into it, and with its host as such."""
    text = html.unescape(_ESCAPED.sub(lambda found: chr(int(found[1], 16)), reference)).replace("\\/", "/")
    found = _IN_TEXT.search(text)
    if found is not None:
        return found[0]
    return f"//{text.strip()}" if _HOST.match(text) else text


def exact_url(reference: str, base: URL) -> URL | None:
    """The URL with every escape as written, because signatures need that; None if it is not http(s).

    Only characters that a request line cannot hold, such as blanks, are escaped.
    """
    try:
        parts = urlsplit(urljoin(str(base), reference.strip()))
        url = URL(parts.geturl())
        if url.scheme not in {"http", "https"} or not url.host or url.user:
            return None
        return URL.build(
            scheme=url.scheme,
            host=url.raw_host or "",
            port=url.explicit_port,
            path=quote(parts.path or "/", safe=_VISIBLE),
            query_string=quote(parts.query, safe=_VISIBLE),
            encoded=True,
        )
    except ValueError:
        return None

"""Pictures that a service gives as URLs, fetched as they were given."""

from __future__ import annotations

from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from yarl import URL

from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.gateway.providers.wire import Answer, Wire

__all__ = ["Downloads", "exact_url"]

_REDIRECTS = 3
_MOVED = {301, 302, 303, 307, 308}
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))  # what a request line can hold


class Downloads:
    """Fetches pictures for one provider, without its key.

    ``session`` decides by its ``socket_factory`` which addresses are allowed.
    """

    def __init__(
        self, provider: str, session: aiohttp.ClientSession, *, timeout_s: float, connect_s: float
    ) -> None:
        self._provider = provider
        self._wire = Wire(provider, session, timeout_s=timeout_s, connect_s=connect_s)

    async def picture(self, reference: str, base: URL, request_id: str | None) -> Answer:
        """What the URL leads to, over at most three redirects.

        A relative one starts from ``base``, or from the root, as some servers mean it. Raises
        ``ProviderFault``: ``BAD_CONTENT`` that was charged, since the service has made the picture.
        """
        problem = "it is no http(s) URL"
        for url in dict.fromkeys((exact_url(reference, base), exact_url(reference, base.origin()))):
            if url is not None:
                found = await self._found(url)
                if isinstance(found, Answer):
                    return found
                problem = found
        # Not `from` the download's fault: the API's answer decides about the charge.
        raise ProviderFault(
            self._provider,
            Kind.BAD_CONTENT,
            f"sent a URL that gives no picture: {problem}",
            charged="yes",
            request_id=request_id,
        )

    async def _found(self, url: URL) -> Answer | str:
        """The answer, or why there is none."""
        for _ in range(_REDIRECTS + 1):
            try:
                answer = await self._wire.ask("GET", url, headers={})
            except ProviderFault as exc:
                return exc.detail
            if answer.ok:
                return answer
            following = exact_url(answer.headers.get("Location", ""), url)
            if answer.status not in _MOVED or following is None:
                break
            url = following
        return f"{url.host} answered {answer.status}"


def exact_url(reference: str, base: URL) -> URL | None:
    """The URL with every escape as it is written, as signatures need it; None if it is no http(s) URL.

    Only what no request line can hold, such as blanks, is escaped.
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

"""Answers that are pictures: sent whole from memory, or piece by piece."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from blossom_async.errors import Overloaded
from blossom_async.gateway.serving.caching import Plan, http_date

__all__ = ["PIECE", "Streamed", "Whole", "fits", "written"]

PIECE = 256 << 10  # bytes written at once: the most that a slow viewer holds in memory
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

_log = logging.getLogger("blossom_async.gateway")


class Whole(web.StreamResponse):
    """A picture from memory. Its head is prepared in advance, except for the date and the request id.

    Only for GET over HTTP/1.1 on a connection that is kept alive. aiohttp's access log does not see it.
    """

    _keep_alive = True

    def __init__(self, request: web.Request, head: bytes, body: bytes) -> None:
        super().__init__()
        self._request = request
        self._head = head
        self._data = body

    @property
    def body_length(self) -> int:
        """Bytes sent so far, which aiohttp logs."""
        return self._request.writer.output_size

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Sends nothing yet: ``write_eof`` sends head and body together."""
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Sends the picture. Raises ``ConnectionResetError`` if the viewer has disconnected."""
        transport, writer = self._request.transport, self._request.writer
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the viewer has disconnected")
        noted = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        head = b"%b%b%b\r\n" % (self._head, _date_line(int(time.time())), noted.encode())
        writer.output_size = len(head) + len(self._data)
        # Not writelines: on some Pythons it ignores back-pressure (CVE-2024-12254).
        transport.write(head)
        transport.write(self._data)
        await writer.drain()


class Streamed(web.StreamResponse):
    """A picture sent in pieces. A failure midway cuts the connection."""

    def __init__(
        self,
        request: web.Request,
        plan: Plan,
        headers: dict[str, str],
        piece: Callable[[int, int], Awaitable[bytes]],
    ) -> None:
        super().__init__(status=plan.status, headers=headers)
        self._request = request
        self._plan = plan
        self._piece = piece

    async def write_eof(self, data: bytes = b"") -> None:
        for start in range(self._plan.start, self._plan.stop, PIECE):
            stop = min(start + PIECE, self._plan.stop)
            try:
                piece = await self._piece(start, stop)
            except (FileNotFoundError, Overloaded) as exc:
                raise self._cut(str(exc)) from exc
            if len(piece) < stop - start:
                raise self._cut(f"the file ends at byte {start + len(piece)}")
            await self.write(piece)
        await super().write_eof(data)

    def _cut(self, reason: str) -> ConnectionError:
        # The status has been sent: only a cut connection can still tell the viewer that bytes are missing.
        _log.error("a picture was cut off while it was being sent: %s", reason)
        if self._request.transport is not None:
            self._request.transport.abort()
        return ConnectionResetError(reason)


def fits(data: bytes, request: web.Request) -> bool:
    """Whether ``Whole`` can answer the request with these bytes."""
    return (
        len(data) <= PIECE
        and request.method == "GET"
        and request.version == HttpVersion11
        and request.keep_alive
    )


def written(headers: Mapping[str, str], size: int) -> bytes:
    """The head of a 200, except for what depends on the request."""
    named = {**headers, "Content-Length": str(size)}
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in named.items())]
    if any(map(_CONTROL.search, lines)):
        raise ValueError("a header of a picture has a control character")  # the rules should have refused it
    return "\r\n".join([*lines, ""]).encode()


@lru_cache(maxsize=1)
def _date_line(second: int) -> bytes:
    return f"Date: {http_date(datetime.fromtimestamp(second, UTC))}\r\n".encode()

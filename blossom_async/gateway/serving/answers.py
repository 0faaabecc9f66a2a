"""Pictures that are sent piece by piece."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from blossom_async.errors import Overloaded
from blossom_async.gateway.serving.caching import Plan

__all__ = ["PIECE", "Streamed"]

PIECE = 256 << 10  # bytes written at once: the most that a slow viewer holds in memory

_log = logging.getLogger("blossom_async.gateway")


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

"""Request headers that security depends on."""

from __future__ import annotations

from aiohttp import web

from blossom_async.errors import ResponseError

__all__ = ["single"]


def single(request: web.Request, name: str) -> str | None:
    """The value of a header, or None. Raises ``ResponseError`` (400) if it was sent more than once."""
    values = request.headers.getall(name, [])
    if len(values) > 1:  # a proxy in front may have checked another of them
        raise ResponseError(
            f"{name}: the header was sent {len(values)} times; send it once",
            status=400,
            code="repeated_header",
        )
    return values[0] if values else None

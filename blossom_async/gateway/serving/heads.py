"""The headers sent with a picture, and which of its files a viewer gets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from blossom_async.gateway.http.problems import SERVER
from blossom_async.gateway.serving.access import site_allowed
from blossom_async.gateway.serving.caching import cache_control, http_date, negotiated, vary
from blossom_async.gateway.storage.records import ImageRecord, StoredFile
from blossom_async.models import CONTENT_TYPES, ImageRequest

__all__ = ["NOT_WITH_304", "chosen_file", "cors", "head_of", "picture_headers"]

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
}
NOT_WITH_304 = frozenset({"Content-Type", "Content-Disposition", "Last-Modified", "Accept-Ranges"})
"""The headers of a 200 that describe its bytes. A 304 repeats all others: browsers check CORS with them."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def chosen_file(record: ImageRecord, extension: str | None, accept: Sequence[str]) -> StoredFile:
    """The file that the URL names by its extension, or else the one that the header Accept asks for."""
    if len(record.files) == 1:
        return record.main_file
    by_format = {file.format: file for file in record.files}
    if extension in by_format:
        return by_format[extension]
    return by_format[negotiated(accept, tuple(by_format))]


def cors(wish: ImageRequest, origins: Sequence[str]) -> dict[str, str]:
    """The headers by which scripts may read the answer: of all pages if the picture is public.

    If it is not, only scripts of pages of its ``allowed_domains`` may. ``origins`` are the values of the
    request's header Origin.
    """
    domains = wish.allowed_domains
    if wish.open_to_all:
        allowed = "*"
    elif domains is not None and len(origins) == 1 and site_allowed(origins, (), domains):
        allowed = origins[0]
    else:
        return {}
    return {
        "Access-Control-Allow-Origin": allowed,
        "Access-Control-Expose-Headers": "ETag, Content-Length",
    }


def picture_headers(
    record: ImageRecord,
    file: StoredFile,
    width: int | None = None,
    *,
    signed_until: datetime | None,
    origins: Sequence[str],
    now: datetime,
) -> dict[str, str]:
    """The headers of a file, or of a variant's: then ``width`` is its width.

    ``origins`` are the values of the request's header Origin.
    """
    wish = record.request
    narrowed = "" if width is None else f"-w{width}"
    headers = {
        "Content-Type": CONTENT_TYPES[file.format],
        "Content-Disposition": f'inline; filename="{record.id}{narrowed}.{file.format}"',
        "ETag": _etag(record, file, narrowed),
        "Last-Modified": http_date(min(record.created_at, now)),  # 9110, 8.8.2.1
        "Cache-Control": cache_control(
            wish.cache_control,
            record.expires_at,
            now,
            restricted=wish.restricted,
            signed_until=signed_until,
        ),
        "Accept-Ranges": "bytes",
        # Pages of other sites cannot send the API key; all other pictures are meant to be shown on them.
        "Cross-Origin-Resource-Policy": "same-site" if wish.require_auth else "cross-origin",
        **_ALWAYS,
    }
    varied = vary(
        require_auth=wish.require_auth,
        allowed_domains=wish.allowed_domains or (),
        negotiated=len(record.files) > 1,
    )
    if varied is not None:
        headers["Vary"] = varied
    if wish.restricted or signed_until is not None:
        headers["X-Robots-Tag"] = "noindex"
    return headers | cors(wish, origins)


def _etag(record: ImageRecord, file: StoredFile, narrowed: str) -> str:
    if record.request.etag is None:
        return f'"{file.sha256}"'
    several = len(record.files) > 1
    return f'"{record.request.etag}{narrowed}{f"-{file.format}" if several else ""}"'


def head_of(headers: Mapping[str, str], size: int) -> bytes:
    """The head of a 200 with these headers and a body of this size, except for what each answer has anew."""
    named = {**headers, "Content-Length": str(size), "Server": SERVER}
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in named.items())]
    if any(map(_CONTROL.search, lines)):
        raise ValueError("a header of a picture has a control character")  # the rules should have refused it
    return "\r\n".join([*lines, ""]).encode()

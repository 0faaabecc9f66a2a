"""How long the headers of an answer may be, whoever sends it."""

from __future__ import annotations

from typing import Final, TypedDict

__all__ = ["HEADER_LIMITS"]


class _Limits(TypedDict):
    max_line_size: int
    max_field_size: int
    max_headers: int


# aiohttp's own limits are 8 KB and 128. CDNs and proxies fill more with policies and cookies.
HEADER_LIMITS: Final[_Limits] = {
    "max_line_size": 64 * 1024,
    "max_field_size": 64 * 1024,
    "max_headers": 1000,
}
"""For an ``aiohttp.ClientSession``; in bytes, and with the names."""

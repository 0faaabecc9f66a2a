"""The picture in the answer of an Images API, in all the forms services use."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import orjson
from yarl import URL

__all__ = ["fields_of", "picture_of"]

_DATA_URL = re.compile(r"\s*data:[^,]*;base64\s*,", re.IGNORECASE)  # RFC 2397
_BLANKS = re.compile(r"\s|\\[nrt]")  # also line breaks that were escaped twice
_USUAL_ALPHABET = str.maketrans("-_", "+/")


def fields_of(body: bytes) -> dict[str, Any]:
    """The JSON object in an answer, or an empty one."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


def picture_of(fields: Mapping[str, Any]) -> bytes | URL | None:
    """The first picture of an answer, or the URL to fetch it from; None without either."""
    data = fields.get("data")
    entry = data[0] if isinstance(data, list) and data else None
    if not isinstance(entry, dict):
        return None
    for name in ("b64_json", "base64", "url"):
        text = entry.get(name)
        if isinstance(text, str) and text:
            return _unpacked(text, is_url=name == "url")
    return None


def _unpacked(text: str, *, is_url: bool) -> bytes | URL | None:
    if (packed := _DATA_URL.match(text[:128])) is not None:
        return _decoded(unquote(text[packed.end() :]))
    if not is_url:
        return _decoded(text)
    try:
        url = URL(text)
    except ValueError:
        return None
    return url if url.scheme in {"http", "https"} and url.host and not url.user else None


def _decoded(text: str) -> bytes | None:
    """The bytes of base64 in either alphabet (RFC 4648, 4 and 5), with white space, without padding."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        letters = _BLANKS.sub("", text).translate(_USUAL_ALPHABET).rstrip("=")
    try:
        return binascii.a2b_base64(letters + "=" * (-len(letters) % 4), strict_mode=True)
    except (binascii.Error, ValueError):
        return None

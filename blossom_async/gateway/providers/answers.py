"""The picture in the answer of an Images API, in all the forms services use."""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import orjson

__all__ = ["fields_of", "picture_of"]

# Of the charsets that Python knows, those of texts.
_CHARSET = re.compile(r"(?i)charset=\"?((?:utf|iso-8859|latin|windows|us-ascii|gb|big5|shift|euc)[\w-]*)")
_DATA_URL = re.compile(r"(?i)\s*data:[^,]*;base64\s*,")  # RFC 2397
_BLANKS = re.compile(r"\s|\\[nrt]")  # also line breaks that were escaped twice
_USUAL_ALPHABET = str.maketrans("-_", "+/")


def fields_of(body: bytes, content_type: str = "") -> dict[str, Any]:
    """The JSON object in an answer, or an empty one.

    Also of JSON that the standard forbids and servers send: with NaN, a byte order mark, raw control
    characters, text after its end, or in another charset than UTF-8.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        fields = _tolerated(body, content_type)
    return fields if isinstance(fields, dict) else {}


def _tolerated(body: bytes, content_type: str) -> object:
    charset: str = json.detect_encoding(body)
    if charset == "utf-8" and (declared := _CHARSET.search(content_type)) is not None:
        charset = declared[1]
    try:
        text = body.decode(charset, "replace").lstrip("\ufeff\0 \t\r\n")
        return json.JSONDecoder(strict=False).raw_decode(text)[0]
    except (ValueError, LookupError, RecursionError):
        return None


def picture_of(fields: Mapping[str, Any]) -> bytes | str | None:
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


def _unpacked(text: str, *, is_url: bool) -> bytes | str | None:
    if (packed := _DATA_URL.match(text[:128])) is not None:
        return _decoded(unquote(text[packed.end() :]))
    if not is_url:
        return _decoded(text)
    return text


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

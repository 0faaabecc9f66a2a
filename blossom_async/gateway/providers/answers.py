"""The picture in the answer of an Images API, in all the forms services use."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import orjson
from yarl import URL

__all__ = ["fields_of", "picture_of"]


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
    head, _, _ = text[:128].partition(",")
    try:
        if head.startswith("data:") and head.endswith(";base64"):
            return base64.b64decode(text[len(head) + 1 :], validate=True)
        if not is_url:
            return base64.b64decode(text, validate=True)
        url = URL(text)
    except (binascii.Error, ValueError):
        return None
    return url if url.scheme in {"http", "https"} and url.host and not url.user else None

"""Reads a call: its JSON body, its options, and the headers that say how to treat it."""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import orjson
from aiohttp import web

from blossom_async.errors import MissingOption, Rejected, ResponseError, UnknownOption, shown
from blossom_async.gateway.http.headers import single
from blossom_async.gateway.making.priority import Priority
from blossom_async.models import (
    ExplainRequest,
    ImageRequest,
    OpenAIRequest,
    SignRequest,
    SlotsRequest,
    checked,
)

__all__ = [
    "MAX_BODY",
    "arriving",
    "check_uncompressed",
    "checked_options",
    "idempotency_key",
    "json_object",
    "json_parts",
    "json_type",
    "parsed_object",
    "priority",
    "required_object",
    "too_long",
    "unknown_type",
]

MAX_BODY = 1024 * 1024
"""Bytes of a request body: enough for two prompts of the greatest length in the longest encoding."""

BODY_DEADLINE_S = 30.0
"""Seconds that a request body may take to arrive."""

R = TypeVar("R", ImageRequest, OpenAIRequest, SignRequest, ExplainRequest, SlotsRequest)

_URGENCY = re.compile(r"(?:^|,)[ \t]*u=([0-7])[ \t]*(?:,|$)", re.ASCII)
_USUAL_URGENCY = 3
_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)


def checked_options(options: Mapping[str, Any], kind: type[R]) -> R:
    """A request of that kind. Raises ``InvalidRequest``, and ``Rejected`` for unknown and missing options."""
    try:
        return checked(options, kind)
    except UnknownOption as exc:
        raise Rejected(str(exc), code="unknown_option") from exc
    except MissingOption as exc:
        raise Rejected(str(exc), code="missing_option") from exc


async def json_object(http: web.Request) -> dict[str, Any]:
    """The body of a call.

    Raises ``ResponseError`` if it is not JSON, too long, arrives too late or ends early.
    """
    async with arriving(BODY_DEADLINE_S):
        data = b"".join([part async for part in json_parts(http, MAX_BODY)])
    return parsed_object(data)


async def json_parts(http: web.Request, most: int) -> AsyncIterator[bytes]:
    """A body of at most ``most`` bytes, as it arrives.

    Raises ``ResponseError`` if its Content-Type is not JSON, or if it is too long.
    """
    if http.content_type != "application/json":
        raise unknown_type(http, "application/json")
    check_uncompressed(http)
    size = 0
    async for part in http.content.iter_any():
        size += len(part)
        if size > most:
            raise too_long(most)
        yield part


def unknown_type(http: web.Request, allowed: str) -> ResponseError:
    """The error for a body that is not said to be of an allowed type."""
    said = f"is {http.content_type}" if "Content-Type" in http.headers else "has no Content-Type"
    return ResponseError(
        f"the body {said}; send the header 'Content-Type: {allowed}'",
        status=415,
        code="unsupported_media_type",
    )


def parsed_object(data: bytes) -> dict[str, Any]:
    """The JSON object of a body, also after a byte order mark. Raises ``ResponseError`` if it is none."""
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
        body = orjson.loads(data)
        _EACH_NAME_ONCE.decode(text)  # orjson silently takes the last of equal names
    except UnicodeDecodeError as exc:
        raise ResponseError(
            f"the body is not UTF-8: byte 0x{data[exc.start]:02x} at {exc.start + 1}; send JSON in UTF-8",
            status=400,
            code="malformed_body",
        ) from exc
    except (orjson.JSONDecodeError, ValueError, RecursionError) as exc:
        raise ResponseError(f"the body is not JSON: {exc}", status=400, code="malformed_body") from exc
    return required_object(body, "the body")


def check_uncompressed(http: web.Request) -> None:
    """Raises ``ResponseError`` (415) for a body with a Content-Encoding, which could be of any size."""
    if http.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise ResponseError(
            "the body has a Content-Encoding; send it uncompressed, without that header",
            status=415,
            code="unsupported_content_encoding",
        )


def _once_each(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"{shown(name)} appears twice; send each name once")
        seen.add(name)


_EACH_NAME_ONCE = json.JSONDecoder(object_pairs_hook=_once_each)


def required_object(value: Any, what: str) -> dict[str, Any]:
    """The value, if it is a JSON object. Raises ``Rejected`` otherwise."""
    if not isinstance(value, dict):
        raise Rejected(f"{what} is {json_type(value)}; send an object of options")
    return value


def json_type(value: Any) -> str:
    """What a value is in JSON's own words."""
    if value is None:
        return "null"
    named = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "an array"}
    return named.get(type(value), "an object")


def too_long(most: int) -> ResponseError:
    """The error for a body, or a part of it, of more bytes."""
    return ResponseError(
        f"the body is longer than {most} bytes; send less", status=413, code="request_entity_too_large"
    )


@asynccontextmanager
async def arriving(deadline_s: float) -> AsyncIterator[None]:
    """The block reads a body. Raises ``ResponseError`` if it arrives too late or ends early."""
    try:
        async with asyncio.timeout(deadline_s):
            yield
    except TimeoutError as exc:
        raise ResponseError(
            f"the body did not arrive within {deadline_s:g} s; send the request again",
            status=408,
            code="request_timeout",
        ) from exc
    except (ConnectionError, web.RequestPayloadError) as exc:
        raise ResponseError(
            "the body ends early or its chunks are malformed; send the request again",
            status=400,
            code="incomplete_body",
        ) from exc


def priority(headers: Mapping[str, str]) -> Priority:
    """``BATCH`` for a ``Priority`` header (RFC 9218) with an urgency below the default of 3."""
    found = _URGENCY.search(headers.get("Priority", ""))
    return Priority.BATCH if found and int(found[1]) > _USUAL_URGENCY else Priority.INTERACTIVE


def idempotency_key(http: web.Request) -> str | None:
    """The ``Idempotency-Key``, or None. Raises ``ResponseError`` (400) for a malformed one."""
    key = single(http, "Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise ResponseError(
            f"Idempotency-Key: {shown(key)} is malformed; send 1 to 255 visible ASCII characters",
            status=400,
            code="malformed_idempotency_key",
        )
    return key

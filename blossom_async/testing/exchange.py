"""What goes over the wire: the request as received, what it orders, and the answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import attrs
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

__all__ = ["Answer", "Order", "Refused", "SeenRequest", "is_prompt", "seen_request"]

_MAX_PROMPT = 32_000
_SECRET_NAMES = {"key", "token"}


@attrs.frozen(kw_only=True)
class SeenRequest:
    """One request as received, without secrets: API keys read ``***`` in headers, params and body.

    ``path`` is percent-encoded as it was sent, without the query. ``body`` is the parsed JSON, or None if
    there was no valid JSON.
    """

    at: datetime
    id: str
    method: str
    path: str
    headers: Mapping[str, str]
    params: Mapping[str, str]
    body: Any
    api_key: str | None = attrs.field(repr=False)

    @property
    def idempotency_key(self) -> str | None:
        """The ``Idempotency-Key`` header."""
        return self.headers.get("Idempotency-Key")

    @property
    def fingerprint(self) -> str:
        """Equal for requests that ask for the same, whoever sends them."""
        asked = json.dumps([self.method, self.path, dict(self.params), self.body], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()


@attrs.frozen(kw_only=True)
class Order:
    """What a valid request asks for. ``cache_name`` is None if the provider does not cache it."""

    prompt: str
    model: str
    width: int
    height: int
    format: str
    transparent: bool = False
    seed: int | None = None
    count: int = 1
    price: Decimal
    cache_name: str | None = None


@attrs.frozen
class Answer:
    """A complete answer, before a fault changes it."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @classmethod
    def json(cls, status: int, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        """An answer with a JSON body."""
        return cls(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})


class Refused(Exception):
    """Raised to answer a request with an error of the provider."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


def is_prompt(value: object) -> bool:
    """Whether a value is text of 1 to 32,000 characters without unpaired surrogates."""
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_PROMPT:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


async def seen_request(request: web.Request, *, at: datetime, request_id: str) -> SeenRequest:
    """Reads a request to its end."""
    body = await _body(request)
    headers = CIMultiDict(request.headers)
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    if credentials:
        headers["Authorization"] = f"{scheme} ***"
    named = {**(body if isinstance(body, dict) else {}), **request.query}
    given = [str(named[name]) for name in sorted(_SECRET_NAMES & named.keys())]
    return SeenRequest(
        at=at,
        id=request_id,
        method=request.method,
        path=request.raw_path.partition("?")[0],
        headers=CIMultiDictProxy(headers),
        params=_without_secrets(dict(request.query)),
        body=_without_secrets(body) if isinstance(body, dict) else body,
        api_key=credentials if scheme.lower() == "bearer" and credentials else next(iter(given), None),
    )


async def _body(request: web.Request) -> Any:
    if request.content_type == "multipart/form-data":
        return await _form(request)
    try:
        return json.loads(await request.read())
    except ValueError:
        return None


async def _form(request: web.Request) -> dict[str, Any]:
    """The fields of a form. A file is its type and SHA-256; those of ``image`` are in a list."""
    body: dict[str, Any] = {}
    for name, value in (await request.post()).items():
        if isinstance(value, str):
            body[name] = value
            continue
        data = value.file.read() if isinstance(value, web.FileField) else bytes(value)
        kind = value.content_type if isinstance(value, web.FileField) else ""
        file = {"type": kind, "sha256": hashlib.sha256(data).hexdigest()}
        if name in {"image", "image[]"}:
            body.setdefault("image", []).append(file)
        else:
            body[name] = file
    return body


def _without_secrets(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "***" if name in _SECRET_NAMES else value for name, value in fields.items()}

"""``/openapi.json``: the OpenAPI 3.1 document of the API, built from the classes that check requests."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

import attrs
import orjson
from aiohttp import web

from blossom_async import models
from blossom_async.gateway.calls import openapi_front_door
from blossom_async.models import (
    DayStats,
    Estimate,
    ExplainRequest,
    Explanation,
    GroupStats,
    ImageInfo,
    ImagePage,
    ImageRequest,
    SignedUrl,
    SignRequest,
    SlotsRequest,
    StartTimes,
    UrlStats,
)

__all__ = ["OpenApi", "document"]

_Schema = dict[str, Any]

_TEXT: _Schema = {
    "minLength": 1,
    "maxLength": models.MAX_PROMPT,
    "pattern": rf"^[^\x00]*{models.VISIBLE.pattern}[^\x00]*$",
}
_NAME: _Schema = {"minLength": 1, "maxLength": 128, "pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"}
_ACCESS_KEY: _Schema = {**_NAME, "not": {"enum": [".", ".."]}}
_SIDE: _Schema = {"minimum": models.MIN_SIDE, "maximum": models.MAX_SIDE}
_RULES: _Schema = {"minItems": 1, "maxItems": models.MAX_RULES}
_FORMATS: _Schema = {"enum": [*models.FORMATS, "auto"]}

_REQUESTS: tuple[type[attrs.AttrsInstance], ...] = (ImageRequest, SignRequest, ExplainRequest, SlotsRequest)
_ANSWERS: tuple[type[attrs.AttrsInstance], ...] = (
    ImageInfo,
    ImagePage,
    SignedUrl,
    Estimate,
    Explanation,
    UrlStats,
    DayStats,
    GroupStats,
    StartTimes,
)

_LIMITS: dict[type, dict[str, _Schema]] = {
    ImageRequest: {
        "prompt": _TEXT,
        "width": _SIDE,
        "height": _SIDE,
        "quality": {"enum": list(models.QUALITIES)},
        "format": _FORMATS,
        "compression": {"enum": [*models.COMPRESSIONS, None]},
        "quality_preset": {"enum": [*models.PRESETS, None]},
        "lossy_quality": {"minimum": 0, "maximum": 100},
        "model": {"minLength": 1, "maxLength": 128},
        "seed": {"minimum": 0, "maximum": models.MAX_SEED},
        "negative_prompt": _TEXT,
        "expires_in": {"minimum": 1, "maximum": models.MAX_EXPIRES_IN},
        "cache_control": {"maxLength": 256},
        "etag": {"pattern": "^[!#-~]{1,128}$"},
        "tracking_id": _NAME,
        "metadata": {
            "maxProperties": 32,
            "propertyNames": {"minLength": 1, "maxLength": 64},
            "additionalProperties": {"type": "string", "maxLength": 512},
        },
        "allowed_domains": _RULES,
        "ip_whitelist": _RULES,
        "widths": {"minItems": 1, "maxItems": models.MAX_WIDTHS, "items": {"type": "integer", **_SIDE}},
    },
    SignRequest: {
        "signature_ttl": {"minimum": 1, "maximum": models.MAX_SIGNATURE_TTL},
        "access_key": {**_ACCESS_KEY, "type": ["string", "null"]},
    },
    SlotsRequest: {
        "amount": {"minimum": 1, "maximum": 10_000_000},
        "per_s": {"minimum": 0.001, "maximum": 86_400},
        "want": {"minimum": 0, "maximum": 10_000},
        "slack_s": {"minimum": 0, "maximum": 86_400},
        "lead_s": {"minimum": 0, "maximum": 10},
        "pause_s": {"minimum": 0, "maximum": 86_400},
    },
    ExplainRequest: {"url": _TEXT, "address": {"minLength": 1, "maxLength": 64}},
    ImageInfo: {
        "id": {"pattern": f"^{models.IMAGE_ID}$"},
        "format": _FORMATS,
        "provenance": {"enum": [*models.PROVENANCES, None]},
    },
}
"""The validators of ``models`` as JSON Schema, beyond the type."""

_PLAIN: dict[object, _Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    date: {"type": "string", "format": "date"},
    datetime: {"type": "string", "format": "date-time"},
}

_PROBLEM: _Schema = {
    "type": "object",
    "description": "RFC 9457. `code` is a stable identifier for programs, `detail` a sentence for people.",
    "required": ["type", "title", "status", "code", "detail", "request_id"],
    "properties": {
        "type": {"const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "code": {"type": "string"},
        "detail": {"type": "string", "maxLength": 500},
        "field": {"type": "string", "description": "The option at fault."},
        "request_id": {"type": "string", "description": "Identifies the exchange in the gateway's log."},
    },
}

_ERRORS = {
    400: "The request is malformed.",
    401: "The API key is missing or invalid.",
    402: "The provider's account has no money left.",
    403: "The signature is invalid, or the viewer may not see the picture.",
    404: "There is no such thing, or it is not the caller's.",
    408: "The body did not arrive in time.",
    409: "The access key was revoked, or the picture is still being made, or may have been paid already.",
    410: "The picture was deleted or has expired.",
    412: "The picture does not meet the request's If-Match or If-Unmodified-Since.",
    413: "The body is larger than 1 MiB.",
    415: "The body is not `application/json`, or is compressed.",
    416: "The range starts beyond the end of the picture.",
    422: "An option is invalid, or cannot be honoured.",
    429: "Too many calls, or too many invalid API keys. `Retry-After` says how long to wait.",
    500: "The gateway failed.",
    502: "The provider failed.",
    503: "The gateway is overloaded, or cannot store anything now.",
}
_OF_A_CALL = (400, 401, 429, 503)
_OF_A_BODY = (408, 413, 415, 422)
_OF_MAKING = (402, 409, 410, 500, 502)
_OF_A_PICTURE = (400, 401, 402, 403, 404, 409, 410, 412, 416, 422, 429, 500, 502, 503)

_ID = {"type": "string", "pattern": f"^{models.IMAGE_ID}$"}
_PATH_PARAMETERS = {
    "id": _ID,
    "width": {"type": "integer", **_SIDE},
    "name": {"type": "string", **_ACCESS_KEY},
}
_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A repeated call with the same key and body gets the same picture, paid for once.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}


@attrs.frozen(kw_only=True)
class _Call:
    """An operation: its request, its answer, and its errors beyond those of every call.

    ``later``: with ``defer`` it gives the same answer with status 202.
    """

    body: str | None = None
    parameters: tuple[_Schema, ...] = ()
    status: int = 200
    later: bool = False
    answer: str | None = None
    errors: tuple[int, ...] = ()
    tag: str = "Pictures"
    example: _Schema | None = None


_CALLS = {
    "POST /v1/images": _Call(
        body="Create",
        example={"prompt": "a red bicycle in the rain", "width": 640, "height": 360, "format": "webp"},
        parameters=(_IDEMPOTENCY,),
        status=201,
        later=True,
        answer="ImageInfo",
        errors=_OF_MAKING,
    ),
    "GET /v1/images": _Call(
        parameters=(
            {"name": "q", "in": "query", "schema": {"type": "string", "maxLength": 200}},
            {
                "name": "state",
                "in": "query",
                "schema": {"enum": ["live", "expired", "all"], "default": "live"},
            },
            {"name": "tracking_id", "in": "query", "schema": {"type": "string", **_NAME}},
            {
                "name": "limit",
                "in": "query",
                "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
            },
            {
                "name": "cursor",
                "in": "query",
                "schema": {"type": "string", "pattern": f"^[0-9]{{1,17}}-{models.IMAGE_ID}$"},
            },
        ),
        answer="ImagePage",
        errors=(422,),
    ),
    "GET /v1/images/{id}": _Call(answer="ImageInfo", errors=(404, 410)),
    "GET /v1/images/{id}/file": _Call(answer="image/*", errors=(404, 409, 410)),
    "DELETE /v1/images/{id}": _Call(status=204, errors=(404, 409, 410)),
    "POST /v1/images/{id}/regenerate": _Call(
        body="Changes",
        example={"seed": 7},
        parameters=(_IDEMPOTENCY,),
        status=201,
        later=True,
        answer="ImageInfo",
        errors=(404, *_OF_MAKING),
    ),
    "POST /v1/images/{id}/signed-url": _Call(
        body="SignRequest",
        tag="Viewers",
        example={"signature_ttl": 3600},
        answer="SignedUrl",
        errors=(404, 409, 410),
    ),
    "POST /v1/images/{id}/explain": _Call(
        body="ExplainRequest", tag="Viewers", answer="Explanation", errors=(404,)
    ),
    "POST /v1/access-keys/{name}/revoke": _Call(tag="Viewers", status=204, errors=(422,)),
    "POST /v1/estimate": _Call(
        body="ImageRequest",
        tag="Batches",
        example={"prompt": "a red bicycle", "quality": "hd"},
        answer="Estimate",
    ),
    "POST /v1/gates/{name}/slots": _Call(
        body="SlotsRequest",
        tag="Batches",
        example={"amount": 600, "per_s": 60, "want": 10},
        answer="StartTimes",
    ),
    "GET /v1/stats": _Call(
        tag="Statistics",
        parameters=(
            {"name": "tracking_id", "in": "query", "required": True, "schema": {"type": "string", **_NAME}},
            {"name": "from", "in": "query", "schema": {"type": "string", "format": "date"}},
            {"name": "to", "in": "query", "schema": {"type": "string", "format": "date"}},
        ),
        answer="UrlStats",
        errors=(404, 422),
    ),
}
"""The calls under ``/v1`` that the document describes, by method and path."""


_TAGS = {
    "Pictures": "Make pictures, and find, read and delete them.",
    "Viewers": "Who may see a picture: signed URLs, and why a viewer is refused.",
    "Batches": "What a picture costs, and limits that many processes share.",
    "Statistics": "Views of the pictures of a campaign.",
    "OpenAI": "The same pictures for clients of OpenAI's API, with `/v1` as their base URL.",
    "Viewing": "The pictures themselves, as browsers ask for them.",
}


class OpenApi:
    """The handler of ``/openapi.json``; ``routes`` are those of ``/v1``."""

    def __init__(self, routes: Iterable[web.RouteDef], public_url: str) -> None:
        self._routes = tuple(routes)
        self._public_url = public_url
        self._body = b""

    def routes(self) -> list[web.RouteDef]:
        """The routes to add to the application."""
        return [web.get("/openapi.json", self.read)]

    def document(self) -> _Schema:
        """The document of this gateway."""
        return document(self._routes, self._public_url)

    async def read(self, _: web.Request) -> web.Response:
        """200 with the document. It is public."""
        if not self._body:
            self._body = orjson.dumps(self.document())
        return web.Response(
            body=self._body, content_type="application/json", headers={"Cache-Control": "no-cache"}
        )


def document(routes: Iterable[web.RouteDef], public_url: str) -> _Schema:
    """The OpenAPI document of these routes. The description of a call is its handler's docstring."""
    paths: dict[str, _Schema] = {}
    for route in routes:
        call = _CALLS.get(f"{route.method} {route.path}")
        if call is not None:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, call)
    paths["/image/{id}"] = {"get": _picture("picture", "The picture, or why not.", "id")}
    paths |= openapi_front_door.PATHS
    narrowed = "The picture in one of its `widths`, or why not."
    paths["/image/{id}/w{width}"] = {"get": _picture("narrowed_picture", narrowed, "id", "width")}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Blossom gateway",
            "version": "1",
            "summary": "Pictures from prompts, behind URLs that work.",
            "description": "Every call under `/v1` needs an API key in the header `Authorization: Bearer "
            "KEY`. A call that makes pictures takes an `Idempotency-Key`, so that it can be repeated and is "
            "paid once.",
        },
        "tags": [{"name": name, "description": what} for name, what in _TAGS.items()],
        "servers": [{"url": public_url}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


def _operation(route: web.RouteDef, call: _Call) -> _Schema:
    summary, _, description = (inspect.getdoc(route.handler) or "").replace("``", "`").partition("\n\n")
    names = [name for name in _PATH_PARAMETERS if f"{{{name}}}" in route.path]
    found: _Schema = {
        "operationId": route.handler.__name__,
        "tags": [call.tag],
        "summary": " ".join(summary.split()),
        "parameters": [*map(_parameter, names), *call.parameters],
        "responses": {str(call.status): _answer(call.answer)} | _problems(*_OF_A_CALL, *call.errors),
    }
    if call.later:
        found["responses"]["202"] = _answer(call.answer)
    if description:
        found["description"] = description
    if call.body is not None:
        body = _content("application/json", _named(call.body))
        if call.example is not None:
            body["content"]["application/json"]["example"] = call.example
        found["requestBody"] = {"required": True, **body}
        found["responses"] |= _problems(*_OF_A_BODY)
    return found


def _parameter(name: str) -> _Schema:
    return {"name": name, "in": "path", "required": True, "schema": _PATH_PARAMETERS[name]}


def _picture(name: str, what: str, *parameters: str) -> _Schema:
    whole = {"description": "The picture.", **_content("image/*", {})}
    part = {"description": "The part of it that `Range` asks for.", **_content("image/*", {})}
    return {
        "operationId": name,
        "tags": ["Viewing"],
        "summary": f"{what} `HEAD` gets the same answer without the bytes.",
        "description": "Restricted pictures need a signature, an API key, or an allowed address or site.",
        "security": [{}, {"key": []}],
        "parameters": [
            *map(_parameter, parameters),
            {"name": "exp", "in": "query", "schema": {"type": "string", "pattern": "^[1-9][0-9]{9,10}$"}},
            {"name": "sig", "in": "query", "schema": {"type": "string", "minLength": 1}},
        ],
        "responses": {
            "200": whole,
            "202": {
                "description": "A deferred picture is still being made; `Retry-After` says when to ask again."
            },
            "206": part,
            "304": {"description": "The picture that the viewer has is current."},
        }
        | _problems(*_OF_A_PICTURE),
    }


def _answer(name: str | None) -> _Schema:
    if name is None:
        return {"description": "Done."}
    if "/" in name:
        return {"description": "The picture.", **_content(name, {})}
    return {"description": "Done.", **_content("application/json", _named(name))}


def _problems(*statuses: int) -> _Schema:
    content = _content("application/problem+json", _named("Problem"))
    return {str(status): {"description": _ERRORS[status], **content} for status in sorted(statuses)}


def _content(kind: str, schema: _Schema) -> _Schema:
    return {"content": {kind: {"schema": schema}}}


def _named(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> dict[str, _Schema]:
    schemas = {kind.__name__: _object(kind) for kind in _REQUESTS + _ANSWERS}
    wanted = schemas["ImageRequest"]
    sign = {
        "anyOf": [_named("SignRequest"), {"type": "null"}],
        "description": "Makes the URL of the answer a signed one.",
    }
    schemas["Create"] = {**wanted, "properties": {**wanted["properties"], "sign": sign}}
    schemas["Changes"] = {name: value for name, value in wanted.items() if name != "required"}
    return {**schemas, **openapi_front_door.schemas(wanted), "Problem": _PROBLEM}


def _object(kind: type) -> _Schema:
    fields = attrs.fields(attrs.resolve_types(kind))
    limits = _LIMITS.get(kind, {})
    found: _Schema = {
        "type": "object",
        "description": (inspect.getdoc(kind) or "").replace("``", "`"),
        "properties": {field.name: {**_type(field.type), **limits.get(field.name, {})} for field in fields},
    }
    if kind in _REQUESTS:
        for field in fields:
            if field.default is not attrs.NOTHING:
                found["properties"][field.name] = _or_null(found["properties"][field.name])
        needed = [field.name for field in fields if field.default is attrs.NOTHING]
        found["additionalProperties"] = False
    else:
        needed = [field.name for field in fields]  # an answer always has all of them
    return {**found, "required": needed} if needed else found


def _or_null(schema: _Schema) -> _Schema:
    """The same, or null for the default."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    enum = {"enum": [*dict.fromkeys([*schema["enum"], None])]} if "enum" in schema else {}
    return {**schema, "type": [*dict.fromkeys([*kinds, "null"])], **enum}


def _type(kind: Any) -> _Schema:
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    if attrs.has(kind):
        return _named(kind.__name__)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # always of a type and None
        some = _type(parts[0])
        return {**some, "type": [some["type"], "null"]}
    if origin is tuple:
        return {"type": "array", "items": _type(parts[0])}
    return {"type": "object", "additionalProperties": _type(parts[1])}

"""The part of ``/openapi.json`` that is OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blossom_async.gateway.calls.front_door_parameters import MOST, QUALITIES
from blossom_async.gateway.calls.uploads import MOST_PICTURES

__all__ = ["PATHS", "schemas"]

_Schema = dict[str, Any]

_ERRORS = {
    400: "The request is malformed, or an option is invalid.",
    401: "The API key is missing or invalid.",
    402: "The budget of the API key or the provider's account is used up.",
    404: "There is no such model, or no provider that draws from pictures.",
    408: "The body did not arrive in time.",
    409: "The picture is still being made.",
    410: "The picture of this Idempotency-Key was deleted or has expired.",
    413: "The body is larger than 1 MiB, or with pictures 32 MiB.",
    415: "The body is of another type, or is compressed.",
    424: "The picture was paid for, or may have been; a repeated call would pay again.",
    429: "Too many calls. `Retry-After` says how long to wait.",
    500: "The gateway failed.",
    502: "The provider failed.",
    503: "The gateway is overloaded, or cannot store anything now.",
}


def _named(name: str) -> _Schema:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def _problems(*statuses: int) -> _Schema:
    content = {"application/json": _named("OpenAIError"), "application/problem+json": _named("Problem")}
    return {str(status): {"description": _ERRORS[status], "content": content} for status in statuses}


def _listed(name: str, summary: str, answer: str, *parameters: _Schema) -> _Schema:
    return {
        "operationId": name,
        "tags": ["OpenAI"],
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": "Done.", "content": {"application/json": _named(answer)}},
            **_problems(400, 401, *([404] if parameters else []), 429, 500, 502, 503),
        },
    }


_PICTURES: _Schema = {
    "200": {
        "description": "The pictures; with `stream` one event for each, after those of `partial_images`.",
        "content": {
            "application/json": _named("GeneratedImages"),
            "text/event-stream": {"schema": {"type": "string"}},
        },
    },
    **_problems(*_ERRORS),
}

PATHS: dict[str, _Schema] = {
    "/v1/images/generations": {
        "post": {
            "operationId": "generations",
            "tags": ["OpenAI"],
            "summary": "Makes pictures as OpenAI's Images API does, so that its clients work unchanged.",
            "description": "Every option of `POST /v1/images` but `defer` and `sign` is accepted beside "
            "OpenAI's own. The gateway's own model draws for one that is not offered here, and `note` says "
            "so, unless the gateway is set to refuse it.",
            "parameters": [],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        **_named("Generations"),
                        "example": {"prompt": "a red bicycle in the rain", "size": "512x512", "n": 1},
                    }
                },
            },
            "responses": _PICTURES,
        }
    },
    "/v1/images/edits": {
        "post": {
            "operationId": "edits",
            "tags": ["OpenAI"],
            "summary": "Makes pictures from pictures as OpenAI's Images API does, where a provider can.",
            "description": "Pictures are files of a form, or in JSON `data:` URLs or the URLs of your own "
            "pictures at this gateway. Without `size` the result has the shape of the first. 404 where no "
            "provider draws from pictures.",
            "parameters": [],
            "requestBody": {
                "required": True,
                "content": {
                    "multipart/form-data": _named("EditForm"),
                    "application/json": {
                        **_named("Edits"),
                        "example": {
                            "prompt": "the same bicycle, in the snow",
                            "images": [{"image_url": "data:image/png;base64,iVBORw0KGgo="}],
                        },
                    },
                },
            },
            "responses": _PICTURES,
        }
    },
    "/v1/models": {"get": _listed("models", "The models of every provider, in OpenAI's format.", "Models")},
    "/v1/models/{model}": {
        "get": _listed(
            "model",
            "The model of that name.",
            "Model",
            {
                "name": "model",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"},
                "example": "scenery-1",
            },
        )
    },
}
"""The calls, by path and method."""


def schemas(image_request: Mapping[str, Any]) -> dict[str, _Schema]:
    """The bodies and answers; ``image_request`` is the schema of our own options."""
    ours = {name: value for name, value in image_request["properties"].items() if name != "defer"}
    ratio = {"type": ["string", "null"], "pattern": "^[1-9][0-9]{0,3}:[1-9][0-9]{0,3}$"}
    ignored = {"type": ["number", "null"], "description": "Accepted, and changes nothing."}
    theirs: dict[str, _Schema] = {
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": MOST},
        "size": {
            "type": ["string", "null"],
            "pattern": "^([1-9][0-9]{0,4}x[1-9][0-9]{0,4}|auto)$",
            "description": "Width and height in pixels, such as `1024x1024`.",
        },
        "quality": {"enum": [*QUALITIES, "ultra", None]},
        "response_format": {"enum": ["url", "b64_json", None]},
        "output_format": {"enum": ["png", "jpeg", "jpg", "webp", None]},
        "output_compression": {"type": ["integer", "null"], "minimum": 0, "maximum": 100},
        "background": {"enum": ["auto", "opaque", "transparent", None]},
        "stream": {"type": ["boolean", "null"], "description": "Server-sent events, one for each picture."},
        "partial_images": {
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": 3,
            "description": "With `stream`, events with pictures on the way, if the provider sends them.",
        },
        "style": {"enum": ["vivid", "natural", None]},
        "moderation": {"enum": ["auto", None]},
        "user": {"type": ["string", "number", "boolean", "object", "array", "null"]},
        "aspect_ratio": ratio,
        "aspectRatio": ratio,
        "steps": ignored,
        "cfg": ignored,
    }
    text: _Schema = {"type": "string"}
    reference: _Schema = {"anyOf": [text, {"type": "object", "properties": {"image_url": text}}]}
    file: _Schema = {"type": "string", "format": "binary"}
    edits: _Schema = {**ours, **theirs, "input_fidelity": {"enum": ["low", "high", None]}}
    some = {"minItems": 1, "maxItems": MOST_PICTURES}
    return {
        "Edits": {
            "type": "object",
            "description": "As `Generations`, with the pictures to draw from. `mask` is a png, of the size "
            "of the first, whose transparent pixels are drawn anew.",
            "properties": {
                **edits,
                "images": {"type": "array", "items": reference, **some},
                "mask": reference,
            },
            "additionalProperties": False,
            "required": ["prompt", "images"],
        },
        "EditForm": {
            "type": "object",
            "description": "As `Edits`, with files: complete png, jpg or webp of at most 25 million pixels, "
            "32 MiB in all. Several are sent as `image[]`.",
            "properties": {**edits, "image": {"type": "array", "items": file, **some}, "mask": file},
            "required": ["prompt", "image"],
        },
        "Generations": {
            "type": "object",
            "description": "Options of OpenAI's Images API, and of `ImageRequest`.",
            "properties": {**ours, **theirs},
            "additionalProperties": False,
            "required": ["prompt"],
        },
        "GeneratedImages": {
            "type": "object",
            "description": "The pictures that were made; fewer than asked for if some failed.",
            "properties": {
                "created": {"type": "integer", "description": "Seconds since 1970."},
                "model": text,
                "note": {"type": "string", "description": "Which model drew instead of the one asked for."},
                "data": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"url": text, "b64_json": text}},
                },
            },
            "required": ["created", "model", "data"],
        },
        "Model": {
            "type": "object",
            "description": "A model; `owned_by` is the provider that has it.",
            "properties": {
                "id": text,
                "object": {"const": "model"},
                "created": {"type": "integer"},
                "owned_by": text,
            },
            "required": ["id", "object", "created", "owned_by"],
        },
        "Models": {
            "type": "object",
            "description": "All models.",
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
            },
            "required": ["object", "data"],
        },
        "OpenAIError": {
            "type": "object",
            "description": "An error as OpenAI's clients read it.",
            "properties": {
                "error": {
                    "type": "object",
                    "properties": {
                        "message": text,
                        "type": text,
                        "param": {"type": ["string", "null"]},
                        "code": {"type": ["string", "null"]},
                    },
                    "required": ["message", "type", "param", "code"],
                }
            },
            "required": ["error"],
        },
    }

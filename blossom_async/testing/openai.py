"""A fake of OpenAI's Images API, and of other servers' dialects of it."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar

import attrs
from aiohttp import web

from blossom_async.testing.exchange import Answer, Order, Refused, SeenRequest, is_prompt
from blossom_async.testing.faults import Fault
from blossom_async.testing.servers import EVERYWHERE, SEEN, FakeServer, Made

__all__ = ["FakeOpenAI"]

GENERIC = "generic-1"
"""Stands in the list of models for every model that is not OpenAI's own."""

PRICES = {
    "gpt-image-2": Decimal("0.05"),
    "gpt-image-2.6-flare": Decimal("0.04"),
    "dall-e-3": Decimal("0.08"),
    GENERIC: Decimal("0.01"),
}
"""Model -> dollars per picture, made up. Any other model costs the same as the generic one."""

_COMMON = {"prompt", "model", "n", "size", "quality", "user"}
_GPT_IMAGE = _COMMON | {"background", "output_format", "output_compression", "moderation"}
_STREAMED = {"stream", "partial_images"}
_EDIT = _GPT_IMAGE | _STREAMED | {"image", "mask", "input_fidelity"}
_DALL_E = _COMMON | {"response_format", "style"}
_DALL_E_SIZES = {"1024x1024", "1792x1024", "1024x1792"}
_GPT_IMAGE_1_SIZES = {"1024x1024", "1536x1024", "1024x1536"}
_PICTURES = {"image/png", "image/jpeg", "image/webp"}
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)
_MAX_PIXELS_A_SIDE = 4096

_REFUSALS: Mapping[Fault, tuple[int, str, str | None, str]] = {
    Fault.RATE_LIMITED: (429, "requests", "rate_limit_exceeded", "Rate limit reached for images per minute."),
    Fault.INSUFFICIENT_QUOTA: (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota.",
    ),
    Fault.UNAUTHORIZED: (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    Fault.FORBIDDEN: (
        403,
        "invalid_request_error",
        "model_not_found",
        "This project may not use this model.",
    ),
    Fault.SAFETY_BLOCKED: (
        400,
        "image_generation_user_error",
        "moderation_blocked",
        "Your request was rejected by the safety system.",
    ),
    Fault.CONTENT_POLICY_VIOLATION: (
        400,
        "invalid_request_error",
        "content_policy_violation",
        "Your request was rejected as a result of our safety system.",
    ),
    Fault.SERVER_ERROR: (500, "server_error", None, "The server had an error while processing your request."),
    Fault.BAD_GATEWAY: (502, "server_error", None, "Bad gateway."),
    Fault.UNAVAILABLE: (503, "server_error", None, "The engine is currently overloaded."),
    Fault.GATEWAY_TIMEOUT: (504, "server_error", None, "Gateway timeout."),
}
"""Fault -> status, type, code, message."""


class FakeOpenAI(FakeServer):
    """``POST /v1/images/generations``, ``/v1/images/edits`` and ``GET /v1/models``.

    ``base_url`` ends in ``/v1``. Edits are forms; what is drawn depends on the pictures sent. Models named
    ``gpt-image-*`` answer ``stream`` with events, ``partial_images`` of them on the way.

    The model decides the dialect: ``gpt-image-*`` answers base64 only and refuses ``response_format``;
    ``dall-e-3`` answers a temporary URL or ``b64_json`` and refuses ``background`` and the ``output_...``
    options; any other name acts like vLLM-Omni or Together, which accept ``width``, ``height``, ``seed`` and
    ``response_format`` ``url``, ``b64_json`` or ``base64``, and ignore unknown parameters. Temporary URLs
    are valid for an hour. Nothing is cached: without a key the same request is charged again.
    """

    provider = "openai"
    unit = "usd"
    files_kept: ClassVar[timedelta] = timedelta(hours=1)
    known_faults: ClassVar[frozenset[Fault]] = (
        EVERYWHERE
        | frozenset(_REFUSALS)
        | {Fault.BARE_DETAIL, Fault.BARE_MESSAGE, Fault.DATA_MISSING, Fault.DATA_EMPTY}
    )

    @property
    def base_url(self) -> str:
        """As for ``FakeServer``, with ``/v1`` at its end."""
        return f"{super().base_url}/v1"

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v1/models", self._list_models)
        router.add_post("/v1/images/generations", self._orders(self._read, self._show))
        router.add_post("/v1/images/edits", self._orders(self._read_edit, self._show))
        router.add_route("*", "/{path:.*}", self._nothing_there)

    def _read(self, seen: SeenRequest) -> Order:
        self._check_key(seen)
        body = seen.body
        if not isinstance(body, dict):
            raise _refused("We could not parse the JSON body of your request.")
        if not is_prompt(body.get("prompt")):
            raise _refused("'prompt' must be text of 1 to 32000 characters.", "prompt")
        model = str(body.get("model", "dall-e-3"))
        if model.startswith("gpt-image-"):
            return _gpt_image(body, model)
        if model.startswith("dall-e-"):
            return _dall_e(body, model)
        return _generic(body, model)

    def _read_edit(self, seen: SeenRequest) -> Order:
        self._check_key(seen)
        body = seen.body
        if not isinstance(body, dict) or not body.get("image"):
            raise _refused("'image' is required.", "image")
        pictures = [*body["image"], *([body["mask"]] if "mask" in body else [])]
        if not all(isinstance(each, dict) and each["type"] in _PICTURES for each in pictures):
            raise _refused("'image' and 'mask' must be png, jpeg or webp.", "image")
        if str(body.get("model")).startswith("dall-e-"):
            raise _refused("This model does not edit.", "model")
        words = " ".join(each["sha256"] for each in pictures)
        order = self._read(attrs.evolve(seen, body=_as_json(body)))
        return attrs.evolve(order, prompt=f"{order.prompt} {words}")

    def _show(self, seen: SeenRequest, order: Order, made: Made) -> Answer:
        own_default = "url" if order.model.startswith("dall-e-") else "b64_json"
        as_url = seen.body.get("response_format", own_default) == "url"
        data = []
        for picture in made.pictures:
            entry = (
                {"url": self._publish(picture)}
                if as_url
                else {"b64_json": base64.b64encode(picture.data).decode()}
            )
            if order.model.startswith("dall-e-"):
                entry["revised_prompt"] = order.prompt
            data.append(entry)
        answer: dict[str, object] = {"created": int(seen.at.timestamp()), "data": data}
        if order.model.startswith("gpt-image-"):
            answer |= {
                "background": "transparent" if order.transparent else "opaque",
                "output_format": order.format,
                "quality": seen.body.get("quality", "high").replace("auto", "high"),
                "size": f"{order.width}x{order.height}",
            }
            if made.counted:
                answer["usage"] = {
                    "input_tokens": 10,
                    "output_tokens": 1000 * order.count,
                    "total_tokens": 10 + 1000 * order.count,
                    "input_tokens_details": {"text_tokens": 10, "image_tokens": 0},
                }
        if seen.body.get("stream") in {True, "true"} and order.model.startswith("gpt-image-"):
            return _streamed(seen, answer)
        return Answer.json(200, answer)

    async def _list_models(self, request: web.Request) -> web.Response:
        try:
            self._check_key(request[SEEN])
        except Refused as refused:
            answer = refused.answer
            return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "fake"} for name in PRICES]
        return web.json_response({"object": "list", "data": data})

    async def _nothing_there(self, request: web.Request) -> web.Response:
        answer = self._error(request[SEEN], 404, f"Invalid URL ({request.method} {request.path})")
        return web.Response(status=404, body=answer.body, headers=answer.headers)

    def _check_key(self, seen: SeenRequest) -> None:
        if self._api_key not in {None, seen.api_key}:
            status, kind, code, message = _REFUSALS[Fault.UNAUTHORIZED]
            raise Refused(_error(status, message, kind=kind, code=code))

    def _error(self, seen: SeenRequest, status: int, message: str) -> Answer:
        return _error(status, message, kind="server_error" if status >= 500 else "invalid_request_error")

    def _refusal(self, fault: Fault, seen: SeenRequest) -> Answer | None:
        match fault:
            case Fault.BARE_DETAIL:
                return Answer.json(500, {"detail": "No worker took the job."})
            case Fault.BARE_MESSAGE:
                return Answer.json(500, {"message": "No worker took the job."})
        if fault not in _REFUSALS:
            return None
        status, kind, code, message = _REFUSALS[fault]
        headers = {}
        if fault is Fault.RATE_LIMITED:
            headers = {
                "retry-after": str(math.ceil(self._retry_after_s)),
                "retry-after-ms": str(round(self._retry_after_s * 1000)),
                "x-should-retry": "true",
            }
        return _error(status, message, kind=kind, code=code, headers=headers)


def _gpt_image(body: Mapping[str, Any], model: str) -> Order:
    _only(body, _EDIT if "image" in body else _GPT_IMAGE | _STREAMED)
    _one_of(body, "quality", {"auto", "low", "medium", "high"})
    _one_of(body, "background", {"auto", "transparent", "opaque"})
    _one_of(body, "output_format", {"png", "jpeg", "webp"})
    _one_of(body, "moderation", {"auto", "low"})
    format_ = str(body.get("output_format", "png"))
    transparent = body.get("background") == "transparent"
    if transparent and format_ == "jpeg":
        raise _refused("Transparent background is not supported for jpeg.", "background")
    percent = body.get("output_compression", 100)
    if not isinstance(percent, int) or not 0 <= percent <= 100 or (percent < 100 and format_ == "png"):
        raise _refused("'output_compression' is 0 to 100, below 100 not for png.", "output_compression")
    size = body.get("size", "auto")
    width, height = (1024, 1024) if size == "auto" else _size(size)
    if model == "gpt-image-1" and size != "auto":
        _one_of(body, "size", _GPT_IMAGE_1_SIZES)
    if width % 16 or height % 16 or not width <= 3 * height <= 9 * width:
        raise _refused("Sides are multiples of 16, within 1:3 and 3:1.", "size")
    return _order(body, model, width, height, format_, transparent, max_count=10)


def _as_json(form: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a form with the types that JSON has."""
    numbers = ("n", "seed", "output_compression", "partial_images")
    return {name: int(value) if name in numbers else value for name, value in form.items()}


def _streamed(seen: SeenRequest, answer: Mapping[str, Any]) -> Answer:
    """The first picture in events: as often on the way as asked for, then completed."""
    kind = "image_edit" if seen.path.endswith("/edits") else "image_generation"
    told = {name: value for name, value in answer.items() if name not in {"data", "created"}}
    picture = {**told, "created_at": answer["created"], **answer["data"][0]}
    picture.pop("usage", None)
    events: list[dict[str, Any]] = [
        {**picture, "type": f"{kind}.partial_image", "partial_image_index": index}
        for index in range(int(seen.body.get("partial_images", 0)))
    ]
    events.append({**picture, "type": f"{kind}.completed", "usage": answer.get("usage")})
    text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return Answer(200, text.encode(), {"Content-Type": "text/event-stream"})


def _dall_e(body: Mapping[str, Any], model: str) -> Order:
    _only(body, _DALL_E)
    _one_of(body, "size", _DALL_E_SIZES)
    _one_of(body, "quality", {"standard", "hd"})
    _one_of(body, "style", {"vivid", "natural"})
    _one_of(body, "response_format", {"url", "b64_json"})
    width, height = _size(body.get("size", "1024x1024"))
    return _order(body, model, width, height, "png", transparent=False, max_count=1)


def _generic(body: Mapping[str, Any], model: str) -> Order:
    _one_of(body, "response_format", {"url", "b64_json", "base64"})
    _one_of(body, "output_format", {"png", "jpeg", "webp"})
    size = body.get("size", f"{body.get('width', 1024)}x{body.get('height', 1024)}")
    width, height = _size(size)
    format_ = str(body.get("output_format", "png"))
    return _order(body, model, width, height, format_, transparent=False, max_count=10)


def _order(
    body: Mapping[str, Any],
    model: str,
    width: int,
    height: int,
    format_: str,
    transparent: bool,
    max_count: int,
) -> Order:
    count = body.get("n", 1)
    if not isinstance(count, int) or not 1 <= count <= max_count:
        raise _refused(f"'n' is 1 to {max_count} for this model.", "n")
    seed = body.get("seed")
    return Order(
        prompt=str(body["prompt"]),
        model=model,
        width=width,
        height=height,
        format=format_,
        transparent=transparent,
        seed=seed if isinstance(seed, int) else None,
        count=count,
        price=PRICES.get(model, PRICES[GENERIC]),
    )


def _only(body: Mapping[str, Any], known: set[str]) -> None:
    for name in body.keys() - known:
        raise _refused(f"Unknown parameter: '{name}'.", name, code="unknown_parameter")


def _one_of(body: Mapping[str, Any], name: str, allowed: set[str]) -> None:
    if name in body and not (isinstance(body[name], str) and body[name] in allowed):
        message = f"Invalid value: '{body[name]}'. Supported values are: {', '.join(sorted(allowed))}."
        raise _refused(message, name, code="invalid_value")


def _size(size: object) -> tuple[int, int]:
    found = _SIZE.fullmatch(str(size))
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(1 <= side <= _MAX_PIXELS_A_SIDE for side in sides):
        raise _refused(f"Invalid value: '{size}'. A size is like 1024x1024.", "size", code="invalid_value")
    return sides


def _refused(message: str, param: str | None = None, code: str | None = None) -> Refused:
    return Refused(_error(400, message, param=param, code=code))


def _error(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    error = {"message": message, "type": kind, "param": param, "code": code}
    return Answer.json(status, {"error": error}, headers)

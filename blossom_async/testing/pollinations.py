"""A fake of both Pollinations hosts: gen.pollinations.ai and the older image.pollinations.ai."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlencode

import attrs
from aiohttp import web

from blossom_async.testing.exchange import Answer, Order, Refused, SeenRequest, is_prompt
from blossom_async.testing.faults import Fault
from blossom_async.testing.servers import EVERYWHERE, SEEN, FakeServer, Made

__all__ = ["FakePollinations"]

MODELS = {
    "flux": Decimal("0.001"),
    "sana": Decimal("0.0002"),
    "z-image": Decimal("0.002"),
    "gptimage": Decimal("0.008"),
}
"""Name -> pollen per picture, made up."""

_LEGACY_MODELS = ("sana", "flux", "z-image", "zimage", "turbo")
_MAX_PIXELS_A_SIDE = 4096
_MAX_SEED = 2**31 - 1
_QUALITIES = {"standard", "hd", "low", "medium", "high"}
_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    402: "PAYMENT_REQUIRED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "CONFLICT",
    422: "UNPROCESSABLE_ENTITY",
    429: "RATE_LIMITED",
    500: "INTERNAL_ERROR",
    502: "BAD_GATEWAY",
    503: "SERVICE_UNAVAILABLE",
    504: "GATEWAY_TIMEOUT",
}
_SIDE = re.compile(r"\d{1,5}", re.ASCII)
_SIZE = re.compile(r"\d{1,5}x\d{1,5}", re.ASCII)
_USAGE = {
    "input_tokens": 0,
    "output_tokens": 1,
    "total_tokens": 1,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}
_QUEUE_FULL = "Queue full for IP: 127.0.0.1: 1 requests already queued (max: 1)"
_ENVELOPES: Mapping[Fault, tuple[int, str | None, str]] = {
    Fault.RATE_LIMITED_IP: (429, None, "Too many requests from this IP. Please slow down."),
    Fault.PAYMENT_REQUIRED: (402, None, "Insufficient pollen balance or API key budget exhausted."),
    Fault.KEY_BUDGET_EXHAUSTED: (402, "KEY_BUDGET_EXHAUSTED", "This API key has no budget left."),
    Fault.INSUFFICIENT_BALANCE: (402, "INSUFFICIENT_BALANCE", "This account has not enough pollen."),
    Fault.UNAUTHORIZED: (401, None, "Authentication required."),
    Fault.FORBIDDEN: (403, None, "This key may not use this model."),
    Fault.CONTENT_POLICY_VIOLATION: (422, "content_policy_violation", "The provider refused this prompt."),
    Fault.SERVER_ERROR: (500, None, "Something went wrong."),
    Fault.BAD_GATEWAY: (502, None, "A backend could not be reached."),
    Fault.UNAVAILABLE: (503, None, "Down for maintenance."),
    Fault.GATEWAY_TIMEOUT: (504, None, "The upstream service did not respond in time."),
}
"""Faults in the plain error envelope -> status, code (None: that of the status), message."""


class FakePollinations(FakeServer):
    """``GET /image/{prompt}``, ``POST /v1/images/generations`` and lists of models; also the legacy paths.

    As with the real one, a repeated request with the same seed gets the same picture with ``X-Cache: HIT``
    and is not charged again; it joins the first one while that is in flight, and cached pictures need no
    key. A ``POST`` without a seed gets a random one. Legacy pictures are free; the ledger has them with the
    amount 0.
    """

    provider = "pollinations"
    unit = "pollen"
    files_kept: ClassVar[timedelta] = timedelta(days=30)
    known_faults: ClassVar[frozenset[Fault]] = (
        EVERYWHERE
        | frozenset(_ENVELOPES)
        | {
            Fault.RATE_LIMITED_KEY,
            Fault.RATE_LIMITED_COMMUNITY,
            Fault.RATE_LIMITED_CONCURRENCY,
            Fault.RATE_LIMITED_FREE_MODEL,
            Fault.RATE_LIMITED_QUEUE_429,
            Fault.RATE_LIMITED_QUEUE_402,
            Fault.RATE_LIMITED_UPSTREAM,
            Fault.PAYMENT_REQUIRED_X402,
            Fault.SAFETY_BLOCKED,
        }
    )

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/image/models", self._list_image_models)
        router.add_get("/v1/models", self._list_models)
        router.add_get("/models", self._list_legacy_models)
        drawn = self._orders(self._read_get, self._show_get)
        drawn_by_legacy = self._orders(self._read_legacy, self._show_legacy)
        router.add_get(r"/image/{prompt:[\s\S]+}", drawn, allow_head=False)  # prompts may contain line breaks
        router.add_get(r"/prompt/{prompt:[\s\S]+}", drawn_by_legacy, allow_head=False)
        router.add_post("/v1/images/generations", self._orders(self._read_post, self._show_post))
        router.add_route("*", "/{path:.*}", self._nothing_there)

    def _read_get(self, seen: SeenRequest) -> Order:
        order = self._order(seen, unquote(seen.path.removeprefix("/image/")))
        cached = self._job(f"cache {order.cache_name}")
        if cached is None or not cached.pictures.done():
            self._check_key(seen)
        return order

    def _read_legacy(self, seen: SeenRequest) -> Order:
        legacy = dict(seen.params)
        if legacy.pop("model", "flux") not in _LEGACY_MODELS:
            raise self._refused(seen, 400, "Validation error", field="model")
        order = self._order(seen, unquote(seen.path.removeprefix("/prompt/")), legacy | {"model": "sana"})
        cache_name = f"legacy {order.cache_name}" if order.cache_name else None
        return attrs.evolve(order, price=Decimal(0), transparent=False, format="jpeg", cache_name=cache_name)

    def _read_post(self, seen: SeenRequest) -> Order:
        self._check_key(seen)
        body = seen.body
        if not isinstance(body, dict):
            raise self._refused(seen, 400, "The body is not a JSON object.")
        size = str(body.get("size", "1024x1024"))
        checks = {
            "prompt": is_prompt(body.get("prompt")),
            "n": body.get("n", 1) == 1,
            "size": _SIZE.fullmatch(size) is not None,
            "quality": str(body.get("quality", "medium")) in _QUALITIES,
            "response_format": str(body.get("response_format", "b64_json")) in {"url", "b64_json"},
        }
        for field, good in checks.items():
            if not good:
                raise self._refused(seen, 400, "Validation error", field=field)
        width, _, height = size.partition("x")
        asked = {
            "width": width,
            "height": height,
            "transparent": str(body.get("transparent", False)).lower(),
        }
        asked |= {name: str(body[name]) for name in ("model", "seed") if name in body}
        if "seed" not in body:
            asked["seed"] = "-1"
        return self._order(seen, body["prompt"], asked)

    def _order(self, seen: SeenRequest, prompt: str, params: Mapping[str, str] | None = None) -> Order:
        params = seen.params if params is None else params
        sides = []
        for side in ("width", "height"):
            text = params.get(side, "1024")
            if not _SIDE.fullmatch(text) or int(text) > _MAX_PIXELS_A_SIDE:
                raise self._refused(seen, 400, "Validation error", field=side)
            sides.append(int(text) or 1024)
        model = params.get("model", "flux")
        if model not in MODELS:
            raise self._refused(seen, 400, "Validation error", field="model")
        seed = _seed(params.get("seed"))
        transparent = params.get("transparent") == "true"
        repeatable = seed >= 0 and params.get("no-cache") != "true"
        if seed < 0:
            chance = hashlib.sha256((seen.idempotency_key or seen.id).encode()).digest()
            seed = int.from_bytes(chance) % _MAX_SEED
        return Order(
            prompt=prompt,
            model=model,
            width=sides[0],
            height=sides[1],
            format="png" if transparent else "jpeg",
            transparent=transparent,
            seed=seed,
            price=MODELS[model],
            cache_name=f"{model} {seed} {sides} {transparent} {prompt}" if repeatable else None,
        )

    def _show_get(self, seen: SeenRequest, order: Order, made: Made) -> Answer:
        picture = made.pictures[0]
        return Answer(
            200,
            picture.data,
            {
                "Content-Type": picture.media_type,
                "Cache-Control": "public, max-age=31536000, immutable",
                "Content-Disposition": _disposition(order),
                **_paid_headers(order, made),
            },
        )

    def _show_legacy(self, seen: SeenRequest, order: Order, made: Made) -> Answer:
        picture = made.pictures[0]
        return Answer(
            200,
            picture.data,
            {
                "Content-Type": picture.media_type,
                "Cache-Control": "public, max-age=31536000, immutable",
                "Content-Disposition": _disposition(order),
                "X-Auth-Status": "authenticated" if seen.api_key else "unauthenticated",
            },
        )

    def _show_post(self, seen: SeenRequest, order: Order, made: Made) -> Answer:
        picture = made.pictures[0]
        headers = _paid_headers(order, made)
        entry: dict[str, Any] = {"revised_prompt": order.prompt, "media_type": picture.media_type}
        if seen.body.get("response_format") == "url":
            wanted = {"model": order.model, "seed": order.seed, "width": order.width, "height": order.height}
            if order.transparent:
                wanted["transparent"] = "true"
            entry["url"] = f"{self._origin}/image/{quote(order.prompt, safe='')}?{urlencode(wanted)}"
            headers["Content-Location"] = self._publish(picture)
        else:
            entry["b64_json"] = base64.b64encode(picture.data).decode()
        body: dict[str, object] = {"created": int(seen.at.timestamp()), "data": [entry]}
        if made.counted:
            body["usage"] = _USAGE
        return Answer.json(200, body, headers)

    async def _list_image_models(self, request: web.Request) -> web.Response:
        return web.json_response(
            [
                {
                    "name": name,
                    "description": f"{name} of a fake server",
                    "pricing": {"currency": "pollen", "completionImageTokens": str(price)},
                    "input_modalities": ["text"],
                    "output_modalities": ["image"],
                }
                for name, price in MODELS.items()
            ]
        )

    async def _list_models(self, request: web.Request) -> web.Response:
        data = [
            {
                "id": name,
                "object": "model",
                "pricing": {"currency": "pollen", "image": str(price)},
                "per_user_rpm": None,
            }
            for name, price in MODELS.items()
        ]
        return web.json_response({"object": "list", "data": data})

    async def _list_legacy_models(self, request: web.Request) -> web.Response:
        return web.json_response(list(_LEGACY_MODELS), headers={"Cache-Control": "no-store"})

    async def _nothing_there(self, request: web.Request) -> web.Response:
        answer = self._error(request[SEEN], 404, "There is nothing here.")
        return web.Response(status=404, body=answer.body, headers=answer.headers)

    def _check_key(self, seen: SeenRequest) -> None:
        if self._api_key not in {None, seen.api_key}:
            raise self._refused(seen, 401, "Authentication required.")

    def _error(
        self,
        seen: SeenRequest,
        status: int,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        error: dict[str, object] = {
            "message": message,
            "code": code or _CODES[status],
            "timestamp": seen.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "requestId": seen.id,
        }
        if details is not None:
            error["details"] = details
        return Answer.json(status, {"success": False, "error": error, "status": status}, headers)

    def _refused(self, seen: SeenRequest, status: int, message: str, *, field: str | None = None) -> Refused:
        details = None
        if field is not None:
            details = {
                "name": "ValidationError",
                "formErrors": [],
                "fieldErrors": {field: [f"{field} cannot be used"]},
            }
        return Refused(self._error(seen, status, message, details=details))

    def _refusal(self, fault: Fault, seen: SeenRequest) -> Answer | None:
        seconds = self._retry_after_s
        wait = {"Retry-After": str(math.ceil(seconds))}
        if fault in _ENVELOPES:
            status, code, message = _ENVELOPES[fault]
            return self._error(seen, status, message, code=code)
        match fault:
            case Fault.RATE_LIMITED_KEY:
                return _limited("", " Use secret keys (sk_*) for unlimited requests.", seconds, wait)
            case Fault.RATE_LIMITED_COMMUNITY:
                return _limited(" for this community model", "", seconds, wait)
            case Fault.RATE_LIMITED_CONCURRENCY:
                message = "Another generation is still running on this account."
                return Answer.json(
                    429, {"error": "concurrency_limit_exceeded", "message": message}, {"Retry-After": "1"}
                )
            case Fault.RATE_LIMITED_FREE_MODEL:
                message = "Sana is limited to one request per IP every 45 seconds."
                message += f" Retry after {wait['Retry-After']}s."
                return self._error(seen, 429, message, headers=wait)
            case Fault.RATE_LIMITED_QUEUE_429:
                return _queue_full(seen)
            case Fault.RATE_LIMITED_QUEUE_402:
                return self._x402(seen, _QUEUE_FULL)
            case Fault.PAYMENT_REQUIRED_X402:
                return self._x402(seen, "X-PAYMENT header is required")
            case Fault.RATE_LIMITED_UPSTREAM:
                details = {
                    "name": "UpstreamError",
                    "upstreamStatus": 429,
                    "upstreamHost": "upstream.invalid",
                    "upstreamBody": '{"message": "slow down"}',
                }
                return self._error(seen, 502, "slow down", details=details)
            case Fault.SAFETY_BLOCKED:
                message = "Request blocked by safety filter"
                safety = {"applied": ["sexual", "violence"], "triggered": ["violence"]}
                error = {
                    "type": "safety_error",
                    "code": "content_blocked",
                    "message": message,
                    "safety": safety,
                }
                return Answer.json(400, {"error": error})
            case _:
                return None

    def _x402(self, seen: SeenRequest, message: str) -> Answer:
        offer = {
            "scheme": "exact",
            "network": "base",
            "maxAmountRequired": "10000",
            "resource": f"{self._origin}{seen.path}",
            "description": "One picture",
            "mimeType": "image/jpeg",
            "payTo": "0x0000000000000000000000000000000000000000",
            "maxTimeoutSeconds": 60,
            "asset": "0x0000000000000000000000000000000000000000",
        }
        return Answer.json(402, {"x402Version": 1, "error": message, "accepts": [offer]})


def _seed(text: str | None) -> int:
    try:
        seed = int(text or "42")
    except ValueError:
        return 42
    return seed if -1 <= seed <= _MAX_SEED else 42


def _disposition(order: Order) -> str:
    name = re.sub(r"[\s-]+", "-", re.sub(r"[^a-z0-9\s-]", "", order.prompt[:100].lower())).strip("-")
    return f'inline; filename="{name or "generated-image"}.{"png" if order.format == "png" else "jpg"}"'


def _paid_headers(order: Order, made: Made) -> dict[str, str]:
    if not made.counted:
        return {}
    return {
        "X-Cache": "MISS" if made.new else "HIT",
        "x-model-used": order.model,
        "x-usage-completion-image-tokens": "1",
    }


def _limited(where: str, hint: str, seconds: float, headers: Mapping[str, str]) -> Answer:
    message = f"Rate limit exceeded{where}. Retry after {seconds}s.{hint}"
    body = {"error": "Rate limit exceeded", "message": message, "retryAfterSeconds": seconds}
    return Answer.json(429, body, headers)


def _queue_full(seen: SeenRequest) -> Answer:
    queue = {"queued": 1, "maxAllowed": 1}
    body = {
        "error": "Too Many Requests",
        "message": _QUEUE_FULL,
        "details": {"queueInfo": queue},
        "debug": {},
        "timingInfo": [{"step": "Request received and queued.", "timestamp": 0}],
        "requestId": seen.id,
        "requestParameters": {"prompt": unquote(seen.path.rpartition("/")[2]), **seen.params},
        "queueInfo": queue,
    }
    return Answer.json(429, body, {"X-Error-Type": "Too Many Requests"})

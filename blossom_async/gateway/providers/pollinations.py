"""Pollinations: gen.pollinations.ai, and the older image.pollinations.ai without keys."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import attrs
import orjson
from yarl import URL

from blossom_async.errors import InvalidRequest, nearest
from blossom_async.gateway.providers import Delivery, Model
from blossom_async.gateway.providers.answers import opened
from blossom_async.gateway.providers.catalogue import Catalogue, price_table
from blossom_async.gateway.providers.faults import Charged, Kind, ProviderFault, refusal, request_id
from blossom_async.gateway.providers.verify import Inspector
from blossom_async.gateway.providers.wire import Answer, Heed, Secret, Wire, heed_nothing, service_url
from blossom_async.models import ImageRequest, ImageSettings

__all__ = ["Pollinations"]

LEGACY_HOST = "image.pollinations.ai"
_LONGEST_GET = 2048  # the edge refuses URLs from 8 KB on (pollinations #7786, #6702)
_LONGEST_LEGACY_GET = 7500
_QUALITIES = {"standard": "medium", "hd": "high", "ultra": "hd"}
# Only these models take quality and transparency (gen.pollinations.ai, src/schemas/image.ts).
_SKILLED = re.compile(r"gpt-?image")
_FLAT = "completionImageTokens"  # at a flat price, a picture counts as one token
_MODEL = re.compile(r"[\w.:/@+-]{1,128}", re.ASCII)


@attrs.frozen
class _Order:
    """A request to the service."""

    method: str
    url: URL
    body: Mapping[str, object] | None = None


class Pollinations:
    """One account at Pollinations, or none.

    Prompts that make a URL of more than 2 KB are sent as ``POST``. The seed is always part of the request:
    the service joins a repeated request to the first or answers it from its cache, and bills it once.
    A ``base_url`` at ``image.pollinations.ai``, or one ending in ``/prompt``, is the older host: free, slow,
    one picture at a time for each address. ``model`` is used when a request names none. ``placeholders`` are
    hashes of pictures that mean "too many requests", besides the known one. ``clock`` counts seconds.

    Raises ``ConfigurationError`` for an invalid URL or hash, ``InvalidRequest`` for an invalid model name.
    """

    name = "pollinations"
    remote = True
    keyed = True

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        key: Secret | None = None,
        base_url: str = "https://gen.pollinations.ai",
        model: str = "flux",
        placeholders: Iterable[str] = (),
        timeout_s: float = 300.0,
        connect_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        heed: Heed = heed_nothing,
    ) -> None:
        base = service_url(self.name, base_url)
        self._legacy = base.host == LEGACY_HOST or base.raw_path.endswith("/prompt")
        self._root = str(base.with_query(None)).rstrip("/").removesuffix("/prompt")
        self._key = key
        self._model = ImageSettings(model=model).model or model
        self._wire = Wire(self.name, session, timeout_s=timeout_s, connect_s=connect_s, heed=heed)
        self._inspector = Inspector(self.name, placeholders, throttles=True)
        self._catalogue = Catalogue(self._list, clock)
        self._rates: dict[str, dict[str, Decimal]] = {}

    def check(self, request: ImageRequest) -> None:
        """Raises ``InvalidRequest`` for what the model or the service cannot do."""
        model = self._model_of(request)
        known = self._catalogue.names()
        if known and model not in known:
            allowed = f"a model that Pollinations offers.{nearest(model, known)}"
            raise InvalidRequest("model", model, allowed.rstrip("."))
        skilled = _SKILLED.match(model) is not None and not self._legacy
        if request.transparency and not skilled:
            allowed = f"False with the model {model}, or a model with transparency, such as gptimage"
            raise InvalidRequest("transparency", True, allowed)
        if request.quality != "standard" and not skilled:
            allowed = f"'standard' with the model {model}, or a model with qualities, such as gptimage"
            raise InvalidRequest("quality", request.quality, allowed)
        if request.negative_prompt is not None:
            allowed = "none with Pollinations; describe in the prompt what to show"
            raise InvalidRequest("negative_prompt", request.negative_prompt, allowed)
        if self._legacy and (
            request.prompt in {".", ".."} or len(str(self._get(request, 0))) > _LONGEST_LEGACY_GET
        ):
            seen = f"a text of {len(request.prompt):,} characters"
            raise InvalidRequest("prompt", "", "a prompt that fits into a URL of this service", seen=seen)

    def price(self, request: ImageRequest) -> Decimal | None:
        """US dollars, from the service's own list once it was read; None for models billed by token."""
        if self._legacy:
            return Decimal(0)
        model = self._model_of(request)
        if model in self._rates:
            return self._flat_price(self._rates[model])
        pollen = price_table(self.name)["pictures"].get(model)
        return None if pollen is None else Decimal(pollen) * self._usd_per_pollen

    async def generate(self, request: ImageRequest, seed: int, *, key: str) -> Delivery:
        """As for ``Provider``. The same request and seed is billed once, whatever the ``key``."""
        order = self._order(request, seed)
        answer = await self._wire.ask(
            order.method, order.url, headers=self._headers(key), json=order.body, draws=True
        )
        if not answer.ok:
            fault = self._refusal(answer, request.prompt)
            if answer.status in {404, 405} and not await self._wire.knows(self._models_url, {}):
                detail = f"{fault.detail}; nor is there a list of models under {self._root}"
                raise ProviderFault(self.name, Kind.MISCONFIGURED, detail, charged="no")
            raise fault
        charged = self._charged(answer)
        trace = request_id(answer.headers)
        found, _ = await opened(answer.body, answer.content_type, answer.files)
        data, content_type = answer.body, answer.content_type
        if isinstance(found, bytes):
            data, content_type = found, ""
        elif order.method == "POST":
            raise ProviderFault(
                self.name,
                Kind.BAD_CONTENT,
                "answered with JSON without a picture",
                charged=charged,
                request_id=trace,
            )
        asked = self._model_of(request)
        served = answer.headers.get("x-model-used", "")
        return await self._inspector.delivery(
            data,
            content_type,
            request,
            width=request.width,
            height=request.height,
            model=served if _MODEL.fullmatch(served) else asked,
            request_id=trace,
            charged=charged,
            usd=self._usd(request, answer, charged),
            seeded=True,
        )

    async def models(self) -> tuple[Model, ...]:
        """As for ``Provider``, without video models."""
        return await self._catalogue.models()

    def _model_of(self, request: ImageRequest) -> str:
        return self._model if request.model is None else request.model

    def _headers(self, key: str) -> dict[str, str]:
        headers = {"Idempotency-Key": key} if key else {}
        return headers if self._key is None else headers | {"Authorization": f"Bearer {self._key.reveal()}"}

    def _refusal(self, answer: Answer, prompt: str = "") -> ProviderFault:
        key = self._key.reveal() if self._key else ""
        return refusal(self.name, answer.status, answer.headers, answer.body, key=key, prompt=prompt)

    def _order(self, request: ImageRequest, seed: int) -> _Order:
        url = self._get(request, seed)
        # "." and ".." may be removed from a path on its way, and /image/models is another call.
        by_path = len(str(url)) <= _LONGEST_GET and not request.prompt.startswith((".", "models"))
        if self._legacy or by_path:
            return _Order("GET", url)
        body = {
            "prompt": request.prompt,
            "model": self._model_of(request),
            "size": f"{request.width}x{request.height}",
            "seed": seed,
            "private": True,
            "response_format": "b64_json",
            **self._skills(request),
        }
        return _Order("POST", URL(f"{self._root}/v1/images/generations"), body)

    def _get(self, request: ImageRequest, seed: int) -> URL:
        params: dict[str, object] = {
            "model": self._model_of(request),
            "width": request.width,
            "height": request.height,
            "seed": seed,
            "private": "true",  # else the service may show it in its public feed
        }
        # Booleans are lower-case strings: the service's parser takes any other string for true.
        params |= {name: "true" if value is True else value for name, value in self._skills(request).items()}
        path = "prompt" if self._legacy else "image"
        text = f"{self._root}/{path}/{quote(request.prompt, safe='')}?{urlencode(params)}"
        return URL(text, encoded=True)

    def _skills(self, request: ImageRequest) -> dict[str, object]:
        if self._legacy or not _SKILLED.match(self._model_of(request)):
            return {}
        skills: dict[str, object] = {"quality": _QUALITIES[request.quality]}
        return {**skills, "transparent": True} if request.transparency else skills

    def _charged(self, answer: Answer) -> Charged:
        if self._legacy or "hit" in answer.headers.get("X-Cache", "").lower():
            return "no"
        # Only the service itself sends these headers, not the edge in front of it.
        return "yes" if "X-Cache" in answer.headers or "x-model-used" in answer.headers else "unknown"

    def _usd(self, request: ImageRequest, answer: Answer, charged: Charged) -> Decimal | None:
        if charged == "no":
            return Decimal(0)
        rates = self._rates.get(answer.headers.get("x-model-used", ""))
        if rates is None:
            return self.price(request)
        counts = {name: _amount(answer.headers.get(_usage_header(name), "0")) for name in rates}
        pollen = sum((rates[name] * (count or 0) for name, count in counts.items()), Decimal(0))
        return pollen * self._usd_per_pollen if pollen else self._flat_price(rates)

    @property
    def _usd_per_pollen(self) -> Decimal:
        return Decimal(price_table(self.name)["usd_per_pollen"])

    def _flat_price(self, rates: Mapping[str, Decimal]) -> Decimal | None:
        return rates[_FLAT] * self._usd_per_pollen if rates.keys() == {_FLAT} else None

    @property
    def _models_url(self) -> URL:
        return URL(f"{self._root}/{'models' if self._legacy else 'image/models'}")

    async def _list(self) -> tuple[Model, ...]:
        # Without the key: with it, models that the balance does not cover are not listed.
        answer = await self._wire.ask("GET", self._models_url, headers={})
        if not answer.ok:
            raise self._refusal(answer)
        try:
            listed = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            listed = None
        if not isinstance(listed, list):
            raise ProviderFault(
                self.name, Kind.BAD_CONTENT, "answered without a list of models", charged="no"
            )
        models = []
        for entry in listed:
            fields = {"name": entry} if isinstance(entry, str) else entry
            if isinstance(fields, dict) and (model := self._model_from(fields)) is not None:
                models.append(model)
        return tuple(models)

    def _model_from(self, fields: Mapping[str, Any]) -> Model | None:
        name, made = fields.get("name"), fields.get("output_modalities")
        if not isinstance(name, str) or (isinstance(made, list) and "image" not in made):
            return None
        pricing = fields.get("pricing")
        rates = {}
        for what, amount in (pricing if isinstance(pricing, dict) else {}).items():
            if what != "currency" and (rate := _amount(amount)) is not None:
                rates[what] = rate
        if rates:
            self._rates[name] = rates
        aliases = fields.get("aliases")
        known_as = aliases if isinstance(aliases, list) else []
        return Model(name=name, aliases=tuple(alias for alias in known_as if isinstance(alias, str)))


def _amount(value: object) -> Decimal | None:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount >= 0 else None


def _usage_header(name: str) -> str:
    return "x-usage-" + re.sub(r"([A-Z])", lambda capital: f"-{capital[1].lower()}", name)

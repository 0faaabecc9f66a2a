"""OpenAI's Images API and compatible servers: Azure, Together, vLLM-Omni, LocalAI, other gateways."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any

import aiohttp
import attrs
from yarl import URL

from blossom_async.errors import InvalidRequest
from blossom_async.gateway.providers import NO_INPUTS, Delivery, Inputs, Model, Show, show_nobody
from blossom_async.gateway.providers.answers import document_of, fields_of, opened
from blossom_async.gateway.providers.catalogue import Catalogue, price_table
from blossom_async.gateway.providers.containers import format_of
from blossom_async.gateway.providers.downloads import Downloads
from blossom_async.gateway.providers.events import watching
from blossom_async.gateway.providers.faults import Charged, Kind, ProviderFault, refusal, request_id
from blossom_async.gateway.providers.omissions import Omissions, refused_names
from blossom_async.gateway.providers.verify import Inspector
from blossom_async.gateway.providers.wire import Answer, Heed, Secret, Wire, heed_nothing, service_url
from blossom_async.models import MAX_PROMPT, ImageRequest, ImageSettings, OpenAIRequest, draws_from_pictures

__all__ = ["Flavour", "OpenAI", "flavour_of"]

_MOST_DALL_E_WORDS = 4000
_AZURE_VERSION = "2025-04-01-preview"
_FAMILY = re.compile(r"(?:.*/)?(?P<name>(?:chat)?gpt-image[\w.-]*|dall-e[\w.-]*)", re.ASCII)
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$", re.ASCII)
_FIXED = re.compile(r"gpt-image-1(?![\d])|chatgpt-image", re.ASCII)
_OPAQUE = re.compile(r"gpt-image-2(?![\d.])", re.ASCII)  # image generation guide, "Transparency"
_FIXED_SIZES = ((1024, 1024), (1536, 1024), (1024, 1536))
_DALL_E_SIZES = ((1024, 1024), (1792, 1024), (1024, 1792))
# Image generation guide, "Size and quality options", of gpt-image-2 and later.
_STEP_PX, _MAX_SIDE, _LEAST_PIXELS, _MOST_PIXELS, _WIDEST = 16, 3840, 655_360, 8_294_400, 3
_GPT_QUALITIES = {"standard": "low", "hd": "medium", "ultra": "high"}


class Flavour(StrEnum):
    """Dialects of the API that the model's name does not reveal."""

    OPENAI = "openai"
    AZURE = "azure"
    """The key in the header ``api-key``, and a version in the URL."""
    TOGETHER = "together"
    """``width`` and ``height``, and base64 under another name."""


def flavour_of(base_url: str) -> Flavour:
    """The dialect of a service, told by its host."""
    host = f".{URL(base_url).host or ''}"
    if host.endswith((".azure.com", ".azure.us", ".azure.cn")):
        return Flavour.AZURE
    return Flavour.TOGETHER if host.endswith((".together.xyz", ".together.ai")) else Flavour.OPENAI


@attrs.frozen
class _Order:
    """A request's body, and the size it asks for."""

    body: Mapping[str, object]
    width: int
    height: int


class OpenAI:
    """One account at OpenAI or at a server that speaks its Images API.

    ``base_url`` ends in ``/v1``, or for Azure in ``/openai/deployments/NAME``; its query is kept. ``model``
    is used when a request names none; its name tells which options it accepts: ``gpt-image-*``,
    ``dall-e-*``, or anything else. ``session`` carries the key. ``downloads`` fetches pictures given as URLs,
    without a key, from the addresses its ``socket_factory`` allows. ``keyed``: this server honours
    ``Idempotency-Key``, which OpenAI does not document for its Images API. ``omit`` names what
    it is never sent. ``placeholders`` and ``clock`` as for ``Pollinations``.

    Raises ``ConfigurationError`` for an invalid URL or hash, ``InvalidRequest`` for an invalid model name.
    """

    name = "openai"
    remote = True

    def __init__(
        self,
        session: aiohttp.ClientSession,
        downloads: aiohttp.ClientSession,
        *,
        model: str,
        key: Secret | None = None,
        base_url: str = "https://api.openai.com/v1",
        flavour: Flavour | None = None,
        keyed: bool = False,
        omit: Collection[str] = (),
        placeholders: Iterable[str] = (),
        timeout_s: float = 300.0,
        connect_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        heed: Heed = heed_nothing,
    ) -> None:
        self._base = service_url(self.name, base_url)
        self._flavour = flavour_of(base_url) if flavour is None else flavour
        if self._flavour is Flavour.AZURE and "/deployments/" in self._base.path:
            self._base = self._base.update_query({"api-version": _AZURE_VERSION, **self._base.query})
        self.keyed = keyed
        self._key = key
        self._model = ImageSettings(model=model).model or model
        self._wire = Wire(self.name, session, timeout_s=timeout_s, connect_s=connect_s, heed=heed)
        self._downloads = Downloads(self.name, downloads, timeout_s=timeout_s, connect_s=connect_s)
        self._inspector = Inspector(self.name, placeholders, throttles=False)
        self._omissions = Omissions(omit)
        self._catalogue = Catalogue(self._list, clock)
        table = price_table(self.name)
        self._own = self._base.host in table["hosts"]
        self._prices: dict[str, Any] = table if self._own else {"tokens": {}, "pictures": {}}

    def check(self, request: ImageRequest) -> None:
        """Raises ``InvalidRequest`` for what the model's name or its server's refusals rule out."""
        model, needed = self._model_of(request), _needed(request)
        if draws_from_pictures(request):
            _check_edit(request, model, self._flavour)
        for name in self._omissions.names(model, self._order(request, 0).body) & needed.keys():
            field, value, usual = needed[name]
            allowed = f"{usual} with the model {model}, whose server takes no {name}"
            raise InvalidRequest(field, value, allowed)

    def price(self, request: ImageRequest) -> Decimal | None:
        """US dollars at OpenAI itself, for listed models and sizes, without the prompt's tokens."""
        by_quality = self._prices["pictures"].get(_listed(self._model_of(request)))
        if by_quality is None:
            return None
        order = self._order(request, 0)
        usd = by_quality.get(order.body.get("quality"), {}).get(order.body.get("size"))
        return None if usd is None else Decimal(usd)

    async def generate(self, request: ImageRequest, seed: int, *, key: str) -> Delivery:
        """As for ``Provider``. Models that take no seed draw another picture each time."""
        return await self.draw(request, seed, key=key, inputs=NO_INPUTS, show=show_nobody)

    async def draw(
        self, request: ImageRequest, seed: int, *, key: str, inputs: Inputs, show: Show
    ) -> Delivery:
        """As for ``Editor``."""
        order = self._order(request, seed)
        asked = self._url("images/edits" if inputs.pictures else "images/generations")
        answer, sent = await self._answered(asked, request, order.body, key, inputs, show)
        trace = request_id(answer.headers)
        found, fields = await opened(answer.body, answer.content_type, answer.files)
        made = isinstance(found, str) or (found is not None and format_of(found) is not None)
        charged: Charged = "yes" if made or fields.get("data") or fields.get("usage") else "unknown"
        if isinstance(found, str):
            fetched = await self._downloads.picture(found, asked, trace)
            data, content_type = fetched.body, fetched.content_type
        elif found is not None:
            data, content_type = found, ""
        else:
            if answer.is_page:
                await self._ensure_right_url("answered with a page", trace)
            raise ProviderFault(
                self.name,
                Kind.BAD_CONTENT,
                f"sent no picture: {self._refusal(answer, request.prompt).detail}",
                charged=charged,
                request_id=trace,
            )
        model = self._model_of(request)
        usd = _usd(self._prices["tokens"].get(_listed(model)), fields.get("usage"))
        del answer, fields, found  # four times the picture's bytes, while it waits to be verified
        return await self._inspector.delivery(
            data,
            content_type,
            request,
            width=order.width if "size" in sent or "width" in sent else request.width,
            height=order.height if "size" in sent or "height" in sent else request.height,
            model=model,
            request_id=trace,
            charged=charged,
            usd=self.price(request) if usd is None else usd,
            seeded="seed" in sent,
        )

    async def _answered(
        self,
        url: URL,
        request: ImageRequest,
        body: Mapping[str, object],
        key: str,
        inputs: Inputs,
        show: Show,
    ) -> tuple[Answer, Collection[str]]:
        """The answer, and the names of the parameters sent. Raises ``ProviderFault`` for a refusal.

        What the server refuses by name is left out and the rest sent again, if nothing was charged and the
        request can be honoured without it.
        """
        model, needed = self._model_of(request), _needed(request)
        refused: dict[str, bool] = {}
        while True:
            left_out = self._omissions.names(model, body) | refused.keys()
            for name in left_out & needed.keys():
                raise ProviderFault(self.name, Kind.REJECTED, f"takes no {name} with {model}", charged="no")
            sent = {name: value for name, value in body.items() if name not in left_out}
            files = _files(inputs)
            watch = watching(show, sent.get("partial_images"))
            answer = await self._wire.ask(
                "POST", url, headers=self._headers(key), json=sent, files=files, draws=True, watch=watch
            )
            if answer.ok:
                self._omissions.remember(model, body, refused)
                return answer, sent.keys()
            fault = self._refusal(answer, request.prompt)
            if answer.status in {404, 405} and "model" not in fault.detail:
                await self._ensure_right_url(fault.detail, fault.request_id)
            if fault.kind is not Kind.REJECTED:
                raise fault
            found = refused_names(document_of(answer.body, answer.content_type), sent.keys())
            # So that `check` refuses it from now on, before anything is sent.
            unknown = {name: True for name in found.keys() & needed.keys() if found[name]}
            self._omissions.remember(model, body, unknown)
            if not found or not found.keys().isdisjoint(needed):
                raise fault
            refused |= found

    async def _ensure_right_url(self, seen: str, trace: str | None) -> None:
        """Raises ``ProviderFault`` where the server knows no list of models either."""
        models = self._url("models")
        if not await self._wire.knows(models, self._headers()):
            detail = f"{seen}; nor is there an Images API under {self._base.with_query(None)}"
            raise ProviderFault(self.name, Kind.MISCONFIGURED, detail, charged="no", request_id=trace)

    async def models(self) -> tuple[Model, ...]:
        """As for ``Provider``: at OpenAI itself only the image models, elsewhere all that are listed."""
        return await self._catalogue.models()

    def _model_of(self, request: ImageRequest) -> str:
        return self._model if request.model is None else request.model

    def _url(self, path: str) -> URL:
        base = self._base.raw_path.rstrip("/").removesuffix("/images/generations")
        return self._base.with_path(f"{base}/{path}", encoded=True, keep_query=True)

    def _headers(self, key: str = "") -> dict[str, str]:
        headers = {"Idempotency-Key": key} if key else {}
        if self._key is None:
            return headers
        if self._flavour is Flavour.AZURE:
            return {**headers, "api-key": self._key.reveal()}
        return {**headers, "Authorization": f"Bearer {self._key.reveal()}"}

    def _refusal(self, answer: Answer, prompt: str = "") -> ProviderFault:
        key = self._key.reveal() if self._key else ""
        return refusal(self.name, answer.status, answer.headers, answer.body, key=key, prompt=prompt)

    def _order(self, request: ImageRequest, seed: int) -> _Order:
        model = self._model_of(request)
        family = _FAMILY.fullmatch(model)
        if family is None:
            order = _generic(request, model, seed, self._flavour)
        elif family["name"].startswith("dall-e"):
            order = _dall_e(request, model)
        else:
            order = _gpt_image(request, model, family["name"])
        return order

    async def _list(self) -> tuple[Model, ...]:
        answer = await self._wire.ask("GET", self._url("models"), headers=self._headers())
        if not answer.ok:
            raise self._refusal(answer)
        listed = fields_of(answer.body, answer.content_type).get("data")
        if not isinstance(listed, list):
            raise ProviderFault(
                self.name, Kind.BAD_CONTENT, "answered without a list of models", charged="no"
            )
        named = (entry.get("id") for entry in listed if isinstance(entry, dict))
        names = [name for name in named if isinstance(name, str)]
        return tuple(Model(name=name) for name in names if not self._own or _FAMILY.fullmatch(name))


def _needed(request: ImageRequest) -> dict[str, tuple[str, object, str]]:
    """Parameters that an option of the request needs: the option, its value, and what else is allowed."""
    needed: dict[str, tuple[str, object, str]] = {}
    if request.quality != "standard":
        needed["quality"] = "quality", request.quality, "'standard'"
    if request.negative_prompt is not None:
        needed["negative_prompt"] = "negative_prompt", request.negative_prompt, "none"
    if request.transparency:
        needed["background"] = "transparency", True, "False"
    return needed


def _gpt_image(request: ImageRequest, model: str, name: str) -> _Order:
    if request.transparency and _OPAQUE.match(name):
        allowed = f"False with the model {model}, or a model with transparency, such as gpt-image-2.5-flare"
        raise InvalidRequest("transparency", True, allowed)
    wanted = request.width, request.height
    width, height = _nearest(wanted, _FIXED_SIZES) if _FIXED.match(name) else _flexible(*wanted)
    body: dict[str, object] = {
        "model": model,
        "prompt": request.prompt,
        "size": f"{width}x{height}",
        "quality": _GPT_QUALITIES[request.quality],
        # Lossless, since it is encoded again here; jpeg is faster when a jpg is wanted anyway.
        "output_format": "jpeg" if request.format == "jpg" else "png",
    }
    if request.negative_prompt is not None:  # these models take instructions
        body["prompt"] = prompt = f"{request.prompt}\n\nDo not show: {request.negative_prompt}"
        if len(prompt) > MAX_PROMPT:
            seen = f"{len(prompt):,} characters together with the prompt"
            allowed = (
                f"at most {MAX_PROMPT:,} characters together with the prompt, into which {model} takes it"
            )
            raise InvalidRequest("negative_prompt", "", allowed, seen=seen)
    if request.transparency:
        body["background"] = "transparent"
    if isinstance(request, OpenAIRequest):
        if request.input_fidelity is not None:
            body["input_fidelity"] = request.input_fidelity
        if request.partial_images:
            body |= {"stream": True, "partial_images": request.partial_images}
    return _Order(body, width, height)


def _check_edit(request: OpenAIRequest, model: str, flavour: Flavour) -> None:
    """Raises ``InvalidRequest`` if the model draws from no pictures, as far as its name tells."""
    family = _FAMILY.fullmatch(model)
    known = family is not None and not family["name"].startswith("dall-e")
    if flavour is Flavour.TOGETHER or (family is not None and not known):
        allowed = f"none with the model {model}, or a model that edits, such as gpt-image-2.5-flare"
        raise InvalidRequest("image", "", allowed, seen="a picture")
    if request.input_fidelity is not None and not known:
        allowed = f"none with the model {model}, or a model of the family gpt-image"
        raise InvalidRequest("input_fidelity", request.input_fidelity, allowed)


def _files(inputs: Inputs) -> list[tuple[str, str, bytes]]:
    """The field, the name and the bytes of each file."""
    field = "image" if len(inputs.pictures) == 1 else "image[]"
    files = [(field, data) for data in inputs.pictures]
    if inputs.mask is not None:
        files.append(("mask", inputs.mask))
    return [(field, f"{n}.{format_of(data)}", data) for n, (field, data) in enumerate(files)]


def _dall_e(request: ImageRequest, model: str) -> _Order:
    _no_alpha(request, model)
    if request.quality == "ultra":
        raise InvalidRequest("quality", "ultra", f"'standard' or 'hd' with the model {model}")
    if request.negative_prompt is not None:
        allowed = f"none with the model {model}; describe in the prompt what to show"
        raise InvalidRequest("negative_prompt", request.negative_prompt, allowed)
    if len(request.prompt) > _MOST_DALL_E_WORDS:
        seen = f"a text of {len(request.prompt):,} characters"
        allowed = f"1 to {_MOST_DALL_E_WORDS:,} characters with the model {model}"
        raise InvalidRequest("prompt", "", allowed, seen=seen)
    width, height = _nearest((request.width, request.height), _DALL_E_SIZES)
    body = {
        "model": model,
        "prompt": request.prompt,
        "size": f"{width}x{height}",
        "quality": request.quality,
        "response_format": "b64_json",
    }
    return _Order(body, width, height)


def _generic(request: ImageRequest, model: str, seed: int, flavour: Flavour) -> _Order:
    _no_alpha(request, model)
    qualities = {"standard"} if flavour is Flavour.TOGETHER else {"standard", "hd"}
    if request.quality not in qualities:
        allowed = f"{' or '.join(sorted(map(repr, qualities), reverse=True))} with the model {model}"
        raise InvalidRequest("quality", request.quality, allowed)
    width, height = request.width, request.height
    body: dict[str, object] = {"model": model, "prompt": request.prompt, "seed": seed}
    if flavour is Flavour.TOGETHER:
        width, height = (math.ceil(side / _STEP_PX) * _STEP_PX for side in (width, height))
        body |= {"width": width, "height": height, "response_format": "base64"}
        body["output_format"] = "jpeg" if request.format == "jpg" else "png"
    else:
        body |= {"size": f"{width}x{height}", "response_format": "b64_json"}
    if request.quality != "standard":
        body["quality"] = request.quality
    if request.negative_prompt is not None:
        body["negative_prompt"] = request.negative_prompt
    return _Order(body, width, height)


def _no_alpha(request: ImageRequest, model: str) -> None:
    if request.transparency:
        allowed = f"False with the model {model}, or a model with transparency, such as gpt-image-2.5-flare"
        raise InvalidRequest("transparency", True, allowed)


def _nearest(wanted: tuple[int, int], sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The size of which the least is cut off."""
    shape = math.log(wanted[0] / wanted[1])
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - shape))


def _flexible(width: int, height: int) -> tuple[int, int]:
    """The smallest size that covers the one wanted, within the limits of the newer models."""
    width, height = max(width, math.ceil(height / _WIDEST)), max(height, math.ceil(width / _WIDEST))
    grow = max(1.0, math.sqrt(_LEAST_PIXELS / (width * height)))
    shrink = min(_MAX_SIDE / max(width, height), math.sqrt(_MOST_PIXELS / (width * height)))
    if shrink < 1.0:
        width, height = (math.floor(side * shrink / _STEP_PX) * _STEP_PX for side in (width, height))
    else:
        width, height = (math.ceil(side * grow / _STEP_PX) * _STEP_PX for side in (width, height))
        if width * height > _MOST_PIXELS:
            width, height = width - _STEP_PX, height - _STEP_PX
    return min(width, _WIDEST * height), min(height, _WIDEST * width)


def _listed(model: str) -> str:
    """The model's name as in the price list."""
    return _SNAPSHOT.sub("", model)


def _usd(rates: Mapping[str, str] | None, usage: object) -> Decimal | None:
    """The cost of an answer's tokens; None without rates or counts."""
    if rates is None or not isinstance(usage, dict):
        return None
    details = usage.get("input_tokens_details")
    details = details if isinstance(details, dict) else {}
    counts = {
        "text": details.get("text_tokens", usage.get("input_tokens")),
        "image": details.get("image_tokens", 0),
        "output": usage.get("output_tokens"),
    }
    if any(type(count) is not int or count < 0 for count in counts.values()):
        return None
    return sum((Decimal(rates[what]) * count for what, count in counts.items()), Decimal(0)) / 1_000_000

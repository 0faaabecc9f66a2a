"""The OpenAI Images API, so that OpenAI clients work after changing only their base URL.

Requests and answers follow platform.openai.com/docs/api-reference/images. Besides its parameters, every
option of ``POST /v1/images`` is accepted, such as ``expires_in`` (in openai-python through ``extra_body``).
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import attrs
from aiohttp import web

from blossom_async.errors import InvalidRequest, Overloaded, ResponseError, ServerFailed, shown
from blossom_async.gateway.callers.admission import CALLER, Admission
from blossom_async.gateway.calls.aliases import Aliases
from blossom_async.gateway.calls.incoming import checked_options, idempotency_key, json_object, priority
from blossom_async.gateway.calls.packed import AsBase64, Packed
from blossom_async.gateway.calls.repeats import Repeats, retry_count
from blossom_async.gateway.calls.uploads import Upload, Uploads
from blossom_async.gateway.http.problems import ERROR_CODE
from blossom_async.gateway.making.generation import Generation
from blossom_async.gateway.making.upstreams import Upstreams
from blossom_async.gateway.providers import Partial
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.records import Claim, ClaimState, ImageRecord
from blossom_async.models import ImageRequest, OpenAIRequest

__all__ = ["MOST", "QUALITIES", "FrontDoor"]

MOST = 10
"""Pictures of one call, as at OpenAI."""

_RATIO = re.compile("([1-9][0-9]{0,3}):([1-9][0-9]{0,3})", re.ASCII)
_SIZE = re.compile("\\s*([1-9][0-9]{0,4})\\s*[x*×]\\s*([1-9][0-9]{0,4})\\s*", re.ASCII)
QUALITIES = {
    "auto": "standard",
    "low": "standard",
    "standard": "standard",
    "medium": "hd",
    "hd": "hd",
    "high": "ultra",
}
"""OpenAI's qualities, and ours."""

_FORMATS = {"png": "png", "jpeg": "jpg", "jpg": "jpg", "webp": "webp"}
_BACKGROUNDS = {"auto": False, "opaque": False, "transparent": True}
_HINTS = frozenset(("steps", "cfg"))  # of LobeChat, sent to every model
_EVENTS = "text/event-stream"
_ANSWERS = ("url", "b64_json")
_THEIRS = {
    *("n", "size", "response_format", "output_format", "output_compression", "background", "user"),
    *("partial_images", "aspectRatio", "aspect_ratio"),
}
_DEFAULTS: dict[str, tuple[tuple[Any, ...], str]] = {
    "style": (
        ("vivid", "natural"),
        "vivid or natural, which change nothing; describe the style in the prompt",
    ),
    "moderation": (("auto",), "auto; the provider's own rules apply"),
    "stream": ((False, True), "true or false"),
}
"""Parameters that can only be sent as what they are anyway, and what is allowed, in words."""
_MAY_BE_EMPTY = {*_THEIRS, *_DEFAULTS, "model", "quality", "negative_prompt"}
"""Parameters that clients send as an empty text where a person has set nothing."""
_OTHER_APIS = ("chat/completions", "completions", "responses", "embeddings", "moderations", "audio/{path:.+}")
_BASES = ("/v1", "/v1/")  # the latter of clients that add a slash to a base URL that ends in one
_ELSEWHERE = (
    *("/images/generations", "/images/edits", "/models", "/chat/completions", "/openai/{path:.+}"),
    *("/v1/v1/{path:.+}", "/v1/openai/{path:.+}", "/api/v1/{path:.+}", "/v1/images/generations/"),
)
_GIVES_BYTES = re.compile("gpt-image|chatgpt-image")
_FINAL_STATUS = 424  # Failed Dependency; clients that look at the status retry 408, 409, 429 and 5xx
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_Made = tuple[list[ImageRecord], list[dict[str, Any]]]
"""Pictures, and what the answer tells of each."""

_log = logging.getLogger("blossom_async.gateway")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FrontDoor:
    """The calls of OpenAI's Images API, and ``GET /v1/models``, with errors in OpenAI's format."""

    def __init__(
        self,
        admission: Admission,
        generation: Generation,
        upstreams: Upstreams,
        blobs: Blobs,
        repeats: Repeats,
        uploads: Uploads,
        *,
        public_url: str,
        aliases: Aliases,
        usual_answer: str,
    ) -> None:
        """``usual_answer`` is the ``response_format`` of calls that name none: as the setting has it."""
        self._aliases = aliases
        self._usual_answer = usual_answer
        self._admission = admission
        self._generation = generation
        self._upstreams = upstreams
        self._blobs = blobs
        self._repeats = repeats
        self._uploads = uploads
        self._public_url = public_url

    def routes(self) -> list[web.RouteDef]:
        """The routes to add to the application. They check the API key."""
        routes = [
            route
            for base in _BASES
            for route in (
                web.post(f"{base}/images/generations", self.generations),
                web.get(f"{base}/models", self.models),
                web.get(f"{base}/models/{{model:.+}}", self.model),
                web.post(f"{base}/images/edits", self.edits),
                web.post(f"{base}/images/variations", self.no_variations),
            )
        ]
        guarded = [self._admission.guarded(route) for route in routes]
        elsewhere = [
            *(web.route("*", f"/v1/{path}", self.not_offered) for path in _OTHER_APIS),
            *(web.route("*", path, self.wrong_base) for path in _ELSEWHERE),
            web.get("/v1/images/generations", self.not_posted),
        ]
        return [_in_their_words(route) for route in (*guarded, *elsewhere)]

    async def generations(self, http: web.Request) -> web.StreamResponse:
        """200 with ``n`` pictures, as URLs of this gateway or as base64; with ``stream`` as events."""
        return await self._answered(http, await json_object(http), None)

    async def edits(self, http: web.Request) -> web.StreamResponse:
        """As ``generations``, drawn from pictures; 404 where no provider can."""
        if not any(upstream.edits for upstream in self._upstreams):
            raise self._not_from_pictures(http.path)
        async with self._uploads.read(http) as upload:
            return await self._answered(http, upload.fields, upload)

    async def _answered(
        self, http: web.Request, asked: Mapping[str, Any], upload: Upload | None
    ) -> web.StreamResponse:
        asked = {name: value for name, value in asked.items() if value != "" or name not in _MAY_BE_EMPTY}
        count = _number(asked)
        answer = _one_of(asked, "response_format", _ANSWERS, self._usually(asked))
        body, note = await self._with_a_model(asked)
        request = _request(body, upload)
        requests = [request, *(attrs.evolve(request, seed=_seed(request, n)) for n in range(1, count))]
        identity = asked if upload is None else {**asked, "image": upload.pictures, "mask": upload.mask}
        keys = await self._keys(http, identity, requests)
        self._generation.check_room(count)  # starts all of them or none
        on_the_way: asyncio.Queue[Partial | None] | None = None
        if isinstance(request, OpenAIRequest) and request.partial_images:
            on_the_way = asyncio.Queue()
        making = self._made(http, requests, keys, upload, answer, on_the_way, events=bool(body.get("stream")))
        kind = "image_generation" if upload is None else "image_edit"
        if on_the_way is not None:
            return await _live(http, making, on_the_way, kind, request)
        records, data = await making
        if body.get("stream"):
            return _events(_completed(kind, records, data))
        return _answer({"created": _created(records), "model": records[0].model, **note, "data": data})

    async def _made(
        self,
        http: web.Request,
        requests: Sequence[ImageRequest],
        keys: Sequence[str | None],
        upload: Upload | None,
        answer: str,
        on_the_way: asyncio.Queue[Partial | None] | None,
        *,
        events: bool,
    ) -> _Made:
        make = (self._make(http, *each, upload, on_the_way) for each in zip(requests, keys, strict=True))
        made = await asyncio.gather(*make, return_exceptions=True)
        records = [each for each in made if isinstance(each, ImageRecord)]
        for failure in made:
            if isinstance(failure, BaseException) and not records:
                if isinstance(failure, Exception) and await self._would_pay_again(http, keys):
                    raise _Final(failure) from failure
                raise failure
        try:
            # Fewer if some failed.
            return records, [await self._item(record, answer, events=events) for record in records]
        except ResponseError as exc:
            if keys[0] is None or _joins(http):
                raise
            raise _Final(exc) from exc

    async def models(self, _: web.Request) -> web.Response:
        """200 with the models of every provider, and the aliases that are whole names."""
        return _answer({"object": "list", "data": [_model(*each) for each in await self._listed()]})

    async def model(self, http: web.Request) -> web.Response:
        """200 with the model of that name; 404 if no provider has it."""
        name = http.match_info["model"]
        for offered, provider in await self._listed():
            if offered == name:
                return _answer(_model(offered, provider))
        raise ResponseError(
            f"this gateway has no model {shown(name)}; GET /v1/models lists those it has",
            status=404,
            code="model_not_found",
        )

    async def no_variations(self, http: web.Request) -> web.Response:
        """404: pictures are drawn from pictures with a prompt only, if at all."""
        if not any(upstream.edits for upstream in self._upstreams):
            raise self._not_from_pictures(http.path)
        raise ResponseError(
            f"{http.path} is not offered here; POST /v1/images/edits draws from a picture and a prompt",
            status=404,
            code="not_offered",
        )

    def _not_from_pictures(self, path: str) -> ResponseError:
        names = " and ".join(upstream.name for upstream in self._upstreams)
        return ResponseError(
            f"{path} is not offered here: {names} cannot draw from a picture through this gateway; "
            "POST /v1/images/generations makes pictures from a prompt",
            status=404,
            code="not_offered",
        )

    async def not_offered(self, _: web.Request) -> web.Response:
        """404: this gateway makes pictures only."""
        raise ResponseError(
            "this gateway makes pictures only: POST /v1/images/generations; for anything else give the "
            "client another base URL",
            status=404,
            code="not_offered",
        )

    async def not_posted(self, _: web.Request) -> web.Response:
        """405: a browser was sent here."""
        error = ResponseError(
            "pictures are made by POST with a JSON body here; OpenAI's clients do that with the base URL "
            f"{self._public_url}/v1",
            status=405,
            code="method_not_allowed",
        )
        answer = _refused(error, 405)
        answer.headers["Allow"] = "POST"
        return answer

    async def wrong_base(self, _: web.Request) -> web.Response:
        """404: the client's base URL lacks ``/v1``, or has more than that."""
        raise ResponseError(
            f"OpenAI's API is below /v1 here: give the client the base URL {self._public_url}/v1",
            status=404,
            code="not_found",
        )

    async def _with_a_model(self, asked: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, str]]:
        """The body with a model that is offered here, and what the answer says if that is another."""
        name = asked.get("model")
        if not isinstance(name, str):
            return asked, {}
        known, model = self._aliases.find(name)
        if not known or await self._upstreams.may_offer(name):
            return asked, {}
        by = "the gateway's own model" if model is None else model
        return {**asked, "model": model}, {"note": f"{shown(name)} is not offered here; {by} drew instead"}

    async def _keys(
        self, http: web.Request, body: Mapping[str, Any], requests: Sequence[ImageRequest]
    ) -> list[str | None]:
        """The idempotency key of each picture; None for those that may as well be made again."""
        key = idempotency_key(http)
        if key is None and self._generation.may_cost(requests[0]):
            key = await self._repeats.key(http[CALLER], body, retry_count(http) or 0)
        return [None if key is None else f"{key} {n}" for n in range(len(requests))]

    async def _would_pay_again(self, http: web.Request, keys: Sequence[str | None]) -> bool:
        """Whether one of the pictures was paid, or may have been, and a repeated call would not get it."""
        tenant = http[CALLER].tenant
        try:
            held = [await self._generation.claimed(tenant, key) for key in keys if key is not None]
        except Overloaded:  # the database cannot say
            return keys[0] is not None and not _joins(http)
        return any(
            claim is not None and not (_joins(http) and claim.state is ClaimState.RUNNING) for claim in held
        )

    async def _make(
        self,
        http: web.Request,
        request: ImageRequest,
        key: str | None,
        upload: Upload | None,
        on_the_way: asyncio.Queue[Partial | None] | None,
    ) -> ImageRecord:
        made, _ = await self._generation.create(
            request,
            tenant=http[CALLER].tenant,
            payer=http[CALLER].name,
            key=key,
            priority=priority(http.headers),
            preview=False,
            inputs=None if upload is None else upload.inputs,
            watch=None if on_the_way is None else on_the_way.put_nowait,
        )
        assert not isinstance(made, Claim)  # noqa: S101 - defer is refused here
        return made

    def _usually(self, body: Mapping[str, Any]) -> str:
        if self._usual_answer != "auto":
            return self._usual_answer
        # As at OpenAI, where these models always give bytes.
        model = body.get("model")
        return "b64_json" if isinstance(model, str) and _GIVES_BYTES.match(model) else "url"

    async def _item(self, record: ImageRecord, answer: str, *, events: bool) -> dict[str, Any]:
        url = {"url": f"{self._public_url}/image/{record.id}"}
        if events:  # which always have the bytes
            return {**url, **await self._item(record, "b64_json", events=False)}
        if answer == "url":
            return url
        return {"b64_json": AsBase64(await self._blobs.read(record.id, record.main_file.format))}

    async def _listed(self) -> list[tuple[str, str]]:
        found = [(name, "alias") for name in self._aliases.listed]
        for upstream in self._upstreams:
            found += [(model.name, upstream.name) for model in await upstream.provider.models()]
        return list({name: (name, owner) for name, owner in found}.values())


class _Final(Exception):
    """A failure that must not be retried: the picture was paid for, or may have been."""

    def __init__(self, cause: Exception) -> None:
        if not isinstance(cause, ResponseError):
            cause = ServerFailed("the gateway failed after the picture may have been paid for; see its log")
        super().__init__(cause.code)
        self.error = cause


def _joins(http: web.Request) -> bool:
    """Whether the client's retries are recognised, so that they get what the first try paid for."""
    return "Idempotency-Key" in http.headers or retry_count(http) is not None


def _request(body: Mapping[str, Any], upload: Upload | None) -> ImageRequest:
    """The request of a call, which is drawn from what was uploaded."""
    options = _options(body)
    fidelity = options.pop("input_fidelity", None) if upload is not None else None
    if upload is not None and not {"width", "height"} & options.keys():
        options["width"], options["height"] = upload.width, upload.height
    request = checked_options(options, ImageRequest)
    on_the_way = _whole(body.get("partial_images")) or 0
    if upload is None and not on_the_way:
        return request
    return OpenAIRequest(
        **attrs.asdict(request, recurse=False),
        pictures=() if upload is None else upload.pictures,
        mask=None if upload is None else upload.mask,
        input_fidelity=fidelity,
        partial_images=on_the_way,
    )


def _options(body: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's parameters as options of a picture; options of ours stay as they are."""
    for name, (values, allowed) in _DEFAULTS.items():
        value = _whole(body.get(name))
        if value is not None and not any(type(value) is type(each) and value == each for each in values):
            raise InvalidRequest(name, value, allowed)
    partial = _whole(body.get("partial_images"))
    if partial is not None and (
        type(partial) is not int or not 0 <= partial <= (3 if body.get("stream") else 0)
    ):
        raise InvalidRequest("partial_images", partial, "0, or up to 3 with stream; none may be sent")
    for name in _HINTS & body.keys():
        if isinstance(body[name], bool) or not isinstance(body[name], int | float | None):
            raise InvalidRequest(name, body[name], "a number; it has no effect, as the model uses its own")
    theirs = {*_THEIRS, *_DEFAULTS, *_HINTS}
    options = {name: value for name, value in body.items() if name not in theirs and value is not None}
    if "defer" in options:
        raise InvalidRequest("defer", options["defer"], "no value; POST /v1/images makes deferred pictures")
    size = body.get("size")
    if size is not None and size != "auto":
        found = _SIZE.fullmatch(size.lower()) if isinstance(size, str) else None
        if found is None:
            raise InvalidRequest("size", size, "a width and a height in pixels, such as 1024x1024, or auto")
        options["width"], options["height"] = int(found[1]), int(found[2])
    ratio = body.get("aspectRatio", body.get("aspect_ratio"))
    if ratio is not None:
        sides = _sides(ratio)
        if size in {None, "auto"}:
            options["width"], options["height"] = sides
    if "quality" in options and options["quality"] != "ultra":
        options["quality"] = QUALITIES[_one_of(options, "quality", tuple(QUALITIES), "auto")]
    if (file_format := body.get("output_format")) is not None:
        options["format"] = _FORMATS[_one_of(body, "output_format", tuple(_FORMATS), file_format)]
    if (compression := _whole(body.get("output_compression"))) is not None:
        least = 0 if options.get("format") in {"jpg", "webp"} else 100
        if type(compression) is not int or not least <= compression <= 100:
            allowed = "a whole number from 0 to 100 with output_format jpeg or webp, else 100"
            raise InvalidRequest("output_compression", compression, allowed)
        if compression < 100:
            options["lossy_quality"] = compression
    if body.get("background") is not None:
        options["transparency"] = _BACKGROUNDS[_one_of(body, "background", tuple(_BACKGROUNDS), "auto")]
    return options


def _sides(ratio: Any) -> tuple[int, int]:
    """Width and height of about a megapixel."""
    found = _RATIO.fullmatch(ratio.strip()) if isinstance(ratio, str) else None
    shape = math.sqrt(int(found[1]) / int(found[2])) if found is not None else 0.0
    if not 0.25 <= shape <= 4:
        raise InvalidRequest("aspectRatio", ratio, "width and height, such as 16:9, at most 16:1")
    return 16 * round(64 * shape), 16 * round(64 / shape)


def _whole(value: Any) -> Any:
    """A number such as 2.0, as JSON of some languages has it, as a whole one; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(body: Mapping[str, Any]) -> int:
    count = _whole(body.get("n"))
    if count is None:
        return 1
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST:
        raise InvalidRequest("n", count, f"a whole number from 1 to {MOST}")
    return count


def _seed(request: ImageRequest, n: int) -> int | None:
    return None if request.seed is None else request.seed + n


def _one_of(body: Mapping[str, Any], name: str, allowed: tuple[str, ...], usual: str) -> str:
    value = body.get(name)
    if value is None:
        return usual
    if not isinstance(value, str) or value not in allowed:
        raise InvalidRequest(name, value, f"one of {', '.join(allowed)}")
    return value


def _model(name: str, provider: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": provider}


def _answer(body: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=Packed([body]),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _created(records: Sequence[ImageRecord]) -> int:
    return int(max(record.created_at for record in records).timestamp())


def _completed(
    kind: str, records: Sequence[ImageRecord], data: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The data of an event for each picture."""
    return [
        {
            "type": f"{kind}.completed",
            "created_at": _created(records),
            "size": f"{record.width}x{record.height}",
            **_told(record.request, record.main_file.format),
            "model": record.model,
            **item,
        }
        for record, item in zip(records, data, strict=True)
    ]


def _told(request: ImageRequest, file_format: str) -> dict[str, str]:
    return {
        "quality": request.quality,
        "background": "transparent" if request.transparency else "opaque",
        "output_format": {"jpg": "jpeg"}.get(file_format, file_format),
    }


def _packed(events: Sequence[Mapping[str, Any]]) -> Packed:
    """Events of one type."""
    return Packed(events, f"event: {events[0]['type']}\ndata: ".encode(), b"\n\n")


def _events(events: Sequence[Mapping[str, Any]]) -> web.Response:
    """Server-sent events, when all pictures are made."""
    return web.Response(
        body=_packed(events),
        content_type=_EVENTS,
        headers={"Cache-Control": "no-store"},
    )


async def _live(
    http: web.Request,
    making: Coroutine[Any, Any, _Made],
    on_the_way: asyncio.Queue[Partial | None],
    kind: str,
    request: ImageRequest,
) -> web.StreamResponse:
    """Events as they come: the pictures on the way, then those that are made, or the error.

    Until the first of them the status is open: if the provider shows none, the answer is that of ``stream``
    alone.
    """
    task = asyncio.create_task(making)
    task.add_done_callback(lambda _: on_the_way.put_nowait(None))
    answer = web.StreamResponse(headers={"Content-Type": _EVENTS, "Cache-Control": "no-store"})
    try:
        while (partial := await on_the_way.get()) is not None:
            if not answer.prepared:
                await answer.prepare(http)
            event = {
                "type": f"{kind}.partial_image",
                "created_at": int(time.time()),
                "size": f"{partial.width}x{partial.height}",
                **_told(request, partial.format),
                "partial_image_index": partial.index,
                "b64_json": AsBase64(partial.data),
            }
            await _write(answer, event)
        if not answer.prepared:
            return _events(_completed(kind, *await task))
        for event in await _outcome(kind, task):
            await _write(answer, event)
        await answer.write_eof()
    finally:
        task.cancel()
    return answer


async def _outcome(kind: str, task: asyncio.Task[_Made]) -> list[dict[str, Any]]:
    """The last events: the pictures, or the error, since the status has been sent."""
    try:
        return _completed(kind, *await task)
    except _Final as exc:
        error = exc.error
    except ResponseError as exc:
        error = exc
    except Exception:  # noqa: BLE001 - it is answered here, as the middleware would
        _log.exception("a stream failed")
        error = ServerFailed("the gateway failed; its log says why")
    return [{"type": "error", "error": _in_words(error)}]


async def _write(answer: web.StreamResponse, event: Mapping[str, Any]) -> None:
    for piece in _packed([event]).pieces():
        await answer.write(piece)


def _in_their_words(route: web.RouteDef) -> web.RouteDef:
    async def handler(http: web.Request) -> web.StreamResponse:
        try:
            return await route.handler(http)
        except _Final as exc:
            answer = _refused(exc.error, _FINAL_STATUS)
            answer.headers["x-should-retry"] = "false"
            return answer
        except ResponseError as exc:
            status = 400 if exc.status == 422 else exc.status
            answer = _refused(exc, status)
            if exc.retry_after_s is not None:
                answer.headers["Retry-After"] = str(int(exc.retry_after_s) + 1)
            if status == 401:
                answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        except InvalidRequest as exc:
            wrong = ResponseError(str(exc), status=400, code="invalid_value", field=exc.field)
            return _refused(wrong, 400)

    return attrs.evolve(route, handler=handler)


def _refused(error: ResponseError, status: int) -> web.Response:
    answer = _answer({"error": _in_words(error)}, status)
    answer[ERROR_CODE] = error.code
    return answer


def _in_words(error: ResponseError) -> dict[str, str | None]:
    usual = "server_error" if error.status >= 500 else "invalid_request_error"
    kind = _KINDS.get(error.status, usual)
    return {"message": error.detail, "type": kind, "param": error.field, "code": error.code}

"""The OpenAI Images API, so that OpenAI clients work after changing only their base URL.

Requests and answers follow platform.openai.com/docs/api-reference/images. Besides its parameters, every
option of ``POST /v1/images`` is accepted, such as ``expires_in`` (in openai-python through ``extra_body``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from blossom_async.errors import Overloaded, ResponseError, shown
from blossom_async.gateway.callers.admission import CALLER, Admission
from blossom_async.gateway.calls.aliases import Aliases
from blossom_async.gateway.calls.front_door_answers import (
    Final,
    Made,
    answered,
    completed,
    created,
    events,
    in_their_words,
    live,
    refused,
)
from blossom_async.gateway.calls.front_door_parameters import answer_format, given, number, requests_of
from blossom_async.gateway.calls.incoming import idempotency_key, json_object, priority
from blossom_async.gateway.calls.packed import AsBase64
from blossom_async.gateway.calls.repeats import Repeats, retry_count
from blossom_async.gateway.calls.uploads import Upload, Uploads
from blossom_async.gateway.making.generation import Generation
from blossom_async.gateway.making.upstreams import Upstreams
from blossom_async.gateway.providers import Partial
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.records import Claim, ClaimState, ImageRecord
from blossom_async.models import ImageRequest, OpenAIRequest

__all__ = ["FrontDoor"]

_OTHER_APIS = ("chat/completions", "completions", "responses", "embeddings", "moderations", "audio/{path:.+}")
_BASES = ("/v1", "/v1/")  # the latter of clients that add a slash to a base URL that ends in one
_ELSEWHERE = (
    *("/images/generations", "/images/edits", "/models", "/chat/completions", "/openai/{path:.+}"),
    *("/v1/v1/{path:.+}", "/v1/openai/{path:.+}", "/api/v1/{path:.+}", "/v1/images/generations/"),
)


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
        return [in_their_words(route) for route in (*guarded, *elsewhere)]

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
        asked = given(asked)
        count, answer = number(asked), answer_format(asked, self._usual_answer)
        body, note = await self._with_a_model(asked)
        requests = requests_of(body, upload, count)
        request = requests[0]
        identity = asked if upload is None else {**asked, "image": upload.pictures, "mask": upload.mask}
        keys = await self._keys(http, identity, requests)
        self._generation.check_room(count)  # starts all of them or none
        on_the_way: asyncio.Queue[Partial | None] | None = None
        if isinstance(request, OpenAIRequest) and request.partial_images:
            on_the_way = asyncio.Queue()
        making = self._made(http, requests, keys, upload, answer, on_the_way, events=bool(body.get("stream")))
        kind = "image_generation" if upload is None else "image_edit"
        if on_the_way is not None:
            return await live(http, making, on_the_way, kind, request)
        records, data = await making
        if body.get("stream"):
            return events(completed(kind, records, data))
        return answered({"created": created(records), "model": records[0].model, **note, "data": data})

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
    ) -> Made:
        make = (self._make(http, *each, upload, on_the_way) for each in zip(requests, keys, strict=True))
        made = await asyncio.gather(*make, return_exceptions=True)
        records = [each for each in made if isinstance(each, ImageRecord)]
        for failure in made:
            if isinstance(failure, BaseException) and not records:
                if isinstance(failure, Exception) and await self._would_pay_again(http, keys):
                    raise Final(failure) from failure
                raise failure
        try:
            # Fewer if some failed.
            return records, [await self._item(record, answer, events=events) for record in records]
        except ResponseError as exc:
            if keys[0] is None or _joins(http):
                raise
            raise Final(exc) from exc

    async def models(self, _: web.Request) -> web.Response:
        """200 with the models of every provider, and the aliases that are whole names."""
        return answered({"object": "list", "data": [_model(*each) for each in await self._listed()]})

    async def model(self, http: web.Request) -> web.Response:
        """200 with the model of that name; 404 if no provider has it."""
        name = http.match_info["model"]
        for offered, provider in await self._listed():
            if offered == name:
                return answered(_model(offered, provider))
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
        answer = refused(error, 405)
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


def _joins(http: web.Request) -> bool:
    """Whether the client's retries are recognised, so that they get what the first try paid for."""
    return "Idempotency-Key" in http.headers or retry_count(http) is not None


def _model(name: str, provider: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": provider}

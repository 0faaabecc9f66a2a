"""The private API: create, look up, regenerate and delete pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

import attrs
from aiohttp import web

from blossom_async.batch import GateQuestion, RateLimit
from blossom_async.batch.start_times import GATE_NAMES, is_gate_name
from blossom_async.errors import Conflict, InvalidRequest, NotFound, shown
from blossom_async.gateway.callers.admission import CALLER
from blossom_async.gateway.calls.incoming import (
    checked_options,
    idempotency_key,
    json_object,
    priority,
    required_object,
)
from blossom_async.gateway.calls.pictures import Pictures
from blossom_async.gateway.calls.signed_urls import SignedUrls
from blossom_async.gateway.counting.analytics import Views, asked_for, url_stats
from blossom_async.gateway.making.generation import Generation
from blossom_async.gateway.making.orders import again
from blossom_async.gateway.serving.explaining import explain
from blossom_async.gateway.serving.gatekeeper import Gatekeeper
from blossom_async.gateway.storage.records import Claim, ImageRecord, Records, gates, overview
from blossom_async.gateway.storage.records import views as view_records
from blossom_async.models import (
    CONTENT_TYPES,
    ExplainRequest,
    ImageInfo,
    ImagePage,
    ImageRequest,
    SignRequest,
    SlotsRequest,
    StartTimes,
    to_json,
)

__all__ = ["Api"]


class Api:
    """The handlers of ``/v1``. Each reads like a recipe: who asks, for what, do it, answer."""

    def __init__(
        self,
        generation: Generation,
        pictures: Pictures,
        records: Records,
        signed_urls: SignedUrls,
        gatekeeper: Gatekeeper,
        views: Views,
        *,
        info: Callable[[ImageRecord | Claim], ImageInfo],
        now: Callable[[], datetime],
    ) -> None:
        self._generation = generation
        self._pictures = pictures
        self._records = records
        self._signed_urls = signed_urls
        self._gatekeeper = gatekeeper
        self._views = views
        self._info = info
        self._now = now

    def routes(self) -> list[web.RouteDef]:
        """The routes to add to the application."""
        return [
            web.post("/v1/images", self.create),
            web.get("/v1/images", self.list),
            web.get("/v1/images/{id}", self.look_up),
            web.delete("/v1/images/{id}", self.delete),
            web.get("/v1/images/{id}/file", self.file),
            web.post("/v1/images/{id}/regenerate", self.regenerate),
            web.post("/v1/images/{id}/signed-url", self.sign),
            web.post("/v1/images/{id}/explain", self.explain),
            web.post("/v1/access-keys/{name}/revoke", self.revoke),
            web.post("/v1/estimate", self.estimate),
            web.post("/v1/gates/{name}/slots", self.slots),
            web.get("/v1/stats", self.stats),
        ]

    async def create(self, http: web.Request) -> web.Response:
        """201 with the picture; the same ``Idempotency-Key`` and body replay it. 202 with ``defer``.

        With ``sign``, the options of a signed URL, the URL of the answer is a signed one.
        """
        body = await json_object(http)
        sign = body.pop("sign", None)
        request = checked_options(body, ImageRequest)
        if sign is None:
            return await self._created(http, request)
        wish = checked_options(required_object(sign, "sign"), SignRequest)
        # Before the picture is made: a revoked key must not cost one.
        key = await self._signed_urls.access_key(http[CALLER].tenant, wish.access_key)
        return await self._created(http, request, lambda made: self._signed_urls.signed(made, key, wish).url)

    async def estimate(self, http: web.Request) -> web.Response:
        """200 with the price of the picture; nothing is made."""
        request = checked_options(await json_object(http), ImageRequest)
        return _answer(200, to_json(self._generation.estimate(request)))

    async def slots(self, http: web.Request) -> web.Response:
        """200 with start times of the caller's shared limit of that name; none if all of the next second are
        given out.

        It is made by the first question for it. Where different limits are asked for under one name, the
        slowest of late holds. 422 while 1,000 names are in use.
        """
        name = http.match_info["name"]
        if not is_gate_name(name):
            raise InvalidRequest("name", name, GATE_NAMES)
        asked = checked_options(await json_object(http), SlotsRequest)
        limit = RateLimit(asked.amount, per_s=asked.per_s)
        question = GateQuestion(name, limit, asked.want, asked.slack_s, asked.lead_s, asked.pause_s)
        taking = partial(gates.take, http[CALLER].tenant, question)
        granted = await self._records.write_apart(taking)
        return _answer(
            200,
            to_json(
                StartTimes(now=granted.now, first=granted.first, number=granted.number, step=granted.step)
            ),
        )

    async def list(self, http: web.Request) -> web.Response:
        """200 with a page of the caller's stored pictures, the newest first.

        ``q`` is searched for in prompts and tracking ids. ``next`` is the ``cursor`` of the page after it.
        """
        found = await self._pictures.page(http[CALLER].tenant, http.query)
        images = tuple(self._info(record) for record in found.pictures)
        after = None if found.next is None else overview.cursor(found.next)
        return _answer(200, to_json(ImagePage(images=images, next=after)))

    async def look_up(self, http: web.Request) -> web.Response:
        """200 with the picture, also an expired one; 410 once it was deleted.

        The ``state`` of a deferred picture says whether it is still being made, or why it never will be.
        """
        made = await self._made_or_called(http)
        if isinstance(made, ImageRecord):
            made = await self._generation.with_preview(made)
        return _answer(200, to_json(self._info(made)))

    async def file(self, http: web.Request) -> web.Response:
        """200 with the picture's bytes, for its owner: no rule for viewers holds, and no view is counted.

        With format ``auto`` it is the file that ``sha256`` is of. 409 while the picture is still being made,
        410 once it was deleted or has expired.
        """
        made = await self._made_or_called(http)
        if isinstance(made, Claim):
            raise Conflict("the picture is not there yet; wait until its state is ready", code="not_ready")
        data = await self._pictures.read(made)
        headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=data, content_type=CONTENT_TYPES[made.main_file.format], headers=headers)

    async def delete(self, http: web.Request) -> web.Response:
        """204; the bytes are gone, and the URL answers 410.

        409 while it is still being made. 410 if it was deleted before; bytes left over from then, after a
        crash or a disk failure, are removed now.
        """
        tenant = http[CALLER].tenant
        call = await self._generation.pending(http.match_info["id"])
        if call is not None and call.tenant == tenant:
            await self._generation.forget(call)
            return web.Response(status=204)
        await self._pictures.delete(http.match_info["id"], tenant)
        return web.Response(status=204)

    async def regenerate(self, http: web.Request) -> web.Response:
        """201 with a new picture: the earlier request with the changes in the body.

        The seed stays the same unless the body has another, so without changes the same picture is made
        again under a new id. ``expires_in`` counts from now. 422 for a picture that was drawn from others.
        """
        tenant = http[CALLER].tenant
        record = await self._pictures.not_deleted(http.match_info["id"], tenant)
        changes = await json_object(http)
        return await self._created(http, checked_options({**again(record.request), **changes}, ImageRequest))

    async def _created(
        self,
        http: web.Request,
        request: ImageRequest,
        url: Callable[[ImageRecord | Claim], str] | None = None,
    ) -> web.Response:
        key = idempotency_key(http)
        made, replayed = await self._generation.create(
            request,
            tenant=http[CALLER].tenant,
            payer=http[CALLER].name,
            key=key,
            priority=priority(http.headers),
        )
        headers = {"Location": f"/v1/images/{made.id}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        if replayed:
            headers["Idempotent-Replayed"] = "true"
        info = self._info(made)
        if url is not None:
            info = attrs.evolve(info, url=url(made))
        if isinstance(made, Claim):
            headers["Retry-After"] = "1"
        return _answer(202 if isinstance(made, Claim) else 201, to_json(info), headers)

    async def sign(self, http: web.Request) -> web.Response:
        """200 with a signed URL of the picture, valid for ``signature_ttl`` seconds.

        ``access_key`` is the caller's name for the URL's user: revoking it ends every URL signed under it.
        ``stable`` rounds the expiry up, so that URLs signed within some minutes are identical. ``cdn`` signs
        ``/generated/{id}.{ext}`` instead. 409 for an access key that was revoked.
        """
        made = await self._made_or_called(http)
        wish = checked_options(await json_object(http), SignRequest)
        key = await self._signed_urls.access_key(made.tenant, wish.access_key)
        return _answer(200, to_json(self._signed_urls.signed(made, key, wish)))

    async def revoke(self, http: web.Request) -> web.Response:
        """204; every URL signed under the access key is invalid from now on, for good."""
        name = SignRequest(access_key=http.match_info["name"]).access_key
        await self._signed_urls.revoke(http[CALLER].tenant, name)
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    async def explain(self, http: web.Request) -> web.Response:
        """200 with the answer that the viewer in the body would get, and the rule that decides."""
        tenant = http[CALLER].tenant
        record = await self._pictures.known(http.match_info["id"], tenant)
        asked = checked_options(await json_object(http), ExplainRequest)
        explanation = await explain(self._gatekeeper, record, asked, asked.at or self._now())
        return _answer(200, to_json(explanation))

    async def stats(self, http: web.Request) -> web.Response:
        """200 with the views of a campaign from the first to the last day, both included, in UTC.

        It includes every view answered before this call. 404 for a ``tracking_id`` that none of the caller's
        pictures has or had.
        """
        tenant = http[CALLER].tenant
        tracking_id, first, last = asked_for(http.query.items())
        await self._views.flush()
        question = partial(view_records.campaign_views, tenant, tracking_id, first, last)
        found = await self._records.study(question)
        if found is None:
            raise NotFound(f"you have no pictures with the tracking_id {shown(tracking_id)}")
        return _answer(200, to_json(url_stats(tracking_id, found.days, found.groups)))

    async def _made_or_called(self, http: web.Request) -> ImageRecord | Claim:
        tenant = http[CALLER].tenant
        call = await self._generation.pending(http.match_info["id"])
        if call is not None and call.tenant == tenant and call.request.defer:
            return call
        return await self._pictures.not_deleted(http.match_info["id"], tenant)


def _answer(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        body=body,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )

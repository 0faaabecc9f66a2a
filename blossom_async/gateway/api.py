"""The private API: create, look up, regenerate and delete pictures."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import attrs
import orjson
from aiohttp import web

from blossom_async.errors import Gone, NotFound, Rejected, ResponseError
from blossom_async.gateway.access import ApiKeys
from blossom_async.gateway.blobs import LocalBlobs
from blossom_async.gateway.generation import Generation
from blossom_async.gateway.records import ImageRecord, Records
from blossom_async.models import ImageInfo, ImageRequest, image_request, to_json

__all__ = ["MAX_BODY", "Api"]

MAX_BODY = 1024 * 1024
"""Bytes of a request body: two prompts of the greatest length, in the longest encoding, fit."""

BODY_DEADLINE_S = 30.0
"""How long a request body may take to arrive."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)


class Api:
    """Handlers of ``/v1``. Each reads like a recipe: who asks, what for, do it, answer."""

    def __init__(
        self,
        keys: ApiKeys,
        generation: Generation,
        records: Records,
        blobs: LocalBlobs,
        *,
        public_url: str,
        now: Callable[[], datetime],
    ) -> None:
        self._keys = keys
        self._generation = generation
        self._records = records
        self._blobs = blobs
        self._public_url = public_url
        self._now = now

    def routes(self) -> list[web.RouteDef]:
        """What the application mounts."""
        return [
            web.post("/v1/images", self.create),
            web.get("/v1/images/{id}", self.look_up),
            web.delete("/v1/images/{id}", self.delete),
            web.post("/v1/images/{id}/regenerate", self.regenerate),
        ]

    async def create(self, http: web.Request) -> web.Response:
        """201 with the picture; the same ``Idempotency-Key`` and body replay it."""
        tenant = self._keys.tenant(_single(http, "Authorization"))
        request = _checked(await _json_object(http))
        return await self._created(http, tenant, request)

    async def look_up(self, http: web.Request) -> web.Response:
        """200 with the picture, 410 once it has been deleted; an expired one can still be looked up."""
        self._keys.tenant(_single(http, "Authorization"))
        record = await self._record(http)
        return _answer(200, to_json(self._info(record)))

    async def delete(self, http: web.Request) -> web.Response:
        """204; the URL answers 410 from now on and the bytes are gone.

        410 when it was deleted before; bytes that were left over then, by a kill or a failing disk, go now.
        """
        self._keys.tenant(_single(http, "Authorization"))
        record = await self._known(http)
        await asyncio.shield(self._erase(record))  # row and bytes, also if the caller goes in between
        _check_live(record)
        return web.Response(status=204)

    async def _erase(self, record: ImageRecord) -> None:
        await self._records.delete(record.id, self._now())
        await self._blobs.delete(record.id, record.request.format)

    async def regenerate(self, http: web.Request) -> web.Response:
        """201 with a new picture from an earlier request and the body's changes to it.

        The seed is the earlier one unless the body names another, so without changes the same picture is
        made again under a new id. ``expires_in`` starts anew.
        """
        tenant = self._keys.tenant(_single(http, "Authorization"))
        record = await self._record(http)
        changes = await _json_object(http)
        earlier = attrs.asdict(record.request, recurse=False)
        return await self._created(http, tenant, _checked({**earlier, **changes}))

    async def _created(self, http: web.Request, tenant: str, request: ImageRequest) -> web.Response:
        record, replayed = await self._generation.create(request, tenant=tenant, key=_idempotency_key(http))
        headers = {"Location": f"/v1/images/{record.id}"}
        if replayed:
            headers["Idempotent-Replayed"] = "true"
        return _answer(201, to_json(self._info(record)), headers)

    async def _record(self, http: web.Request) -> ImageRecord:
        record = await self._known(http)
        _check_live(record)
        return record

    async def _known(self, http: web.Request) -> ImageRecord:
        record = await self._records.get(http.match_info["id"])
        if record is None:
            raise NotFound("this gateway has no picture of that id")
        return record

    def _info(self, record: ImageRecord) -> ImageInfo:
        request = record.request
        expires_at = record.expires_at
        left = None if expires_at is None else max(0, int((expires_at - self._now()).total_seconds()))
        return ImageInfo(
            url=f"{self._public_url}/image/{record.id}",
            id=record.id,
            width=request.width,
            height=request.height,
            format=request.format,
            file_size=record.file_size,
            quality=request.quality,
            cost=record.cost,
            created_at=record.created_at,
            expires_at=expires_at,
            time_remaining=left,
            tracking_id=request.tracking_id,
            metadata=request.metadata,
            sha256=record.sha256,
            provider=record.provider,
            model=record.model,
            seed=record.seed,
        )


def _check_live(record: ImageRecord) -> None:
    if record.deleted_at is not None:
        raise Gone("the picture was deleted", code="deleted")


def _answer(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        body=body,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def _checked(options: Mapping[str, Any]) -> ImageRequest:
    try:
        return image_request(options)
    except TypeError as exc:  # an option nobody knows, or no prompt
        raise Rejected(str(exc), code="unknown_option") from exc


async def _json_object(http: web.Request) -> dict[str, Any]:
    if http.content_type != "application/json":
        raise ResponseError(
            f"the body is {http.content_type}; send application/json",
            status=415,
            code="unsupported_media_type",
        )
    if "Content-Encoding" in http.headers:
        raise ResponseError(
            "the body has a Content-Encoding; send it as it is, without compression",
            status=415,
            code="unsupported_content_encoding",
        )
    try:
        body = orjson.loads(await _body(http))
    except orjson.JSONDecodeError as exc:
        raise ResponseError(f"the body is not JSON: {exc}", status=400, code="malformed_body") from exc
    if not isinstance(body, dict):
        raise Rejected(f"the body is a JSON {type(body).__name__}; send an object of options")
    return body


async def _body(http: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            return await http.read()
    except TimeoutError as exc:
        raise ResponseError(
            f"the body did not arrive within {BODY_DEADLINE_S:g} s; send the request again",
            status=408,
            code="request_timeout",
        ) from exc
    except (ConnectionError, web.RequestPayloadError) as exc:
        raise ResponseError(
            "the body ends early or its chunks are malformed; send the request again",
            status=400,
            code="incomplete_body",
        ) from exc


def _single(http: web.Request, name: str) -> str | None:
    values = http.headers.getall(name, [])
    if len(values) > 1:  # a proxy in front may have looked at another one of them
        raise ResponseError(
            f"{name}: the header was sent {len(values)} times; send it once",
            status=400,
            code="repeated_header",
        )
    return values[0] if values else None


def _idempotency_key(http: web.Request) -> str | None:
    key = _single(http, "Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise ResponseError(
            "Idempotency-Key: allowed are 1 to 255 visible ASCII characters",
            status=400,
            code="malformed_idempotency_key",
        )
    return key

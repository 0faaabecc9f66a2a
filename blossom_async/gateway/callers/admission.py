"""Checks every call under ``/v1`` first: whose API key it has, and whether the key has calls left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address

import attrs
from aiohttp import web

from blossom_async.errors import Overloaded, RateLimited
from blossom_async.gateway.callers.keys import ApiKeys, bearer, digest
from blossom_async.gateway.callers.limits import Counting, Quota
from blossom_async.gateway.http.addresses import (
    Network,
    client_address,
    connected_from,
    inside,
    sender,
)
from blossom_async.gateway.http.connection import Room
from blossom_async.gateway.http.headers import single
from blossom_async.gateway.http.logs import TENANT
from blossom_async.gateway.storage.records import Caller

__all__ = ["CALLER", "Admission"]

CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
"""The caller, for the handlers of guarded routes."""

_QUOTA: web.RequestKey[Quota] = web.RequestKey("quota", Quota)
_CLOSING: web.RequestKey[bool] = web.RequestKey("closing", bool)

_CREATING = {
    ("POST", "/v1/images"),
    ("POST", "/v1/images/{id}/regenerate"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/images/edits"),
}
_RETRY_S = 2.0


class Admission:
    """Guards routes. ``quota`` limits the calls of each API key; None for no limit.

    ``creating`` limits how many calls may make pictures at once, so that they never take every connection.
    """

    def __init__(
        self, keys: ApiKeys, quota: Counting | None, creating: Room, *, trusted_proxies: Sequence[Network]
    ) -> None:
        self._keys = keys
        self._creating = creating
        self._quota = quota
        self._trusted = tuple(trusted_proxies)
        self.beyond_rate: int = 0
        """Calls refused because their key had none left."""

    def guarded(self, route: web.RouteDef) -> web.RouteDef:
        """The route, only for callers whose API key has calls left.

        Others get 401, or 429 with ``Retry-After``, before anything else of the call is read. A call that
        makes pictures gets 503 while as many as may be are under way.
        """
        creates = (route.method, route.path) in _CREATING

        async def admitted(request: web.Request) -> web.StreamResponse:
            await self.check(request)
            if not creates:
                return await route.handler(request)
            with self._place(request):
                return await route.handler(request)

        return attrs.evolve(route, handler=admitted)

    @asynccontextmanager
    async def making(self, request: web.Request, key: bytes) -> AsyncIterator[None]:
        """The block makes pictures for the holder of the API key with this digest.

        For routes that are not guarded. Raises ``RateLimited`` and ``Overloaded`` as theirs answer.
        """
        await self._count(request, key)
        with self._place(request):
            yield

    def routes(self) -> list[web.RouteDef]:
        """The routes to add to the application, guarded."""
        return [web.get("/v1/connection", self.connection)]

    async def connection(self, request: web.Request) -> web.Response:
        """200 with how the request arrived, for ``blossom doctor``: from where, and over which proxies."""
        peer = connected_from(request)
        hops = request.headers.getall("X-Forwarded-For", [])
        found = client_address(peer, hops, self._trusted)
        told = {
            "peer": peer,
            "trusted": peer is not None and inside(ip_address(peer), self._trusted),
            "forwarded": len(",".join(hops).split(",")) if hops else 0,
            "address": None if found is None else str(found),
        }
        return web.json_response(told, headers={"Cache-Control": "no-store"})

    async def check(self, request: web.Request) -> None:
        """Counts the call and stores its caller in the request.

        Raises ``Unauthenticated``, ``RateLimited`` if the key has no calls left, ``Overloaded`` if nobody can
        tell, and ``ResponseError`` (400) for a repeated header.
        """
        authorization = single(request, "Authorization")
        caller = await self._keys.caller(authorization, sender(request, self._trusted))
        request[CALLER], request[TENANT] = caller, caller.tenant
        key = bearer(authorization)
        if key is not None:
            await self._count(request, digest(key))

    async def _count(self, request: web.Request, key: bytes) -> None:
        if self._quota is None:
            return
        quota = await self._quota.count(key)
        request[_QUOTA] = quota
        if not quota.admitted:
            self.beyond_rate += 1
            raise RateLimited(
                f"this API key has no calls left; the next one is allowed in {quota.more_in_s:.3g} s",
                retry_after_s=quota.more_in_s,
            )

    @contextmanager
    def _place(self, request: web.Request) -> Iterator[None]:
        if not self._creating.enter():
            request[_CLOSING] = True  # kept alive, it would hold a connection for nothing
            raise Overloaded(
                "as many calls make pictures as may hold a connection; send it again later",
                retry_after_s=_RETRY_S,
            )
        try:
            yield
        finally:
            self._creating.leave()

    async def say_quota(self, request: web.Request, response: web.StreamResponse) -> None:
        """Adds the ``RateLimit`` headers to each answer, errors included, and closes refused connections."""
        if _CLOSING in request:
            response.force_close()
            response.headers["Connection"] = "close"
        quota = request.get(_QUOTA)
        if quota is not None and self._quota is not None:
            response.headers["RateLimit-Policy"] = self._quota.policy
            response.headers["RateLimit"] = quota.field

"""What every call of ``/v1`` meets first: whose key it is, and whether that key has calls left."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from aiohttp import web

from blossom_async.errors import RateLimited
from blossom_async.gateway.callers.keys import ApiKeys, bearer, digest
from blossom_async.gateway.callers.limits import Meter, Quota
from blossom_async.gateway.http.addresses import Network, sender
from blossom_async.gateway.http.headers import single
from blossom_async.gateway.storage.records import Caller

__all__ = ["CALLER", "Admission"]

CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
"""Whose call it is, for the handlers of guarded routes."""

_QUOTA: web.RequestKey[Quota] = web.RequestKey("quota", Quota)


class Admission:
    """Guards routes. ``quota`` is the calls of each API key, None without a limit."""

    def __init__(self, keys: ApiKeys, quota: Meter | None, *, trusted_proxies: Sequence[Network]) -> None:
        self._keys = keys
        self._quota = quota
        self._trusted = tuple(trusted_proxies)

    def guarded(self, route: web.RouteDef) -> web.RouteDef:
        """The route, for callers with an API key that has calls left.

        Others get 401, or 429 with ``Retry-After``, before anything of the call is looked at.
        """

        async def admitted(request: web.Request) -> web.StreamResponse:
            await self.check(request)
            return await route.handler(request)

        return attrs.evolve(route, handler=admitted)

    async def check(self, request: web.Request) -> None:
        """Counts the call and notes whose it is.

        Raises ``Unauthenticated``, ``RateLimited`` when the key has none left, and ``ResponseError`` (400).
        """
        authorization = single(request, "Authorization")
        request[CALLER] = await self._keys.caller(authorization, sender(request, self._trusted))
        key = bearer(authorization)
        if self._quota is None or key is None:
            return
        quota = self._quota.take(digest(key))
        request[_QUOTA] = quota
        if not quota.admitted:
            raise RateLimited(
                f"this API key has no calls left; the next one is free in {quota.more_in_s:.3g} s",
                retry_after_s=quota.more_in_s,
            )

    async def say_quota(self, request: web.Request, response: web.StreamResponse) -> None:
        """A signal before each answer: what the key has left, also on errors."""
        quota = request.get(_QUOTA)
        if quota is not None and self._quota is not None:
            response.headers["RateLimit-Policy"] = self._quota.policy
            response.headers["RateLimit"] = quota.field

"""Liveness (``/healthz``), readiness (``/readyz``) and metrics (``/metrics``)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import orjson
from aiohttp import web

from blossom_async.errors import Overloaded
from blossom_async.gateway.http.metrics import Metrics

__all__ = ["Status"]

_HOLDS_S = 1.0  # a result is shared by all requests within this time
_CHECK_S = 3.0

Check = Callable[[], Awaitable[None]]


class Status:
    """Answers probes and scrapes. The gateway is ready if none of the named checks raises ``Overloaded``.

    ``admit`` decides who may read the metrics; None admits everyone.
    """

    def __init__(
        self,
        metrics: Metrics,
        checks: Mapping[str, Check],
        *,
        instance: str,
        public_url: str,
        admit: Callable[[web.Request], Awaitable[None]] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = metrics
        self.stage: str | None = "starting"
        """Why the gateway is not ready, whatever the checks say: ``starting``, ``draining`` or None."""
        self._checks = checks
        self._about = {"service": "blossom", "status": "ok", "instance": instance, "public_url": public_url}
        self._admit = admit
        self._clock = clock
        self._reasons: dict[str, str] = {}
        self._holds_until = -1.0
        self._lock = asyncio.Lock()

    def warmed_up(self) -> None:
        """Ends ``starting``; a gateway that is draining already stays so."""
        if self.stage == "starting":
            self.stage = None

    async def close_when_draining(self, _: web.Request, response: web.StreamResponse) -> None:
        """Tells clients before each answer to send their next request to another gateway, while draining."""
        if self.stage == "draining":
            response.force_close()
            response.headers["Connection"] = "close"

    def routes(self) -> list[web.RouteDef]:
        """The routes to add to the application."""
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.figures),
        ]

    async def healthz(self, _: web.Request) -> web.Response:
        """200 while the process runs, with the URL that pictures' URLs start with."""
        return _json(200, self._about)

    async def readyz(self, _: web.Request) -> web.Response:
        """200 if the gateway accepts requests; 503 with reasons while it starts, drains or cannot write."""
        reasons = {"stage": self.stage} if self.stage is not None else await self._failed()
        if reasons:
            return _json(503, {"status": "not ready", "reasons": reasons})
        return _json(200, {"status": "ready"})

    async def figures(self, request: web.Request) -> web.Response:
        """200 with the metrics, in the Prometheus text format."""
        if self._admit is not None:
            await self._admit(request)
        body, content_type = await self.metrics.text()
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    async def _failed(self) -> dict[str, str]:
        async with self._lock:
            if self._clock() >= self._holds_until:
                results = [self._result(name, check) for name, check in self._checks.items()]
                self._reasons = {name: reason for name, reason in await asyncio.gather(*results) if reason}
                self._holds_until = self._clock() + _HOLDS_S
            return self._reasons

    async def _result(self, name: str, check: Check) -> tuple[str, str]:
        try:
            async with asyncio.timeout(_CHECK_S):
                await check()
        except Overloaded as exc:
            return name, exc.detail
        except TimeoutError:
            return name, f"no answer within {_CHECK_S:g} s"
        return name, ""


def _json(status: int, body: object) -> web.Response:
    return web.Response(
        status=status,
        body=orjson.dumps(body),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )

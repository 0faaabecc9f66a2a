"""How the gateway is: alive (``/healthz``), ready (``/readyz``) and in figures (``/metrics``)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import orjson
from aiohttp import web

from blossom_async.errors import Overloaded
from blossom_async.gateway.http.metrics import Metrics

__all__ = ["Status"]

_HOLDS_S = 1.0  # one look at the disk answers everyone who asks within this time
_LOOK_S = 3.0

Check = Callable[[], Awaitable[None]]


class Status:
    """Handlers of the three. ``checks`` are what it takes to be ready, by name; each raises ``Overloaded``.

    ``admit`` decides who may read the figures; None lets everybody.
    """

    def __init__(
        self,
        metrics: Metrics,
        checks: Mapping[str, Check],
        *,
        instance: str,
        admit: Callable[[web.Request], Awaitable[None]] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = metrics
        self.stage: str | None = "starting"
        """Why it takes no requests whatever the checks say: ``starting``, ``draining``, or None."""
        self._checks = checks
        self._instance = instance
        self._admit = admit
        self._clock = clock
        self._reasons: dict[str, str] = {}
        self._holds_until = -1.0
        self._lock = asyncio.Lock()

    def warmed_up(self) -> None:
        """It is ready, unless it is being stopped already."""
        if self.stage == "starting":
            self.stage = None

    def routes(self) -> list[web.RouteDef]:
        """What the application mounts."""
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.figures),
        ]

    async def healthz(self, _: web.Request) -> web.Response:
        """200 as long as the process answers at all."""
        return _json(200, {"service": "blossom", "status": "ok", "instance": self._instance})

    async def readyz(self, _: web.Request) -> web.Response:
        """200 when requests may be sent here; 503 with the reasons while it starts, stops or cannot write."""
        reasons = {"stage": self.stage} if self.stage is not None else await self._failed()
        if reasons:
            return _json(503, {"status": "not ready", "reasons": reasons})
        return _json(200, {"status": "ready"})

    async def figures(self, request: web.Request) -> web.Response:
        """200 with the metrics, in the text format of Prometheus."""
        if self._admit is not None:
            await self._admit(request)
        body, content_type = self.metrics.text()
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    async def _failed(self) -> dict[str, str]:
        async with self._lock:
            if self._clock() >= self._holds_until:
                looks = [self._look(name, check) for name, check in self._checks.items()]
                self._reasons = {name: said for name, said in await asyncio.gather(*looks) if said}
                self._holds_until = self._clock() + _HOLDS_S
            return self._reasons

    async def _look(self, name: str, check: Check) -> tuple[str, str]:
        try:
            async with asyncio.timeout(_LOOK_S):
                await check()
        except Overloaded as exc:
            return name, exc.detail
        except TimeoutError:
            return name, f"there was no answer within {_LOOK_S:g} s"
        return name, ""


def _json(status: int, body: object) -> web.Response:
    return web.Response(
        status=status,
        body=orjson.dumps(body),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )

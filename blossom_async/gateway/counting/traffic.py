"""Adds what this process has answered to the totals by hour that all gateways keep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from blossom_async.errors import Overloaded
from blossom_async.gateway.http.logs import PROBES, is_picture
from blossom_async.gateway.http.metrics import Metrics
from blossom_async.gateway.storage.records.traffic import Answered

__all__ = ["Traffic", "hour_number"]

_EVERY_S = 60.0

Store = Callable[[int, Answered], Awaitable[None]]


class Traffic:
    """Stores once a minute what the metrics have counted since, under the hour it is then.

    Requests cost nothing more for it. What a process has not stored when it is killed is lost.
    """

    def __init__(self, metrics: Metrics, store: Store, *, now: Callable[[], datetime]) -> None:
        self._metrics = metrics
        self._store = store
        self._now = now
        self._stored: Mapping[tuple[str, int], int] = {}
        self._bytes = 0
        self._storing = asyncio.Lock()

    async def run(self) -> None:
        """Stores every minute, until it is cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Stores what has been answered so far; if the database is away, the next time does."""
        async with self._storing:
            seen, sent = self._metrics.answered(), self._metrics.bytes_sent
            new = _sum({key: n - self._stored.get(key, 0) for key, n in seen.items()}, sent - self._bytes)
            if new.requests:
                with contextlib.suppress(Overloaded):
                    await self._store(hour_number(self._now()), new)
                    self._stored, self._bytes = seen, sent


def hour_number(when: datetime) -> int:
    """The hour of an aware time, as the number of hours since 1970."""
    return int(when.timestamp()) // 3600


def _sum(answers: Mapping[tuple[str, int], int], sent: int) -> Answered:
    pictures = calls = others = refused = failed = 0
    for (route, status), number in answers.items():
        if route in PROBES:
            continue
        if is_picture(route):
            pictures += number
        elif route.startswith("/v1"):
            calls += number
        else:
            others += number
        refused += number if status == 4 else 0
        failed += number if status == 5 else 0
    return Answered(pictures=pictures, calls=calls, others=others, refused=refused, failed=failed, bytes=sent)

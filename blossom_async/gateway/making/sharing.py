"""Slots at the providers, which several gateways share: how many each may use changes with what they need."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from blossom_async.errors import Overloaded
from blossom_async.gateway.making.upstreams import Upstream, Upstreams
from blossom_async.gateway.storage.owners import Living
from blossom_async.gateway.storage.records import Records, slots

__all__ = ["Sharing"]

_EVERY_S = 1.0
_SOON_S = 0.2  # for one that has too few, or is to give some back
_HELD_S = 5.0  # without an answer for so long, others may have them

_log = logging.getLogger("blossom_async.gateway")


class Sharing:
    """This gateway's part of the slots at each provider, dealt anew every second."""

    def __init__(
        self,
        upstreams: Upstreams,
        records: Records,
        owner: Living,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstreams = upstreams
        self._records = records
        self._owner = owner
        self._clock = clock
        self._dealt_at: dict[str, float] = {}

    async def run(self) -> None:
        """Deals until it is cancelled."""
        while True:
            for upstream in self._upstreams:
                if upstream.shared and self._is_due(upstream):
                    await self.deal(upstream)
            await asyncio.sleep(_SOON_S)

    async def deal(self, upstream: Upstream) -> None:
        """Asks for this gateway's slots at the provider; while the database is away it keeps them briefly."""
        asked_at = self._clock()
        # Until the answer is here no more are used than are said to be.
        most = max(upstream.in_progress, upstream.granted)
        wanted = upstream.in_progress + upstream.waiting
        asking = partial(slots.deal, self._owner.name, upstream.name, upstream.at_once, most, wanted)
        try:
            granted = await self._records.write_apart(asking)
        except Overloaded as exc:
            if self._clock() - self._dealt_at.get(upstream.name, asked_at) < _HELD_S:
                return
            _log.warning("the slots at %s cannot be shared: %s", upstream.name, exc.code)
            granted = 0
        else:
            self._dealt_at[upstream.name] = asked_at
        upstream.grant(granted)

    def _is_due(self, upstream: Upstream) -> bool:
        short = upstream.waiting > 0 and upstream.granted < upstream.at_once
        beyond = upstream.in_progress > upstream.granted
        return short or beyond or self._clock() - self._dealt_at.get(upstream.name, -_EVERY_S) >= _EVERY_S

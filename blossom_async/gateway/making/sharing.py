"""Slots at the providers, which several gateways share: how many each may use changes with what they need."""

from __future__ import annotations

import asyncio
import logging
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

    def __init__(self, upstreams: Upstreams, records: Records, owner: Living) -> None:
        self._upstreams = upstreams
        self._records = records
        self._owner = owner
        self._dealt_at: dict[str, float] = {}
        self._ends: dict[str, asyncio.TimerHandle] = {}

    async def run(self) -> None:
        """Deals until it is cancelled."""
        try:
            while True:
                for upstream in self._upstreams:
                    if upstream.shared and self._is_due(upstream):
                        await self.deal(upstream)
                await asyncio.sleep(_SOON_S)
        finally:  # this gateway lives on until the calls under way have ended
            for end in self._ends.values():
                end.cancel()

    async def deal(self, upstream: Upstream) -> None:
        """Asks for this gateway's slots at the provider; while the database is away it keeps them briefly."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        # Until the answer is here no more are used than are said to be.
        most = max(upstream.in_progress, upstream.granted)
        wanted = upstream.in_progress + upstream.waiting
        asking = partial(slots.deal, self._owner.name, upstream.name, upstream.at_once, most, wanted)
        try:
            granted = await self._records.write_apart(asking)
        except Overloaded:
            return
        if upstream.name in self._ends:
            self._ends[upstream.name].cancel()
        # Also if the next answer is not an error, but late.
        self._ends[upstream.name] = loop.call_at(asked_at + _HELD_S, _end, upstream)
        self._dealt_at[upstream.name] = asked_at
        upstream.grant(granted)

    def _is_due(self, upstream: Upstream) -> bool:
        short = upstream.waiting > 0 and upstream.granted < upstream.at_once
        beyond = upstream.in_progress > upstream.granted
        dealt_at = self._dealt_at.get(upstream.name, -_EVERY_S)
        return short or beyond or asyncio.get_running_loop().time() - dealt_at >= _EVERY_S


def _end(upstream: Upstream) -> None:
    _log.warning("the slots at %s cannot be shared: the database does not answer", upstream.name)
    upstream.grant(0)

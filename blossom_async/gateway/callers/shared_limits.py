"""Rate limits of API keys that hold for all gateways on a server's database together."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import attrs
from cachetools import LRUCache

from blossom_async.batch import RateLimit
from blossom_async.gateway.callers.limits import Quota, policy, quota
from blossom_async.gateway.storage.records import Records, quotas
from blossom_async.gateway.storage.single_flight import SingleFlight

__all__ = ["SharedMeter"]

_KEYS = 10_000
_HOLD_S = 0.5  # for how long calls may be set aside
_SHARE = 20  # at most one in so many is set aside at once


@attrs.define(eq=False)
class _Block:
    """Calls set aside for this process, of which ``left`` are not made; with none, when to ask again."""

    since: float
    until: float
    owed_s: float
    granted: int
    left: int
    made: int = 0


class SharedMeter:
    """As ``Meter``, with what each key has left in the database.

    Calls are taken a block at a time, as many as the key has made of late in half a second, so a busy key
    does not cost a transaction a call. What is set aside and not needed is given back with the next question.
    ``count`` raises as ``Records``: without the database nobody knows what is left.
    """

    def __init__(
        self, limit: RateLimit, records: Records, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._records = records
        self._clock = clock
        self._blocks: LRUCache[bytes, _Block] = LRUCache(_KEYS)
        self._asking: SingleFlight[bytes, None] = SingleFlight()

    @property
    def policy(self) -> str:
        """As ``Meter.policy``."""
        return policy(self._limit.amount, self._limit.per_s)

    async def count(self, name: bytes) -> Quota:
        """Counts a call unless it is over the rate."""
        asked = False
        while True:
            now = self._clock()
            block = self._blocks.get(name)
            # The answer to its own question decides, however late it is read: asking until one is fresh may
            # never end. If others have used it up meanwhile, each of them has got on.
            if block is not None and (now < block.until or (asked and (block.left or not block.granted))):
                owed_s = max(0.0, block.owed_s - (now - block.since))
                if not block.left:
                    return attrs.evolve(self._quota(owed_s), admitted=False)
                block.left -= 1
                block.made += 1
                if not block.left:
                    block.until = now  # the next call asks for more
                unused_s = block.left * self._limit.per_s / self._limit.amount
                return attrs.evolve(self._quota(max(0.0, owed_s - unused_s)), admitted=True)
            await self._asking.run(name, partial(self._ask, name))
            asked = True

    async def _ask(self, name: bytes) -> None:
        block, asked = self._blocks.get(name), self._clock()
        unused, want = 0, 1
        if block is not None:
            idle_s = max(0.0, asked - block.since - _HOLD_S)
            replenished = int(idle_s * self._limit.amount / self._limit.per_s)  # without being given back
            unused, block.left = max(0, block.left - replenished), 0
            usual = block.made / max(asked - block.since, 0.01) * _HOLD_S
            want = max(1, min(int(usual), self._limit.amount // _SHARE))
        taking = partial(quotas.take, name, self._limit, want, unused)
        granted, owed_s = await self._records.write_apart(taking)
        now = self._clock()
        hold_s = _HOLD_S if granted else self._quota(owed_s).more_in_s
        self._blocks[name] = _Block(now, now + hold_s, owed_s, granted, granted)

    def _quota(self, owed_s: float) -> Quota:
        return quota(self._limit.amount, self._limit.per_s, owed_s)

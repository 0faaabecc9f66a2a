"""Rate limits: calls of a key, invalid keys of an address. Decides only; never waits."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Protocol

import attrs
from cachetools import LRUCache

__all__ = ["Counting", "Meter", "Quota", "policy", "quota"]


@attrs.frozen
class Quota:
    """What is left of a rate: ``remaining`` calls now, one more in ``more_in_s`` seconds.

    ``admitted`` is False for a call over the rate; it was not counted.
    """

    admitted: bool
    remaining: int
    more_in_s: float

    @property
    def field(self) -> str:
        """The field ``RateLimit`` of draft-ietf-httpapi-ratelimit-headers-10."""
        return f'"default";r={self.remaining};t={math.ceil(self.more_in_s)}'


class Counting(Protocol):
    """Counts the calls of API keys."""

    @property
    def policy(self) -> str:
        """The field ``RateLimit-Policy`` of draft-ietf-httpapi-ratelimit-headers-10."""

    async def count(self, name: bytes) -> Quota:
        """Counts a call of this name unless it is over the rate."""


class Meter:
    """A rate limit per name: ``amount`` calls at once, replenished evenly over ``per_s`` seconds.

    At most ``amount`` calls in any window of ``per_s`` seconds are never refused. The generic cell rate
    algorithm keeps one number per name: when its quota is full again. Of more than ``names`` names, the
    least recently used are evicted.
    """

    def __init__(self, amount: int, per_s: float, *, clock: Callable[[], float], names: int = 20_000) -> None:
        self._amount = amount
        self._per_s = per_s
        self._step = per_s / amount
        self._clock = clock
        self._full_at: LRUCache[Hashable, float] = LRUCache(names)

    @property
    def policy(self) -> str:
        """The field ``RateLimit-Policy`` of draft-ietf-httpapi-ratelimit-headers-10."""
        return policy(self._amount, self._per_s)

    def look(self, name: Hashable) -> Quota:
        """What the name has left, without counting a call."""
        return self._quota(max(0.0, self._full_at.get(name, 0.0) - self._clock()))

    def take(self, name: Hashable) -> Quota:
        """Counts a call unless it is over the rate."""
        now = self._clock()
        owed = max(0.0, self._full_at.get(name, 0.0) - now)
        if owed + self._step > self._per_s * (1 + 1e-9):
            return self._quota(owed)
        self._full_at[name] = now + owed + self._step
        return attrs.evolve(self._quota(owed + self._step), admitted=True)

    async def count(self, name: Hashable) -> Quota:
        """As ``take``."""
        return self.take(name)

    def _quota(self, owed: float) -> Quota:
        return quota(self._amount, self._per_s, owed)


def policy(amount: int, per_s: float) -> str:
    """The field ``RateLimit-Policy`` of draft-ietf-httpapi-ratelimit-headers-10."""
    return f'"default";q={amount};w={math.ceil(per_s)}'


def quota(amount: int, per_s: float, owed_s: float) -> Quota:
    """What is left of ``amount`` calls when all of them are left in ``owed_s`` seconds."""
    step = per_s / amount
    free = (per_s - owed_s) / step
    remaining = int(free + 1e-6)
    return Quota(remaining >= 1, remaining, (remaining + 1 - free) * step if owed_s else 0.0)

"""Servers whose rate limit nobody knows, on a virtual clock, and a batch that has to find it."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from typing import Protocol

import attrs

from blossom_async.batch import Gate, RetryPolicy, stream
from blossom_async.errors import RateLimited
from tests.virtual_clock import on_virtual_clock


class Limit(Protocol):
    """A server's way of counting."""

    def refuses_for(self, now: float) -> float | None:
        """Seconds until it takes the request that arrives now; None if it takes it."""


class Sliding:
    """So many in the last ``per_s`` seconds."""

    def __init__(self, amount: int, per_s: float) -> None:
        self._amount, self._per_s = amount, per_s
        self._taken = deque[float]()

    def taken(self, now: float) -> int:
        """How many it has taken in the window before now."""
        while self._taken and self._taken[0] <= now - self._per_s:
            self._taken.popleft()
        return len(self._taken)

    def free_in_s(self, now: float) -> float:
        """Seconds until the first of these leaves the window."""
        return self._taken[0] + self._per_s - now if self.taken(now) else 0.0

    def refuses_for(self, now: float) -> float | None:
        if self.taken(now) == self._amount:
            return self._taken[0] + self._per_s - now
        self._taken.append(now)
        return None


class Fixed:
    """So many in each window of its own clock, which is ``into_s`` seconds old at the beginning."""

    def __init__(self, amount: int, per_s: float, into_s: float = 0.0) -> None:
        self._amount, self._per_s, self._into_s = amount, per_s, into_s
        self._window, self._taken = 0, 0

    def refuses_for(self, now: float) -> float | None:
        window = math.floor((now + self._into_s) / self._per_s)
        if window != self._window:
            self._window, self._taken = window, 0
        if self._taken == self._amount:
            return (window + 1) * self._per_s - self._into_s - now
        self._taken += 1
        return None


class Bucket:
    """A token bucket."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._tokens, self._at = float(burst), 0.0

    def refuses_for(self, now: float) -> float | None:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._per_s
        self._tokens -= 1
        return None


class Changing:
    """One limit after the other, each for ``every_s`` seconds."""

    def __init__(self, every_s: float, *limits: Limit) -> None:
        self._every_s, self._limits = every_s, limits

    def refuses_for(self, now: float) -> float | None:
        return self._limits[min(int(now / self._every_s), len(self._limits) - 1)].refuses_for(now)


@attrs.define
class Seen:
    """What a server has seen of a batch."""

    done: int = 0
    asked: list[float] = attrs.field(factory=list)
    refused: list[float] = attrs.field(factory=list)

    def refused_after(self, seconds: float) -> float:
        """The share of the requests after the first ``seconds`` that was refused."""
        return sum(at > seconds for at in self.refused) / sum(at > seconds for at in self.asked)


def batch(limit: Limit, seconds: float, seed: int = 1) -> Seen:
    """What a server with that limit sees of a batch without end, after so many seconds.

    It refuses with ``Retry-After`` in whole seconds. ``seed`` is that of its delays.
    """
    return on_virtual_clock(_batch(limit, seconds, seed))


async def _batch(limit: Limit, seconds: float, seed: int) -> Seen:
    seen, chance = Seen(), random.Random(seed)  # noqa: S311 - reproducible, not secret
    loop = asyncio.get_running_loop()

    async def attempt(_: int) -> None:
        await asyncio.sleep(chance.uniform(0, 0.005))
        seen.asked.append(loop.time())
        wait_s = limit.refuses_for(loop.time())
        if wait_s is not None:
            seen.refused.append(loop.time())
            await asyncio.sleep(chance.uniform(0.002, 0.01))
            raise RateLimited("too many", retry_after_s=math.ceil(wait_s))
        await asyncio.sleep(chance.uniform(0.05, 0.15))
        seen.done += 1

    retry = RetryPolicy(max_attempts=100)
    async with stream(
        attempt, iter(range(10**9)), gates=[Gate()], retry=retry, deadline_s=seconds
    ) as outcomes:
        async for _ in outcomes:
            pass
    return seen

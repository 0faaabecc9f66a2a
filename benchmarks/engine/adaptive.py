"""A server whose limit nobody knows and that changes it twice: what is done, against one who knows it.

First it limits how many requests are under way, then how many come in a second. The oracle is a fixed limit
that is changed by hand in the instant the server's changes. Rivals have no way to adapt; they are shown at
the limits a careful and a bold user would guess.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque

from measuring import save

from blossom_async.batch import (
    Fail,
    Gate,
    RateLimit,
    Retry,
    RetryPolicy,
    Slots,
    Verdict,
    classify,
    stream,
)
from blossom_async.errors import Overloaded, RateLimited

PHASES = (40, 15, 70)  # what the server takes at once
PHASE_S = 15.0
CAP = 128
RATES = (100, 40, 70)  # what the server takes in any second
RATE_PHASE_S = 30.0


class Server:
    """Serves in 50 to 150 ms; what it cannot take it refuses after 5 ms."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._started = time.perf_counter()
        self._busy = 0
        self.done = 0
        self.asked: list[float] = []
        self.refused: list[float] = []

    @property
    def age_s(self) -> float:
        return time.perf_counter() - self._started

    async def serve(self, _: int) -> None:
        now = self.age_s
        self.asked.append(now)
        if self._busy >= PHASES[min(int(now / PHASE_S), len(PHASES) - 1)]:
            await asyncio.sleep(0.005)
            self.refused.append(now)
            raise Overloaded("busy")
        self._busy += 1
        try:
            await asyncio.sleep(self._random.uniform(0.05, 0.15))
        finally:
            self._busy -= 1
        self.done += 1


class KnowingSlots(Slots):
    """The oracle: the server's own limit, changed when it changes it."""

    def __init__(self, server: Server) -> None:
        super().__init__(CAP)
        for phase, limit in enumerate(PHASES):
            asyncio.get_running_loop().call_later(
                phase * PHASE_S - server.age_s if phase else 0, self._know, limit
            )

    def _know(self, limit: int) -> None:
        self.allowed = limit
        self._hand_out()

    def overloaded(self, cuts: int) -> None:
        """Nothing to learn."""

    def succeeded(self) -> None:
        """Nothing to learn."""


def not_adapting(error: Exception) -> Verdict:
    return Retry() if isinstance(error, Overloaded | RateLimited) else Fail()


async def measure(engine: str, seed: int) -> dict[str, float]:
    server = Server(seed)
    fixed = {"careful guess, 15 at once": 15, "bold guess, 128 at once": 128}.get(engine)
    slots = KnowingSlots(server) if engine == "oracle" else Slots(fixed or CAP)
    options = {"classify": not_adapting} if fixed else {}
    retry = RetryPolicy(max_attempts=100, budget=10)
    seconds = PHASE_S * len(PHASES)
    async with stream(
        server.serve,
        iter(range(10**9)),
        slots=slots,
        max_concurrency=CAP,
        retry=retry,
        deadline_s=seconds,
        **options,  # type: ignore[arg-type]
    ) as outcomes:
        async for _ in outcomes:
            pass
    late = sum(at > 5 for at in server.refused)
    return {"done": server.done, "refused_after_5_s": late / sum(at > 5 for at in server.asked)}


class RateServer(Server):
    """Refuses what exceeds so many in the last second, with ``Retry-After: 1``."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._taken: deque[float] = deque()

    async def serve(self, _: int) -> None:
        now = self.age_s
        self.asked.append(now)
        while self._taken and self._taken[0] <= now - 1:
            self._taken.popleft()
        if len(self._taken) >= RATES[min(int(now / RATE_PHASE_S), len(RATES) - 1)]:
            await asyncio.sleep(0.005)
            self.refused.append(now)
            raise RateLimited("too many", retry_after_s=1)
        self._taken.append(now)
        await asyncio.sleep(self._random.uniform(0.05, 0.15))
        self.done += 1


def known_rates() -> Gate:
    """The oracle: the server's own limit, changed when it changes it."""
    gate = Gate(RateLimit(RATES[0]))
    for phase, rate in enumerate(RATES[1:], start=1):
        asyncio.get_running_loop().call_later(phase * RATE_PHASE_S, gate.change, RateLimit(rate))
    return gate


async def measure_rate(engine: str, seed: int) -> dict[str, float]:
    server = RateServer(seed)
    guess = {"careful guess, 40/s": 40, "bold guess, 100/s": 100}.get(engine)
    gate = known_rates() if engine == "oracle" else Gate(*([RateLimit(guess)] if guess else []))
    async with stream(
        server.serve,
        iter(range(10**9)),
        gates=[gate],
        max_concurrency=CAP,
        retry=RetryPolicy(max_attempts=100),
        deadline_s=RATE_PHASE_S * len(RATES),
        classify=not_adapting if guess else classify,
    ) as outcomes:
        async for _ in outcomes:
            pass
    late = sum(at > 1 for at in server.refused)
    return {"done": server.done, "refused_after_1_s": late / sum(at > 1 for at in server.asked)}


async def compare_rates() -> dict[str, dict[str, float]]:
    """All at the same time, each at a server of its own: they do little."""
    engines = ("oracle", "blossom_async", "careful guess, 40/s", "bold guess, 100/s")
    found = await asyncio.gather(*(measure_rate(engine, seed=3) for engine in engines))
    numbers = dict(zip(engines, found, strict=True))
    print(f"{'engine':<28} {'done':>7} {'of oracle':>10} {'refused after 1 s':>18}")
    for engine, n in numbers.items():
        n["of_oracle"] = n["done"] / numbers["oracle"]["done"]
        print(f"{engine:<28} {n['done']:7.0f} {n['of_oracle']:10.1%} {n['refused_after_1_s']:18.2%}")
    return numbers


async def main() -> None:
    numbers: dict[str, dict[str, float]] = {}
    print(f"{'engine':<28} {'done':>7} {'of oracle':>10} {'refused after 5 s':>18}")
    for engine in ("oracle", "blossom_async", "careful guess, 15 at once", "bold guess, 128 at once"):
        numbers[engine] = await measure(engine, seed=3)
        numbers[engine]["of_oracle"] = numbers[engine]["done"] / numbers["oracle"]["done"]
        n = numbers[engine]
        print(f"{engine:<28} {n['done']:7.0f} {n['of_oracle']:10.1%} {n['refused_after_5_s']:18.2%}")
    load = {"server_takes": PHASES, "phase_s": PHASE_S, "cap": CAP}
    save("adaptive", load, numbers, ["blossom-async"])
    load = {"server_takes_per_s": RATES, "phase_s": RATE_PHASE_S, "cap": CAP}
    save("adaptive_rate", load, await compare_rates(), ["blossom-async"])


if __name__ == "__main__":
    asyncio.run(main())

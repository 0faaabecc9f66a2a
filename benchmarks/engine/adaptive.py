"""A server whose limit nobody knows and that changes it twice: what is done, against one who knows it.

The oracle is a fixed limit that is changed by hand in the instant the server's changes. Rivals have no way to
adapt; they are shown at the limits a careful and a bold user would guess.
"""

from __future__ import annotations

import asyncio
import random
import time

from measuring import save

from blossom_async.batch import Fail, Retry, RetryPolicy, Slots, Verdict, stream
from blossom_async.errors import Overloaded

PHASES = (40, 15, 70)  # what the server takes at once
PHASE_S = 15.0
CAP = 128


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
    return Retry() if isinstance(error, Overloaded) else Fail()


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


async def main() -> None:
    numbers: dict[str, dict[str, float]] = {}
    print(f"{'engine':<28} {'done':>7} {'of oracle':>10} {'refused after 5 s':>18}")
    for engine in ("oracle", "blossom_async", "careful guess, 15 at once", "bold guess, 128 at once"):
        numbers[engine] = await measure(engine, seed=3)
        numbers[engine]["of_oracle"] = numbers[engine]["done"] / numbers["oracle"]["done"]
        n = numbers[engine]
        print(f"{engine:<28} {n['done']:7.0f} {n['of_oracle']:10.1%} {n['refused_after_5_s']:18.2%}")
    save("adaptive", {"server_takes": PHASES, "phase_s": PHASE_S, "cap": CAP}, numbers, ["blossom-async"])


if __name__ == "__main__":
    asyncio.run(main())

"""How close to the rate asked for, and whether any window holds more: real clock, attempts of 20 ms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import aiometer
from aiolimiter import AsyncLimiter
from langchain_core.rate_limiters import InMemoryRateLimiter
from measuring import save

from blossom_async.batch import run

RATES = (10, 100, 1000, 5000)
AT_ONCE = 256


async def attempt(starts: list[float], _: int) -> None:
    starts.append(time.perf_counter())
    await asyncio.sleep(0.02)


async def ours(rate: int, count: int) -> list[float]:
    starts: list[float] = []
    await run(partial(attempt, starts), range(count), rate_limit=rate, max_concurrency=AT_ONCE)
    return starts


async def with_aiometer(rate: int, count: int) -> list[float]:
    starts: list[float] = []
    calls = [partial(attempt, starts, n) for n in range(count)]
    await aiometer.run_all(calls, max_per_second=rate, max_at_once=AT_ONCE)
    return starts


async def with_workers(limiter: Callable[[], Awaitable[object]], count: int) -> list[float]:
    starts: list[float] = []
    items = iter(range(count))

    async def worker() -> None:
        for item in items:
            await limiter()
            await attempt(starts, item)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return starts


async def with_aiolimiter(rate: int, count: int) -> list[float]:
    return await with_workers(AsyncLimiter(rate, 1).acquire, count)


async def with_langchain(rate: int, count: int) -> list[float]:
    return await with_workers(InMemoryRateLimiter(requests_per_second=rate).aacquire, min(count, 50))


ENGINES = {
    "blossom_async": ours,
    "aiometer": with_aiometer,
    "aiolimiter + workers": with_aiolimiter,
    "LangChain limiter + workers": with_langchain,
}


def worst_second(starts: list[float]) -> int:
    most = first = 0
    for last, start in enumerate(starts):
        while start - starts[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


def main() -> None:
    numbers: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'limiter':<28} {'asked/s':>8} {'had/s':>8} {'used':>7} {'most in 1 s':>12}")
    for name, engine in ENGINES.items():
        numbers[name] = {}
        for rate in RATES:
            cpu = time.process_time()
            starts = sorted(asyncio.run(engine(rate, rate * 5)))
            cpu = time.process_time() - cpu
            had = (len(starts) - 1) / (starts[-1] - starts[0])
            most = worst_second(starts)
            numbers[name][str(rate)] = {
                "per_second": had,
                "used": had / rate,
                "most_in_a_second": most,
                "cpu_us_per_item": cpu / len(starts) * 1e6,
            }
            over = "  over" if most > rate else ""
            print(f"{name:<28} {rate:8} {had:8.1f} {had / rate:7.1%} {most:12}{over}")
    save(
        "rate",
        {"seconds": 5, "at_once": AT_ONCE, "attempt_s": 0.02},
        numbers,
        ["blossom-async", "aiolimiter", "aiometer", "langchain-core"],
    )


if __name__ == "__main__":
    main()

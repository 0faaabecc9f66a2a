"""How much memory grows over a long run: 10,000 and 1,000,000 items from a generator, results dropped."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import aiometer
from measuring import save

from blossom_async.batch import stream

AT_ONCE = 100
COUNTS = (10_000, 1_000_000)


def prompts(count: int) -> Iterator[str]:
    return (f"a red fox in the snow, number {n}" for n in range(count))


async def attempt(item: str) -> str:
    await asyncio.sleep(0)
    return item


async def ours(count: int) -> None:
    async with stream(attempt, prompts(count), max_concurrency=AT_ONCE) as outcomes:
        async for _ in outcomes:
            pass


async def ours_ordered(count: int) -> None:
    async with stream(attempt, prompts(count), max_concurrency=AT_ONCE, ordered=True) as outcomes:
        async for _ in outcomes:
            pass


async def gather_and_semaphore(count: int) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(item: str) -> str:
        async with slots:
            return await attempt(item)

    await asyncio.gather(*(one(item) for item in prompts(count)))


async def with_aiometer(count: int) -> None:
    calls = [partial(attempt, item) for item in prompts(count)]
    async with aiometer.amap(lambda call: call(), calls, max_at_once=AT_ONCE) as results:
        async for _ in results:
            pass


ENGINES: dict[str, Callable[[int], Awaitable[None]]] = {
    "blossom_async stream": ours,
    "blossom_async stream, ordered": ours_ordered,
    "asyncio.gather + Semaphore": gather_and_semaphore,
    "aiometer.amap": with_aiometer,
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, count: int) -> None:
    asyncio.run(ENGINES[name](100))  # type: ignore[arg-type]
    before = peak_mib()
    asyncio.run(ENGINES[name](count))  # type: ignore[arg-type]
    print(json.dumps(peak_mib() - before))


def main() -> None:
    if len(sys.argv) == 3:
        measure(sys.argv[1], int(sys.argv[2]))
        return
    numbers: dict[str, dict[str, float]] = {}
    for name in ENGINES:
        numbers[name] = {}
        for count in COUNTS:  # each in a process of its own: the peak never goes down
            done = subprocess.run(
                [sys.executable, __file__, name, str(count)], check=True, capture_output=True, text=True
            )
            numbers[name][str(count)] = json.loads(done.stdout)
        grown = ", ".join(f"{int(count):>9,}: {mib:8.1f} MiB" for count, mib in numbers[name].items())
        print(f"{name:<32} {grown}")
    save("memory", {"at_once": AT_ONCE, "unit": "MiB grown"}, numbers, ["blossom-async", "aiometer"])


if __name__ == "__main__":
    main()

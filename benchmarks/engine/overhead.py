"""What an engine costs for each item: attempts that give way once and do nothing else, 100 at a time.

Nothing ever waits, so it is measured in processor time, which other work on the machine disturbs least.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import aiometer
import anyio
from langchain_core.runnables import RunnableLambda
from measuring import save, spread

from blossom_async.batch import RetryPolicy, run, stream

AT_ONCE = 100
ROUNDS = 7


async def attempt(item: int) -> int:
    await asyncio.sleep(0)
    return item


async def bare_workers(count: int) -> list[Any]:
    items = iter(range(count))
    results: list[Any] = [None] * count

    async def worker() -> None:
        for item in items:
            results[item] = await attempt(item)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return results


async def ours(count: int) -> list[Any]:
    return list(await run(attempt, range(count), max_concurrency=AT_ONCE))


async def ours_streamed(count: int) -> list[Any]:
    async with stream(attempt, range(count), max_concurrency=AT_ONCE, ordered=True) as outcomes:
        return [outcome.value async for outcome in outcomes]


async def ours_with_everything(count: int) -> list[Any]:
    return list(
        await run(
            attempt,
            range(count),
            max_concurrency=AT_ONCE,
            retry=RetryPolicy(),
            timeout_s=60,
            deadline_s=600,
            on_progress=lambda progress: None,
            key=str,
            dedup=True,
            cost=lambda item: 1,
            max_cost=10**9,
        )
    )


async def gather_and_semaphore(count: int) -> list[Any]:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(item: int) -> int:
        async with slots:
            return await attempt(item)

    return await asyncio.gather(*(one(item) for item in range(count)))


async def anyio_group_and_semaphore(count: int) -> list[Any]:
    slots = anyio.Semaphore(AT_ONCE)
    results: list[Any] = [None] * count

    async def one(item: int) -> None:
        async with slots:
            results[item] = await attempt(item)

    async with anyio.create_task_group() as group:
        for item in range(count):
            group.start_soon(one, item)
    return results


async def with_aiometer(count: int) -> list[Any]:
    return await aiometer.run_all([partial(attempt, item) for item in range(count)], max_at_once=AT_ONCE)


async def langchain_abatch(count: int) -> list[Any]:
    return await RunnableLambda(attempt).abatch(list(range(count)), config={"max_concurrency": AT_ONCE})


ENGINES: list[tuple[str, Callable[[int], Awaitable[list[Any]]], int]] = [
    ("bare workers", bare_workers, 100_000),
    ("blossom_async run", ours, 100_000),
    ("blossom_async stream, ordered", ours_streamed, 100_000),
    ("blossom_async run, every feature but the journal", ours_with_everything, 20_000),
    ("asyncio.gather + Semaphore", gather_and_semaphore, 20_000),
    ("anyio task group + Semaphore", anyio_group_and_semaphore, 20_000),
    ("aiometer.run_all", with_aiometer, 10_000),
    ("LangChain abatch", langchain_abatch, 3_000),
]


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in ENGINES}
    gc.freeze()  # what the rivals' imports left is no part of any engine
    for _ in range(ROUNDS):  # in turns, so that a busy moment of the machine hits all alike
        for name, engine, count in ENGINES:
            gc.collect()
            started = time.process_time()
            results = asyncio.run(engine(count))  # type: ignore[arg-type]
            seconds[name].append((time.process_time() - started) / count * 1e6)
            assert results == list(range(count))
    bare = min(seconds["bare workers"])
    print(f"{'engine':<50} {'us/item':>8} {'x bare':>7}   best of {ROUNDS}, worst")
    for name, values in seconds.items():
        print(f"{name:<50} {min(values):8.2f} {min(values) / bare:7.1f}   {max(values):.2f}")
    numbers = {name: {**spread(v), "x_bare": min(v) / bare, "raw": v} for name, v in seconds.items()}
    load = {
        "at_once": AT_ONCE,
        "attempt": "asyncio.sleep(0)",
        "unit": "us of CPU per item",
        "items": {n: c for n, _, c in ENGINES},
    }
    save("overhead", load, numbers, ["blossom-async", "anyio", "aiometer", "langchain-core"])


if __name__ == "__main__":
    main()

"""Throughput and latency of a gateway, with a histogram in the terminal.

Run: python examples/benchmark.py --requests 200 --at-once 16
Without BLOSSOM_BASE_URL it measures the embedded gateway. Latency is from the start of a call to its URL,
waiting for a turn on this side not included.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time

from blossom_async import BlossomClient
from blossom_async.batch import run

WIDTH = 50


async def measure(requests: int, at_once: int, side: int) -> tuple[list[float], float, int]:
    """Latencies of the successes in seconds, seconds in all, and failures."""
    async with BlossomClient(max_concurrency=at_once) as client:

        async def timed(prompt: str) -> float:
            started = time.perf_counter()
            await client.image.generate_url(prompt, width=side, height=side)
            return time.perf_counter() - started

        prompts = [f"mountains and a lake, view {number}" for number in range(requests)]
        result = await run(timed, prompts, max_concurrency=at_once)
    for failure in result.failures[:3]:
        print(f"failed: {failure.error}")
    return sorted(filter(None, result)), result.elapsed_s, len(result.failures)


def histogram(latencies: list[float], rows: int = 12) -> str:
    """Bars over logarithmic classes, so that a long tail shows."""
    low, high = math.log(latencies[0]), math.log(latencies[-1])
    step = (high - low) / rows or 1.0
    counts = [0] * rows
    for latency in latencies:
        counts[min(rows - 1, int((math.log(latency) - low) / step))] += 1
    lines = []
    for row, count in enumerate(counts):
        start = math.exp(low + row * step) * 1000
        lines.append(f"{start:9.1f} ms | {'#' * round(WIDTH * count / max(counts))} {count or ''}".rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--side", type=int, default=256, help="pixels")
    given = parser.parse_args()
    latencies, elapsed_s, failed = asyncio.run(measure(given.requests, given.at_once, given.side))
    if not latencies:
        raise SystemExit("no call succeeded")
    print(histogram(latencies))
    for share in (50, 90, 99):
        at = latencies[min(len(latencies) - 1, len(latencies) * share // 100)]
        print(f"p{share:<3} {at * 1000:8.1f} ms")
    pace = len(latencies) / elapsed_s
    print(f"{len(latencies)} pictures in {elapsed_s:.1f} s: {pace:.1f} per second, {failed} failed")


if __name__ == "__main__":
    main()

"""What the journal costs: throughput of a service that gives 2,000 items a second, and resuming 100,000."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

from measuring import save, spread

from blossom_async.batch import run

ROUNDS = 5
AT_ONCE = 64
PER_SECOND = 2000
VALUE = {"url": "https://images.example.com/image/" + "a" * 22, "prompt": "x" * 700, "width": 1024, "seed": 7}


async def attempt(item: str) -> dict[str, object]:
    await asyncio.sleep(AT_ONCE / PER_SECOND)
    return VALUE


async def at_once(item: str) -> dict[str, object]:
    return VALUE


async def timed(items: list[str], journal: Path | None, call=attempt) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    started, cpu = time.perf_counter(), time.process_time()
    result = await run(call, items, max_concurrency=AT_ONCE, journal=journal)
    assert None not in result
    return time.perf_counter() - started, time.process_time() - cpu


def fdatasync_us(folder: Path) -> float:
    """What one commit of 1 kB costs on this disk."""
    with (folder / "probe").open("wb", buffering=0) as file:
        started = time.perf_counter()
        for _ in range(200):
            file.write(b"x" * 1000)
            os.fdatasync(file.fileno())
        return (time.perf_counter() - started) / 200 * 1e6


def main() -> None:
    items = [f"prompt {n}" for n in range(10_000)]
    many = [f"prompt {n}" for n in range(100_000)]
    without, with_it, cpu_us = [], [], []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        sync_us = fdatasync_us(Path(folder))
        for number in range(ROUNDS):
            plain, plain_cpu = asyncio.run(timed(items, None))
            journalled, cpu = asyncio.run(timed(items, Path(folder) / f"{number}.jsonl"))
            without.append(len(items) / plain)
            with_it.append(len(items) / journalled)
            cpu_us.append((cpu - plain_cpu) / len(items) * 1e6)
        path = Path(folder) / "many.jsonl"
        fill_s, _ = asyncio.run(timed(many, path, at_once))
        size = path.stat().st_size
        resume_s = [asyncio.run(timed(many, path, at_once))[0] for _ in range(ROUNDS)]
        assert path.stat().st_size == size
    cost = 1 - max(with_it) / max(without)
    print(f"without {max(without):.0f} items/s, with journal {max(with_it):.0f} items/s: {cost:.1%} less")
    print(f"CPU {min(cpu_us):.1f} us an item (worst {max(cpu_us):.1f}); one fdatasync alone {sync_us:.0f} us")
    best, worst = min(resume_s), max(resume_s)
    print(f"100,000 at full speed: written in {fill_s:.1f} s, resumed in {best:.2f} s (worst {worst:.2f})")
    save(
        "journal",
        {
            "items": len(items),
            "at_once": AT_ONCE,
            "per_second": PER_SECOND,
            "record_bytes": size // len(many),
        },
        {
            "without_per_s": spread(without),
            "with_per_s": spread(with_it),
            "cost": cost,
            "cpu_us_per_item": spread(cpu_us),
            "fdatasync_us": sync_us,
            "write_100k_s": fill_s,
            "resume_100k_s": spread(resume_s),
        },
        ["blossom-async", "orjson"],
    )


if __name__ == "__main__":
    main()

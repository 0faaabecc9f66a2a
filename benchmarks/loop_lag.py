"""How long the event loop waits while eight pictures are drawn and encoded, by format.

Run: uv run --extra all python benchmarks/loop_lag.py
A ticker asks to be called every millisecond; how late it is called is the lag. The pictures are made by a
real gateway in the same loop (1024x1024, eight at a time); the first of each format warms up, uncounted.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import tempfile
from pathlib import Path

from blossom_async import BlossomClient

HERE = Path(__file__).parent
PROMPTS = [
    "mountains and a lake at dawn", "sunset over ocean", "forest in autumn", "city skyline at night",
    "meadow of flowers in spring", "desert under the stars", "galaxy and planets", "the idea of freedom",
]  # fmt: skip
ROUNDS = 5


async def lag_during(work: asyncio.Future[object]) -> list[float]:
    loop = asyncio.get_running_loop()
    lags = []
    while not work.done():
        due = loop.time() + 0.001
        await asyncio.sleep(0.001)
        lags.append(loop.time() - due)
    await work
    return lags


async def main() -> None:
    report: dict[str, dict[str, float]] = {}
    async with BlossomClient("embedded", max_concurrency=8) as client:
        for picture_format in ("jpg", "png", "webp"):

            async def eight(picture_format: str = picture_format) -> object:
                return await client.image.generate_urls_batch(PROMPTS, format=picture_format)

            await eight()
            lags: list[float] = []
            for _ in range(ROUNDS):
                lags += await lag_during(asyncio.ensure_future(eight()))
            lags.sort()
            report[picture_format] = {
                "max_ms": lags[-1] * 1000,
                "p99_ms": lags[int(len(lags) * 0.99)] * 1000,
                "p50_ms": lags[len(lags) // 2] * 1000,
                "ticks": len(lags),
            }
    print("| format | ticks | lag p50 | p99 | max |")
    print("|---|---|---|---|---|")
    for picture_format, row in report.items():
        print(
            f"| {picture_format} | {row['ticks']:.0f} | {row['p50_ms']:.1f} ms "
            f"| {row['p99_ms']:.1f} ms | {row['max_ms']:.1f} ms |"
        )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    results = {"machine": machine, "rounds": ROUNDS, "lag": report}
    (HERE / "results" / "loop_lag.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BLOSSOM_DATA_DIR"] = folder
        os.environ["BLOSSOM_PORT"] = "0"
        asyncio.run(main())

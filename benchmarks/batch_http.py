"""Client cost of one HTTP call in a batch: ours, bare aiohttp workers, aiometer, httpx, the OpenAI SDK.

Run: uv run --extra all --group bench python benchmarks/batch_http.py
Each rival sends the same prompts to a constant-answer server in another process, 64 at once, and ends with
a list of URLs. Each runs in a process of its own, which imports nothing of the others, after 200 calls that
warm it up. Rounds are interleaved, so that a disturbance of the machine hits all alike.
"""

from __future__ import annotations

import asyncio
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import constant_server

HERE = Path(__file__).parent
CALLS = 4000
AT_ONCE = 64
ROUNDS = 7
WARM_UP = 200

Rival = Callable[[str, list[str]], Awaitable[list[str]]]


async def blossom(base: str, prompts: list[str]) -> list[str]:
    from blossom_async import BlossomClient

    async with BlossomClient(base, api_key="k", max_concurrency=AT_ONCE) as client:
        batch = await client.image.generate_urls_batch(prompts, width=256, height=256)
        return [url for url in batch if url is not None]


async def bare(base: str, prompts: list[str]) -> list[str]:
    """The least that does the job: workers pull from one iterator, no options checked, nothing kept."""
    import aiohttp

    urls: list[str] = [""] * len(prompts)
    source = iter(enumerate(prompts))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            for index, prompt in source:
                body = {"prompt": prompt, "width": 256, "height": 256}
                async with session.post(f"{base}/v1/images", json=body) as response:
                    urls[index] = (await response.json())["url"]

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return urls


async def with_aiometer(base: str, prompts: list[str]) -> list[str]:
    import aiohttp
    import aiometer

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(prompt: str) -> str:
            body = {"prompt": prompt, "width": 256, "height": 256}
            async with session.post(f"{base}/v1/images", json=body) as response:
                return str((await response.json())["url"])

        return await aiometer.run_all([partial(one, prompt) for prompt in prompts], max_at_once=AT_ONCE)


async def openai_sdk(base: str, prompts: list[str]) -> list[str]:
    import openai

    limit = asyncio.Semaphore(AT_ONCE)
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="k", max_retries=0) as client:

        async def one(prompt: str) -> str:
            async with limit:
                answer = await client.images.generate(prompt=prompt, size="256x256", model="m")
            assert answer.data
            return str(answer.data[0].url)

        return await asyncio.gather(*(one(prompt) for prompt in prompts))


async def with_httpx(base: str, prompts: list[str]) -> list[str]:
    import httpx

    urls: list[str] = [""] * len(prompts)
    source = iter(enumerate(prompts))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits) as client:

        async def work() -> None:
            for index, prompt in source:
                body = {"prompt": prompt, "width": 256, "height": 256}
                urls[index] = (await client.post(f"{base}/v1/images", json=body)).json()["url"]

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return urls


RIVALS: dict[str, Rival] = {
    "blossom_async": blossom,
    "bare aiohttp workers": bare,
    "aiometer + aiohttp": with_aiometer,
    "httpx workers": with_httpx,
    "openai SDK": openai_sdk,
}


def measure(rival: Rival, base: str) -> dict[str, float]:
    async def measured() -> dict[str, float]:
        await rival(base, [f"warm up {n}" for n in range(WARM_UP)])
        prompts = [f"a lake in the mountains, number {n}" for n in range(CALLS)]
        wall, cpu = time.perf_counter(), time.process_time()
        urls = await rival(base, prompts)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        assert len(urls) == CALLS
        assert all(urls)
        return {"calls_per_s": CALLS / wall, "client_cpu_us_per_call": cpu / CALLS * 1e6}

    return asyncio.run(measured())


def measure_apart(name: str, base: str) -> dict[str, float]:
    ended = subprocess.run([sys.executable, __file__, name, base], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(ended.stdout)
    return result


def main() -> None:
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in RIVALS}
    with constant_server.running() as base:
        for _ in range(ROUNDS):
            for name in RIVALS:
                rounds[name].append(measure_apart(name, base))
    report = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("aiohttp", "aiometer", "httpx", "openai")},
        "load": {"calls": CALLS, "at_once": AT_ONCE, "rounds": ROUNDS},
        "rounds": rounds,
    }
    (HERE / "results" / "batch_http.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    least = min(row["client_cpu_us_per_call"] for row in rounds["bare aiohttp workers"])
    print("| | calls/s, best | client CPU per call, best (median) | ratio to bare |")
    print("|---|---|---|---|")
    for name, rows in rounds.items():
        cpu = [row["client_cpu_us_per_call"] for row in rows]
        print(
            f"| {name} | {max(row['calls_per_s'] for row in rows):,.0f} "
            f"| {min(cpu):.0f} us ({statistics.median(cpu):.0f}) | {min(cpu) / least:.2f} |"
        )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(RIVALS[sys.argv[1]], sys.argv[2])))
    else:
        main()

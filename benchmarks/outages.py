"""What a batch loses, and for how long it waits, when its gateway or the provider behind it goes away.

Run: uv run --extra all python benchmarks/outages.py [--json benchmarks/results/outages.json]
The gateway is `blossom serve` as a user starts it. Its pictures are paid for at a fake provider in a process
of its own. One client orders a batch; once a tenth of it is made, the provider cuts what is under way and
stops listening, or the gateway is killed; after 20 s it is back at its address. The same batch is ordered
without an outage first: that time plus 20 s is the ideal. Extra requests are those beyond one for each item:
calls of the provider as the gateway counts them, with connections that were refused, or the client's attempts
where the gateway is away. `charges` says how often the provider was paid.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import re
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from deploys import Gateway, free_port
from overload import KEY, server

from blossom_async import BlossomClient
from blossom_async.batch import Progress
from blossom_async.testing import Ledger

AWAY_S = 20.0
SLOW_S = 0.1


async def serve_provider(ledger: Path) -> None:
    """A fake provider until SIGTERM; each SIGUSR1 takes it away for ``AWAY_S``."""
    from blossom_async.testing import FakeOpenAI

    loop, gone, port = asyncio.get_running_loop(), asyncio.Event(), 0
    ending = False

    def end() -> None:
        nonlocal ending
        ending = True
        gone.set()

    loop.add_signal_handler(signal.SIGUSR1, gone.set)
    loop.add_signal_handler(signal.SIGTERM, end)
    while not ending:
        async with FakeOpenAI(port=port, slow_s=SLOW_S, keyed=True, ledger_file=ledger) as fake:
            fake.fail("slow_first_byte")
            if not port:
                port = int(fake.base_url.split(":")[2].split("/")[0])
                print(f"{fake.base_url}#{os.getpid()}", flush=True)
            await gone.wait()
        if not ending:
            await asyncio.sleep(AWAY_S)
            gone.clear()


async def calls_of(base_url: str) -> int:
    """Calls of the provider so far, whatever came of them."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{base_url}/metrics", headers={"Authorization": f"Bearer {KEY}"}) as answer,
    ):
        text = await answer.text()
    return sum(
        int(float(n)) for n in re.findall(r"^blossom_provider_calls_total\{.*\} (\S+)$", text, re.MULTILINE)
    )


class Shop:
    """A gateway and its provider, each of which can be taken away."""

    def __init__(self, gateway: Gateway, provider: int, ledger: Path) -> None:
        self.gateway = gateway
        self.provider = provider
        self.ledger = ledger
        self.base_url = f"http://127.0.0.1:{gateway.port}"

    async def without_provider(self) -> None:
        os.kill(self.provider, signal.SIGUSR1)

    async def without_gateway(self) -> None:
        self.gateway.process.kill()
        await self.gateway.process.wait()
        await asyncio.sleep(AWAY_S)
        await self.gateway.start()


@asynccontextmanager
async def shop() -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        provider = server(__file__, "--as-provider", str(folder / "ledger"))
        url, _, pid = (await stack.enter_async_context(provider)).partition("#")
        port = free_port()
        gateway = Gateway(folder / "data", port, port)
        gateway.env |= {
            "BLOSSOM_PROVIDERS": "openai",
            "BLOSSOM_OPENAI_URL": url,
            "BLOSSOM_OPENAI_MODEL": "a-model",
            "BLOSSOM_OPENAI_KEYED": "true",
        }
        await gateway.start()
        try:
            yield Shop(gateway, int(pid), folder / "ledger")
        finally:
            await gateway.stop()


async def batch(shop: Shop, items: int, outage: Callable[[], Awaitable[None]] | None) -> dict[str, Any]:
    """Orders a batch, with an outage or without."""
    begun: list[asyncio.Task[None]] = []
    before, made = await calls_of(shop.base_url), list[float]()
    paid = len(Ledger.read(shop.ledger).charges)

    def note(progress: Progress) -> None:
        made.append(time.monotonic())
        if outage is not None and not begun and progress.done >= items / 10:
            begun.append(asyncio.ensure_future(outage()))

    wishes = (f"lake {n} of {paid}" for n in range(items))
    began = time.monotonic()
    async with BlossomClient(shop.base_url, api_key=KEY) as client:
        got = await client.image.generate_urls_batch(wishes, width=64, height=64, on_progress=note)
    for each in begun:
        await each
    return {
        "seconds": round(time.monotonic() - began, 1),
        "failed": sum(url is None for url in got),
        "attempts": sum(outcome.attempts for outcome in got.outcomes),
        "calls": await calls_of(shop.base_url) - before,
        "charges": len(Ledger.read(shop.ledger).charges) - paid,
        "longest_pause_s": round(max(b - a for a, b in itertools.pairwise(made)), 1),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--json", type=Path, help="file for the raw figures")
    parser.add_argument("--as-provider", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_provider:
        await serve_provider(options.as_provider)
        return
    async with shop() as there:
        figures = {"machine": {"python": platform.python_version(), "processors": os.cpu_count()}}
        for name, outage, counted in (
            ("none", None, "calls"),
            ("provider away", there.without_provider, "calls"),
            ("gateway away", there.without_gateway, "attempts"),
        ):
            seen = figures[name] = await batch(there, options.items, outage)
            seen["extra_requests"] = seen[counted] - options.items
            if counted == "attempts":
                del seen["calls"]  # a gateway that was killed counts anew
            seen["more_than_without_s"] = round(seen["seconds"] - figures["none"]["seconds"], 1)
            print(name, json.dumps(seen), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())

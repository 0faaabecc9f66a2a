"""What a gateway still delivers when three times as many pictures are asked for as it can make.

Run: uv run --extra all python benchmarks/overload.py [--json benchmarks/results/overload.json]
The gateway is `blossom serve` as a user starts it. Its pictures are paid for at a fake provider in a process
of its own, which takes half a second, so that not the processor is what is scarce; with `--provider offline`
it draws them itself. First a few callers ask one after the other: that rate is its capacity.
Then new callers come evenly at three times that rate, each on a connection of its own, and hang up after ten
seconds; or a crowd comes (`--crowd`), each of which asks again at once. Beside them viewers fetch one
picture. A picture counts if its caller was still there. Two seconds after the load has ended the few
callers come back. The figures that count are ratios within a run; `--seconds` sets how long the load lasts.
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
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs

KEY = "a-key-of-the-benchmark-0123456789"
FEW = 32
PATIENCE_S = 10.0
TIMES = 3.0
RECOVERED_S = 2.0
SLOW_S = 0.5
WIDTHS = {"offline": 1024, "openai": 64}
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@attrs.define
class Answers:
    """What callers have seen: how it ended, after how long, and when."""

    seen: list[tuple[str, float, float]] = attrs.field(factory=list)

    def add(self, end: str, began: float) -> None:
        now = time.monotonic()
        self.seen.append((end, now - began, now))

    def rate(self, end: str, since: float, until: float) -> float:
        return sum(e == end and since <= at < until for e, _, at in self.seen) / (until - since)

    def took_ms(self, end: str, part: float) -> float | None:
        times = sorted(took for e, took, _ in self.seen if e == end)
        return round(times[min(int(len(times) * part), len(times) - 1)] * 1000, 1) if times else None

    def ends(self) -> dict[str, int]:
        return dict(Counter(end for end, _, _ in self.seen))


@asynccontextmanager
async def server(*command: str, **env: str) -> AsyncIterator[str]:
    """A process while the block runs; gives the address that its first line of output ends with."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, **env}
    )
    assert running.stdout is not None
    try:
        yield (await running.stdout.readline()).decode().split()[-1]
    finally:
        running.terminate()
        await running.communicate()


@asynccontextmanager
async def gateway(provider: str) -> AsyncIterator[int]:
    """The port of a gateway that makes pictures with this provider."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        env = {"BLOSSOM_API_KEYS": KEY, "BLOSSOM_DATA_DIR": folder, "BLOSSOM_PORT": "0"}
        if provider == "openai":
            url = await stack.enter_async_context(server(__file__, "--as-provider"))
            env |= {
                "BLOSSOM_PROVIDERS": "openai",
                "BLOSSOM_OPENAI_URL": url,
                "BLOSSOM_OPENAI_MODEL": "a-model",
            }
        url = await stack.enter_async_context(server("-m", "blossom_async.cli", "serve", **env))
        yield int(url.rpartition(":")[2])


async def ask(port: int, head: str, body: bytes = b"") -> tuple[int, bytes, bytes]:
    """Status, head and body of the answer, on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}Host: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        start = await reader.readuntil(b"\r\n\r\n")
        size = _LENGTH.search(start)
        return int(start.split()[1]), start, await reader.readexactly(int(size[1]) if size else 0)
    finally:
        writer.close()


async def serve_provider() -> None:
    """A fake provider that takes its time, until SIGTERM."""
    from blossom_async.testing import FakeOpenAI

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with FakeOpenAI(slow_s=SLOW_S) as fake:
        fake.fail("slow_first_byte")
        print(fake.base_url, flush=True)
        await stop.wait()


def create(port: int, number: int, width: int, keyed: bool) -> Any:
    head = f"POST /v1/images HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    if keyed:
        head += f"Idempotency-Key: call-{os.getpid()}-{number}\r\n"
    wish = {"prompt": f"lake {number}", "width": width, "height": width}
    return ask(port, head, json.dumps(wish).encode())


class Scene:
    """Callers and viewers of one gateway."""

    def __init__(self, port: int, width: int, keyed: bool) -> None:
        self.port = port
        self.width = width
        self.keyed = keyed
        self.numbers = itertools.count()

    def create(self) -> Any:
        return create(self.port, next(self.numbers), self.width, self.keyed)

    async def call(self, answers: Answers) -> None:
        """One caller, who hangs up after ``PATIENCE_S``."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                status, head, _ = await self.create()
            honest = status == 201 or b"retry-after" in head.lower()
            answers.add(str(status) if honest else f"{status} without Retry-After", began)
        except TimeoutError:
            answers.add("left", began)
        except (OSError, asyncio.IncompleteReadError):
            answers.add("reset", began)

    async def few(self, seconds: float) -> Answers:
        """``FEW`` callers, each one call after the other."""
        answers, until = Answers(), time.monotonic() + seconds

        async def caller() -> None:
            while time.monotonic() < until:
                await self.call(answers)

        await asyncio.gather(*(caller() for _ in range(FEW)))
        return answers

    async def evenly(self, rate: float, seconds: float, answers: Answers) -> None:
        """New callers at this rate, whatever becomes of the earlier ones."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as callers:
            for n in range(int(rate * seconds)):
                await asyncio.sleep(began + n / rate - time.monotonic())
                callers.create_task(self.call(answers))

    async def crowd(self, size: int, seconds: float, answers: Answers) -> None:
        """So many callers, each of whom asks again 0.2 s after an answer, whatever it was."""
        until = time.monotonic() + seconds

        async def caller() -> None:
            while time.monotonic() < until:
                await self.call(answers)
                await asyncio.sleep(0.2)

        await asyncio.gather(*(caller() for _ in range(size)))

    async def view(self, picture: str, answers: Answers) -> None:
        """A viewer on a new connection every 20 ms, until cancelled."""
        while True:
            began = time.monotonic()
            try:
                status, _, _ = await ask(self.port, f"GET /image/{picture} HTTP/1.1\r\n")
                answers.add(str(status), began)
            except (OSError, asyncio.IncompleteReadError):
                answers.add("reset", began)
            await asyncio.sleep(0.02)

    async def viewed(self, picture: str, load: Any) -> Answers:
        """What viewers see while the load goes on."""
        answers = Answers()
        viewing = asyncio.create_task(self.view(picture, answers))
        await load
        viewing.cancel()
        await asyncio.wait([viewing])
        return answers


async def measure(provider: str, keyed: bool, seconds: float, crowd: int) -> dict[str, Any]:
    async with gateway(provider) as port:
        scene = Scene(port, WIDTHS[provider], keyed)
        picture = json.loads((await scene.create())[2])["id"]
        idle = await scene.viewed(picture, asyncio.sleep(2))
        began = time.monotonic()
        alone = await scene.few(5)
        capacity = alone.rate("201", began + 1, began + 5)
        answers, began = Answers(), time.monotonic()
        load = (
            scene.crowd(crowd, seconds, answers)
            if crowd
            else scene.evenly(TIMES * capacity, seconds, answers)
        )
        loading = asyncio.create_task(load)
        viewers = await scene.viewed(picture, asyncio.sleep(seconds))
        delivered = answers.rate("201", began + seconds / 3, began + seconds)
        await asyncio.sleep(RECOVERED_S)
        since = time.monotonic()
        after = await scene.few(4)
        recovered = after.rate("201", since, since + 4)
        await loading
        got, idle_ms = answers.took_ms("201", 0.99), idle.took_ms("200", 0.99)
        view_ms = viewers.took_ms("200", 0.99)
        return {
            "provider": provider,
            "keyed": keyed,
            "load": f"{crowd} callers" if crowd else f"{TIMES:g} times the capacity",
            "capacity_per_s": round(capacity, 1),
            "goodput_of_capacity": round(delivered / capacity, 2),
            "answered_p50_ms": answers.took_ms("201", 0.5),
            "answered_p99_ms": got,
            "refused_p99_ms": answers.took_ms("503", 0.99),
            "ends": answers.ends(),
            "view_p99_idle_ms": idle_ms,
            "view_p99_loaded_ms": view_ms,
            "view_p99_ratio": round(view_ms / idle_ms, 1) if view_ms and idle_ms else None,
            "views": viewers.ends(),
            "speed_2_s_after": round(recovered / capacity, 2),
        }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the raw figures")
    parser.add_argument("--provider", choices=("offline", "openai"), default="openai")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load")
    parser.add_argument("--crowd", type=int, default=0, help="so many callers instead of an even load")
    parser.add_argument("--as-provider", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_provider:
        await serve_provider()
        return
    rows = []
    for keyed in (False, True):
        rows.append(await measure(options.provider, keyed, options.seconds, options.crowd))
        print(json.dumps(rows[-1], indent=1), flush=True)
    if options.json is not None:
        machine = {
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "aiohttp": version("aiohttp"),
        }
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())

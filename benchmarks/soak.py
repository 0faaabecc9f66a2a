"""What a gateway holds on to: memory, descriptors, threads and the database's `-wal` under mixed traffic.

Run: uv run --extra all python benchmarks/soak.py --minutes 30 [--json benchmarks/results/soak.json]
The gateway is `blossom serve` as a user starts it, with a fake provider in a process of its own whose every
tenth answer is an error. Callers
create (with keys, without, deferred, expiring), regenerate, look up, sign and delete; some hang up early.
Viewers fetch pictures old and new, ask for ranges and for what is not there. Every ten seconds the process is
measured. Steady is what differs little between the third and the last quarter of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections import Counter, deque
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
from overload import KEY, server

CALLERS, VIEWERS = 6, 8
EVERY_S = 10.0


class Traffic:
    """Callers and viewers until cancelled; ``seen`` counts their answers."""

    def __init__(self, session: aiohttp.ClientSession, seed: int) -> None:
        self.session = session
        self.random = random.Random(seed)  # noqa: S311 - the same traffic each time
        self.pictures: deque[str] = deque(maxlen=2000)
        self.seen: Counter[str] = Counter()
        self.numbers = 0

    async def run(self) -> None:
        await asyncio.gather(
            *(self._repeat(self.caller) for _ in range(CALLERS)),
            *(self._repeat(self.viewer) for _ in range(VIEWERS)),
        )

    async def _repeat(self, act: Any) -> None:
        while True:
            try:
                await act()
            except TimeoutError:
                self.seen["hung up"] += 1
            except aiohttp.ClientError as exc:
                self.seen[type(exc).__name__] += 1
            await asyncio.sleep(self.random.random() * 0.1)

    async def ask(self, method: str, path: str, **options: Any) -> bytes:
        async with self.session.request(method, path, **options) as answer:
            body = await answer.read()
        self.seen[f"{method} {answer.status}"] += 1
        return body if answer.ok else b""

    async def caller(self) -> None:
        self.numbers += 1
        wish: dict[str, Any] = {"prompt": f"lake {self.numbers}", "tracking_id": f"t{self.numbers % 50}"}
        wish["width"] = wish["height"] = self.random.choice((64, 256, 512))
        wish |= self.random.choice(({}, {}, {"defer": True}, {"expires_in": 30}, {"model": "scenery-1"}))
        headers = {"Idempotency-Key": f"k{self.numbers}"} if self.random.random() < 0.5 else {}
        patience_s = 0.05 if self.random.random() < 0.1 else 30
        async with asyncio.timeout(patience_s):
            made = await self.ask("POST", "/v1/images", json=wish, headers=headers)
        if made:
            self.pictures.append(json.loads(made)["id"])
        if not self.pictures:
            return
        old = self.random.choice(self.pictures)
        match self.random.randrange(8):
            case 0:
                await self.ask("POST", f"/v1/images/{old}/regenerate", json={})
            case 1:
                await self.ask("GET", f"/v1/images/{old}")
            case 2:
                await self.ask("POST", f"/v1/images/{old}/signed-url", json={"access_key": "soak"})
            case 3:
                await self.ask("DELETE", f"/v1/images/{old}")
            case 4:
                await self.ask("GET", f"/v1/stats?tracking_id=t{self.random.randrange(50)}")

    async def viewer(self) -> None:
        which = self.random.choice(self.pictures) if self.pictures else "x" * 22
        if self.random.random() < 0.05:
            which = "A" * 22
        headers = {"Range": "bytes=0-99"} if self.random.random() < 0.1 else {}
        await self.ask("GET", f"/image/{which}", headers=headers)


def measured(pid: int, data_dir: Path) -> dict[str, float]:
    """Of a process, now."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    wal = data_dir / "records.sqlite-wal"
    return {
        "rss_mib": int(status["VmRSS"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "wal_mib": wal.stat().st_size / 2**20 if wal.exists() else 0.0,
    }


def pid_of(data_dir: Path) -> int:
    """The process that has the database of this folder open."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and any(
                link.readlink() == data_dir / "records.sqlite" for link in (entry / "fd").iterdir()
            ):
                return int(entry.name)
        except OSError:  # it has ended, or is somebody else's
            continue
    raise RuntimeError("no gateway has the database open")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--json", type=Path, help="file for the raw figures")
    options = parser.parse_args()
    async with AsyncExitStack() as stack:
        folder = Path(os.path.realpath(stack.enter_context(tempfile.TemporaryDirectory())))  # noqa: ASYNC240
        fake = ("-m", "blossom_async.testing", "openai", "--fail", "server_error=0.1")
        provider = await stack.enter_async_context(server(*fake))
        gateway = await stack.enter_async_context(
            server(
                "-m", "blossom_async.cli", "serve",
                BLOSSOM_API_KEYS=KEY, BLOSSOM_DATA_DIR=str(folder), BLOSSOM_PORT="0",
                BLOSSOM_PROVIDERS="openai,offline",
                BLOSSOM_OPENAI_URL=provider, BLOSSOM_OPENAI_MODEL="a-model",
            )
        )  # fmt: skip
        headers = {"Authorization": f"Bearer {KEY}"}
        session = await stack.enter_async_context(aiohttp.ClientSession(gateway, headers=headers))
        pid, traffic, samples = pid_of(folder), Traffic(session, seed=1), list[dict[str, float]]()
        running, began = asyncio.create_task(traffic.run()), time.monotonic()
        while (at := time.monotonic() - began) < options.minutes * 60:
            await asyncio.sleep(min(EVERY_S, options.minutes * 60 - at))
            samples.append({"at_s": round(time.monotonic() - began, 1), **measured(pid, folder)})
            print(json.dumps(samples[-1]), flush=True)
        running.cancel()
        await asyncio.wait([running])
    quarter = max(1, len(samples) // 4)
    third, last = samples[2 * quarter : 3 * quarter] or samples, samples[-quarter:]
    steady = {
        name: [round(statistics.median(each[name] for each in part), 2) for part in (third, last)]
        for name in samples[0]
        if name != "at_s"
    }
    print("median of the third and of the last quarter:", json.dumps(steady))
    print(json.dumps(dict(traffic.seen)))
    if options.json is not None:
        report = {
            "python": platform.python_version(),
            "steady": steady,
            "seen": traffic.seen,
            "samples": samples,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())

"""What `POST /v1/images` costs where nothing is drawn, next to the least that keeps the same promise.

Run: uv run --extra all python benchmarks/creating.py [--json benchmarks/results/creating.json]
The gateway is `blossom serve` whose renderer gives one constant picture of 64x64 pixels. The rival is an
aiohttp handler that reads JSON, writes one file of the same size, fsyncs and renames it, fsyncs its folder
and commits one row to SQLite (WAL, `synchronous=FULL`), many callers' rows in one commit; it checks nothing,
encodes nothing, and knows no keys, no look-ups and no restarts. Both answer 201 once file and row survive a
power cut. Thirty-two callers on kept connections ask one after the other; rounds are interleaved, and the
best of each counts. The processor time of the server for a request is the steadier figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import queue
import secrets
import sqlite3
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from overload import KEY
from serving import serve_with_constant_picture

CALLERS, ROUNDS, SECONDS = 32, 3, 4.0
WISH = b'{"prompt": "a lake in the mountains", "width": 64, "height": 64}'
FILE = bytes(300)  # as long as the constant picture


class Rival:
    """Files and rows, each durable when it is said to be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(8)
        self.rows: queue.SimpleQueue[tuple[str, bytes, asyncio.Future[None]]] = queue.SimpleQueue()
        self.loop = asyncio.get_running_loop()
        threading.Thread(target=self._commit, daemon=True).start()

    async def keep(self, name: str, told: bytes) -> None:
        await self.loop.run_in_executor(self.pool, self._write, name)
        committed = self.loop.create_future()
        self.rows.put((name, told, committed))
        await committed

    def _write(self, name: str) -> None:
        part = self.folder / f".{name}"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, FILE)
        os.fsync(descriptor)
        os.close(descriptor)
        part.rename(self.folder / name)
        descriptor = os.open(self.folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def _commit(self) -> None:
        database = sqlite3.connect(self.folder / "rows.sqlite", isolation_level=None)
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = full")
        database.execute("create table rows (id text primary key, told blob)")
        while True:
            batch = [self.rows.get()]
            while not self.rows.empty():
                batch.append(self.rows.get())
            database.execute("begin")
            database.executemany("insert into rows values (?, ?)", [row[:2] for row in batch])
            database.execute("commit")
            self.loop.call_soon_threadsafe(self._told, batch)

    def _told(self, batch: list[tuple[str, bytes, asyncio.Future[None]]]) -> None:
        for _, _, committed in batch:
            committed.set_result(None)


def serve_rival(folder: Path) -> None:
    import uvloop
    from aiohttp import web

    async def run() -> None:
        rival = Rival(folder)

        async def create(request: web.Request) -> web.Response:
            name, asked = secrets.token_hex(11), await request.json()
            await rival.keep(name, json.dumps(asked).encode())
            return web.json_response({"id": name, "prompt": asked["prompt"], "filler": "x" * 600}, status=201)

        app = web.Application()
        app.router.add_post("/v1/images", create)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()

    uvloop.run(run())


async def asked(port: int) -> int:
    """How many answers the callers get in ``SECONDS``."""
    head = f"POST /v1/images HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    sent = f"{head}Content-Type: application/json\r\nContent-Length: {len(WISH)}\r\n\r\n".encode() + WISH
    count, until = 0, time.monotonic() + SECONDS

    async def caller() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < until:
            writer.write(sent)
            start = await reader.readuntil(b"\r\n\r\n")
            assert start.startswith(b"HTTP/1.1 201"), start
            await reader.readexactly(int(start.lower().partition(b"content-length:")[2].split(b"\r")[0]))
            count += 1
        writer.close()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return count


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measured(port: int, pid: int) -> dict[str, float]:
    used_s = cpu_s(pid)
    count = await asked(port)
    return {"per_s": count / SECONDS, "cpu_us": (cpu_s(pid) - used_s) / count * 1e6}


async def started(name: str, folder: str) -> tuple[asyncio.subprocess.Process, int]:
    """A server, and its port."""
    env = {"BLOSSOM_API_KEYS": KEY, "BLOSSOM_DATA_DIR": f"{folder}/data", "BLOSSOM_PORT": "0"}
    pipe, quiet = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    command = [sys.executable, __file__, "--as", name, folder]
    running = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **env}, stdout=pipe, stderr=quiet
    )
    assert running.stdout is not None
    return running, int((await running.stdout.readline()).decode().split()[-1].rpartition(":")[2])


async def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        servers = {name: await started(name, folder) for name in ("gateway", "rival")}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        try:
            for _ in range(ROUNDS):
                for name, (running, port) in servers.items():
                    rounds[name].append(await measured(port, running.pid))
        finally:
            for running, _ in servers.values():
                running.terminate()
                await running.wait()
    best = {
        name: {"per_s": max(r["per_s"] for r in of), "cpu_us": min(r["cpu_us"] for r in of)}
        for name, of in rounds.items()
    }
    for name, figures in best.items():
        print(f"{name:8} {figures['per_s']:8.0f} a second {figures['cpu_us']:8.0f} us of CPU")
    ours, rival = best["gateway"], best["rival"]
    by_rate, by_cpu = ours["per_s"] / rival["per_s"], ours["cpu_us"] / rival["cpu_us"]
    print(f"gateway / rival: {by_rate:.2f} by rate, {by_cpu:.1f} by CPU")
    machine = {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load_average": os.getloadavg(),
    }
    return {"machine": machine, "best": best, "rounds": rounds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the raw figures")
    parser.add_argument("--as", nargs=2, dest="server", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.server is None:
        report = asyncio.run(main())
        if options.json is not None:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    elif options.server[0] == "gateway":
        serve_with_constant_picture([])
    else:
        serve_rival(Path(options.server[1]))

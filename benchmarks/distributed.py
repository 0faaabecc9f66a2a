"""CPU of a call in a batch on Ray, on Dask, in one process, and by the same engines without ours.

Run: uv run --extra all --extra ray --extra dask python benchmarks/distributed.py --json FILE
(with `uv pip install daft` before it, Daft is among the rivals). Each rival sends the prompts of a table to a
constant-answer server in another process, 64 at once, from two workers of one machine; the naive ones in
blocks of 250 rows. The cost of a call is the CPU time between two calls in the middle of the table, of all
processes of the rival: schedulers, stores and workers, too. The rest of the table's CPU is what a table costs
besides.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CALLS, FIRST, LAST = 30_000, 15_000, 29_000
AT_ONCE, WORKERS, BLOCK = 64, 2, 250
MARK = "BLOSSOM_BENCHMARK"
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
Rows = list[dict[str, Any]]
Job = Callable[[Rows], int]


def named(base: str) -> Any:
    return {"run": secrets.token_hex(4), "id": "sku", "base_url": base, "api_key": "k"}


async def sent(base: str, rows: Rows, at_once: int) -> list[str]:
    """What people write: aiohttp and a semaphore; the first failure ends all."""
    import aiohttp

    limit = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(prompt: str) -> str:
            async with limit, session.post(f"{base}/v1/images", json={"prompt": prompt}) as response:
                return str((await response.json())["url"])

        return await asyncio.gather(*(one(row["prompt"]) for row in rows))


@contextmanager
def one_process(base: str) -> Iterator[Job]:
    from blossom_async import BlossomClient

    async def job(rows: Rows) -> int:
        async with BlossomClient(base, api_key="k", max_concurrency=AT_ONCE) as client:
            batch = await client.image.generate_urls_batch_custom(rows, run=secrets.token_hex(4), id="sku")
            return sum(url is not None for url in batch)

    yield lambda rows: asyncio.run(job(rows))


@contextmanager
def ray_data() -> Iterator[Any]:
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")
    import ray
    import ray.data

    ray.init(
        "local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray.data
    finally:
        ray.shutdown()


@contextmanager
def ours_on_ray(base: str) -> Iterator[Job]:
    from blossom_async.ray import generate, summary

    def job(data: Any, rows: Rows) -> int:
        ds = generate(data.from_items(rows), workers=WORKERS, **named(base))
        return summary(ds.materialize()).made

    with ray_data() as data:
        yield partial(job, data)


@contextmanager
def naive_ray(base: str) -> Iterator[Job]:
    class Sender:
        async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            rows = [{"prompt": str(prompt)} for prompt in batch["prompt"]]
            return {**batch, "url": await sent(base, rows, AT_ONCE // WORKERS // 4)}  # four batches at once

    with ray_data() as data:
        yield (
            lambda rows: (
                data.from_items(rows)
                .map_batches(Sender, batch_size=BLOCK, concurrency=WORKERS, num_cpus=0)
                .materialize()
                .count()
            )
        )


@contextmanager
def dask_client() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def ours_on_dask(base: str) -> Iterator[Job]:
    from blossom_async.dask import generate

    def job(client: Any, rows: Rows) -> int:
        blocks = client.gather(generate(client, rows, **named(base)))
        return sum(row["url"] is not None for block in blocks for row in block)

    with dask_client() as client:
        yield partial(job, client)


def naive_block(base: str, rows: Rows) -> Rows:
    urls = asyncio.run(sent(base, rows, AT_ONCE // WORKERS // 2))  # two threads
    return [{**row, "url": url} for row, url in zip(rows, urls, strict=True)]


@contextmanager
def naive_dask(base: str) -> Iterator[Job]:
    def job(client: Any, rows: Rows) -> int:
        blocks = [rows[at : at + BLOCK] for at in range(0, len(rows), BLOCK)]
        return sum(map(len, client.gather(client.map(naive_block, [base] * len(blocks), blocks))))

    with dask_client() as client:
        yield lambda rows: job(client, rows)


@contextmanager
def naive_daft(base: str) -> Iterator[Job]:
    import aiohttp
    import daft

    sessions: list[aiohttp.ClientSession] = []

    @daft.func(max_concurrency=AT_ONCE)
    async def url(prompt: str) -> str:
        if not sessions:
            sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        async with sessions[0].post(f"{base}/v1/images", json={"prompt": prompt}) as response:
            return str((await response.json())["url"])

    def job(rows: Rows) -> int:
        df = daft.from_pylist(rows)
        return len(df.with_column("url", url(df["prompt"])).to_pylist())

    yield job


SINGLE = "our engine, one process"
RIVALS: dict[str, tuple[str, Callable[[str], Any]]] = {
    SINGLE: ("aiohttp", one_process),
    "our engine on Dask": ("distributed", ours_on_dask),
    "our engine on Ray": ("ray", ours_on_ray),
    "Dask, naive": ("distributed", naive_dask),
    "Daft, naive": ("daft", naive_daft),
    "Ray, naive": ("ray", naive_ray),
}


def work(name: str, base: str) -> None:
    """A rival, in a process of its own: it says when its table begins and ends."""
    sys.path.pop(0)  # this folder, in which there is another ``distributed``
    with RIVALS[name][1](base) as job:
        rows = [{"sku": n, "prompt": f"a lake in the mountains, number {n}"} for n in range(CALLS)]
        print("begin", flush=True)
        made = job(rows)
        print("end", flush=True)
        sys.stdin.readline()
        assert made == CALLS, made


class Meter:
    """The CPU time of all processes that carry a mark in their environment, read often, as some end early."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self._ours: dict[str, bool] = {}
        self._used: dict[str, float] = {}
        self.of: dict[str, str] = {}
        """The command of each process."""
        self._reading = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read_often)
        self.peak_mb: dict[str, float] = {}
        """Of each process, by its name."""

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read_often(self) -> None:
        while not self._ended.wait(0.25):
            self.read()

    def by_command(self) -> Counter[str]:
        """CPU seconds so far."""
        used: Counter[str] = Counter()
        for name, seconds in self._used.items():
            used[Path(self.of[name].split()[0]).name] += seconds  # type: ignore[assignment]
        return used

    def read(self) -> float:
        with self._reading:
            for place in Path("/proc").glob("[0-9]*"):
                with suppress(OSError, IndexError):  # it has ended meanwhile
                    self._read(place)
            return sum(self._used.values())

    def _read(self, place: Path) -> None:
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        name = f"{place.name} {fields[19]}"  # and when it started
        if not self._ours.get(name):  # a fork gets its environment a moment later
            self._ours[name] = self._mark in (place / "environ").read_bytes()
        if self._ours[name]:
            command = (place / "cmdline").read_bytes().split(b"\0")[0].decode()
            if not command.strip():  # it is ending
                return
            self._used[name] = (int(fields[11]) + int(fields[12])) * TICK_S
            resident_mb = int(fields[21]) * PAGE_MB
            self.of[name] = command
            self.peak_mb[command] = max(self.peak_mb.get(command, 0.0), resident_mb)


def calls_at(base: str) -> int:
    with urllib.request.urlopen(f"{base}/calls") as answer:  # noqa: S310 - on loopback
        return int(answer.read())


def measured(name: str, base: str) -> dict[str, Any]:
    mark = secrets.token_hex(8)
    command = [sys.executable, __file__, "--as", name, base]
    running = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, MARK: mark}
    )
    assert running.stdout is not None
    assert running.stdin is not None
    seen: list[tuple[int, float, float, Counter[str]]] = []

    def look() -> int:
        seen.append((calls_at(base) - before, meter.read(), time.perf_counter(), meter.by_command()))
        return seen[-1][0]

    with Meter(mark) as meter:
        before = calls_at(base)
        said = iter(line.strip() for line in running.stdout)
        begun = "begin" in said and meter.read()
        for edge in (FIRST, LAST):
            while look() < edge and running.poll() is None:
                seen.pop()
                time.sleep(0.02)
        ended = "end" in said and meter.read()
        running.communicate("\n")
    if running.returncode:
        raise RuntimeError(f"{name} ended with {running.returncode}")
    (early, cpu, at, parts), (late, cpu_then, at_then, parts_then) = seen
    parts_then.subtract(parts)
    call = (cpu_then - cpu) / (late - early)
    return {
        "cpu_us_per_call": call * 1e6,
        "cpu_s_per_table": ended - begun - call * CALLS,
        "cpu_s_before": begun,
        "calls_per_s": (late - early) / (at_then - at),
        "largest_process_mb": max(meter.peak_mb.values()),
        "cpu_us_per_call_by_process": {
            command: seconds / (late - early) * 1e6 for command, seconds in parts_then.items() if seconds
        },
    }


def main() -> None:
    import constant_server

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="where to write the raw figures")
    parser.add_argument("--only", help="rivals with this in their name, besides one process", default="")
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    present = [
        name
        for name, (package, _) in RIVALS.items()
        if find_spec(package) is not None and (wanted.only in name or name == SINGLE)
    ]
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in present}
    with constant_server.running() as base:
        for _ in range(wanted.rounds):
            for name in present:
                rounds[name].append(measured(name, base))
                print(name, rounds[name][-1], file=sys.stderr)
    best = {
        name: min(found, key=lambda figures: figures["cpu_us_per_call"]) for name, found in rounds.items()
    }
    single = best[SINGLE]["cpu_us_per_call"]
    print(f"{'':<26}{'CPU a call':>12}{'ratio':>8}{'CPU a table':>13}{'calls/s':>9}")
    for name, figures in best.items():
        call, table = figures["cpu_us_per_call"], figures["cpu_s_per_table"]
        print(f"{name:<26}{call:>9.0f} us{call / single:>8.2f}{table:>11.1f} s{figures['calls_per_s']:>9.0f}")
    if wanted.json is not None:
        packages = ("aiohttp", "ray", "distributed", "daft")
        report = {
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
            "versions": {name: version(name) for name in packages if find_spec(name) is not None},
            "load": os.getloadavg()[0],
            "calls": [CALLS, FIRST, LAST],
            "rounds": rounds,
        }
        wanted.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as"]:
        work(*sys.argv[2:4])
    else:
        main()

"""Tables on two nodes of Ray and two workers of Dask: when calls arrive, and how large workers get.

Run: uv run --extra all --extra ray --extra dask python benchmarks/two_nodes.py --json FILE
Each job reads Parquet, sends its prompts to a constant-answer server in another process and writes Parquet.
"Used" is the rate from the call that follows the first ``LIMIT`` to the last, of the limit. "Worst second" is
how many arrived in the worst one, wherever it begins. The "place" gives out the start times. Memory is that
of the largest worker at its peak (VmHWM), with what it shares with others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

LIMIT, CALLS = 200, 2000
TABLES = (20_000, 100_000)
MARK = "BLOSSOM_BENCHMARK"


def on_ray(source: str, out: str, options: dict[str, Any]) -> None:
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")
    import ray
    import ray.data
    from ray.cluster_utils import Cluster

    from blossom_async.ray import generate

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        generate(ray.data.read_parquet(source), workers=2, **options).write_parquet(out)
    finally:
        ray.shutdown()
        cluster.shutdown()


def on_dask(source: str, out: str, options: dict[str, Any]) -> None:
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    from blossom_async.dask import generate

    with (
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        df = dd.read_parquet(source, filesystem="arrow")
        generate(client, df.repartition(npartitions=max(8, len(df) // 1000)), **options).to_parquet(out)


ENGINES: dict[str, tuple[Callable[[str, str, dict[str, Any]], None], str]] = {
    "Ray": (on_ray, "ray::MapWorker"),
    "Dask": (on_dask, "--multiprocessing-fork"),
}


def work(engine: str, base: str, rows: str, *rates: str) -> None:
    """A job in a process of its own."""
    sys.path.pop(0)  # this folder, in which there is another ``distributed``
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = range(int(rows))
    table = pa.table({"sku": numbers, "prompt": [f"a lake in the mountains, number {n}" for n in numbers]})
    options = {"run": secrets.token_hex(4), "id": "sku", "base_url": base, "api_key": "k"}
    with TemporaryDirectory() as folder:
        pq.write_table(table, f"{folder}/in.parquet")
        options |= {"rate_limit": rates[0]} if rates else {}
        ENGINES[engine][0](f"{folder}/in.parquet", f"{folder}/out", options)
        assert pq.read_table(f"{folder}/out").column("url").null_count == 0


def processes(mark: str, kind: str) -> Iterator[Path]:
    """Those of a job whose command says so."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if kind in command and f"{MARK}={mark}".encode() in (place / "environ").read_bytes():
                yield place


def peak_mb(process: Path) -> float:
    """Since it began."""
    with suppress(OSError, StopIteration):
        lines = (process / "status").read_text().splitlines()
        return int(next(line for line in lines if "VmHWM" in line).split()[1]) / 1024
    return 0.0


def asked(base: str, what: str) -> Any:
    with urllib.request.urlopen(f"{base}/{what}") as answer:  # noqa: S310 - on loopback
        return json.loads(answer.read())


def measured(engine: str, rows: int, *rates: str, killed: str = "") -> dict[str, float]:
    """``killed`` is a process of the cluster that is killed once after half of the calls."""
    import constant_server

    mark, kind = secrets.token_hex(8), ENGINES[engine][1]
    with constant_server.running() as base:
        command = [sys.executable, __file__, "--as", engine, base, str(rows), *rates]
        running = subprocess.Popen(command, env={**os.environ, MARK: mark})
        peak, ended = 0.0, threading.Event()
        while running.poll() is None:
            peak = max(peak, *map(peak_mb, processes(mark, kind)), 0.0)
            if killed and asked(base, "calls") > rows / 2:
                for process in processes(mark, killed):
                    os.kill(int(process.name), signal.SIGKILL)
                killed = ""
            ended.wait(0.5)
        if running.returncode:
            raise RuntimeError(f"{engine} ended with {running.returncode}")
        arrivals = sorted(asked(base, "arrivals"))
    assert len(arrivals) == rows, len(arrivals)
    steady = arrivals[LIMIT:]
    per_s = (len(steady) - 1) / (steady[-1] - steady[0])
    worst = worst_window(arrivals, 1)
    return {"rows": rows, "worst_second": worst, "per_s": per_s, "used": per_s / LIMIT, "worker_mb": peak}


def worst_window(arrivals: list[float], length_s: float) -> int:
    """How many of them, which are in order, are in the half-open window that holds the most."""
    worst = first = 0
    for last, arrival in enumerate(arrivals):
        while arrival - arrivals[first] >= length_s:
            first += 1
        worst = max(worst, last - first + 1)
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="where to write the raw figures")
    parser.add_argument("--only", choices=ENGINES, help="one engine")
    parser.add_argument("--part", choices=("limit", "memory"), help="one part")
    parser.add_argument("--rounds", type=int, default=3, help="of the limit")
    wanted = parser.parse_args()
    engines = [wanted.only] if wanted.only else [*ENGINES]
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "limit": [],
        "memory": [],
    }
    if wanted.part != "memory":
        print(f"{CALLS:,} calls at {LIMIT}/s{'worst second':>20}{'used':>8}{'load':>7}")
        for _ in range(wanted.rounds):
            for engine, killed in [*((name, "") for name in engines), ("Ray", "ray::Gates")]:
                if killed and wanted.only == "Dask":  # its scheduler is the place, and ends with all else
                    continue
                name = f"{engine}, place killed" if killed else engine
                found = measured(engine, CALLS, f"{LIMIT}/s", killed=killed) | {"load": os.getloadavg()[0]}
                report["limit"].append({"engine": name, **found})
                print(f"{name:<20}{found['worst_second']:>20}{found['used']:>8.1%}{found['load']:>7.1f}")
    if wanted.part != "limit":
        print(f"{'':<20}{'rows':>10}{'largest worker':>18}{'calls/s':>9}")
        for engine in engines:
            for rows in TABLES:
                found = measured(engine, rows)
                report["memory"].append({"engine": engine, **found})
                print(f"{engine:<20}{rows:>10,}{found['worker_mb']:>15.0f} MB{found['per_s']:>9.0f}")
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as"]:
        work(*sys.argv[2:])
    else:
        main()

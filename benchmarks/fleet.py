"""What a paid picture costs over PostgreSQL, next to SQLite; and two gateways next to one.

Run: uv run --extra all python benchmarks/fleet.py [--json benchmarks/results/fleet.json]
The gateways are `blossom serve` whose provider is in the same process, gives one constant picture of 64x64
pixels at once, and is paid: so each picture is claimed, its attempt is written down, and it is finished, as
with a real one. PostgreSQL 18 runs on this machine and waits for the disk; its CPU time is counted, too.
Thirty-two callers on kept connections ask one after the other. Rounds are interleaved; a first one, in which
the server makes its files, does not count. The callers run on the same processors: on two of them a second
gateway finds none that is free. What a picture costs at two gateways next to one, in CPU of gateways and
server together, says what would be gained where there are more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the server of the tests

import creating
from creating import cpu_s
from overload import KEY

from tests.postgres import PostgresServer, running_server

CALLERS, ROUNDS = 32, 5
SECRET = "a-secret-of-the-benchmark-0123456789"


Gateway = tuple[asyncio.subprocess.Process, int]


def serve() -> None:
    """`blossom serve` with a provider that is paid and answers at once."""
    import attrs
    from serving import serve_with_constant_picture

    from blossom_async.gateway import app
    from blossom_async.gateway.providers.offline import Offline

    Offline.remote = True
    accounts = app.accounts

    def roomy(settings: Any) -> list[Any]:
        return [
            attrs.evolve(each, limits=attrs.evolve(each.limits, at_once=64)) for each in accounts(settings)
        ]

    app.accounts = roomy
    serve_with_constant_picture([])


def cpu_of_server_s(server: PostgresServer) -> float:
    """Of all processes of a database server that still run."""
    first = int((server.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
    used_s = 0.0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if first in (int(process.name), parent):
                used_s += cpu_s(int(process.name))
        except OSError:  # it has ended
            continue
    return used_s


async def started(folder: str, name: str, url: str | None, program: str = __file__) -> Gateway:
    """A gateway, and its port."""
    env = {"BLOSSOM_API_KEYS": KEY, "BLOSSOM_DATA_DIR": f"{folder}/{name}", "BLOSSOM_PORT": "0"}
    if url is not None:
        env |= {"BLOSSOM_DATABASE_URL": url, "BLOSSOM_SIGNING_SECRETS": SECRET}
    pipe, quiet = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    command = [sys.executable, program, "--serve"]
    running = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **env}, stdout=pipe, stderr=quiet
    )
    assert running.stdout is not None
    return running, int((await running.stdout.readline()).decode().split()[-1].rpartition(":")[2])


async def measured(gateways: list[Gateway], database: PostgresServer) -> dict[str, float]:
    def used() -> tuple[float, float]:
        return sum(cpu_s(running.pid) for running, _ in gateways), cpu_of_server_s(database)

    creating.CALLERS = CALLERS // len(gateways)
    before = used()
    count = sum(await asyncio.gather(*(creating.asked(port) for _, port in gateways)))
    here, there = (1000 * (b - a) / count for a, b in zip(before, used(), strict=True))
    return {"per_s": count / creating.SECONDS, "gateway_ms": here, "server_ms": there}


def written(server: PostgresServer) -> dict[str, float]:
    """How many pictures the database has, the bytes of its tables with their indexes, and of its WAL."""
    import psycopg

    asked = {name: f"pg_total_relation_size('{name}')" for name in ("images", "attempts", "texts")} | {
        "pictures": "(SELECT count(*) FROM images)",
        "wal": "pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8",
    }
    with psycopg.connect(f"host={server.folder} user=postgres dbname=fleet") as connection:
        row = connection.execute(f"SELECT {', '.join(asked.values())}").fetchone()
    assert row is not None
    return dict(zip(asked, row, strict=True))


@contextmanager
def durable_server() -> Iterator[PostgresServer]:
    """A server that waits for the disk, with a database for the gateways."""
    with running_server("18") as database:
        database.stop()
        options = f"-c listen_addresses='' -c unix_socket_directories='{database.folder}'"
        log = str(database.folder / "log")
        database.run("pg_ctl", "start", "-w", "-D", str(database.folder / "data"), "-l", log, "-o", options)
        database.create("fleet")
        yield database


async def main() -> dict[str, Any]:
    with ExitStack() as held:
        database = held.enter_context(durable_server())
        folder = held.enter_context(tempfile.TemporaryDirectory(dir="."))
        url = database.url("fleet")
        rounds: dict[str, list[dict[str, float]]] = {}
        gateways: list[Gateway] = []
        try:
            for name, place in (("sqlite", None), ("one", url), ("one", url)):
                gateways.append(await started(folder, name, place))
            sqlite, one, other = gateways
            setups = {"SQLite": [sqlite], "PostgreSQL": [one], "two gateways": [one, other]}
            rounds |= {name: [] for name in setups}
            for some in setups.values():
                await measured(some, database)
            before = written(database)
            for _ in range(ROUNDS):
                for name, some in setups.items():
                    rounds[name].append(await measured(some, database))
            grown = {name: each - before[name] for name, each in written(database).items()}
        finally:
            for running, _ in gateways:
                running.terminate()
                await running.wait()
    for name, figures in rounds.items():
        here, there = (min(each[part] for each in figures) for part in ("gateway_ms", "server_ms"))
        best = max(each["per_s"] for each in figures)
        print(
            f"{name:14} {best:6.0f} a second {here:6.2f} ms of CPU {there:6.2f} ms of the database server's"
        )

    def ratio(of: Callable[[dict[str, float]], float], name: str, to: str) -> float:
        pairs = zip(rounds[name], rounds[to], strict=True)
        return statistics.median(of(one) / of(other) for one, other in pairs)

    def rate(figures: dict[str, float]) -> float:
        return figures["per_s"]

    def cpu_ms(figures: dict[str, float]) -> float:
        return figures["gateway_ms"] + figures["server_ms"]

    ratios = {
        "PostgreSQL / SQLite": ratio(rate, "PostgreSQL", "SQLite"),
        "two / one": ratio(rate, "two gateways", "PostgreSQL"),
        "CPU of a picture, two / one": ratio(cpu_ms, "two gateways", "PostgreSQL"),
    }
    print(", ".join(f"{name}: {each:.2f}" for name, each in ratios.items()))
    pictures = grown.pop("pictures")
    bytes_each = {name: each / pictures for name, each in grown.items()}
    print(", ".join(f"{name}: {each:.0f} bytes a picture" for name, each in bytes_each.items()))
    machine = {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load_average": os.getloadavg(),
    }
    return {"machine": machine, "ratios": ratios, "bytes": bytes_each, "rounds": rounds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the raw figures")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
    else:
        report = asyncio.run(main())
        if given.json is not None:
            given.json.write_text(json.dumps(report, indent=1) + "\n")

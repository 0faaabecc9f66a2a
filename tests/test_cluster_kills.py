"""A batch on a cluster of which everything is killed once: nothing is paid twice, and every row has its end.

Real processes: ``blossom batch --on`` as the driver, Dask's or Ray's workers, ``blossom serve``, and a
provider that honours no key and whose ledger is the truth about money.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.gateway.making.test_paying_kills import KEY, shop
from tests.ports import reserved_port
from tests.ray_cluster import processes, two_nodes
from tests.waiting import until

pytestmark = [pytest.mark.campaign, pytest.mark.filterwarnings("default")]

ROWS = 240


@attrs.frozen
class Engine:
    """A cluster: how a driver finds it, and the processes of its workers."""

    place: str
    env: dict[str, str]
    workers: Callable[[], list[int]]
    gates: Callable[[], list[int]]
    """Where start times come from, if nothing else runs there."""


@asynccontextmanager
async def on_dask() -> AsyncIterator[Engine]:
    pytest.importorskip("distributed", reason="Dask is missing: uv sync --extra dask")
    from distributed import LocalCluster

    def started() -> Any:
        return LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        )

    cluster = await asyncio.to_thread(started)
    try:
        place = cluster.scheduler_address.replace("tcp://", "dask://")
        yield Engine(place, {}, lambda: [nanny.pid for nanny in cluster.workers.values()], list)
    finally:
        await asyncio.to_thread(cluster.close)


@asynccontextmanager
async def on_ray() -> AsyncIterator[Engine]:
    pytest.importorskip("ray", reason="Ray is missing: uv sync --extra ray")
    with two_nodes() as cluster:
        yield Engine(
            "ray",
            {"RAY_ADDRESS": cluster.address},
            lambda: processes("ray::MapWorker"),
            lambda: processes("ray::Gates"),
        )


@pytest.mark.parametrize("engine", [on_dask, on_ray])
async def test_whatever_is_killed_each_row_ends_and_none_is_paid_twice(
    engine: Callable[[], AbstractAsyncContextManager[Engine]], tmp_path: Path
) -> None:
    """A worker, the place of the limit, the gateway and the driver; then the same command again."""
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    rows = [{"sku": n, "prompt": f"picture {n}"} for n in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    async with (
        shop(tmp_path, "--fail", "slow_first_byte", keyed=False) as at,
        AsyncExitStack() as held,
        engine() as cluster,
    ):
        at.env["BLOSSOM_PORT"] = str(held.enter_context(reserved_port()))
        gateway = await held.enter_async_context(at.gateway())
        asked = ["--run", "kills", "--id", "sku", "--width", "32", "--height", "32", "--max-concurrency", "8"]
        asked += ["--rate-limit", "100/s"]
        command = ["-m", "blossom_async.cli", "batch", "in.parquet", "--out", "out.parquet", *asked]
        env = {**os.environ, **cluster.env, "BLOSSOM_BASE_URL": gateway.base_url, "BLOSSOM_API_KEY": KEY}

        async def driver() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable, *command, "--on", cluster.place, cwd=tmp_path, env=env
            )

        first = await driver()
        await until(lambda: len(at.ledger.charges) >= ROWS // 4)
        for killed in (cluster.workers()[0], *cluster.gates()):
            os.kill(killed, signal.SIGKILL)
        await until(lambda: len(at.ledger.charges) >= ROWS // 2)
        await gateway.killed()
        gateway = await held.enter_async_context(at.gateway())
        await until(lambda: len(at.ledger.charges) >= ROWS * 3 // 4)
        first.kill()
        await first.wait()
        second = await driver()
        status = await second.wait()
        held_back = await at.held_keys()
        ledger = at.ledger
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    ends = [row["error_code"] for row in found]
    print(f"\n{cluster.place}: {ends.count(None)} pictures, {len(ledger.charges)} charges")  # noqa: T201 - with -s
    assert [row["sku"] for row in found] == [*range(ROWS)]
    assert {row["url"] is None for row in found if row["error_code"]} <= {True}
    assert {end for end in ends if end} <= {"outcome_unknown"}
    assert ends.count("outcome_unknown") == len(held_back)
    assert status == (1 if held_back else 0)
    assert ledger.double_charges(by=lambda charge: charge.prompt_sha256) == []

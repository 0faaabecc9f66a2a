"""``blossom batch --on`` a cluster, with tables in a bucket: a real cluster, a real gateway, moto as S3."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tests.cli.test_cli import blossom
from tests.conftest import RunningGateway
from tests.ports import reserved_port
from tests.ray_cluster import two_nodes
from tests.stores import BUCKET, environment, moto
from tests.test_cluster_kills import on_dask

pytest.importorskip("pyarrow", reason="Arrow is missing: uv sync --extra ray, or --extra dask")

import pyarrow as pa
from pyarrow import csv, dataset, fs

pytestmark = [pytest.mark.campaign, pytest.mark.filterwarnings("default")]

OPTIONS = ("--run", "catalogue", "--id", "sku", "--width", "32", "--height", "32", "--rate-limit", "100/s")


@asynccontextmanager
async def dask() -> AsyncIterator[str]:
    async with on_dask() as engine:
        yield engine.place


@asynccontextmanager
async def client_of_ray() -> AsyncIterator[str]:
    pytest.importorskip("ray", reason="Ray is missing: uv sync --extra ray")
    with reserved_port() as port, two_nodes(ray_client_server_port=port):
        yield f"ray://127.0.0.1:{port}"


@pytest.mark.parametrize("cluster", [dask, client_of_ray])
async def test_a_cluster_reads_and_writes_buckets(
    cluster: Callable[[], AbstractAsyncContextManager[str]],
    gateway: AbstractAsyncContextManager[RunningGateway],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From CSV to Parquet, and from that to JSONL, which replays it."""
    source, made, again = (f"s3://{BUCKET}/{name}" for name in ("in.csv", "made.parquet", "again.jsonl"))
    rows = pa.table({"sku": range(40), "prompt": [f"lake {n}" for n in range(40)]})
    with moto() as store:
        for name, value in environment(store.endpoint).items():
            monkeypatch.setenv(name, value)  # the workers', too
        files, path = fs.FileSystem.from_uri(source)
        with files.open_output_stream(path) as stream:
            csv.write_csv(rows, stream)
        async with gateway as running, cluster() as place:
            monkeypatch.setenv("BLOSSOM_BASE_URL", running.base_url)
            monkeypatch.setenv("BLOSSOM_API_KEY", running.api_key)
            for given, out, says in ((source, made, "40 made"), (made, again, "40 replayed")):
                ended = await asyncio.to_thread(
                    blossom, "batch", given, "--on", place, "--out", out, *OPTIONS
                )
                assert says in ended.stderr, ended
        found = dataset.dataset(made).to_table()
    assert found["sku"].to_pylist() == [*range(40)]
    assert found["url"].null_count == 0

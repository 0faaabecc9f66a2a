"""Batches on Ray Data: a real cluster of two nodes on this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from blossom_async import ConfigurationError
from blossom_async.rows import ADDED
from tests.cli.test_cli import refused
from tests.conftest import RunningGateway
from tests.ray_cluster import two_nodes

pytest.importorskip("ray", reason="Ray is missing: uv sync --extra ray")

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from blossom_async.cli.clusters import _stopped
from blossom_async.ray import apply, generate, summary

pytestmark = [pytest.mark.campaign, pytest.mark.filterwarnings("default")]  # Ray warns of its own doings

Gateway = AbstractAsyncContextManager[RunningGateway]
ROWS: list[Any] = [{"sku": n, "text": f"lake {n}" if n != 7 else "", "note": "x"} for n in range(60)]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two nodes, for all tests of this file."""
    with two_nodes() as running:
        ray.init(address=running.address, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield
        finally:
            ray.shutdown()


def named(running: RunningGateway, **more: Any) -> Any:
    small = {"width": 32, "height": 32}
    where = {"base_url": running.base_url, "api_key": running.api_key}
    return {"run": "catalogue", "id": "sku", "prompt": "text", "options": small, **where, **more}


async def test_a_dataset_gets_its_pictures_in_order(gateway: Gateway, tmp_path: Path) -> None:
    """From Parquet, by two actors, with failures in columns; then once more, replayed."""
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "in.parquet")

    def made(running: RunningGateway) -> Any:
        ds = ray.data.read_parquet(str(tmp_path / "in.parquet"))
        out = generate(ds, **named(running, workers=2, block=10))
        assert running.api_key not in repr(out)
        return out.materialize()

    async with gateway as running:
        first, second = [await asyncio.to_thread(made, running) for _ in range(2)]
    rows = first.take_all()
    assert [row["sku"] for row in rows] == [*range(60)]
    assert first.columns() == ["sku", "text", "note", *ADDED]
    assert str(summary(first)) == "60 rows: 59 made for 59 credits, 0 replayed, 1 failed, 0 unknown"
    assert summary(second).replayed == 59
    assert [row["url"] for row in second.take_all()] == [row["url"] for row in rows]
    assert rows[7]["error_code"] == "InvalidRequest"


async def started(row: Any) -> dict[str, Any]:
    return {"at": time.monotonic(), "loud": row["text"].upper()}  # one clock for all processes of a machine


def test_workers_share_a_rate_limit() -> None:
    """Any coroutine function, pickled with the job: no window holds more starts than stated, in both workers
    together."""
    rows = apply(ray.data.from_items(ROWS), started, workers=2, block=10, rate_limit="25/s").take_all()
    assert [row["loud"] for row in rows] == [row["text"].upper() for row in ROWS]
    assert {row["error"] for row in rows} == {None}
    starts = sorted(row["at"] for row in rows)
    # Noted when the function got to it: the machine may stop a worker for some milliseconds.
    assert min(late - early for early, late in zip(starts, starts[25:], strict=False)) >= 0.95


async def test_what_every_row_would_fail_with_ends_the_job(gateway: Gateway) -> None:
    """A wrong key; a missing column even before anything runs."""
    async with gateway as running:
        with pytest.raises(ConfigurationError, match="no column 'text'"):
            generate(ray.data.from_items([{"sku": 1}]), **named(running))
        with pytest.raises(TypeError, match="unknown option 'blocks'"):
            generate(ray.data.from_items(ROWS), **named(running, blocks=3))
        ds = generate(ray.data.from_items(ROWS), **named(running, api_key="a-wrong-key-0123456789012345"))
        with pytest.raises(Exception, match="401 unauthenticated") as ended:
            await asyncio.to_thread(ds.materialize)
    assert str(_stopped("ray", ended.value)).startswith("--on ray: the API key is not valid")


def test_a_cluster_that_is_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, where Ray would wait for many minutes."""
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "in.parquet")
    named = ("--run", "a", "--id", "sku", "--prompt", "text", "--out", tmp_path / "out.parquet")
    where = ("--base-url", "http://127.0.0.1:9", "--on", "ray")
    monkeypatch.setenv("BLOSSOM_API_KEY", "k" * 30)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    says = "nothing answers at RAY_ADDRESS=127.0.0.1:9"
    refused("batch", tmp_path / "in.parquet", *named, *where, says=says)

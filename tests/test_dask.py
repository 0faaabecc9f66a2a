"""Batches on Dask: a real scheduler and real worker processes on this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from blossom_async import ConfigurationError
from blossom_async.rows import ADDED
from tests.conftest import RunningGateway

pytest.importorskip("distributed", reason="Dask is missing: uv sync --extra dask")

import dask.bag as db
import dask.dataframe as dd
import pandas as pd
from distributed import Client, LocalCluster

from blossom_async.dask import apply, generate, summary

Gateway = AbstractAsyncContextManager[RunningGateway]
ROWS: list[Any] = [{"sku": n, "text": f"lake {n}" if n != 7 else "", "note": "x"} for n in range(30)]


@pytest.fixture(scope="module")
def dask() -> Iterator[Client]:
    """Two worker processes."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def named(running: RunningGateway, **more: Any) -> Any:
    small = {"width": 32, "height": 32}
    where = {"base_url": running.base_url, "api_key": running.api_key}
    return {"run": "catalogue", "id": "sku", "prompt": "text", "options": small, **where, **more}


async def test_rows_a_dataframe_and_a_bag_get_the_same_pictures(gateway: Gateway, dask: Client) -> None:
    """In order, with failures in columns; the second and the third time they are replayed."""

    def rows(running: RunningGateway) -> list[Any]:
        futures = generate(dask, ROWS, **named(running, block=8))
        assert len(futures) == 4
        return [row for block in dask.gather(futures) for row in block]

    def frame(running: RunningGateway) -> pd.DataFrame:
        given = dd.from_pandas(pd.DataFrame(ROWS), npartitions=3)
        found: pd.DataFrame = generate(dask, given, **named(running)).compute()
        return found

    def bag(running: RunningGateway) -> list[Any]:
        found: list[Any] = generate(dask, db.from_sequence(ROWS, npartitions=3), **named(running)).compute()
        return found

    async with gateway as running:
        first, second, third = [await asyncio.to_thread(way, running) for way in (rows, frame, bag)]
    assert (
        [row["sku"] for row in first] == list(second["sku"]) == [row["sku"] for row in third] == [*range(30)]
    )
    assert list(second.columns) == ["sku", "text", "note", *ADDED]
    urls = [row["url"] for row in first]
    assert [row["url"] for row in third] == urls
    assert [None if url is pd.NA else url for url in second["url"]] == urls
    assert urls.index(None) == 7
    assert second["error_code"][7] == "InvalidRequest"
    assert str(summary(first)) == "30 rows: 29 made for 29 credits, 0 replayed, 1 failed, 0 unknown"
    assert summary(second) == summary(third)
    assert (summary(second).replayed, summary(second).spent) == (29, 0)


async def started(_: Any) -> dict[str, float]:
    return {"at": time.monotonic()}  # one clock for all processes of a machine


def test_workers_share_a_rate_limit(dask: Client) -> None:
    """No window holds more starts than any of the limits states, in both workers together."""
    for rows, limits in ((ROWS[:1], "40/2 s"), (ROWS * 3, ["25/s", "60/s"])):
        futures = apply(dask, rows, started, block=15, rate_limit=limits)
        starts = sorted(row["at"] for block in dask.gather(futures) for row in block)
    # Noted when the function got to it: the machine may stop a worker for some milliseconds.
    assert min(late - early for early, late in zip(starts, starts[25:], strict=False)) >= 0.95
    handlers: list[str] = dask.run_on_scheduler(lambda dask_scheduler: [*dask_scheduler.handlers])
    assert [name for name in handlers if "blossom" in name] == ["blossom-take"]  # also for many calls


async def shout(row: Any) -> dict[str, str]:
    return {"loud": row["text"].upper()}


@pytest.mark.campaign
def test_any_coroutine_function_can_be_applied(dask: Client) -> None:
    """To rows and to a DataFrame, which becomes a Bag."""
    futures = apply(dask, ROWS[:3], shout)
    frame = dd.from_pandas(pd.DataFrame(ROWS[:3]), npartitions=1)
    for found in (dask.gather(futures)[0], apply(dask, frame, shout, workers=1).compute()):
        assert [row["loud"] for row in found] == ["LAKE 0", "LAKE 1", "LAKE 2"]
        assert [row["note"] for row in found] == ["x"] * 3


def test_what_cannot_be_used_is_refused_before_anything_is_sent(dask: Client) -> None:
    """One mapping, a DataFrame of pandas, a missing column, an unknown option."""
    here: Any = {"run": "catalogue", "base_url": "http://127.0.0.1:9"}
    wrong: Any = {**here, "blocks": 3}
    for rows in (ROWS[0], pd.DataFrame(ROWS)):
        with pytest.raises(TypeError, match="allowed: a Dask DataFrame, a Bag or an iterable"):
            generate(dask, rows, **here)
    with pytest.raises(ConfigurationError, match="no column 'prompt'"):
        generate(dask, dd.from_pandas(pd.DataFrame(ROWS), npartitions=1), **here)
    with pytest.raises(TypeError, match=r"unknown option 'blocks'\. Did you mean 'block'"):
        generate(dask, ROWS, **wrong)


@pytest.mark.campaign
async def test_what_every_row_would_fail_with_is_the_tasks_exception(gateway: Gateway, dask: Client) -> None:
    """A wrong key."""
    async with gateway as running:
        futures = generate(dask, ROWS, **named(running, api_key="a-wrong-key-0123456789012345"))
        with pytest.raises(Exception, match="401 unauthenticated"):
            await asyncio.to_thread(dask.gather, futures)

"""``blossom batch --on``: tables in, the same tables with URLs out. Ray and Dask have tests of their own."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import Ended, blossom, refused
from tests.conftest import RunningGateway
from tests.stores import BUCKET, environment, moto

pytest.importorskip("pyarrow", reason="Arrow is missing: uv sync --extra ray, or --extra dask")

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv, json

from blossom_async.cli.clusters import Tables

TINY = ("--width", 32, "--height", 32)
NAMED = ("--run", "catalogue", "--id", "sku", "--on", "local")
ROWS: list[Any] = [{"sku": n, "prompt": f"lake {n}" if n != 7 else "", "seed": n} for n in range(20)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A table of twenty rows, one of which has no prompt."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def test_a_table_comes_out_with_urls_in_every_format(rows: Path, tmp_path: Path) -> None:
    """Each is made from the one before, and replays its pictures; failures are in the table."""
    reads: dict[str, Any] = {"parquet": pq.read_table, "csv": csv.read_csv, "jsonl": json.read_json}
    source, ids, says = rows, set(), "19 made for 19 credits, 0 replayed"
    for kind, read in reads.items():
        out = tmp_path / f"out.{kind}"
        ended = blossom("batch", source, "--out", out, *NAMED, *TINY)
        assert ended == Ended(1, "", f"blossom: 20 rows: {says}, 1 failed, 0 unknown\n")
        found = read(out).to_pylist()
        assert [row["sku"] for row in found] == [*range(20)]
        assert found[7]["error_code"] == "InvalidRequest"
        ids |= {row["image_id"] for row in found if row["url"]}
        source, says = out, "0 made for 0 credits, 19 replayed"
    assert len(ids) == 19


def test_the_same_command_again_writes_the_table_anew(rows: Path, tmp_path: Path) -> None:
    """Over what an earlier run left, be it a file or a cluster's folder of files."""
    out = tmp_path / "out.parquet"
    out.mkdir()
    (out / "part-0.parquet").write_bytes(b"left by a killed run")
    for _ in range(2):
        blossom("batch", rows, "--out", out, *NAMED, *TINY)
        assert pq.read_table(out).num_rows == 20


def test_a_folder_is_read_as_one_table(tmp_path: Path) -> None:
    """Its files in the order of their names."""
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(2):
        (folder / f"{part}.csv").write_text(f"prompt\nlake {part}\n", "utf-8")
    out = tmp_path / "out.jsonl"
    assert blossom("batch", folder, "--out", out, "--run", "folder", "--on", "local", *TINY).status == 0
    assert [row["prompt"] for row in json.read_json(out).to_pylist()] == ["lake 0", "lake 1"]


def test_what_an_earlier_run_wrote_is_removed(tmp_path: Path) -> None:
    """Also under a URL; else its rows would be counted, and read, twice. Nothing else is."""
    out = tmp_path / "out.parquet"
    out.mkdir()
    for name in ("part-0.parquet", "notes.txt"):
        (out / name).write_text("")
    (tmp_path / "rows.csv").write_text("prompt\n", "utf-8")
    Tables.of(str(tmp_path / "rows.csv"), out.as_uri(), None).clear()
    assert [left.name for left in out.iterdir()] == ["notes.txt"]
    for name in ("file.csv", "none.csv"):
        (tmp_path / "file.csv").write_text("")
        Tables.of(str(tmp_path / "rows.csv"), (tmp_path / name).as_uri(), None).clear()
        assert not (tmp_path / name).exists()


def test_tables_may_be_in_a_bucket(rows: Path) -> None:
    """Under ``s3://``, both ways."""
    with moto() as store:
        env = environment(store.endpoint)
        there = f"s3://{BUCKET}/in.parquet"
        ended = blossom("batch", rows, "--out", there, *NAMED, *TINY, **env)
        assert ended.status == 1, ended
        ended = blossom("batch", there, "--out", f"s3://{BUCKET}/out.csv", *NAMED, **env)
        assert "19 replayed" in ended.stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--on", "spark"], "--on spark: allowed: ray, ray://HOST:PORT, dask://HOST:PORT or local"),
        (["--run", "a"], "--on None: allowed: ray"),
        (["--on", "dask"], "--on dask: allowed"),
        (["--on", "local", "--out", "b.csv"], "--on local: needs --run NAME"),
        (["--on", "local", "--run", "a"], "needs --run NAME, under which it can be resumed, and --out"),
        (["--on", "local", "--run", "a", "--out", "b.txt"], "--out b.txt: with --on the name must end in"),
        (["--on", "local", "--run", "a", "--out", "b.csv", "--journal", "c"], "--journal: cannot be used"),
        (["--on", "local", "--run", "a", "--out", "b.csv", "--json"], "--json: cannot be used with --on"),
        (["--on", "local", "--run", "a", "--out", "b.csv", "--id", "no"], "the rows have no column 'no'"),
        (["--on", "local", "--run", " ", "--out", "b.csv"], "run: ' ' cannot be used"),
        (["--on", "dask://127.0.0.1:9", "--run", "a", "--out", "b.csv"], "base-url: no address"),
        (["--input-format", "parquet"], "--input-format parquet: only with --on"),
    ],
)
def test_what_does_not_go_together_is_refused(
    given: list[str], says: str, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, before anything is made."""
    monkeypatch.chdir(rows.parent)
    refused("batch", rows, *given, says=says)


def test_other_things_are_not_overwritten(rows: Path, tmp_path: Path) -> None:
    """The rows themselves, and a folder with something else in it; nor is anything else read as rows."""
    other = tmp_path / "other.csv"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    refused("batch", rows, "--out", rows, *NAMED, says="that is where the rows are; name another")
    refused("batch", rows, "--out", other, *NAMED, says="there is something else in this folder")
    refused("batch", other, "--out", tmp_path / "a.csv", *NAMED, says="other.csv")
    refused("batch", tmp_path / "no.csv", "--out", tmp_path / "a.csv", *NAMED, says=r"no.csv")
    assert (other / "notes.txt").read_text() == "mine"


async def test_a_key_that_is_invalid_costs_nothing_of_an_earlier_run(
    gateway: AbstractAsyncContextManager[RunningGateway],
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows that it wrote are still there, and no cluster was asked."""
    pytest.importorskip("distributed", reason="Dask is missing: uv sync --extra dask")
    monkeypatch.setenv("BLOSSOM_API_KEY", "a-wrong-key-0123456789012345")
    (out := tmp_path / "out.csv").write_text("written before")
    named = ("--run", "a", "--id", "sku", "--on", "dask://127.0.0.1:9")
    async with gateway as running:
        given = ("batch", rows, *named, "--out", out, "--base-url", running.base_url)
        await asyncio.to_thread(partial(refused, *given, says="401 unauthenticated"))
    assert out.read_text() == "written before"


def test_rows_are_not_written_around_themselves(tmp_path: Path) -> None:
    """Nor among themselves: neither a folder that holds them, nor a file in theirs."""
    folder = tmp_path / "rows.csv"
    folder.mkdir()
    rows = folder / "0.csv"
    rows.write_text("prompt\na lake\n", "utf-8")
    says = "that is where the rows are; name another"
    refused("batch", rows, "--out", folder, *NAMED, says=says)
    refused("batch", folder, "--out", folder / "1.csv", *NAMED, says=says)
    assert rows.exists()

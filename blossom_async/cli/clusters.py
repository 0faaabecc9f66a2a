"""``blossom batch --on``: tables of rows in, the same with URLs out, on Ray, on Dask or on this machine."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from blossom_async.cli.options import opened_client
from blossom_async.cli.words import CannotStart, say
from blossom_async.errors import BlossomError, PermissionDenied, Unauthenticated
from blossom_async.models import ImageOptions
from blossom_async.rows import Engine, Pictures, Sharing
from blossom_async.tables import Summary, extended

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset

    from blossom_async.client import BlossomClient

__all__ = ["FORMATS", "Tables", "batch_on"]

FORMATS = ("parquet", "csv", "jsonl")
_PLACES = {("local", False), ("ray", False), ("ray", True), ("dask", True)}
_NEEDS = {"local": (), "ray": ("ray", "grpc"), "dask": ("distributed",)}
_EXTRAS = {"local": "dask", "ray": "ray", "dask": "dask"}
_ALONE = {
    "journal": "--journal",
    "no_journal": "--no-journal",
    "gallery": "--gallery",
    "download": "--download",
    "as_json": "--json",
    "all_rows": "--all",
    "limit": "--limit",
    "max_cost": "--max-cost",
    "dry_run": "--dry-run",
}
_SCHEME = re.compile("^([a-z0-9]{2,}):/(?!/)")  # a Path has made one slash of the two
_OURS = re.compile(r"^blossom_async\.[\w.]+: (.+)$", re.MULTILINE)  # the last line of a traceback
_CONNECT_S = 10.0
_ROWS_OF_A_PART = 2000
_BLOCKS_AT_ONCE = 3  # so that the last calls of a block do not leave the others idle


@attrs.frozen
class Tables:
    """Where the rows are and where they go: files or folders, as paths or as URLs such as ``s3://``."""

    source: str
    kind: str
    out: str
    out_kind: str

    @classmethod
    def of(cls, source: str, out: str, given_kind: str | None) -> Tables:
        """Raises ``CannotStart`` for names that do not say what the files are, and for other things."""
        kind = given_kind or _kind_inside(source) or _kind(source)
        if kind not in FORMATS:
            raise CannotStart(
                f"{source}: with --on it must be a file or a folder of files that end in .parquet, .csv or "
                ".jsonl; or say --input-format"
            )
        out_kind = _kind(out)
        if out_kind not in FORMATS:
            raise CannotStart(f"--out {out}: with --on the name must end in .parquet, .csv or .jsonl")
        place = Path(out)
        there, rows = place.resolve(), Path(source).resolve()
        if there == rows or there in rows.parents or rows in there.parents:
            raise CannotStart(f"--out {out}: that is where the rows are; name another")
        if place.is_dir() and any(found.suffix not in _suffixes(out_kind) for found in place.iterdir()):
            raise CannotStart(f"--out {out}: there is something else in this folder; name another")
        return cls(_uri(source), kind, _uri(out), out_kind)  # workers may run in other folders

    def read(self) -> Dataset:
        """The rows as a dataset of Arrow."""
        return _dataset(self.source, self.kind)

    def written(self) -> Dataset:
        """The rows that were written."""
        return _dataset(self.out, self.out_kind)

    def clear(self) -> None:
        """Removes what an earlier run has written: this one writes all rows."""
        place = Path(self.out)
        if "://" in self.out:
            self._clear_bucket()
        elif place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def _clear_bucket(self) -> None:
        from pyarrow import fs

        try:
            files, path = fs.FileSystem.from_uri(self.out)
            there = files.get_file_info(path)
            inside = fs.FileSelector(path, recursive=True, allow_not_found=True)
            for found in [there] if there.is_file else files.get_file_info(inside):
                if found.is_file and Path(found.path).suffix in _suffixes(self.out_kind):
                    files.delete_file(found.path)
        except (OSError, ValueError) as exc:
            raise CannotStart(
                f"--out {self.out}: what an earlier run has written there cannot be removed ({exc}); "
                "name another"
            ) from exc

    @contextmanager
    def writer(self) -> Iterator[Callable[[pa.Table], None]]:
        """What writes one table after another into one file."""
        from pyarrow import csv, fs, parquet

        files, path = fs.FileSystem.from_uri(self.out)
        with ExitStack() as opened:
            stream = opened.enter_context(files.open_output_stream(path))
            if self.out_kind == "jsonl":
                yield lambda table: stream.write(_json_lines(table))
                return
            kind = {"parquet": parquet.ParquetWriter, "csv": csv.CSVWriter}[self.out_kind]
            begun: list[Any] = []

            def write(table: pa.Table) -> None:
                if not begun:
                    begun.append(opened.enter_context(kind(stream, table.schema)))
                begun[0].write_table(table)

            yield write

    def write_part(self, number: int, table: pa.Table) -> Summary:
        """Writes one of the files of a folder, in a worker. Files are in the order of their numbers."""
        name = f"part-{number:08}.{self.out_kind}"
        if "://" not in self.out:
            Path(self.out).mkdir(parents=True, exist_ok=True)
        with attrs.evolve(self, out=f"{self.out}/{name}").writer() as write:
            return _written(table, write)


def batch_on(prompts: str, settings: dict[str, Any], given: dict[str, Any]) -> int:
    """Makes a picture for each row, writes the rows and says what they came to: 0, or 1 if some failed.

    Raises ``CannotStart`` for options that do not go with ``--on``, before anything runs.
    """
    place, run, out = given["place"], given["run"], given["out"]
    scheme, _, address = (place or "").partition("://")
    if (scheme, bool(address)) not in _PLACES:
        raise CannotStart(
            f"--on {place}: allowed: ray, ray://HOST:PORT, dask://HOST:PORT or local; --run, --id and "
            "--prompt go with it"
        )
    for package in ("pyarrow", *_NEEDS[scheme]):
        if find_spec(package) is None:
            extra = _EXTRAS[scheme]
            raise CannotStart(f"--on {place}: {package} is missing: pip install '.[{extra}]' in the checkout")
    for name, option in _ALONE.items():
        if given[name]:
            raise CannotStart(f"{option}: cannot be used with --on; allowed with it: --out, --run and --id")
    if run is None or out is None:
        raise CannotStart(f"--on {place}: needs --run NAME, under which it can be resumed, and --out")
    tables = Tables.of(prompts, _SCHEME.sub(r"\1://", str(out)), given["input_format"])
    client = opened_client(given, None, max_concurrency=given["max_concurrency"])
    prompt = given["prompt"] or "prompt"
    names = [name for name in ImageOptions.__annotations__ if name not in {"defer", prompt, given["id"]}]
    present = set(tables.read().schema.names)
    options = {
        "run": run,
        "id": given["id"],
        "prompt": prompt,
        "columns": [name for name in names if name in present],
        "options": settings,
        "base_url": client.base_url,
        "api_key": client.api_key,
        "cdn_prefix": given["cdn_prefix"],
        "max_concurrency": given["max_concurrency"],
        "rate_limit": given["rate_limit"] or None,
        "timeout_s": given["timeout"],
    }
    if scheme == "local":
        summary = _on_this_machine(client, tables, options)
    else:
        _checked(dict(options))
        _check_key(client)
        summary = (
            _on_ray(place if address else "auto", tables, options)
            if scheme == "ray"
            else _on_dask(address, tables, options)
        )
    say(str(summary))
    return 1 if summary.failed or summary.unknown else 0


def _check_key(client: BlossomClient) -> None:
    """Raises what every row would fail with, before what an earlier run wrote is removed.

    A gateway that cannot be reached from here may be within the reach of the workers.
    """
    try:
        with client as opened:
            opened.image.list(limit=1)
    except (Unauthenticated, PermissionDenied):
        raise
    except BlossomError:
        return


def _on_ray(address: str, tables: Tables, options: dict[str, Any]) -> Summary:
    # What `uv run` has started would have its workers started by uv, too, which the nodes need not have.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray

    _check_cluster(address)
    try:
        ray.init(address=address, log_to_driver=False)
        tables.clear()
        if "://" in address:  # Ray Data does not run in a client of Ray's
            ray.get(ray.remote(num_cpus=0)(_by_ray).remote(tables, options))
        else:
            _by_ray(tables, options)
    except (ray.exceptions.RayError, ConnectionError) as exc:
        raise _stopped("ray", exc) from exc
    finally:
        ray.shutdown()
    return _summary(tables)


def _by_ray(tables: Tables, options: dict[str, Any]) -> None:
    import ray.data

    from blossom_async.ray import generate

    read = {"parquet": ray.data.read_parquet, "csv": ray.data.read_csv, "jsonl": ray.data.read_json}
    ds = generate(read[tables.kind](tables.source), **options)
    write = {"parquet": ds.write_parquet, "csv": ds.write_csv, "jsonl": ds.write_json}
    write[tables.out_kind](tables.out)


def _check_cluster(address: str) -> None:
    """Raises ``CannotStart`` if nothing answers where RAY_ADDRESS says: Ray would try for many minutes."""
    host, _, port = os.environ.get("RAY_ADDRESS", "").rpartition(":")
    if address != "auto" or not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_S).close()
    except OSError as exc:
        raise CannotStart(
            f"--on ray: nothing answers at RAY_ADDRESS={host}:{port} ({exc.strerror or exc}); start the "
            "cluster, or unset RAY_ADDRESS to use one that runs on this machine"
        ) from exc


def _stopped(place: str, error: BaseException) -> CannotStart:
    # Of a worker's error Ray keeps the text alone, and puts its own advice behind it.
    said = _OURS.findall(str(error)) or str(error).strip().splitlines() or [type(error).__name__]
    return CannotStart(f"--on {place}: {said[-1]}; once that is mended, the same command goes on from there")


def _on_dask(address: str, tables: Tables, options: dict[str, Any]) -> Summary:
    from distributed import Client

    from blossom_async.dask import in_parts

    try:
        opened = Client(f"tcp://{address}")
    except OSError as exc:
        raise _stopped(f"dask://{address}", exc) from exc
    with opened as client:
        tables.clear()
        rows, threads = tables.read(), sum(client.ncores().values())
        each = min(
            _ROWS_OF_A_PART, rows.count_rows() // (4 * threads) + 1
        )  # of a small table, too, all have some
        return sum(in_parts(client, _blocks(rows, each), tables.write_part, **options), Summary())


def _on_this_machine(client: BlossomClient, tables: Tables, options: dict[str, Any]) -> Summary:
    with ExitStack() as opened:
        running = opened.enter_context(client)
        options |= {"base_url": running.base_url, "api_key": running.api_key}  # also of an embedded gateway
        work, sharing = _checked(options)
        tables.clear()
        engine = Engine(work, sharing)
        opened.callback(engine.close)
        write = opened.enter_context(tables.writer())
        threads = opened.enter_context(ThreadPoolExecutor(_BLOCKS_AT_ONCE))
        waiting: deque[Future[pa.Table]] = deque()
        total = Summary()
        for block in _blocks(tables.read(), sharing.rows_of_a_block()):
            waiting.append(threads.submit(extended, block, engine))
            if len(waiting) > _BLOCKS_AT_ONCE:
                total += _written(waiting.popleft().result(), write)
        while waiting:
            total += _written(waiting.popleft().result(), write)
        return total


def _checked(options: dict[str, Any]) -> tuple[Pictures, Sharing]:
    try:
        return Pictures.of(options), Sharing.of(options, workers=(1, 1), known=())
    except ValueError as exc:
        raise CannotStart(str(exc)) from exc


def _written(table: pa.Table, write: Callable[[pa.Table], None]) -> Summary:
    write(table)
    return Summary.of([table])


def _blocks(dataset: Dataset, rows: int) -> Iterator[pa.Table]:
    import pyarrow as pa

    for batch in dataset.to_batches(batch_size=rows):
        if batch.num_rows:
            yield pa.Table.from_batches([batch])


def _summary(tables: Tables) -> Summary:
    import pyarrow as pa

    return Summary.of(pa.Table.from_batches([batch]) for batch in tables.written().to_batches())


def _dataset(place: str, kind: str) -> Dataset:
    from pyarrow.dataset import dataset

    try:
        return dataset(place, format="json" if kind == "jsonl" else kind)
    except (OSError, ValueError) as exc:  # Arrow's errors are both, too
        raise CannotStart(f"{place}: {exc}; name a file or a folder of {kind}") from exc


def _json_lines(table: pa.Table) -> bytes:
    return b"".join(
        orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE) for row in table.to_pylist()
    )


def _suffixes(kind: str) -> set[str]:
    """The suffixes of files in a folder of this kind."""
    return {f".{kind}", ".json"} if kind == "jsonl" else {f".{kind}"}


def _uri(place: str) -> str:
    return place if "://" in place else str(Path(place).absolute())


def _kind(name: str) -> str:
    return Path(name).suffix.removeprefix(".").lower()


def _kind_inside(folder: str) -> str:
    place = Path(folder)
    inside = sorted(place.iterdir()) if place.is_dir() else []
    return next((kind for kind in map(_kind, map(str, inside)) if kind in FORMATS), "")

"""Batches on Dask: a DataFrame, a Bag or rows in, the same with a picture's URL for each row out."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, Unpack
from uuid import uuid4

import attrs

from blossom_async.batch import GateQuestion, Gates, Grant, RateLimit
from blossom_async.errors import ConfigurationError
from blossom_async.rows import ApplyOptions, Calls, Engine, GenerateOptions, Pictures, Row, Sharing, Work

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from distributed import Client

    from blossom_async.tables import Summary

__all__ = ["apply", "generate", "in_parts", "summary"]

T = TypeVar("T")
_PARTS_FOR_A_THREAD = 2  # so that it has its next one when one ends


def generate(client: Client, rows: Any, **options: Unpack[GenerateOptions]) -> Any:
    """A picture for each row, with ``url``, ``image_id``, ``sha256``, ``width``, ``height``, ``cost``,
    ``replayed``, ``attempts``, ``error`` and ``error_code``.

    A DataFrame of Dask gives a DataFrame and a Bag of mappings a Bag, both lazy: what is computed twice is
    sent twice, and answered by the gateway with what it has. An iterable of mappings gives a list of futures,
    each of a block of rows, in order. ``GenerateOptions`` has the options; the ``workers`` are by default the
    processes that the cluster has now. ``block`` is for an iterable; of the others each partition is one.

    A row that fails says why in ``error`` and ends nothing else; ``error_code`` is the gateway's, or the name
    of an error class. What every row would fail with, such as an invalid API key, is the exception of its
    task: the same call again goes on from there.

    Raises ``ConfigurationError``, ``ValueError`` and ``TypeError`` for what cannot be used, before anything
    is sent.
    """
    given: dict[str, Any] = dict(options)
    work = Pictures.of(given)
    return _mapped(client, rows, work, _sharing(client, given, GenerateOptions))


def apply(
    client: Client,
    rows: Any,
    function: Callable[[Row], Awaitable[Row]] | str,
    **options: Unpack[ApplyOptions],
) -> Any:
    """A call of a coroutine function for each row, with the columns that it returns.

    ``function`` takes a row and returns a mapping of new columns. It is pickled, or named as ``module:name``
    and imported by the workers. ``attempts``, ``error`` and ``error_code`` are added. The rest as for
    ``generate``; a DataFrame becomes a Bag of mappings, because its new columns are not known in advance.
    """
    given: dict[str, Any] = dict(options)
    work = Calls.of(function, given)
    return _mapped(client, rows, work, _sharing(client, given, ApplyOptions))


def in_parts(
    client: Client,
    tables: Iterable[pa.Table],
    use: Callable[[int, pa.Table], T],
    **options: Unpack[GenerateOptions],
) -> Iterator[T]:
    """The results of ``use(number, table)``, in order, called in a worker for each table with its pictures.

    Only a few tables are in memory at a time, however many come. Raises as ``generate``.
    """
    given: dict[str, Any] = dict(options)
    work = Pictures.of(given)
    task = _Task.of(client, work, _sharing(client, given, GenerateOptions))
    at_once = _PARTS_FOR_A_THREAD * sum(client.ncores().values())
    waiting: deque[Any] = deque()
    for number, table in enumerate(tables):
        waiting.append(client.submit(task.table, number, table, use, pure=False))
        if len(waiting) > at_once:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def summary(rows: Any) -> Summary:
    """The sums over rows that ``generate`` returned: a computed DataFrame, or a list of mappings."""
    import pyarrow as pa

    from blossom_async.tables import Summary

    table = pa.Table.from_pandas(rows) if hasattr(rows, "columns") else pa.Table.from_pylist(list(rows))
    return Summary.of([table])


def _sharing(client: Client, given: dict[str, Any], options: type) -> Sharing:
    if "workers" not in given and client.asynchronous:
        raise ValueError(
            "workers: not given, and an asynchronous client cannot count them; allowed: a number"
        )
    now = len(client.ncores()) or 1 if "workers" not in given else 1
    return Sharing.of(given, workers=(now, now), known=options.__annotations__)


def _mapped(client: Client, rows: Any, work: Work, sharing: Sharing) -> Any:
    try:
        import dask.bag as db
        import dask.dataframe as dd
    except ImportError as exc:
        raise ConfigurationError("Dask is missing; pip install '.[dask]' in the checkout") from exc
    task = _Task.of(client, work, sharing)
    if isinstance(rows, dd.DataFrame):
        work.reads(list(rows.columns))
        if isinstance(work, Pictures):
            return rows.map_partitions(task.frame, meta=_with_columns(rows._meta, []))
        rows = rows.to_bag(format="dict")
    if isinstance(rows, db.Bag):
        return rows.map_partitions(task.rows)
    if isinstance(rows, Mapping | str | bytes) or hasattr(rows, "columns") or not isinstance(rows, Iterable):
        raise TypeError(
            f"rows: {type(rows).__name__} cannot be used; allowed: a Dask DataFrame, a Bag or an iterable of "
            "mappings, such as df.to_dict('records')"
        )
    source, size = iter(rows), sharing.rows_of_a_block(len(rows) if isinstance(rows, Sized) else None)
    blocks = iter(lambda: list(islice(source, size)), [])
    return [client.submit(task.rows, block, pure=False) for block in blocks]


@attrs.frozen
class _Task:
    """What is done with one block of rows, in whichever worker. ``name`` is that of the engine there."""

    work: Work
    sharing: Sharing
    name: str

    @classmethod
    def of(cls, client: Client, work: Work, sharing: Sharing) -> _Task:
        """One that has its limits from this cluster's scheduler."""
        name = uuid4().hex
        if sharing.rates and sharing.gate is None:
            if client.asynchronous:
                raise ValueError("rate_limit: an asynchronous client cannot share it; give a synchronous one")
            client.run_on_scheduler(_keep_gates)
            sharing = attrs.evolve(sharing, place=partial(_Place, name))
        return cls(work, sharing, name)

    def table(self, number: int, table: pa.Table, use: Callable[[int, pa.Table], T]) -> T:
        """What is made of a table with its new columns."""
        from blossom_async.tables import extended

        with _engine(self) as engine:
            return use(number, extended(table, engine))

    def rows(self, rows: Iterable[Row]) -> list[dict[str, Any]]:
        """The rows with their new columns."""
        given = list(rows)
        with _engine(self) as engine:
            new = engine.columns(given)
        return [{**row, **columns} for row, columns in zip(given, new, strict=True)]

    def frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A DataFrame of pandas with the new columns of its rows."""
        import pyarrow as pa

        needed = frame[self.work.reads(list(frame.columns))]
        with _engine(self) as engine:
            new = engine.columns(pa.Table.from_pandas(needed, preserve_index=False).to_pylist())
        return _with_columns(frame, new)


_PANDAS = {"string": "string", "int64": "Int64", "bool": "boolean"}  # types that have a null


def _with_columns(frame: pd.DataFrame, new: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    from blossom_async.tables import TYPES

    added = {name: pd.array([row[name] for row in new], _PANDAS[kind]) for name, kind in TYPES.items()}
    return frame.assign(**added)


_TAKE = "blossom-take"


def _keep_gates(dask_scheduler: Any) -> None:
    """Lets the scheduler, which all workers reach and none outlives, give out start times."""
    if _TAKE in dask_scheduler.handlers:
        return
    gates = Gates()

    async def take(question: Sequence[Any]) -> tuple[Any, ...]:
        gate, (amount, per_s), *rest = question
        return tuple(await gates.take(GateQuestion(gate, RateLimit(amount, per_s=per_s), *rest)))

    dask_scheduler.handlers[_TAKE] = take


class _Place:
    """The scheduler's start times for one call of ``generate`` or ``apply``, as a worker asks for them."""

    def __init__(self, name: str) -> None:
        from distributed import get_worker

        self._worker = get_worker()
        self._name = name

    async def take(self, question: GateQuestion) -> Grant:
        ask = getattr(self._worker.scheduler, _TAKE)
        named = attrs.evolve(question, name=f"{self._name}-{question.name}")
        running = asyncio.run_coroutine_threadsafe(
            ask(question=attrs.astuple(named)), self._worker.loop.asyncio_loop
        )
        return Grant(*await asyncio.wrap_future(running))


_engines: dict[str, tuple[Engine, list[None]]] = {}
_changing = threading.Lock()


@contextmanager
def _engine(task: _Task) -> Iterator[Engine]:
    """The engine of a call in this worker. Those of earlier calls are closed once another call comes."""
    with _changing:
        for name, (engine, users) in list(_engines.items()):
            if name != task.name and not users:
                del _engines[name]
                engine.close()
        if task.name not in _engines:
            _engines[task.name] = Engine(task.work, task.sharing), []
        engine, users = _engines[task.name]
        users.append(None)
    try:
        yield engine
    finally:
        with _changing:
            users.pop()

"""Batches on Ray Data: a Dataset of rows in, the same Dataset with a picture's URL in each row out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Unpack

import attrs

from blossom_async.batch import GateQuestion, Gates, Grant
from blossom_async.errors import ConfigurationError
from blossom_async.rows import ApplyOptions, Calls, Engine, GenerateOptions, Pictures, Row, Sharing, Work

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from blossom_async.tables import Summary

__all__ = ["apply", "generate", "summary"]

_WORKERS = (1, 4)
_BLOCKS_AT_ONCE = 3  # in one worker, so that the last calls of a block do not leave its slots idle


def generate(ds: Dataset, **options: Unpack[GenerateOptions]) -> Dataset:
    """A picture for each row: the Dataset with ``url``, ``image_id``, ``sha256``, ``width``, ``height``,
    ``cost``, ``replayed``, ``attempts``, ``error`` and ``error_code``.

    ``GenerateOptions`` has the options. Nothing runs before the Dataset is consumed. Rows keep their order. A
    row that fails says why in ``error`` and ends nothing else; ``error_code`` is the gateway's, or the name
    of an error class. What every row would fail with, such as an invalid API key, ends the job: the same call
    again goes on from there.

    Raises ``ConfigurationError``, ``ValueError`` and ``TypeError`` for what cannot be used, before anything
    runs. A column that is only known to be missing once the data is read ends the job.
    """
    given: dict[str, Any] = dict(options)
    work = Pictures.of(given)
    return _mapped(ds, work, _sharing(given, GenerateOptions))


def apply(
    ds: Dataset, function: Callable[[Row], Awaitable[Row]] | str, **options: Unpack[ApplyOptions]
) -> Dataset:
    """A call of a coroutine function for each row: the Dataset with the columns that it returns.

    ``function`` takes a row and returns a mapping of new columns. It is pickled, or named as ``module:name``
    and imported by the workers. ``attempts``, ``error`` and ``error_code`` are added. The rest as for
    ``generate``.
    """
    given: dict[str, Any] = dict(options)
    work = Calls.of(function, given)
    return _mapped(ds, work, _sharing(given, ApplyOptions))


def summary(ds: Dataset) -> Summary:
    """The sums over a Dataset that ``generate`` returned. Materialize it first, or read what was written:
    to consume it once more runs it once more."""
    from blossom_async.tables import Summary

    return Summary.of(ds.iter_batches(batch_format="pyarrow", batch_size=None))


def _sharing(given: dict[str, Any], options: type) -> Sharing:
    return Sharing.of(given, workers=_WORKERS, known=options.__annotations__)


def _mapped(ds: Dataset, work: Work, sharing: Sharing) -> Dataset:
    try:
        from ray.data import ActorPoolStrategy
    except ImportError as exc:
        raise ConfigurationError("Ray Data is missing; pip install '.[ray]' in the checkout") from exc
    if (names := ds.columns(fetch_if_missing=False)) is not None:
        work.reads(names)
    if sharing.rates and sharing.gate is None:
        sharing = attrs.evolve(sharing, place=_Place())
    least, most = sharing.workers
    block = sharing.rows_of_a_block(ds._meta_count())  # ``count`` may read the whole table
    mapped = ds.repartition(target_num_rows_per_block=block).map_batches(
        _Worker,
        fn_constructor_args=(work, sharing),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_concurrent_calls_per_actor=_BLOCKS_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        num_cpus=0,  # it waits nearly all of its time, and what reads the rows needs the CPUs
        udf_modifying_row_count=False,
    )
    mapped.context.execution_options.preserve_order = True
    return mapped


class _Place:
    """Where all workers get their start times: an actor, which lives as long as somebody knows it."""

    def __init__(self) -> None:
        import ray

        self._actor = ray.remote(num_cpus=0, max_restarts=-1)(Gates).remote()

    def __call__(self) -> _Place:
        import ray

        ray.get(self._actor.__ray_ready__.remote())  # or its start would be taken for a slow round trip
        return self

    async def take(self, question: GateQuestion) -> Grant:
        granted: Grant = await self._actor.take.remote(question)
        return granted


class _Worker:
    """The engine in one of Ray's actors. Its threads share it."""

    def __init__(self, work: Work, sharing: Sharing) -> None:
        self._engine = Engine(work, sharing)

    def __call__(self, table: pa.Table) -> pa.Table:
        from blossom_async.tables import extended

        return extended(table, self._engine)

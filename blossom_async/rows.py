"""Rows in, their new columns out: what runs in each worker of Ray, of Dask or of this machine."""

from __future__ import annotations

import importlib
import inspect
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, Required, TypedDict, Unpack, cast

import attrs

from blossom_async.batch import (
    Gate,
    GatePlace,
    Outcome,
    RateLimit,
    RetryPolicy,
    SharedGate,
    rate_limits,
    run,
    run_one,
)
from blossom_async.batch.gate import RateLimitLike
from blossom_async.batch.options import RUN_NAMES, is_run_name
from blossom_async.batch.start_times import GATE_NAMES, is_gate_name
from blossom_async.blocking import LoopThread
from blossom_async.cdn import Cdn
from blossom_async.client import BlossomClient
from blossom_async.connection import Connections, Destination
from blossom_async.errors import (
    ConfigurationError,
    GateUnavailable,
    PermissionDenied,
    Rejected,
    TimedOut,
    TransportError,
    Unauthenticated,
    UnknownOption,
    shown,
)
from blossom_async.gates import GatewayGates
from blossom_async.limits import Limits
from blossom_async.models import ImageOptions, ImageSettings, checked
from blossom_async.url_batch import NamedRun, RequestWriter, error_code

__all__ = [
    "ADDED",
    "ApplyOptions",
    "Calls",
    "Engine",
    "GenerateOptions",
    "Opened",
    "Pictures",
    "Row",
    "Sharing",
    "Work",
]

Row = Mapping[str, Any]
Attempt = Callable[[Row], Awaitable[Row]]

_MADE = ("url", "image_id", "sha256", "width", "height", "cost", "replayed")
_TOLD = ("attempts", "error", "error_code")
ADDED = (*_MADE, *_TOLD)
"""The columns that ``generate`` adds."""

_RETRY = RetryPolicy()
_OPENING = RetryPolicy(max_attempts=8)  # about half a minute: a gateway may be restarting
_WAITING = RetryPolicy(max_attempts=100, max_wait_s=10.0)  # about eight minutes, for one that has answered
_BLOCKS_OF_A_WORKER = 8  # so that none is done long before the others
_LEAST_BLOCK, _LARGEST_BLOCK = 250, 2000  # a block of Ray's costs as much as a hundred rows
_SAME_FOR_ALL = ConfigurationError | Unauthenticated | PermissionDenied


class _SharedOptions(TypedDict, total=False):
    max_concurrency: int
    workers: int | tuple[int, int]
    rate_limit: RateLimitLike | Iterable[RateLimitLike] | None
    block: int
    timeout_s: float
    retry: RetryPolicy | None


class GenerateOptions(_SharedOptions, total=False):
    """What ``generate`` takes besides its rows.

    ``run`` is your name for the run and ``id`` the column that tells its rows apart: the same call again, in
    any part, on any engine and from anywhere, is answered by the gateway with the pictures that it has made.
    Without ``id`` equal requests are one. ``prompt`` names the column of the prompts, and ``columns`` those
    that are options of their row's picture, named after them; ``options`` holds for all rows.

    ``base_url`` and ``api_key`` are those of the gateway, by default ``BLOSSOM_BASE_URL`` and
    ``BLOSSOM_API_KEY`` where ``generate`` is called; without a key there, each worker takes its own
    ``BLOSSOM_API_KEY``. ``cdn_prefix`` as for ``BlossomClient``.

    At most ``max_concurrency`` calls are under way at once (default 64), an equal share of them in each of
    ``workers``: a number of processes, or the least and the most. No window of a ``rate_limit`` holds more
    starts than it states, in all workers together; with ``gate``, the name of a limit at the gateway, also
    together with all others that start under that name there. ``block`` rows are handed to a worker at a
    time, and are sent again, under the same keys, if it is lost: by default 250, or up to 2,000 of a table
    that is known to have eight times as many for each worker. ``timeout_s`` and ``retry`` as for
    ``BlossomClient``.
    """

    run: Required[str]
    id: str | None
    prompt: str
    columns: Collection[str]
    options: ImageOptions
    base_url: str | None
    api_key: str | None
    cdn_prefix: str | None
    gate: str | None


class ApplyOptions(_SharedOptions, total=False):
    """What ``apply`` takes besides its rows and its function; the rest as for ``GenerateOptions``.

    With ``run`` and ``id``, ``current_attempt().key`` is the same wherever and whenever a row is sent: send
    it as ``Idempotency-Key``.
    """

    run: str | None
    id: str | None


class Work(Protocol):
    """What is done with each row. It is pickled and sent to the workers."""

    def reads(self, names: Collection[str]) -> list[str]:
        """The columns it needs of these. Raises ``ConfigurationError`` for a missing one."""

    def opened(self, limits: Limits) -> Opened:
        """The same work, ready to run in the process of a worker."""


class Opened(Protocol):
    """Work in the process of a worker."""

    named: Mapping[str, Any]
    gates: GatePlace | None

    async def open(self) -> None:
        """Checks that the work can be done, for example that the server answers."""

    async def answers(self) -> bool:
        """True once the server answers, where rows that got no answer can be sent again."""

    async def attempt(self, row: Row) -> Row:
        """New columns of a row."""

    def failed(self, row: Row) -> Row:
        """The same columns of a row for which every attempt failed."""

    async def aclose(self) -> None:
        """Releases what it holds."""


@attrs.frozen(kw_only=True)
class Pictures:
    """A picture for each row: the options of ``generate`` about the pictures, checked.

    Raises ``ConfigurationError``, ``ValueError`` and ``TypeError``, before anything is sent.
    """

    run: str
    id: str | None
    prompt: str
    columns: tuple[str, ...]
    options: Mapping[str, Any]
    base_url: str
    api_key: str | None = attrs.field(repr=False)
    cdn: Cdn

    @classmethod
    def of(cls, given: dict[str, Any]) -> Pictures:
        """Takes the options about the pictures out of those given."""
        named = NamedRun.taken_from({"run": given.pop("run", ""), "id": given.pop("id", None)})
        assert named is not None  # noqa: S101 - for the type checker
        prompt, columns = given.pop("prompt", "prompt"), given.pop("columns", ())
        for name, value in (("prompt", prompt), ("id", named.id)):
            if value is not None and (not isinstance(value, str) or not value or value in ADDED):
                raise ValueError(
                    f"{name}: {shown(value)} cannot be used; allowed: the name of a column, and none of "
                    f"{', '.join(ADDED)}, which are added"
                )
        options: dict[str, Any] = dict(given.pop("options", {}))
        known = [name for name in ImageOptions.__annotations__ if name != "defer"]
        for name in (*options, *_several(columns)):
            if name not in known:  # a picture that is deferred may fail unseen
                raise UnknownOption(name, known)
        settings = checked(options, ImageSettings)
        base_url, api_key = given.pop("base_url", None), given.pop("api_key", None)
        cdn_prefix = given.pop("cdn_prefix", None)
        client = BlossomClient(base_url, api_key=api_key, cdn_prefix=cdn_prefix)  # checks them, opens nothing
        if client.base_url is None:
            raise ConfigurationError(
                "base_url: no address, and the embedded gateway is only for this process; allowed: the "
                "address of a gateway that all workers reach, also in BLOSSOM_BASE_URL; start one with "
                "`blossom serve`"
            )
        cdn = Cdn(cdn_prefix)
        cdn.checked(settings)
        return cls(
            run=named.name,
            id=cast("str | None", named.id),
            prompt=prompt,
            columns=tuple(columns),
            options=options,
            base_url=client.base_url,
            api_key=client.api_key,
            cdn=cdn,
        )

    def reads(self, names: Collection[str]) -> list[str]:
        """As ``Work.reads``."""
        return _present([self.prompt, *self.columns, *([self.id] if self.id else [])], names)

    def opened(self, limits: Limits) -> Opened:
        """As ``Work.opened``."""
        return _Gateway(self, limits)


class _Gateway:
    """The connections of one worker to the gateway."""

    named: Mapping[str, Any] = {}  # keys come from the writer

    def __init__(self, pictures: Pictures, limits: Limits) -> None:
        # Without a key of the caller's, the worker's own environment has it.
        client = BlossomClient(pictures.base_url, api_key=pictures.api_key)
        self._connections = Connections(Destination(pictures.base_url, client.api_key, None, limits))
        self.gates: GatePlace | None = GatewayGates(self._connections.open)
        self._limits = limits
        self._prompt = pictures.prompt
        self._columns = (*pictures.columns, *([pictures.id] if pictures.id else []))
        self._cdn = pictures.cdn
        self._writer = RequestWriter(pictures.options, pictures.cdn, NamedRun(pictures.run, pictures.id))

    async def open(self) -> None:
        await run_one(
            self._connect, None, self._limits.slots, retry=_OPENING, timeout_s=self._limits.timeout_s
        )

    async def _connect(self, _: None) -> None:
        await self._connections.open()

    async def answers(self) -> bool:
        limits = self._limits
        if limits.retry is None:
            return False
        await run_one(self._probe, None, limits.slots, retry=_WAITING)
        return True

    async def _probe(self, _: None) -> None:
        transport = await self._connections.open()
        await transport.probe(self._limits.timeout_s)

    async def attempt(self, row: Row) -> Row:
        entry = {name: row.get(name) for name in self._columns}
        entry["prompt"] = row.get(self._prompt)
        transport = await self._connections.open()
        settings, creation = self._writer.creation(entry)
        try:
            info = self._cdn.placed(await transport.send(creation), settings)
        except Rejected as exc:
            self._writer.explain(entry, exc)
            raise
        made = (info.url, info.id, info.sha256, info.width, info.height, info.cost, creation.replayed)
        return dict(zip(_MADE, made, strict=True))

    def failed(self, row: Row) -> Row:
        return {**dict.fromkeys(_MADE), **{name: row[name] for name in ("width", "height") if name in row}}

    async def aclose(self) -> None:
        await self._connections.aclose()


@attrs.frozen(kw_only=True)
class Calls:
    """A call of a coroutine function for each row: what ``apply`` does, checked. Raises as ``Pictures``."""

    function: Callable[[Row], Awaitable[Row]] | str
    run: str | None
    id: str | None

    @classmethod
    def of(cls, function: object, given: dict[str, Any]) -> Calls:
        """Takes the options about the calls out of those given."""
        named, told_apart = given.pop("run", None), given.pop("id", None)
        if named is not None and not is_run_name(named):
            raise ValueError(f"run: {shown(named)} cannot be used; allowed: {RUN_NAMES}")
        if (named is None) != (told_apart is None):
            raise ValueError("run and id: only one is given; allowed: both or neither")
        _function(function)
        return cls(function=cast(Any, function), run=named, id=told_apart)

    def reads(self, names: Collection[str]) -> list[str]:
        """As ``Work.reads``: all columns."""
        _present([self.id] if self.id else [], names)
        return list(names)

    def opened(self, limits: Limits) -> Opened:
        """As ``Work.opened``."""
        return _Function(self)


class _Function:
    """A coroutine function in one worker."""

    gates: GatePlace | None = None

    def __init__(self, calls: Calls) -> None:
        self._function = _function(calls.function)
        column = calls.id
        self.named: Mapping[str, Any] = (
            {} if calls.run is None else {"run_id": calls.run, "key": lambda row: str(row[column])}
        )

    async def open(self) -> None:
        pass

    async def answers(self) -> bool:
        return False

    async def attempt(self, row: Row) -> Row:
        columns = await self._function(row)
        if not isinstance(columns, Mapping):
            raise TypeError(f"{shown(columns)} is no mapping of new columns, as the function should return")
        return columns

    def failed(self, row: Row) -> Row:
        return {}

    async def aclose(self) -> None:
        pass


@attrs.frozen(kw_only=True)
class Sharing:
    """How the workers share the limits: the options of ``generate`` and ``apply`` about that, checked."""

    max_concurrency: int
    workers: tuple[int, int]
    rates: tuple[RateLimit, ...]
    gate: str | None
    block: int | None
    timeout_s: float
    retry: RetryPolicy | None
    place: Callable[[], GatePlace] | None = None
    """What finds, in a worker, the one place that gives out start times; None for a single worker."""

    @classmethod
    def of(cls, given: dict[str, Any], *, workers: tuple[int, int], known: Collection[str]) -> Sharing:
        """From the options that are left; ``workers`` if they say nothing of them.

        Raises ``TypeError`` for one that is not ``known``, and ``ValueError`` for one that cannot be used.
        """
        asked = given.pop("workers", workers)
        least, most = asked if isinstance(asked, tuple) and len(asked) == 2 else (asked, asked)
        numbers = {"workers": least, "workers at most": most}
        block = given.pop("block", None)
        numbers["block"] = _LEAST_BLOCK if block is None else block
        numbers["max_concurrency"] = at_once = given.pop("max_concurrency", 64)
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: {shown(value)} cannot be used; allowed: a whole number from 1 up")
        if least > most:
            raise ValueError(f"workers: {shown(asked)} cannot be used; allowed: the least, then the most")
        if at_once < most:
            raise ValueError(
                f"max_concurrency: {at_once} calls at once cannot be shared by {most} workers; allowed: at "
                "least one for each; raise it, or have fewer workers"
            )
        timeout_s, retry = given.pop("timeout_s", 300.0), given.pop("retry", _RETRY)
        rates = rate_limits(given.pop("rate_limit", None))
        gate = given.pop("gate", None) if "gate" in known else None
        if gate is not None and not (is_gate_name(gate) and len(rates) == 1):
            raise ValueError(
                f"gate: {shown(gate)} with {len(rates)} rate limits cannot be used; allowed: {GATE_NAMES}, "
                "and the one rate_limit that all who use the gate state"
            )
        for name in given:
            raise UnknownOption(name, known)
        sharing = cls(
            max_concurrency=at_once,
            workers=(least, most),
            rates=rates,
            gate=gate,
            block=block,
            timeout_s=timeout_s,
            retry=retry,
        )
        sharing.limits()
        return sharing

    def limits(self) -> Limits:
        """The limits of one worker. Raises ``ValueError`` for a timeout or a policy that cannot be used."""
        own = self.rates if self.place is None and self.gate is None else ()
        return Limits(self.max_concurrency // self.workers[1], own, self.retry, self.timeout_s)

    def rows_of_a_block(self, rows: int | None = None) -> int:
        """How many rows are handed to a worker at a time, of so many or of nobody knows how many."""
        if self.block is not None:
            return self.block
        share = (rows or 0) // (_BLOCKS_OF_A_WORKER * self.workers[1])
        return min(max(_LEAST_BLOCK, share), _LARGEST_BLOCK)

    def gates(self, own: Gate, gateway: GatePlace | None) -> tuple[Gate, ...]:
        """The gates that every start in one worker passes."""
        if gateway is not None and self.gate is not None:
            return own, SharedGate(self.gate, self.rates[0], slots=gateway)
        if self.place is None:
            return (own,)
        place = self.place()
        return own, *(SharedGate(f"rate-{n}", rate, slots=place) for n, rate in enumerate(self.rates))


class Engine:
    """The engine in one worker's process: one event loop, one client, one share of the limits.

    Several threads may hand it rows at the same time: their calls go out side by side.
    """

    def __init__(self, work: Work, sharing: Sharing) -> None:
        self._limits = sharing.limits()
        self.reads: Callable[[Collection[str]], list[str]] = work.reads
        self._work = work.opened(self._limits)
        self._gates = sharing.gates(self._limits.gate, self._work.gates)
        self._thread = LoopThread()
        self._end = weakref.finalize(self, self._thread.end, self._work.aclose)

    @classmethod
    def of_pictures(cls, **options: Unpack[GenerateOptions]) -> Engine:
        """For a UDF of another framework: each of ``workers`` processes makes one and keeps it.

        A ``rate_limit`` is that of this process alone, unless ``gate`` is given, too. Raises as ``Pictures``.
        """
        given: dict[str, Any] = dict(options)
        work = Pictures.of(given)
        return cls(work, Sharing.of(given, workers=(1, 1), known=GenerateOptions.__annotations__))

    def columns(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The new columns of each row, in order; ``error`` says why a row failed.

        Raises what every row would fail with: ``ConfigurationError``, ``Unauthenticated``,
        ``PermissionDenied``, and ``TransportError`` when no gateway answers at all.
        """
        return self._thread.call(partial(self._columns, rows))

    async def _columns(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        await self._work.open()
        columns: list[dict[str, Any]] = [{} for _ in rows]
        attempts = [0] * len(rows)
        left, waited = list(range(len(rows))), False
        while True:
            ended = await self._run([rows[place] for place in left])
            for place, outcome in zip(left, ended, strict=True):
                attempts[place] += outcome.attempts
                columns[place] = self._told(outcome, attempts[place])
            # A run notices an outage once it was answered. This one may have begun in the middle of one.
            lost = [place for place, outcome in zip(left, ended, strict=True) if _unanswered(outcome)]
            no_progress = waited and len(lost) == len(left)
            if not lost or no_progress or not await self._work.answers():
                return columns
            left, waited = lost, True

    async def _run(self, rows: Sequence[Row]) -> tuple[Outcome[Row, Row], ...]:
        limits = self._limits
        ended = await run(
            self._work.attempt,
            rows,
            max_concurrency=limits.max_concurrency,
            slots=limits.slots,
            gates=self._gates,
            retry=limits.retry,
            timeout_s=limits.timeout_s,
            budget=limits.budget,
            **self._work.named,
        )
        for outcome in ended.outcomes:
            if isinstance(outcome.error, _SAME_FOR_ALL):
                raise outcome.error
        return ended.outcomes

    def _told(self, outcome: Outcome[Row, Row], attempts: int) -> dict[str, Any]:
        error = outcome.error
        made = outcome.value if error is None else self._work.failed(outcome.item)
        code = None if error is None else error_code(error)
        return {
            **made,
            "attempts": attempts,
            "error": None if error is None else str(error),
            "error_code": code,
        }

    def close(self) -> None:
        """Closes the connections, as does dropping it or the end of the process. Safe to call twice."""
        self._end()


def _unanswered(outcome: Outcome[Row, Row]) -> bool:
    error = outcome.error
    return isinstance(error, TransportError) and not isinstance(error, TimedOut | GateUnavailable)


def _several(columns: object) -> Collection[str]:
    if isinstance(columns, str) or not isinstance(columns, Collection):
        raise ValueError(f"columns: {shown(columns)} cannot be used; allowed: a list of names of columns")
    return columns


def _present(needed: Iterable[str], names: Collection[str]) -> list[str]:
    for name in needed:
        if name not in names:
            raise ConfigurationError(
                f"the rows have no column {name!r}; allowed: one of {', '.join(names)}; name it in prompt, "
                "id or columns"
            )
    return list(dict.fromkeys(needed))


def _function(given: object) -> Callable[[Row], Awaitable[Row]]:
    """A coroutine function, given itself or as ``module:name``. Raises ``ValueError``."""
    found = given
    if isinstance(given, str):
        module, _, name = given.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as exc:
            raise ValueError(
                f"function: {given!r} cannot be imported ({exc}); allowed: module:name that workers have"
            ) from exc
    if not inspect.iscoroutinefunction(found):
        raise ValueError(f"function: {shown(given)} cannot be used; allowed: a coroutine function of a row")
    return cast("Callable[[Row], Awaitable[Row]]", found)

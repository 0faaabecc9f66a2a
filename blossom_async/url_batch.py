"""Batches of pictures: the options and requests they take, and the URLs they give."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, cast, overload

import attrs

from blossom_async.batch import BatchResult, Journal, Outcome, Progress, RunOptions, current_attempt
from blossom_async.batch.attempts import key_of_run
from blossom_async.batch.gate import RateLimitLike
from blossom_async.batch.options import RUN_NAMES, is_run_name
from blossom_async.cdn import Cdn, without_cdn
from blossom_async.errors import InvalidRequest, Rejected, ResponseError, UnknownOption, shown
from blossom_async.models import (
    ImageInfo,
    ImageOptions,
    ImageRequest,
    ImageSettings,
    checked,
    from_plain,
    image_request,
    json_with_prompt,
    to_json,
)
from blossom_async.transport import Exchange, Transport

__all__ = [
    "BatchOptions",
    "NamedRun",
    "Request",
    "RequestWriter",
    "UrlBatch",
    "bound_journal",
    "check_several",
    "error_code",
    "hand_over_urls",
    "split",
]

Request = ImageRequest | Mapping[str, Any] | str
"""One entry of a batch: a request, a mapping of its options, or a prompt alone."""


_NOTED = 10  # URLs in the note of an error
_OPTIONS = frozenset(attrs.fields_dict(ImageRequest))
_DEFAULTS = {
    field.name: field.default for field in attrs.fields(ImageRequest) if field.default is not attrs.NOTHING
}


class BatchOptions(ImageOptions, total=False):
    """The options of batch calls: those of every picture, and how the batch runs.

    ``max_concurrency`` and ``rate_limit`` apply on top of the client's own. ``on_progress`` is called after
    each item. ``journal`` is the path of a file that holds every finished item before its result is handed
    out; the same call with the same file sends only what is not finished there. ``deadline_s`` limits the
    whole batch, in seconds; untried items have ``NotRun``. ``max_cost`` limits the sum of credits: a request
    that would exceed it is not sent. ``dedup`` sends equal requests once and gives all of them the answer.

    ``run`` is your name for the run: the same call again, in any part and from any machine, is answered by
    the gateway with the pictures that it has made. ``id`` tells the requests of the run apart: the name of a
    field, which is not sent unless it is an option, or a function from a request to a str or int. Without it
    equal requests are one. Another request under an ``id`` that was used before fails with ``Rejected``.
    """

    max_concurrency: int | None
    rate_limit: RateLimitLike | Iterable[RateLimitLike] | None
    on_progress: Callable[[Progress], object] | None
    journal: str | PathLike[str] | None
    deadline_s: float | None
    max_cost: float | None
    dedup: bool
    run: str | None
    id: str | Callable[[Request], str | int] | None


_RUN_OPTIONS = tuple(
    name for name in BatchOptions.__annotations__ if name not in ImageOptions.__annotations__
)


def split(options: BatchOptions) -> tuple[dict[str, Any], RunOptions[Request]]:
    """The options of the pictures, and those of the run.

    Raises ``TypeError`` for one that neither has, naming the nearest.
    """
    pictures: dict[str, Any] = {}
    how: dict[str, Any] = {}
    for name, value in options.items():
        if name in ImageOptions.__annotations__:
            pictures[name] = value
        elif name not in _RUN_OPTIONS:
            known = (*ImageOptions.__annotations__, *_RUN_OPTIONS)
            raise UnknownOption(name, known)
        elif value is not None:
            how[name] = value
    return pictures, cast(RunOptions[Request], how)


@attrs.frozen
class NamedRun:
    """A run with a name, and what tells its requests apart: the keys of its requests follow from these."""

    name: str
    id: str | Callable[[Request], str | int] | None = None

    @classmethod
    def taken_from(cls, how: dict[str, Any]) -> NamedRun | None:
        """Takes ``run`` and ``id`` out of a batch's options. Raises ``ValueError`` for an invalid one."""
        name, told_apart = how.pop("run", None), how.pop("id", None)
        if name is not None and not is_run_name(name):
            raise ValueError(f"run: {shown(name)} cannot be used; allowed: {RUN_NAMES}")
        if told_apart is not None:
            field = isinstance(told_apart, str) and told_apart
            function = callable(told_apart) and not inspect.iscoroutinefunction(told_apart)
            if not (field or function):
                raise ValueError(
                    f"id: {shown(told_apart)} cannot be used; allowed: the name of a field, or a function"
                )
            if name is None:
                raise ValueError("id: given without run; allowed: with run, the name of the run")
        return None if name is None else cls(name, told_apart)

    @property
    def unsent(self) -> str | None:
        """The field that identifies a request and is not sent, because it is no option of a picture."""
        return self.id if isinstance(self.id, str) and self.id not in _OPTIONS else None

    def id_of(self, entry: Request) -> str | None:
        """The id of an entry; None if its content identifies it. Raises ``InvalidRequest`` if it has none."""
        if self.id is None:
            return None
        if not isinstance(self.id, str):
            found: object = self._called(self.id, entry)
        elif isinstance(entry, Mapping):
            found = entry.get(self.id)
        else:
            found = getattr(entry, self.id, None) if isinstance(entry, ImageRequest) else None
        if not isinstance(found, str | int) or isinstance(found, bool) or found == "":
            what = self.id if isinstance(self.id, str) else "id"
            raise InvalidRequest(what, found, "a str or an int that tells the request apart within its run")
        return str(found)

    def _called(self, function: Callable[[Request], str | int], entry: Request) -> object:
        try:
            return function(entry)
        except Exception as exc:  # the caller's own code: it may raise anything
            raise InvalidRequest(
                "id",
                entry,
                "a function that returns a str or an int for every request",
                seen=f"a function that raises {type(exc).__name__}: {exc}",
            ) from exc

    def key(self, what: str) -> str:
        """The ``Idempotency-Key`` of the request that ``what`` tells apart."""
        return key_of_run(self.name, what)

    def taken(self, entry: Request, refusal: Rejected) -> Rejected:
        """The gateway's refusal of an entry under whose id it knows another request, in words of this run."""
        return Rejected(
            f"id {shown(self.id_of(entry))} was used in run {shown(self.name)} for another request; use "
            "another id, another run, or the same request as then",
            code=refusal.code,
            request_id=refusal.request_id,
        )


def check_several(requests: object) -> None:
    """Raises ``TypeError`` for one request where a batch takes several, a table, and what is not iterable."""
    if isinstance(requests, str | bytes | Mapping | ImageRequest):
        raise TypeError(
            f"a batch takes several requests, not one {type(requests).__name__}; put it in a list"
        )
    if any(hasattr(requests, name) for name in ("columns", "column_names")):  # pandas, Polars, Arrow
        raise TypeError(
            f"a batch takes an iterable of requests, not a {type(requests).__name__}, which iterates its "
            "columns; hand over its rows, such as df.to_dict('records') or table.to_pylist(), or one column"
        )
    if not isinstance(requests, Iterable | AsyncIterable):
        raise TypeError(f"a batch takes an iterable of requests, not {type(requests).__name__}")


def bound_journal(
    how: RunOptions[Request], transport: Transport, named: NamedRun | None
) -> RunOptions[Request]:
    """The same options, with a journal that holds pictures of this gateway only."""
    path = how.get("journal")
    if not isinstance(path, str | PathLike):
        return how

    def recalled(plain: object) -> ImageInfo:
        info = from_plain(plain, ImageInfo)
        if transport.place != transport.base_url and info.url.startswith("http://127.0.0.1:"):
            # An embedded gateway: the same pictures, perhaps on another port than then.
            return attrs.evolve(info, url=f"{transport.base_url}/image/{info.id}")
        return info

    run_name = f"pictures of {transport.place}" + (f", run {named.name}" if named else "")
    return {**how, "journal": Journal(path, run=run_name, encode=attrs.asdict, decode=recalled)}


class RequestWriter:
    """Writes each entry of a batch as the JSON of its request: its own settings over the batch's defaults."""

    def __init__(self, defaults: Mapping[str, Any], cdn: Cdn, named: NamedRun | None) -> None:
        """Raises ``TypeError``, ``InvalidRequest`` and ``ConfigurationError`` for a bad default."""
        self.named = named
        self._unsent = named.unsent if named is not None else None
        self._defaults = defaults
        self._cdn = cdn
        self._settings = cdn.checked(checked(defaults, ImageSettings))
        self._with_prompt = json_with_prompt(without_cdn(self._settings))

    def written(self, entry: Request) -> tuple[ImageSettings, bytes]:
        """The settings that hold for the entry, and its JSON. Raises as above for what is wrong with it."""
        if isinstance(entry, str):  # by far the most: only the prompt is checked and written
            return self._settings, self._with_prompt(entry)
        request = self._cdn.checked(image_request({**self._defaults, **_own_settings(entry, self._unsent)}))
        return request, to_json(without_cdn(request))

    def key(self, entry: Request) -> str:
        """A text that is equal for entries that ask for the same picture under the same id."""
        try:
            settings, body = self.written(entry)
            own_id = self.named.id_of(entry) if self.named is not None else None
        except (TypeError, ValueError):  # it will fail, alone
            return shown(entry)
        return f"{'' if own_id is None else f'{own_id} '}{settings.use_custom_cdn} {body.decode()}"

    def idempotency_key(self, entry: Request) -> str:
        """The key of the attempt, or the one derived from the run's name. Raises as ``NamedRun.id_of``."""
        if self.named is None:
            return current_attempt().key
        own_id = self.named.id_of(entry)
        return self.named.key(self.written(entry)[1].decode() if own_id is None else own_id)

    def creation(self, entry: Request) -> tuple[ImageSettings, Exchange[ImageInfo]]:
        """The settings that hold for the entry, and what asks the gateway for it. Raises as above."""
        settings, body = self.written(entry)
        key = self.idempotency_key(entry)
        return settings, Exchange("POST", "/v1/images", ImageInfo, body, idempotency_key=key, urgent=False)

    def explain(self, entry: Request, refusal: Rejected) -> None:
        """Raises the gateway's refusal of an entry in words of the named run, if it is about its id."""
        if self.named is not None and refusal.code == "idempotency_key_reused":
            raise self.named.taken(entry, refusal) from refusal

    def cost(self, entry: Request) -> int:
        """Credits; none for an entry that will fail before it is sent."""
        try:
            return self.written(entry)[0].cost
        except (TypeError, ValueError):
            return 0


def _own_settings(item: ImageRequest | Mapping[str, Any], unsent: str | None) -> Mapping[str, Any]:
    if isinstance(item, ImageRequest):
        settings = attrs.asdict(item, recurse=False)
        return {
            name: value for name, value in settings.items() if value != _DEFAULTS.get(name, attrs.NOTHING)
        }
    if isinstance(item, Mapping):
        return {name: value for name, value in item.items() if value is not None and name != unsent}
    raise TypeError(
        f"{shown(item)} is not a request; allowed: a prompt, a mapping of options, an ImageRequest"
    )


class UrlBatch(Sequence[str | None]):
    """The URLs of a batch in input order, None where an item failed.

    ``infos`` holds each ``ImageInfo`` or None, ``outcomes`` each ``Outcome``, in the same order.
    """

    def __init__(self, result: BatchResult[Request, ImageInfo]) -> None:
        self._result = result
        self.infos: tuple[ImageInfo | None, ...] = tuple(result)
        self.outcomes: tuple[Outcome[Request, ImageInfo], ...] = result.outcomes
        self.elapsed_s: float = result.elapsed_s

    @property
    def failures(self) -> tuple[Outcome[Request, ImageInfo], ...]:
        """Outcomes of the items that were tried and failed."""
        return self._result.failures

    @property
    def not_run(self) -> tuple[Outcome[Request, ImageInfo], ...]:
        """Outcomes of the items that were not tried because the batch stopped."""
        return self._result.not_run

    @property
    def cost(self) -> int:
        """Credits of the pictures made."""
        return sum(info.cost for info in self.infos if info is not None)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each item, for a data frame or a file: ``index``, ``prompt``, ``error``, ``error_code``,
        ``attempts``, and the fields of its ``ImageInfo``, None where it failed."""
        nothing = dict.fromkeys(attrs.fields_dict(ImageInfo))
        return [
            {
                "index": outcome.index,
                "prompt": _prompt(outcome.item),
                "error": None if outcome.error is None else str(outcome.error),
                "error_code": None if outcome.error is None else error_code(outcome.error),
                "attempts": outcome.attempts,
                **(nothing if outcome.value is None else outcome.value.to_dict()),
            }
            for outcome in self.outcomes
        ]

    def raise_for_failures(self) -> None:
        """Raises an ``ExceptionGroup`` if any item failed; each error's note gives its index and prompt."""
        self._result.raise_for_failures()

    @overload
    def __getitem__(self, index: int) -> str | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str | None]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str | None] | None:
        if isinstance(index, slice):
            return [info.url if info else None for info in self.infos[index]]
        info = self.infos[index]
        return info.url if info else None

    def __len__(self) -> int:
        return len(self.infos)

    def __repr__(self) -> str:
        return f"<UrlBatch: {self._standing}>"

    @property
    def _standing(self) -> str:
        return f"{len(self) - self.infos.count(None)} of {len(self)} ok in {self.elapsed_s:.1f} s"

    def _repr_html_(self) -> str:
        from blossom_async.notebook import grid, table

        made = (
            (outcome.value.url, outcome.value.thumbnail_url, str(_prompt(outcome.item)))
            for outcome in self.outcomes
            if outcome.value is not None
        )
        missing = (
            (str(outcome.index), str(_prompt(outcome.item)), str(outcome.error))
            for outcome in self.outcomes
            if outcome.value is None
        )
        lacking = sum(outcome.value is None for outcome in self.outcomes)
        shown = grid(self._standing, made, len(self.outcomes) - lacking)
        if not lacking:
            return shown
        return shown + table("without a picture:", ("index", "prompt", "error"), missing, lacking)


def _prompt(item: Request) -> object:
    if isinstance(item, Mapping):
        return item.get("prompt")
    return item.prompt if isinstance(item, ImageRequest) else item


def error_code(error: Exception) -> str:
    """The gateway's code of an error, or the name of its class."""
    return error.code if isinstance(error, ResponseError) else type(error).__name__


def hand_over_urls(error: Exception) -> None:
    """Turns the ``result`` of an error that ended a batch into a ``UrlBatch``, and notes its URLs."""
    result = getattr(error, "result", None)
    if isinstance(result, BatchResult):
        batch = UrlBatch(result)
        object.__setattr__(error, "result", batch)
        urls = [url for url in batch if url is not None]
        if urls:
            more = f" and {len(urls) - _NOTED} more" if len(urls) > _NOTED else ""
            error.add_note(f"pictures made before that: {', '.join(urls[:_NOTED])}{more}")

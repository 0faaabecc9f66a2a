"""What ``run`` and ``stream`` take besides the function and its items: named once, checked once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from os import PathLike
from typing import Any, Generic, TypedDict, TypeVar

import attrs

from blossom_async.batch.gate import Gate, RateLimit, RateLimitLike, rate_limits
from blossom_async.batch.journal import Journal
from blossom_async.batch.progress import OnProgress
from blossom_async.batch.retry import Classify, RetryBudget, RetryPolicy, classify
from blossom_async.batch.slots import Slots
from blossom_async.batch.spending import amount
from blossom_async.batch.timeouts import SECONDS, is_seconds
from blossom_async.errors import UnknownOption, shown

__all__ = ["RUN_NAMES", "RunOptions", "RunSettings", "is_run_name"]

RUN_NAMES = "one line of 1 to 200 printable characters without spaces around it"

Item = TypeVar("Item")
Validator = Callable[[object, "attrs.Attribute[Any]", object], None]


class RunOptions(TypedDict, Generic[Item], total=False):
    """How a batch runs, for editors and type checkers.

    ``max_concurrency`` attempts are under way at once (default 64), fewer while the server refuses more. No
    window of a ``rate_limit`` holds more starts than it states. ``slots``, ``gates`` and ``budget`` are
    limits shared with other runs.

    An exception of an attempt is its item's outcome, unless ``classify`` says to try again and ``retry``
    allows it. ``timeout_s`` seconds for one attempt, not counting the wait for its turn; past it the attempt
    is cancelled and fails with ``TimedOut``. ``deadline_s`` seconds for the whole batch: then attempts under
    way are cancelled and fail with ``TimedOut``, items between two attempts keep their last error, and
    untried ones have ``NotRun``. An error that ``classify`` calls fatal stops the batch too, but lets what is
    under way end.

    ``on_progress``, a plain function, is called after each item; what it raises goes to the loop's exception
    handler.

    ``journal`` a file in which each finished item is on disk before its outcome is handed out; the same call
    again sends only what is not finished there. ``dedup`` sends equal items once and gives all of them the
    answer. Items are equal, and recognised in the journal, by ``key(item)``; text is its own key. An item is
    sent only while the sum of ``cost(item)`` over all items sent, in this run and those before it in the
    journal, stays within ``max_cost``; the first that does not fit stops the batch. Items that were refused
    (4xx) do not count. An item for which ``key`` or ``cost`` raises, or returns something unusable, fails
    with that and is not sent.

    ``run_id`` is your name for the run, the same in every process and each time that it is repeated:
    ``current_attempt().key`` follows from it and ``key(item)`` alone, so a server that honours
    ``Idempotency-Key`` makes each item once. Items of one key are one item to it.
    """

    max_concurrency: int
    rate_limit: RateLimitLike | Iterable[RateLimitLike] | None
    retry: RetryPolicy | None
    classify: Classify
    timeout_s: float | None
    deadline_s: float | None
    on_progress: OnProgress | None
    run_id: str | None
    key: Callable[[Item], str] | None
    journal: Journal | str | PathLike[str] | None
    dedup: bool
    cost: Callable[[Item], float | Decimal] | None
    max_cost: float | Decimal | None
    slots: Slots | None
    gates: Sequence[Gate]
    budget: RetryBudget | None


def _refusal(name: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"{name}: {shown(value)} cannot be used; allowed: {allowed}")


def _must(
    usable: Callable[[Any], bool], allowed: str
) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """A validator for everything but the default."""

    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not attribute.default and not usable(value):
            raise _refusal(attribute.name, value, allowed)

    return check


def _instance(kind: type) -> Validator:
    return _must(lambda value: isinstance(value, kind), f"an object of {kind.__name__}")


def is_run_name(value: object) -> bool:
    """Whether a value can name a run."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) == len(value) <= 200


_function = _must(callable, "a function")
_seconds = _must(is_seconds, SECONDS)


def _journal(given: object) -> Journal | None:
    if given is None or isinstance(given, Journal):
        return given
    if not isinstance(given, str | PathLike):
        raise _refusal("journal", given, "the path of a file, or a Journal")
    return Journal(given)


def _gates(given: object) -> tuple[Gate, ...]:
    gates = tuple(given) if isinstance(given, Iterable) else ()
    if not isinstance(given, Iterable) or not all(isinstance(gate, Gate) for gate in gates):
        raise _refusal("gates", given, "a list of Gate objects")
    return gates


def _max_cost(given: float | Decimal | None) -> Decimal | None:
    return None if given is None else amount(given, "max_cost")


@attrs.frozen(kw_only=True)
class RunSettings(Generic[Item]):
    """The fields of ``RunOptions``, checked.

    Raises ``ValueError`` for what cannot be used, and ``TypeError`` for an ``on_progress`` that is a
    coroutine function.
    """

    max_concurrency: int = attrs.field(default=64)
    rate_limit: tuple[RateLimit, ...] = attrs.field(default=None, converter=rate_limits)
    retry: RetryPolicy | None = attrs.field(default=None, validator=_instance(RetryPolicy))
    classify: Classify = attrs.field(default=classify, validator=_function)
    timeout_s: float | None = attrs.field(default=None, validator=_seconds)
    deadline_s: float | None = attrs.field(default=None, validator=_seconds)
    on_progress: OnProgress | None = attrs.field(default=None, validator=_function)
    run_id: str | None = attrs.field(default=None, validator=_must(is_run_name, RUN_NAMES))
    key: Callable[[Item], str] | None = attrs.field(default=None, validator=_function)
    journal: Journal | None = attrs.field(default=None, converter=_journal)
    dedup: bool = attrs.field(default=False, validator=_must(lambda value: value is True, "True or False"))
    cost: Callable[[Item], float | Decimal] | None = attrs.field(default=None, validator=_function)
    max_cost: Decimal | None = attrs.field(default=None, converter=_max_cost)
    slots: Slots | None = attrs.field(default=None, validator=_instance(Slots))
    gates: tuple[Gate, ...] = attrs.field(default=(), converter=_gates)
    budget: RetryBudget | None = attrs.field(default=None, validator=_instance(RetryBudget))

    @max_concurrency.validator
    def _check_max_concurrency(self, _: object, value: int) -> None:
        Slots(value)

    @on_progress.validator
    def _check_on_progress(self, _: object, value: object) -> None:
        if _is_coroutine_function(value):
            raise TypeError(
                f"on_progress: {value!r:.80} is a coroutine function, which nobody would await; "
                "allowed: a plain function, which may start a task"
            )

    @cost.validator
    def _check_cost(self, _: object, cost: object) -> None:
        if (cost is None) != (self.max_cost is None):
            raise ValueError("cost and max_cost: only one is given; allowed: both or neither")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> RunSettings[Any]:
        """As the class. Raises ``TypeError`` for an option that does not exist, naming the nearest."""
        known = [field.name for field in attrs.fields(cls)]
        for name in options:
            if name not in known:
                raise UnknownOption(name, known)
        return cls(**options)


def _is_coroutine_function(function: object) -> bool:
    call = getattr(type(function), "__call__", None)  # noqa: B004 - not whether, but how it is called
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)

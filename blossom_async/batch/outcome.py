"""The outcome of each item of a batch, and the result of the whole batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar, overload

import attrs

from blossom_async.errors import NotRun

__all__ = ["BatchResult", "Done", "Failed", "Outcome", "carrying"]

Item = TypeVar("Item")
Value = TypeVar("Value")


@attrs.define(eq=False)
class Done(Generic[Item, Value]):
    """An item with a value; ``ok`` is True and ``error`` None.

    ``index`` is its place in the input, ``attempts`` how often it was tried, ``elapsed_s`` the seconds since
    it was taken from the input, including the wait for a slot and the rate limit. ``attempts`` is 0 when
    nothing was sent for it: the journal or an equal item had the answer.
    """

    index: int
    item: Item
    value: Value
    attempts: int
    elapsed_s: float
    error: ClassVar[None] = None
    ok: ClassVar[Literal[True]] = True


@attrs.define(eq=False)
class Failed(Generic[Item]):
    """An item without a value; ``ok`` is False and ``value`` None.

    ``error`` is that of its last attempt, or ``NotRun`` when the batch stopped before the first; then
    ``attempts`` is 0. The rest as for ``Done``.
    """

    index: int
    item: Item
    error: Exception
    attempts: int
    elapsed_s: float
    # Typed Any because pyright narrows on `outcome.error is None` or `match`, but not on a bare `outcome.ok`:
    # typed None, it would refuse `outcome.value.url if outcome.ok`, which mypy understands.
    value: ClassVar[Any] = None
    ok: ClassVar[Literal[False]] = False


Outcome: TypeAlias = Done[Item, Value] | Failed[Item]
"""The end of one item. ``if outcome.ok``, ``if outcome.error is None`` and ``match`` tell which it is."""


class BatchResult(Sequence[Value | None], Generic[Item, Value]):
    """The values of a batch in input order, None where an item failed or was not run.

    ``outcomes`` has the ``Outcome`` of each item in the same order. ``elapsed_s`` is how many seconds the
    batch took, ``stopped`` why it ended before its input did, or None.
    """

    def __init__(
        self, outcomes: Sequence[Outcome[Item, Value]], elapsed_s: float, stopped: str | None = None
    ) -> None:
        self.outcomes: tuple[Outcome[Item, Value], ...] = tuple(outcomes)
        self.elapsed_s = elapsed_s
        self.stopped = stopped

    @property
    def failures(self) -> tuple[Failed[Item], ...]:
        """The items that were tried and failed."""
        return tuple(o for o in self.outcomes if not o.ok and not isinstance(o.error, NotRun))

    @property
    def not_run(self) -> tuple[Failed[Item], ...]:
        """The items that were never tried because the batch stopped."""
        return tuple(o for o in self.outcomes if not o.ok and isinstance(o.error, NotRun))

    def raise_for_failures(self) -> None:
        """Raises an ``ExceptionGroup`` when any item has no value; each leaf's note names index and item."""
        errors = []
        for outcome in self.outcomes:
            if outcome.error is not None:
                error = outcome.error
                note = f"item {outcome.index}: {outcome.item!r:.200}"
                if note not in getattr(error, "__notes__", ()):
                    error.add_note(note)
                errors.append(error)
        if errors:
            raise ExceptionGroup(f"{len(errors)} of {len(self.outcomes)} items failed", errors)

    @overload
    def __getitem__(self, index: int) -> Value | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Value | None]: ...
    def __getitem__(self, index: int | slice) -> Value | Sequence[Value | None] | None:
        if isinstance(index, slice):
            return [outcome.value for outcome in self.outcomes[index]]
        return self.outcomes[index].value

    def __len__(self) -> int:
        return len(self.outcomes)

    def __iter__(self) -> Iterator[Value | None]:
        return (outcome.value for outcome in self.outcomes)

    def __repr__(self) -> str:
        lost = sum(not outcome.ok for outcome in self.outcomes)
        return f"<{type(self).__name__}: {len(self) - lost} of {len(self)} ok in {self.elapsed_s:.1f} s>"


def carrying(error: BaseException, result: BatchResult[Any, Any]) -> BaseException:
    """The error that ended a batch, with what had ended by then as its ``result``."""
    object.__setattr__(error, "result", result)  # also on a class of exceptions that cannot be changed
    error.add_note(
        f"{sum(outcome.ok for outcome in result.outcomes)} of the {len(result)} items taken before that have "
        "a value; this exception's `result` has their outcomes"
    )
    return error

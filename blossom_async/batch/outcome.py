"""What became of each item of a batch, and of the batch as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar, overload

import attrs

from blossom_async.errors import NotRun

__all__ = ["BatchResult", "Outcome", "Progress"]

Item = TypeVar("Item")
Value = TypeVar("Value")


@attrs.define(eq=False)
class Outcome(Generic[Item, Value]):
    """The end of one item: a value or an error, never both.

    ``index`` is its place in the input, ``attempts`` how often it was tried, ``elapsed_s`` the seconds from
    being taken from the input to its end, waiting for a slot and for the rate limit included. ``attempts`` is
    0 when nothing was sent for it: the journal or an equal item had the answer, or it was given up untried.
    """

    index: int
    item: Item
    value: Value | None
    error: Exception | None
    attempts: int
    elapsed_s: float

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.error is None


@attrs.frozen(kw_only=True)
class Progress:
    """Where a batch stands. ``total`` is None when the input does not know its length.

    ``done`` counts successes, ``failed`` failures, ``not_run`` items given up untried, ``running`` items
    taken and not yet ended, of which ``waiting`` have failed and will be tried again. ``reused`` of the
    ``done`` came from the journal or from an equal item. ``stopped`` says why nothing new is started.
    """

    total: int | None
    done: int
    failed: int
    not_run: int
    running: int
    waiting: int
    reused: int
    elapsed_s: float
    stopped: str | None


class BatchResult(Sequence[Value | None], Generic[Item, Value]):
    """The values of a batch in input order, None where an item failed or was not run.

    ``outcomes`` has an ``Outcome`` in the same places, ``elapsed_s`` the seconds the batch took, ``stopped``
    why it ended before its input did, if it did.
    """

    def __init__(
        self, outcomes: Sequence[Outcome[Item, Value]], elapsed_s: float, stopped: str | None = None
    ) -> None:
        self.outcomes = tuple(outcomes)
        self.elapsed_s = elapsed_s
        self.stopped = stopped

    @property
    def failures(self) -> tuple[Outcome[Item, Value], ...]:
        """Outcomes of the items that were tried and failed."""
        return tuple(o for o in self.outcomes if o.error is not None and not isinstance(o.error, NotRun))

    @property
    def not_run(self) -> tuple[Outcome[Item, Value], ...]:
        """Outcomes of the items that were never tried because the batch stopped."""
        return tuple(o for o in self.outcomes if isinstance(o.error, NotRun))

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

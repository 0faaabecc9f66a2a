"""Outcomes: what they hold, and that type checkers can tell a value from an error."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import assert_never, assert_type

import attrs
import pytest

from blossom_async import Outcome
from blossom_async.batch import BatchResult, Done, Failed, Journal, run
from blossom_async.errors import ConfigurationError, NotRun
from tests.virtual_clock import on_virtual_clock


@attrs.frozen
class Info:
    url: str


async def attempt(item: str) -> Info:
    if item == "bad":
        raise LookupError(item)
    return Info(f"/{item}")


# mypy checks what these say of the types; pyright in strict mode accepts them as well.


def by_ok(outcome: Outcome[str, Info]) -> object:
    """As README does."""
    return outcome.value.url if outcome.ok else outcome.error


def by_error(outcome: Outcome[str, Info]) -> str:
    """The other way round."""
    if outcome.error is not None:
        assert_type(outcome, Failed[str])
        return repr(outcome.error)
    assert_type(outcome, Done[str, Info])
    return outcome.value.url


def by_match(outcome: Outcome[str, Info]) -> str:
    """By class."""
    match outcome:
        case Done(value=info):
            assert_type(info, Info)
            return info.url
        case Failed(error=error):
            return repr(error)
        case _:
            assert_never(outcome)


def test_an_outcome_is_a_value_or_an_error() -> None:
    """And it says which, whatever it is asked."""
    good, bad = on_virtual_clock(run(attempt, ["a", "bad"])).outcomes
    assert (good.ok, good.index, good.item, good.value, good.error) == (True, 0, "a", Info("/a"), None)
    assert (bad.ok, bad.index, bad.item, bad.value) == (False, 1, "bad", None)
    assert by_ok(good) == by_error(good) == by_match(good) == "/a"
    assert by_ok(bad) is bad.error
    assert by_error(bad) == by_match(bad) == "LookupError('bad')"


def test_what_failed_and_what_was_not_run_are_told_apart() -> None:
    """Both have an error and no value."""

    async def slow(item: int) -> None:
        await attempt("bad")

    result = on_virtual_clock(run(slow, range(2), cost=float, max_cost=0))
    assert [(o.index, type(o.error)) for o in result.failures] == [(0, LookupError)]
    assert [(o.index, type(o.error), o.attempts) for o in result.not_run] == [(1, NotRun, 0)]


def test_outcomes_go_to_another_process() -> None:
    """With item, value and error."""
    for outcome in on_virtual_clock(run(attempt, ["a", "bad"])).outcomes:
        again = pickle.loads(pickle.dumps(outcome))  # noqa: S301 - pickled here
        assert repr(again) == repr(outcome)


@attrs.frozen
class FrozenError(Exception):
    """Of a kind that refuses new attributes."""


@pytest.mark.parametrize("error", [FrozenError(), ValueError("bad row"), KeyError("column")])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_input_that_fails_midway_loses_no_outcome(error: Exception, asynchronous: bool) -> None:
    """They come with its exception, failures included."""

    def rows() -> Iterator[str]:
        yield from ("a", "bad", "c")
        raise error

    async def async_rows() -> AsyncIterator[str]:
        for row in rows():
            yield row

    with pytest.raises(type(error)) as caught:
        on_virtual_clock(run(attempt, async_rows() if asynchronous else rows()))
    result = caught.value.result  # type: ignore[attr-defined]
    assert isinstance(result, BatchResult)
    assert list(result) == [Info("/a"), None, Info("/c")]
    assert [type(outcome.error) for outcome in result.failures] == [LookupError]
    assert "2 of the 3 items" in caught.value.__notes__[0]


def test_a_journal_that_fails_midway_loses_no_outcome(tmp_path: Path) -> None:
    """What could not be recorded was paid for all the same."""
    journal = Journal(tmp_path / "run.jsonl", encode=lambda info: info.url if info.url != "/b" else object())
    with pytest.raises(ConfigurationError, match="cannot be written") as caught:
        asyncio.run(run(attempt, ["a", "b"], journal=journal, key=str))
    assert list(caught.value.result) == [Info("/a"), Info("/b")]  # type: ignore[attr-defined]

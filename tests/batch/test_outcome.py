"""Outcomes: what they hold, and that type checkers can tell a value from an error."""

from __future__ import annotations

import pickle
from typing import assert_never, assert_type

import attrs

from blossom_async import Outcome
from blossom_async.batch import Done, Failed, run
from blossom_async.errors import NotRun
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

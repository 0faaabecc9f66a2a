"""The options of a batch: each takes effect or is refused before anything starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from blossom_async.batch import Gate, RateLimit, RunOptions, Slots, run, stream
from blossom_async.batch.options import RunSettings
from tests.virtual_clock import on_virtual_clock


async def streamed(attempt: Any, items: Any, **options: Any) -> None:
    """Not read: bad options must not wait for that."""
    async with stream(attempt, items, **options):
        pass


def test_the_options_editors_know_are_those_there_are() -> None:
    """In the same order."""
    assert list(RunOptions.__annotations__) == [field.name for field in attrs.fields(RunSettings)]


@pytest.mark.parametrize("call", [run, streamed])
@pytest.mark.parametrize(
    ("option", "meant"), [("max_concurency", "max_concurrency"), ("timeout", "timeout_s"), ("zzz", None)]
)
def test_an_unknown_option_names_the_nearest(
    call: Callable[..., Any], option: str, meant: str | None
) -> None:
    """Before the input is touched."""
    items = iter([1, 2, 3])
    with pytest.raises(
        TypeError, match=f"unknown option '{option}'.*Known options: max_concurrency, "
    ) as caught:
        on_virtual_clock(call(asyncio.sleep, items, **{option: 1}))
    assert (f"Did you mean '{meant}'?" in str(caught.value)) == (meant is not None)
    assert list(items) == [1, 2, 3]


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("max_concurrency", 0, "a whole number from 1 up"),
        ("max_concurrency", "8", "a whole number from 1 up"),
        ("rate_limit", "fast", "'600/min'"),
        ("retry", 3, "an object of RetryPolicy"),
        ("classify", None, "a function"),
        ("timeout_s", "5", "seconds above 0"),
        ("timeout_s", float("nan"), "seconds above 0"),
        ("deadline_s", 0, "seconds above 0"),
        ("on_progress", "bar", "a function"),
        ("run_id", "", "one line of 1 to 200 printable characters"),
        ("run_id", 7, "one line of 1 to 200 printable characters"),
        ("run_id", "two\nlines", "one line of 1 to 200 printable characters"),
        ("key", "id", "a function"),
        ("journal", 3, "the path of a file, or a Journal"),
        ("dedup", "no", "True or False"),
        ("max_cost", "10", "a number from 0 up"),
        ("cost", float, "both or neither"),
        ("slots", 5, "an object of Slots"),
        ("gates", Gate(), "a list of Gate objects"),
        ("gates", ["10/s"], "a list of Gate objects"),
        ("budget", 0.5, "an object of RetryBudget"),
        ("window", 0, "a whole number from 1 up"),
        ("window", 2.5, "a whole number from 1 up"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(option: str, value: object, allowed: str) -> None:
    """The message has the option, the value and what is allowed."""
    items = iter([1, 2, 3])
    with pytest.raises(ValueError, match="allowed: ") as caught:
        on_virtual_clock(streamed(asyncio.sleep, items, **{option: value}))
    assert allowed in str(caught.value)
    assert option.replace("_", " ") in str(caught.value).replace("_", " ")
    assert list(items) == [1, 2, 3]


def test_options_are_read_as_people_write_them(tmp_path: Path) -> None:
    """Paths, rates and lists of limits."""
    settings = RunSettings.of({"journal": str(tmp_path / "j"), "rate_limit": ["10/s", 5], "gates": [Gate()]})
    assert settings.journal is not None
    assert settings.journal.path == tmp_path / "j"
    assert settings.rate_limit == (RateLimit(10), RateLimit(5))
    assert len(settings.gates) == 1


def test_options_left_out_are_as_for_none_given() -> None:
    """Each has a default."""

    async def go() -> list[int | None]:
        return list(await run(double, [1, 2], slots=Slots(1), retry=None, max_cost=None, cost=None))

    async def double(item: int) -> int:
        return 2 * item

    assert on_virtual_clock(go()) == [2, 4]

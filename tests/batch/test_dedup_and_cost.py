"""Equal items are sent once; what is sent never costs more than allowed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blossom_async.batch import Outcome, RetryPolicy, run, stream
from blossom_async.errors import NotRun, PaymentRequired, Rejected, ServerFailed
from tests.virtual_clock import on_virtual_clock

letters = st.lists(st.sampled_from("abcdefg"), max_size=40)


@settings(deadline=None)
@given(letters, st.sets(st.sampled_from("abcdefg")), st.integers(1, 8), st.booleans())
def test_equal_items_are_sent_once_and_all_have_the_answer(
    items: list[str], failing: set[str], workers: int, ordered: bool
) -> None:
    """Whatever is equal to what, and in whatever order it ends; retries of one item are its own."""
    sent: Counter[str] = Counter()

    async def attempt(item: str) -> str:
        sent[item] += 1
        await asyncio.sleep(ord(item) % 3)
        if item in failing and sent[item] % 2:
            raise ServerFailed("once")
        return item.upper()

    async def go() -> list[Outcome[str, str]]:
        retry = RetryPolicy(first_wait_s=1)
        async with stream(
            attempt, iter(items), dedup=True, max_concurrency=workers, ordered=ordered, retry=retry
        ) as outcomes:
            return [outcome async for outcome in outcomes]

    outcomes = on_virtual_clock(go())
    assert {o.index: o.value for o in outcomes} == {n: item.upper() for n, item in enumerate(items)}
    assert sent == Counter({item: 1 + (item in failing) for item in set(items)})
    assert sum(o.attempts > 0 for o in outcomes) == len(set(items))


def test_a_failure_is_shared_by_those_who_waited_and_by_no_later_one() -> None:
    """What came after it is sent again."""
    sent = 0

    async def attempt(item: str) -> str:
        nonlocal sent
        sent += 1
        await asyncio.sleep(1)
        if sent == 1:
            raise Rejected("no")
        return item

    def items() -> list[str]:
        return ["a"] * 6

    result = on_virtual_clock(run(attempt, items(), dedup=True, max_concurrency=3))
    assert sent == 1
    assert [o.attempts for o in result.failures] == [1] * 6

    async def later() -> tuple[int, int]:
        async with stream(attempt, items(), dedup=True, window=2) as outcomes:
            seen = [outcome async for outcome in outcomes]
        return sum(o.ok for o in seen), sent

    sent = 0
    assert on_virtual_clock(later()) == (4, 2)


def test_equality_is_what_key_says() -> None:
    """Items that are no text need one."""
    sent = []

    async def attempt(item: tuple[str, int]) -> int:
        sent.append(item)
        return item[1]

    items = [("a", 1), ("a", 2), ("b", 3)]
    result = on_virtual_clock(run(attempt, items, dedup=True, key=lambda item: item[0]))
    assert list(result) == [1, 1, 3]
    assert sent == [("a", 1), ("b", 3)]


def test_equal_items_stop_together() -> None:
    """A fatal answer to the one that was sent is the failure of all that waited for it."""

    async def attempt(item: str) -> str:
        await asyncio.sleep(1)
        raise PaymentRequired("no money")

    result = on_virtual_clock(run(attempt, ["a", "b"] * 3, dedup=True, max_concurrency=1))
    assert [o.item for o in result.failures] == ["a"] * len(result.failures)
    assert len(result.failures) + len(result.not_run) == 6


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from(["ok", "refused", "broken"])), max_size=30),
    st.integers(0, 300),
    st.integers(1, 8),
)
def test_what_is_sent_never_costs_more_than_allowed(
    items: list[tuple[int, str]], max_tenths: int, workers: int
) -> None:
    """Refused items cost nothing, broken ones may have; the first that does not fit stops the batch."""
    committed = most = 0

    async def attempt(index: int) -> int:
        nonlocal committed, most
        tenths, end = items[index]
        committed += tenths
        most = max(most, committed)
        await asyncio.sleep(1)
        if end == "refused":
            committed -= tenths
            raise Rejected("no")
        if end == "broken":
            raise ServerFailed("broken")
        return index

    result = on_virtual_clock(
        run(
            attempt,
            range(len(items)),
            cost=lambda index: items[index][0] / 10,
            max_cost=max_tenths / 10,
            max_concurrency=workers,
        )
    )
    assert len(result) == len(items)
    assert most <= max_tenths
    if result.not_run:
        first = result.not_run[0]
        assert f"item {first.index} may cost" in str(first.error)
        assert [o.index for o in result.not_run] == list(range(first.index, len(items)))
    else:
        assert result.stopped is None


def test_ten_times_a_tenth_is_one() -> None:
    """Money is counted in decimal."""
    result = on_virtual_clock(run(asyncio.sleep, [0] * 12, cost=lambda _: 0.1, max_cost=Decimal(1)))
    assert len(result.not_run) == 2


async def test_a_resumed_batch_counts_what_it_has_spent(tmp_path: Path) -> None:
    """The limit is for the batch, however often it is started; equal items are paid once."""

    async def attempt(item: str) -> str:
        return item

    async def cost_of(items: list[str], max_cost: float) -> tuple[list[str | None], int]:
        result = await run(
            attempt, items, cost=lambda _: 1, max_cost=max_cost, journal=tmp_path / "run.jsonl", dedup=True
        )
        assert all(isinstance(o.error, NotRun) for o in result.outcomes if not o.ok)
        return list(result), sum(o.attempts for o in result.outcomes)

    items = ["a", "b", "a", "c", "d"]
    assert await cost_of(items, 2) == (["a", "b", "a", None, None], 2)
    assert await cost_of(items, 2) == (["a", "b", "a", None, None], 0)
    assert await cost_of(items, 4) == (items, 2)


async def test_a_refused_item_that_now_passes_does_not_break_the_budget(tmp_path: Path) -> None:
    """What later items have cost is known before the first is sent again."""
    refused = {"a"}

    async def attempt(item: str) -> str:
        if item in refused:
            raise Rejected("no")
        return item

    async def again() -> list[str | None]:
        result = await run(
            attempt, list("abcd"), cost=lambda _: 1, max_cost=2, journal=tmp_path / "j", max_concurrency=1
        )
        return list(result)

    assert await again() == [None, "b", "c", None]
    refused.clear()
    assert await again() == [None, "b", "c", None]


async def test_an_item_that_is_sent_again_costs_once(tmp_path: Path) -> None:
    """A broken answer may have been paid for; the same key again is not paid again."""
    broken = True

    async def attempt(item: str) -> str:
        if broken:
            raise ServerFailed("broken")
        return item

    async def again(items: str, max_cost: int) -> list[str | None]:
        result = await run(attempt, list(items), cost=lambda _: 1, max_cost=max_cost, journal=tmp_path / "j")
        return list(result)

    assert await again("a", 1) == [None]
    assert await again("ab", 1) == [None, None]
    broken = False
    assert await again("ab", 1) == ["a", None]
    assert await again("ab", 2) == ["a", "b"]
    assert await again("abc", 2) == ["a", "b", None]


def endless(_: object) -> str:
    """As a comparison or a dump of an item that holds itself."""
    return endless(_)


def cancelled(_: object) -> str:
    raise asyncio.CancelledError


def out_of_items(_: object) -> str:
    return next(iter(()))


@pytest.mark.parametrize("broken", [endless, cancelled, out_of_items, lambda _: 1 / 0, lambda _: None])
@pytest.mark.parametrize("of", ["key", "cost"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_item_whose_key_or_cost_fails_loses_no_other(
    of: str, broken: Callable[[object], Any], asynchronous: bool
) -> None:
    """Whatever is raised or returned: that item has failed, untried and at no cost."""
    sent = []

    async def attempt(item: str) -> str:
        sent.append(item)
        return item

    async def one_by_one() -> AsyncIterator[str]:
        for item in "abcb":
            yield item

    plain: dict[str, Callable[[str], Any]] = {"key": str, "cost": lambda _: 1}
    functions: dict[str, Any] = {**plain, of: lambda item: (broken if item == "b" else plain[of])(item)}
    items = one_by_one() if asynchronous else "abcb"
    result = on_virtual_clock(run(attempt, items, **functions, max_cost=2, dedup=True))
    assert [o.value for o in result.outcomes] == ["a", None, "c", None]
    assert [o.attempts for o in result.failures] == [0, 0]
    assert result.stopped is None
    assert sent == ["a", "c"]


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), True, "1", Decimal("1e309")])
def test_a_cost_that_is_no_amount_is_refused(wrong: float) -> None:
    """For the limit as for an item, which has failed."""
    with pytest.raises(ValueError, match=r"max_cost: .* allowed"):
        on_virtual_clock(run(asyncio.sleep, [0], cost=lambda _: 1, max_cost=wrong))
    result = on_virtual_clock(run(asyncio.sleep, [0], cost=lambda _: wrong, max_cost=1))
    with pytest.raises(ValueError, match=r"cost: .* allowed"):
        raise result.outcomes[0].error or AssertionError
    with pytest.raises(ValueError, match="both or neither"):
        on_virtual_clock(run(asyncio.sleep, [0], max_cost=1))

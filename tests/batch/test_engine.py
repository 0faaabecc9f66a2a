"""run() and stream(), one behaviour at a time, on a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from blossom_async.batch import (
    Gate,
    Outcome,
    Progress,
    RetryBudget,
    RetryPolicy,
    Slots,
    current_attempt,
    run,
    run_one,
    stream,
)
from blossom_async.errors import (
    ConfigurationError,
    InvalidRequest,
    JournalMismatch,
    NotRun,
    Overloaded,
    PaymentRequired,
    RateLimited,
    ServerFailed,
    StaleConnection,
    TimedOut,
    TransportError,
)
from tests.virtual_clock import on_virtual_clock


async def second(item: int) -> int:
    """Takes a second and gives ten times the item."""
    await asyncio.sleep(1)
    return item * 10


def failing(*errors: Exception | None, takes_s: float = 1.0) -> tuple[Callable[[int], Any], list[float]]:
    """An attempt function whose n-th start ends with the n-th error, and the times of its starts."""
    starts: list[float] = []

    async def attempt(item: int) -> int:
        number = len(starts)
        starts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(takes_s)
        error = errors[number] if number < len(errors) else None
        if error is not None:
            raise error
        return item

    return attempt, starts


def test_run_gives_every_value_in_input_order() -> None:
    """However long each takes, values stand where their items stood."""

    async def slower_first(item: int) -> int:
        await asyncio.sleep(10 - item)
        return item * 10

    result = on_virtual_clock(run(slower_first, range(10)))
    assert list(result) == [item * 10 for item in range(10)]
    assert [o.index for o in result.outcomes] == list(range(10))
    assert result.elapsed_s == 10
    assert result.stopped is None


def test_no_more_than_max_concurrency_run_at_once() -> None:
    """Ten items of a second with four at once take three seconds."""
    assert on_virtual_clock(run(second, range(10), max_concurrency=4)).elapsed_s == 3


def test_a_failed_item_loses_no_other() -> None:
    """An exception is its item's outcome; the others have their values."""

    async def odd_fails(item: int) -> int:
        await asyncio.sleep(0)
        if item % 2:
            raise ValueError(item)
        return item

    result = on_virtual_clock(run(odd_fails, range(6)))
    assert list(result) == [0, None, 2, None, 4, None]
    assert [str(o.error) for o in result.failures] == ["1", "3", "5"]
    with pytest.raises(ExceptionGroup) as caught:
        result.raise_for_failures()
    assert caught.value.exceptions[0].__notes__ == ["item 1: 1"]


def test_shared_slots_bound_two_runs_together() -> None:
    """Two runs of five items over two shared slots never have more than two attempts under way."""

    async def both() -> int:
        slots, most = Slots(2), 0

        async def attempt(item: int) -> None:
            nonlocal most
            most = max(most, slots.in_use)
            await asyncio.sleep(1)

        await asyncio.gather(run(attempt, range(5), slots=slots), run(attempt, range(5), slots=slots))
        assert slots.in_use == 0
        return most

    assert on_virtual_clock(both()) == 2


def test_an_async_input_is_pulled_lazily_and_closed_when_left() -> None:
    """Leaving a stream early ends the attempts under way and closes the generator that fed it."""
    pulled, closed, ended = [], [], []

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(10_000):
                pulled.append(number)
                yield number
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    async def attempt(item: int) -> int:
        try:
            await asyncio.sleep(1 if item < 3 else 100)
        finally:
            ended.append(item)
        return item

    async def leave_early() -> list[int]:
        async with stream(attempt, numbers(), max_concurrency=5, window=8) as outcomes:
            return [(await anext(outcomes)).index for _ in range(3)]

    assert sorted(on_virtual_clock(leave_early())) == [0, 1, 2]
    assert closed == [True]
    assert len(pulled) <= 8 + 3
    assert len(ended) == len(set(ended)) <= len(pulled)


def test_a_slow_input_does_not_hold_up_a_retry() -> None:
    """While the only worker waits for an async input, an item due again is tried by another."""
    attempt, starts = failing(ServerFailed("once"), None, takes_s=0)

    async def slow() -> AsyncIterator[int]:
        yield 0
        await asyncio.sleep(1000)
        yield 1

    result = on_virtual_clock(
        run(attempt, slow(), max_concurrency=1, retry=RetryPolicy(first_wait_s=1, max_wait_s=1))
    )
    assert list(result) == [0, 1]
    assert starts[1] <= 1
    assert starts[2] >= 1000


def test_an_item_that_comes_while_its_worker_was_replaced_waits() -> None:
    """The only worker waits for the input, another has taken up a retry: still one at a time."""
    running = most = 0
    starts: list[tuple[int, float]] = []

    async def attempt(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        starts.append((item, asyncio.get_running_loop().time()))
        try:
            await asyncio.sleep(0 if len(starts) == 1 else 10)
            if len(starts) == 1:
                raise ServerFailed("once")
            return item
        finally:
            running -= 1

    async def slow() -> AsyncIterator[int]:
        yield 0
        await asyncio.sleep(5)
        yield 1

    retry = RetryPolicy(first_wait_s=1)
    result = on_virtual_clock(run(attempt, slow(), max_concurrency=1, slots=Slots(10), retry=retry))
    assert list(result) == [0, 1]
    assert most == 1
    assert [item for item, _ in starts] == [0, 0, 1]


def test_an_exception_of_the_input_is_raised_when_running_items_have_ended() -> None:
    """What was under way ends first; in a stream its outcomes come before the exception."""
    ended = []

    async def attempt(item: int) -> int:
        await asyncio.sleep(1)
        ended.append(item)
        return item

    def broken() -> Iterator[int]:
        yield from range(3)
        raise OSError("no more lines")

    with pytest.raises(OSError, match="no more lines") as caught:
        on_virtual_clock(run(attempt, broken()))
    assert ended == [0, 1, 2]
    assert list(caught.value.result) == [0, 1, 2]  # type: ignore[attr-defined]
    assert caught.value.__notes__ == [
        "3 of the 3 items taken before that have a value; this exception's `result` has their outcomes"
    ]

    async def read() -> list[int]:
        seen = []
        with contextlib.suppress(OSError):
            async with stream(attempt, broken()) as outcomes:
                async for outcome in outcomes:
                    seen.append(outcome.index)  # noqa: PERF401 - the loop raises
        return seen

    assert on_virtual_clock(read()) == [0, 1, 2]


def test_a_broken_progress_callback_costs_nothing() -> None:
    """What it raises goes to the loop's exception handler."""

    async def counted() -> tuple[list[Any], int]:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

        def broken(progress: Progress) -> None:
            raise ZeroDivisionError

        result = await run(second, range(3), on_progress=broken)
        return list(result), len(reported)

    assert on_virtual_clock(counted()) == ([0, 10, 20], 3)


class AsyncBar:
    """A progress bar that is called as a coroutine function is."""

    async def __call__(self, _: Progress) -> None:
        """Draws nothing."""


@pytest.mark.parametrize("bar", [AsyncBar(), AsyncBar().__call__, partial(AsyncBar.__call__, AsyncBar())])
def test_a_progress_callback_that_nobody_would_await_is_refused(bar: Any) -> None:
    """Before anything is sent."""
    sent: list[int] = []
    with pytest.raises(TypeError, match=r"on_progress: .*is a coroutine function.*a plain function"):
        on_virtual_clock(run(second, sent, on_progress=bar))


def test_a_fatal_answer_stops_the_batch_and_lets_what_runs_end() -> None:
    """Item 2 says there is no money: 0 and 1 still end well, 3 and later are not run."""

    async def attempt(item: int) -> int:
        if item == 2:
            raise PaymentRequired("no money")
        await asyncio.sleep(5)
        return item

    result = on_virtual_clock(run(attempt, range(100), max_concurrency=3))
    assert list(result)[:3] == [0, 1, None]
    assert [o.index for o in result.failures] == [2]
    assert [o.index for o in result.not_run] == list(range(3, 100))
    assert result.stopped == "no money (402 payment_required)"
    assert str(result.not_run[0].error) == "not tried: no money (402 payment_required)"
    assert result.elapsed_s == 5


def test_a_fatal_answer_frees_items_that_wait_their_turn() -> None:
    """Items at a gate with an hour to wait, or in line for a slot, come back at once as not run."""

    async def attempt(item: int) -> int:
        await asyncio.sleep(1)
        raise PaymentRequired("no money")

    one_by_one: tuple[dict[str, Any], ...] = ({"rate_limit": "1/h"}, {"slots": Slots(1)})
    for limits in one_by_one:
        result = on_virtual_clock(run(attempt, range(5), **limits))
        assert result.elapsed_s == 1
        assert [o.index for o in result.not_run] == [1, 2, 3, 4]


def test_an_item_that_waits_its_turn_again_keeps_its_error_when_the_batch_stops() -> None:
    """It has been tried, so it is not "not run"; and it waits no longer."""

    async def attempt(item: int) -> int:
        if item == 0:
            raise ServerFailed("broken")
        await asyncio.sleep(5)
        raise PaymentRequired("no money")

    result = on_virtual_clock(run(attempt, range(2), rate_limit="2/h", retry=RetryPolicy(first_wait_s=1)))
    assert result.elapsed_s == 5
    assert str(result.outcomes[0].error) == "broken (500 server_failed)"
    assert not result.not_run


def test_a_stopped_batch_ends_an_input_that_does_not_know_its_length() -> None:
    """A stream over an endless generator ends after a fatal answer; an async input is not awaited."""

    async def attempt(item: int) -> int:
        if item == 3:
            raise PaymentRequired("no money")
        await asyncio.sleep(1)
        return item

    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    async def never() -> AsyncIterator[int]:
        for number in range(4):
            yield number
        await asyncio.sleep(1e6)

    async def read(items: Any) -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        async with stream(attempt, items, max_concurrency=2) as outcomes:
            seen = [outcome async for outcome in outcomes]
        return sum(isinstance(o.error, NotRun) for o in seen), loop.time()

    assert on_virtual_clock(read(endless()))[1] < 10
    assert on_virtual_clock(read(never())) == (0, 2)


def test_the_deadline_ends_everything_on_time() -> None:
    """Tried items have TimedOut, those that waited for another attempt their error, the rest NotRun."""

    async def attempt(item: int) -> int:
        await asyncio.sleep(item)
        if item == 1:
            raise ServerFailed("broken")
        return item

    retry = RetryPolicy(first_wait_s=86_400, max_wait_s=86_400)  # from 0 on: hardly ever under 3.5 s
    for items in (range(20), iter(range(20))):
        result = on_virtual_clock(run(attempt, items, max_concurrency=5, deadline_s=4.5, retry=retry))
        assert result.elapsed_s == 4.5
        assert list(result)[:5] == [0, None, 2, 3, 4]
        assert isinstance(result.outcomes[1].error, ServerFailed)
        assert isinstance(result.outcomes[5].error, TimedOut)
        assert isinstance(result.outcomes[9].error, TimedOut)
        assert [o.index for o in result.not_run] == list(range(10, 20))
        assert result.stopped == "the deadline of 4.5 s has passed"


def test_an_attempt_over_its_time_is_cancelled_and_tried_again() -> None:
    """``timeout_s`` is for each attempt; its end is an error like any other."""
    starts: list[float] = []

    async def hangs_once(item: int) -> int:
        starts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1 if len(starts) > 1 else 1e6)
        return item

    result = on_virtual_clock(run(hangs_once, [7], timeout_s=3, retry=RetryPolicy(first_wait_s=1)))
    assert list(result) == [7]
    assert 3 <= starts[1] <= 4
    failed = on_virtual_clock(run(hangs_once, [7], timeout_s=0.5))
    assert isinstance(failed.outcomes[0].error, TimedOut)


def test_a_timeout_of_the_attempts_own_is_not_taken_for_the_engines() -> None:
    """A ``TimeoutError`` raised inside stays what it is."""

    async def attempt(item: int) -> None:
        raise TimeoutError("of a database")

    result = on_virtual_clock(run(attempt, [0], timeout_s=3))
    assert str(result.outcomes[0].error) == "of a database"


def test_an_attempt_that_cancels_itself_has_failed() -> None:
    """A ``CancelledError`` nobody asked for is the item's failure; the worker goes on."""

    async def attempt(item: int) -> int:
        if item == 1:
            raise asyncio.CancelledError
        await asyncio.sleep(1)
        return item

    result = on_virtual_clock(run(attempt, range(3), max_concurrency=1))
    assert list(result) == [0, None, 2]
    assert isinstance(result.outcomes[1].error, RuntimeError)


def test_an_outer_timeout_cancels_the_whole_batch() -> None:
    """asyncio's and anyio's scopes around run() see their own timeout, and no attempt is left."""

    async def timed() -> tuple[bool, bool]:
        ended = []

        async def attempt(item: int) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                ended.append(item)

        with anyio.move_on_after(1) as scope:
            await run(attempt, range(10), max_concurrency=3)
        timed_out = False
        try:
            async with asyncio.timeout(1):
                await run(attempt, range(10), max_concurrency=3)
        except TimeoutError:
            timed_out = True
        assert len(ended) == 6
        return scope.cancelled_caught, timed_out

    assert on_virtual_clock(timed()) == (True, True)


def test_retries_wait_without_a_slot() -> None:
    """With one slot, other items run while the first waits for its next attempt."""
    random.seed(0)  # of the 50 s, 42 are waited
    attempt, starts = failing(ServerFailed("first"), None, None, None)
    result = on_virtual_clock(
        run(attempt, range(3), max_concurrency=1, retry=RetryPolicy(first_wait_s=50, max_wait_s=50))
    )
    assert list(result) == [0, 1, 2]
    assert starts[:3] == [0, 1, 2]
    assert result.outcomes[0].attempts == 2
    assert result.outcomes[0].elapsed_s == result.elapsed_s


def test_an_item_is_tried_max_attempts_times() -> None:
    """And keeps the error of its last attempt."""
    attempt, starts = failing(*[ServerFailed(str(n)) for n in range(10)])
    result = on_virtual_clock(run(attempt, [0], retry=RetryPolicy(max_attempts=3)))
    assert len(starts) == 3
    assert result.failures[0].attempts == 3
    assert str(result.failures[0].error) == "2 (500 server_failed)"


@pytest.mark.parametrize("error", [InvalidRequest("width", 0, "16 up"), ValueError("a bug")])
def test_an_error_that_cannot_pass_is_not_tried_again(error: Exception) -> None:
    """A refusal of the request itself, or a bug, costs one attempt."""
    attempt, starts = failing(error)
    on_virtual_clock(run(attempt, [0], retry=RetryPolicy()))
    assert len(starts) == 1


def test_a_stale_connection_is_repeated_at_once_but_only_once() -> None:
    """The first repetition waits for nothing and is not counted; the second is a retry like any other."""
    attempt, starts = failing(*[StaleConnection("closed")] * 9, takes_s=0)
    retry = RetryPolicy(max_attempts=2, first_wait_s=50, max_wait_s=50)
    on_virtual_clock(run(attempt, [0], retry=retry))
    assert starts[:2] == [0, 0]
    assert starts[2] > 0
    assert len(starts) == 3


def test_a_throttled_item_costs_no_attempt() -> None:
    """The pause asked for holds for all; the item succeeds in spite of more refusals than max_attempts."""
    attempt, starts = failing(*[RateLimited("slow down", retry_after_s=10)] * 5, takes_s=0)
    result = on_virtual_clock(
        run(attempt, range(3), max_concurrency=1, retry=RetryPolicy(max_attempts=2, first_wait_s=1))
    )
    assert list(result) == [0, 1, 2]
    assert [round(start // 10) for start in starts[:6]] == [0, 1, 2, 3, 4, 5]


def test_a_server_that_asks_for_too_long_a_pause_ends_the_batch() -> None:
    """An hour where ten minutes are allowed: nothing is clamped, the rest is not run."""
    attempt, starts = failing(*[RateLimited("quota", retry_after_s=3600)] * 5, takes_s=0)
    result = on_virtual_clock(run(attempt, range(3), max_concurrency=1, retry=RetryPolicy()))
    assert len(starts) == 1
    assert result.stopped == (
        "the server asks for a pause of 3600 s; allowed: at most 600 s; raise max_throttle_s to wait for it"
    )


def test_a_pause_as_long_as_the_policy_allows_holds_for_all() -> None:
    """The ceiling for hints is not the one for refusals."""
    attempt, starts = failing(RateLimited("quota", retry_after_s=1800), takes_s=0)
    policy = RetryPolicy(max_throttle_s=3600)
    on_virtual_clock(run(attempt, range(3), max_concurrency=1, retry=policy))
    assert starts[0] == 0
    assert min(starts[1:]) >= 1800


def test_an_item_is_not_held_off_for_ever() -> None:
    """After ``max_throttle_s`` of refusals the item fails with the refusal, and a note says why."""
    attempt, _ = failing(*[RateLimited("slow down")] * 1000, takes_s=1)
    result = on_virtual_clock(run(attempt, [0], retry=RetryPolicy(max_throttle_s=20)))
    assert isinstance(result.outcomes[0].error, RateLimited)
    assert "throttled this item for 20 s" in result.outcomes[0].error.__notes__[0]
    assert result.elapsed_s < 40


def test_an_outage_is_not_answered_with_a_multiple_of_the_load() -> None:
    """When everything fails, repetitions stay within the reserve and the share of first attempts."""
    attempt, starts = failing(*[ServerFailed("down")] * 10_000, takes_s=0.01)
    result = on_virtual_clock(
        run(attempt, range(1000), retry=RetryPolicy(max_attempts=4, budget=0.5, first_wait_s=0.1))
    )
    assert len(starts) <= 1000 + RetryBudget.RESERVE + 0.5 * 1000
    assert any("budget is used up" in str(getattr(o.error, "__notes__", "")) for o in result.failures)


def test_retries_at_the_end_run_side_by_side() -> None:
    """Workers that found nothing more to take have ended; one is there for each retry all the same."""
    tried: set[int] = set()

    async def attempt(item: int) -> int:
        if item not in tried:
            tried.add(item)
            await asyncio.sleep(item / 100)
            raise ServerFailed("at first")
        await asyncio.sleep(10)
        return item

    result = on_virtual_clock(run(attempt, range(4), max_concurrency=4, retry=RetryPolicy()))
    assert list(result) == [0, 1, 2, 3]
    assert result.elapsed_s < 11


def test_retries_are_counted_against_the_rate() -> None:
    """Attempts, not items, are what a rate limits."""
    attempt, starts = failing(*[ServerFailed("again")] * 5, takes_s=0)
    on_virtual_clock(run(attempt, range(5), rate_limit="1/s", retry=RetryPolicy(first_wait_s=0.01)))
    assert len(starts) == 10
    assert all(b - a >= 1 for a, b in itertools.pairwise(starts))


def test_the_key_of_an_item_is_the_same_for_all_its_attempts() -> None:
    """And differs between items and between runs."""
    keys: dict[int, set[str]] = {}

    async def attempt(item: int) -> None:
        this = current_attempt()
        assert this.index == item
        keys.setdefault(item, set()).add(this.key)
        if this.number < 3:
            raise TransportError("reset")

    on_virtual_clock(run(attempt, range(10), retry=RetryPolicy()))
    assert all(len(of_item) == 1 for of_item in keys.values())
    once = set().union(*keys.values())
    assert len(once) == 10
    keys.clear()
    on_virtual_clock(run(attempt, range(10), retry=RetryPolicy()))
    assert not once & set().union(*keys.values())
    with pytest.raises(LookupError, match="no attempt is under way"):
        current_attempt()


def test_under_a_run_id_a_key_follows_from_the_item_alone(tmp_path: Path) -> None:
    """In any order, process and part of the input, with a journal or without; another id has other keys."""

    async def attempt(item: int) -> str:
        return current_attempt().key

    async def streamed(items: Iterable[int], **options: Any) -> dict[int, str]:
        async with stream(attempt, items, **options) as outcomes:
            return {outcome.item: outcome.value async for outcome in outcomes}

    options: dict[str, Any] = {"run_id": "catalogue", "key": lambda item: f"sku {item}"}
    whole = list(asyncio.run(run(attempt, range(10), **options)))
    assert len(set(whole)) == 10
    assert asyncio.run(streamed((7, 3), **options)) == {7: whole[7], 3: whole[3]}
    assert list(asyncio.run(run(attempt, [4], journal=tmp_path / "run", **options))) == [whole[4]]
    options["run_id"] = "another"
    assert not set(whole) & set(asyncio.run(run(attempt, range(10), **options)))
    with pytest.raises(JournalMismatch, match=r"belongs to another run .*'\(catalogue\)'.*'\(another\)'"):
        asyncio.run(run(attempt, [4], journal=tmp_path / "run", **options))
    with pytest.raises(ConfigurationError, match="key: missing, and item 4 is not text"):
        asyncio.run(run(attempt, [4], run_id="catalogue"))


def test_a_single_call_goes_the_same_way() -> None:
    """run_one() takes a slot, retries under one key, and raises the last error."""
    attempt, starts = failing(Overloaded("busy"), StaleConnection("closed"), None)

    async def single() -> int:
        slots = Slots(4)
        value: int = await run_one(attempt, 5, slots, (Gate(),), retry=RetryPolicy())
        assert slots.in_use == 0
        return value

    assert on_virtual_clock(single()) == 5
    assert len(starts) == 3
    with pytest.raises(InvalidRequest):
        on_virtual_clock(run_one(failing(InvalidRequest("width", 0, "16 up"))[0], 5))


def test_progress_adds_up() -> None:
    """What is pulled is done, failed, not run or running, and nothing ever goes back."""
    seen: list[Progress] = []

    async def attempt(item: int) -> int:
        await asyncio.sleep(1)
        if item == 11:
            raise PaymentRequired("no money")
        if item % 5 == 0 and current_attempt().number == 1:
            raise ServerFailed("once")
        return item

    on_virtual_clock(run(attempt, range(20), max_concurrency=3, on_progress=seen.append, retry=RetryPolicy()))
    assert len(seen) == 20
    assert all(p.total == 20 and p.done + p.failed + p.not_run + p.running <= 20 for p in seen)
    for before, after in itertools.pairwise(seen):
        assert (after.done, after.failed, after.not_run) >= (before.done, before.failed, before.not_run)
    assert seen[-1].done + seen[-1].failed + seen[-1].not_run == 20
    assert seen[-1].running == seen[-1].waiting == 0
    assert seen[-1].stopped is not None


@pytest.mark.parametrize(
    "wrong",
    [{"max_concurrency": 0}, {"timeout_s": 0}, {"deadline_s": -1}, {"rate_limit": "many"}],
)
def test_a_bad_limit_is_refused(wrong: dict[str, Any]) -> None:
    """Before anything starts, and it says what is allowed."""
    with pytest.raises(ValueError, match="allowed"):
        on_virtual_clock(run(second, range(3), **wrong))


async def entered() -> None:
    async with stream(second, [1]):
        pass


@pytest.mark.parametrize("call", [entered, lambda: run(second, [1]), lambda: run_one(second, 1)])
def test_without_an_event_loop_of_asyncio_it_says_so(call: Callable[[], Any]) -> None:
    """Under trio, for one; here nothing but the interpreter drives the coroutine."""
    with pytest.raises(ConfigurationError, match="runs on asyncio, and no asyncio event loop"):
        call().send(None)


def test_a_stream_is_read_by_one_task() -> None:
    """A second reader is told so instead of losing outcomes."""

    async def twice() -> None:
        async with stream(second, range(3)) as outcomes:
            first: asyncio.Task[Outcome[int, int]] = asyncio.ensure_future(anext(outcomes))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="already being read"):
                await anext(outcomes)
            await first

    on_virtual_clock(twice())

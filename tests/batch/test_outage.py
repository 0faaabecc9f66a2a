"""A server that goes away for a while: waited for, with one attempt at a time."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import random
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blossom_async.batch import BatchResult, Progress, RetryPolicy, run, run_one, stream
from blossom_async.errors import NotRun, Overloaded, Rejected, ServerFailed, StaleConnection, TransportError
from tests.ports import reserved_port
from tests.thorough import examples
from tests.virtual_clock import on_virtual_clock
from tests.waiting import until


class Server:
    """Answers in 50 ms, but for the times at which it is away: then it aborts what is under way."""

    def __init__(self, *away: tuple[float, float], error: Exception | None = None) -> None:
        self.away = away
        self.error = error
        self.requests = 0
        self.failed: list[float] = []
        self.busy = 0

    def is_away(self) -> bool:
        now = asyncio.get_running_loop().time()
        return any(start <= now < end for start, end in self.away)

    async def serve(self, item: int) -> int:
        self.requests += 1
        if self.is_away():
            self.fail()
        now = asyncio.get_running_loop().time()
        cut = min((start for start, _ in self.away if start > now), default=float("inf"))
        await asyncio.sleep(min(0.05, cut - now))
        if self.is_away():
            self.fail()
        return item

    def fail(self) -> None:
        self.failed.append(asyncio.get_running_loop().time())
        raise self.error or TransportError("connection refused")


def batch(server: Server, count: int = 4000, **options: object) -> BatchResult[int, int]:
    options = {"max_concurrency": 16, "retry": RetryPolicy(), **options}
    return on_virtual_clock(run(server.serve, range(count), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("away_s", [12, 20, 60])
@pytest.mark.parametrize(
    "error", [TransportError("refused"), Overloaded("no backend"), StaleConnection("cut")]
)
def test_a_short_outage_fails_no_item(away_s: float, error: Exception) -> None:
    """It costs what was under way, a few to notice it, and a probe every two seconds."""
    server = Server((2, 2 + away_s), error=error)
    result = batch(server)
    assert list(result) == list(range(4000))
    assert len(server.failed) <= 16 + 5 + away_s / 2 + 4
    ideal_s = 4000 / 16 * 0.05
    assert result.elapsed_s <= ideal_s + away_s + 3


def test_twenty_seconds_cost_at_most_thirty_requests() -> None:
    """With eight at once."""
    server = Server((2, 22))
    result = batch(server, max_concurrency=8)
    assert list(result) == list(range(4000))
    assert server.requests - 4000 <= 30
    assert result.elapsed_s <= 4000 / 8 * 0.05 + 25


@pytest.mark.parametrize("at_once", [1, 3, 200])
def test_an_outage_is_noticed_at_any_concurrency(at_once: int) -> None:
    """One at a time as well as more than the retry budget has."""
    server = Server((1, 21))
    assert None not in batch(server, count=at_once * 40, max_concurrency=at_once, rate_limit=2000)


def test_one_probe_at_a_time_is_made() -> None:
    """At once, then after half a second, one, two and two again."""
    server = Server((2, 22))
    batch(server)
    later = [at for at in server.failed if at > 2]
    assert [round(after - before, 2) for before, after in itertools.pairwise(later)] == [
        1.0,
        *[2.0] * (len(later) - 2),
    ]


def test_the_state_is_in_the_progress() -> None:
    """Asked of the last one, as a bar does; it is not called more often than items end."""
    server, seen = Server((2, 22)), list[Progress]()
    drawn: list[float | None] = []

    async def drawing() -> None:
        while not drawn or seen[-1].done < 4000:
            await asyncio.sleep(1)
            drawn.append(seen[-1].outage_s)

    async def go() -> None:
        options = {"max_concurrency": 16, "retry": RetryPolicy(), "on_progress": seen.append}
        await asyncio.gather(run(server.serve, range(4000), **options), drawing())  # type: ignore[arg-type]

    on_virtual_clock(go())
    waited = [round(seconds) for seconds in drawn if seconds is not None]
    assert waited == list(range(waited[0], waited[0] + len(waited)))
    assert 18 <= len(waited) <= 22
    assert drawn[0] is drawn[-1] is None
    assert len(seen) == 4000
    assert pickle.loads(pickle.dumps(seen[-1])).done == 4000  # noqa: S301 - our own


def test_a_deadline_ends_the_wait() -> None:
    """Untried items are not run; those tried keep their error."""
    server = Server((2, 1e6))
    result = batch(server, deadline_s=30)
    assert result.elapsed_s == pytest.approx(30)
    assert all(isinstance(outcome.error, TransportError) for outcome in result.failures)
    assert len(result.failures) <= 16 + 5
    assert len(result.not_run) >= 3000


def test_an_outage_that_lasts_too_long_stops_the_batch() -> None:
    """It says for how long nothing was answered."""
    server = Server((2, 1e6))
    result = batch(server, retry=RetryPolicy(max_outage_s=60))
    assert result.stopped == "nothing was answered for 60 s; raise max_outage_s to wait longer"
    assert 62 <= result.elapsed_s <= 66
    assert isinstance(result.not_run[0].error, NotRun)


def test_a_server_that_never_answered_is_not_waited_for() -> None:
    """A wrong address fails as soon as before."""
    server = Server((0, 1e6))
    result = batch(server, count=10)
    assert len(result.failures) == 10
    assert result.elapsed_s < 30


def test_without_retries_nothing_is_waited_for() -> None:
    """Each item has its one attempt."""
    server = Server((1, 3))
    result = batch(server, retry=None)
    assert result.failures
    assert server.requests == 4000


def test_an_answer_of_any_kind_ends_the_outage() -> None:
    """Also one that an item has failed; what says nothing of the server lets the next one probe."""
    server = Server((2, 10))

    async def serve(item: int) -> int:
        try:
            return await server.serve(item)
        except TransportError:
            if asyncio.get_running_loop().time() > 4:
                raise LookupError(item) from None
            raise

    result = on_virtual_clock(run(serve, range(2000), max_concurrency=16, retry=RetryPolicy()))
    assert all(isinstance(outcome.error, LookupError) for outcome in result.failures)
    assert len(result.failures) + sum(outcome.ok for outcome in result.outcomes) == 2000


def test_leaving_a_stream_in_an_outage_leaves_nothing() -> None:
    """No task, no timer."""
    server = Server((2, 1e6))

    async def go() -> float:
        async with stream(server.serve, range(4000), max_concurrency=16, retry=RetryPolicy()) as outcomes:
            async for outcome in outcomes:
                if outcome.index > 500:
                    break
            await asyncio.sleep(20)
        return asyncio.get_running_loop().time()

    assert on_virtual_clock(go()) < 30


@pytest.mark.parametrize("left", [1, 2, 4])
@pytest.mark.parametrize("max_attempts", [2, 4])
def test_an_outage_at_the_very_last_items_is_noticed(left: int, max_attempts: int) -> None:
    """Their few attempts last for half a minute; none has more of them than it may."""
    server = Server((1, 21))
    policy = RetryPolicy(max_attempts=max_attempts)
    result = batch(server, count=20 * left, max_concurrency=left, retry=policy)
    assert max(outcome.attempts for outcome in result.outcomes) <= max_attempts
    assert list(result) == list(range(20 * left))
    assert result.elapsed_s <= 1 + 35


def test_a_server_that_shuts_down_slowly_ends_no_outage() -> None:
    """It ends what it has begun and takes nothing new: each answer of the old ones would cost attempts."""
    started = 0

    async def serve(item: int) -> int:
        nonlocal started
        now = asyncio.get_running_loop().time()
        started += 1
        if 10 <= now < 40:
            raise TransportError("connection refused")
        await asyncio.sleep(3 + item % 16)
        return item

    result = on_virtual_clock(run(serve, range(300), max_concurrency=16, retry=RetryPolicy()))
    assert list(result) == list(range(300))
    assert started <= 300 + 5 + 18


@pytest.mark.parametrize("max_concurrency", [1, 8])
@pytest.mark.parametrize("max_attempts", [1, 4])
def test_an_async_input_is_probed_with_as_well(max_concurrency: int, max_attempts: int) -> None:
    """Also when no item is left that has failed: then the next one is pulled."""
    server = Server((1, 21))

    async def items() -> AsyncIterator[int]:
        for item in range(400):
            await asyncio.sleep(0.001)
            yield item

    options = {"max_concurrency": max_concurrency, "retry": RetryPolicy(max_attempts=max_attempts)}
    result = on_virtual_clock(run(server.serve, items(), **options))  # type: ignore[arg-type]
    assert len(result) == 400
    assert len(result.failures) <= (max_attempts == 1) * 30


aways = st.lists(st.tuples(st.floats(0.5, 20), st.floats(0.1, 20)), max_size=4)


@settings(max_examples=examples(20), deadline=None)
@given(aways, st.integers(1, 40), st.booleans(), st.integers(1, 8))
def test_whatever_the_outages_every_item_is_done(
    pauses: Iterable[tuple[float, float]], at_once: int, limited: bool, max_attempts: int
) -> None:
    """Any number of them, of any length, at any concurrency; it ends soon after the last.

    With few attempts some may fail, but none is tried more often than it may be.
    """
    now, away = 0.0, []
    for up, down in pauses:
        away.append((now + up, now + up + down))
        now += up + down
    server = Server(*away)
    count = at_once * 100
    policy = RetryPolicy(max_attempts=max_attempts, budget=10)
    seen: list[Progress] = []
    options = {"max_concurrency": at_once, "retry": policy, "on_progress": seen.append}
    result = batch(server, count, rate_limit="1000/s" if limited else None, **options)
    assert len(seen) == len(result) == count
    assert max(outcome.attempts for outcome in result.outcomes) <= max_attempts
    assert result.stopped is None
    if max_attempts >= 7:
        assert not result.failures
    assert result.elapsed_s <= now + max(count / at_once * 0.05, count / 1000 * limited) * 1.3 + 33


def test_a_server_that_answers_500_is_there() -> None:
    """It is retried as usual: the outage is over, and no probe after the other burns attempts."""
    server = Server((2, 10))

    async def serve(item: int) -> int:
        if 10 <= asyncio.get_running_loop().time() < 10.5:
            server.requests += 1
            raise ServerFailed("starting")
        return await server.serve(item)

    policy = RetryPolicy(max_attempts=10, first_wait_s=1)
    result = on_virtual_clock(run(serve, range(1000), max_concurrency=8, retry=policy))
    assert list(result) == list(range(1000))
    assert server.requests <= 1000 + 8 + 5 + 10 + 100


def test_a_fifth_of_failures_is_no_outage() -> None:
    """A server that resets connections at random is retried as before, and hardly slowed down."""
    chance = random.Random(1)  # noqa: S311 - reproducible, not secret

    async def serve(item: int) -> int:
        await asyncio.sleep(0.05)
        if chance.random() < 0.2:
            raise TransportError("reset")
        return item

    policy = RetryPolicy(max_attempts=20, first_wait_s=0.01, max_wait_s=0.1, budget=10)
    result = on_virtual_clock(run(serve, range(4000), max_concurrency=16, retry=policy))
    assert list(result) == list(range(4000))
    assert result.elapsed_s <= 4000 / 16 * 0.05 / 0.8 * 1.2 + 2


def test_a_failure_of_the_very_last_item_waits_for_nothing() -> None:
    """Nobody is left to ask whether the server is back."""
    server = Server((0.9, 1e6))
    result = batch(server, count=20, max_concurrency=1, retry=RetryPolicy(max_attempts=1))
    assert (len(result.failures), result.stopped) == (3, None)
    assert result.elapsed_s <= 1


async def test_a_port_that_closes_and_opens_again_is_waited_for() -> None:
    """Real sockets: what was under way is cut, and whoever connects is refused until it is back."""
    open_ones: set[asyncio.StreamWriter] = set()
    answered = 0

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        open_ones.add(writer)
        writer.write(await reader.read(100))
        answered += 1
        writer.close()
        open_ones.discard(writer)

    async def attempt(item: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"%d" % item)
            answer = await reader.read(100)
        finally:
            writer.close()
        if not answer:
            raise ConnectionResetError
        return int(answer)

    seen: list[Progress] = []
    options = {"max_concurrency": 8, "retry": RetryPolicy(), "on_progress": seen.append, "rate_limit": 200}
    with reserved_port() as port:
        server = await asyncio.start_server(echo, "127.0.0.1", port)
        running = asyncio.create_task(run(attempt, range(300), **options))  # type: ignore[arg-type]
        await until(lambda: answered >= 50)
        server.close()
        for writer in open_ones:
            writer.transport.abort()
        await until(lambda: seen[-1].outage_s)
        server = await asyncio.start_server(echo, "127.0.0.1", port)
        assert list(await running) == list(range(300))
        assert len(seen) == 300
        server.close()


def test_a_single_call_waits_for_no_probe() -> None:
    """There is no other call that could be one: it uses its own attempts."""
    answers = iter([Overloaded("busy"), *(TransportError("refused") for _ in range(7))])

    async def ask(item: str) -> str:
        if (error := next(answers, None)) is not None:
            raise error
        return item

    policy = RetryPolicy(max_attempts=10, first_wait_s=0.01, max_wait_s=0.01)
    assert on_virtual_clock(run_one(ask, "ok", retry=policy)) == "ok"


def test_a_server_that_refuses_every_item_is_not_away() -> None:
    """After an outage each item gets its own refusal."""
    server = Server((2, 6))

    async def refused(item: int) -> int:
        await server.serve(item)
        if asyncio.get_running_loop().time() > 6:
            raise Rejected("not this prompt")
        return item

    retry = RetryPolicy(max_outage_s=10)
    result = on_virtual_clock(run(refused, range(1000), max_concurrency=16, retry=retry))
    assert not result.not_run
    assert {type(failure.error) for failure in result.failures} == {Rejected}

"""The queue before a provider: who waits, and who is told to come back."""

from __future__ import annotations

import asyncio
import math
from contextlib import nullcontext
from typing import Any

import attrs
import pytest

from blossom_async.batch import GateQuestion, Gates, Grant, RateLimit, SharedGate
from blossom_async.errors import Overloaded
from blossom_async.gateway.making.asking import ask
from blossom_async.gateway.making.breaker import Breaker
from blossom_async.gateway.making.callers import Callers
from blossom_async.gateway.making.priority import Priority
from blossom_async.gateway.making.upstreams import Limits, Upstream
from blossom_async.gateway.making.verdicts import Settled
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.gateway.providers.offline import Offline
from tests.batch.limited_servers import Fixed, Sliding
from tests.gateway.making.test_paid import WISH, Paid
from tests.gateway.making.test_verdicts import ATTEMPT
from tests.virtual_clock import on_virtual_clock


def line(at_once: int = 16) -> Upstream:
    """A provider that takes so many turns at a time."""
    clock = asyncio.get_running_loop().time
    return Upstream(Offline(Workers(1).run), Limits(at_once=at_once), clock=clock)


async def turn(upstream: Upstream, takes_s: float, callers: Callers | None = None) -> float:
    """Waits for a turn and takes it; how long both lasted."""
    loop = asyncio.get_running_loop()
    came = loop.time()
    async with upstream.turn(callers or Callers(Priority.INTERACTIVE, hurried=True), taking=nullcontext):
        await asyncio.sleep(takes_s)
    return loop.time() - came


def test_three_times_the_load_leaves_the_capacity() -> None:
    """Those let in are answered soon; the others are told at once; two seconds later nobody waits."""

    async def run() -> tuple[list[float], int]:
        upstream, answers = line(), list[asyncio.Task[float]]()
        for _ in range(30 * 120):  # for 30 s, three times what 16 turns of 0.4 s make
            answers.append(asyncio.create_task(turn(upstream, 0.4)))
            await asyncio.sleep(1 / 120)
        await asyncio.sleep(2)
        assert upstream.waiting == 0
        results = await asyncio.gather(*answers, return_exceptions=True)
        refused = [each for each in results if isinstance(each, Overloaded)]
        return [each for each in results if not isinstance(each, BaseException)], len(refused)

    answered, refused = on_virtual_clock(run())
    assert len(answered) + refused == 3600
    assert len(answered) > 0.95 * 30 * 40
    assert max(answered) < 3


@pytest.mark.campaign
def test_a_crowd_that_comes_back_at_once_leaves_the_capacity() -> None:
    """Of 1,500 callers who ask again 0.2 s after each answer, those let in are served as fast as ever."""

    async def run() -> tuple[int, int]:
        upstream, loop = line(), asyncio.get_running_loop()
        await turn(upstream, 0.5)
        began, made, left = loop.time(), 0, 0

        async def caller() -> None:
            nonlocal made, left
            while loop.time() < began + 8:
                callers = Callers(Priority.INTERACTIVE, hurried=True)
                try:
                    async with asyncio.timeout(10):
                        with callers.waiting():
                            await turn(upstream, 0.5, callers)
                    made += 1
                except Overloaded:
                    pass
                except TimeoutError:
                    left += 1
                await asyncio.sleep(0.2)

        await asyncio.gather(*(caller() for _ in range(1500)))
        return made, left

    made, left = on_virtual_clock(run())
    assert made >= 0.9 * 8 * 16 / 0.5
    assert left == 0


def test_what_is_sent_again_counts_for_the_rate() -> None:
    """A request under the same key arrives at the provider, too: no window holds more than is allowed."""

    async def run() -> list[float]:
        loop, arrived = asyncio.get_running_loop(), list[float]()
        limits = Limits(rates=(RateLimit.parse("10/s"),))
        upstream = Upstream(Offline(Workers(1).run), limits, clock=loop.time)

        async def call() -> None:
            async with upstream.turn(Callers(Priority.BATCH), taking=nullcontext) as turn:
                await turn.begin()
                arrived.append(loop.time())
                for _ in range(2):
                    async with upstream.again():
                        arrived.append(loop.time())

        await asyncio.gather(*(call() for _ in range(10)))
        return sorted(arrived)

    arrived = on_virtual_clock(run())
    assert len(arrived) == 30
    assert min(later - first for first, later in zip(arrived, arrived[10:], strict=False)) >= 1


def test_who_comes_back_when_told_is_let_in() -> None:
    """``Retry-After`` is when the line has become short enough."""

    async def run() -> float:
        upstream = line(at_once=2)
        await turn(upstream, 1)
        batch = [asyncio.create_task(turn(upstream, 1, Callers(Priority.BATCH))) for _ in range(20)]
        waiting = [asyncio.create_task(turn(upstream, 1)) for _ in range(6)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="offline is drawing as many pictures as it may") as caught:
            await turn(upstream, 1)
        await asyncio.sleep((caught.value.retry_after_s or 0) + 0.01)  # it was told before turns ended
        took = await turn(upstream, 1)
        await asyncio.gather(*batch, *waiting)
        return took

    assert on_virtual_clock(run()) <= 5


def test_a_batch_is_not_in_a_hurry() -> None:
    """It waits for as long as ``wait_s`` allows, and nobody in a hurry waits for it."""

    async def run() -> list[float]:
        upstream = line(at_once=1)
        await turn(upstream, 1)
        batch = [asyncio.create_task(turn(upstream, 1, Callers(Priority.BATCH))) for _ in range(100)]
        await asyncio.sleep(0)
        urgent = await turn(upstream, 1)
        return [urgent, *await asyncio.gather(*batch)]

    took = on_virtual_clock(run())
    assert took[0] == pytest.approx(2)
    assert max(took) == pytest.approx(101)


def test_slow_pictures_are_worth_a_longer_wait() -> None:
    """Where one takes 30 s, our client's 64 calls at once are all let in."""

    async def run() -> float:
        upstream = line()
        await turn(upstream, 30)
        return max(await asyncio.gather(*(turn(upstream, 30) for _ in range(64))))

    assert on_virtual_clock(run()) == pytest.approx(120)


def test_a_provider_that_stalls_has_no_long_line() -> None:
    """Turns that are not over count: callers are told to come back while the line is still short."""

    async def run() -> int:
        upstream = line(at_once=2)
        await turn(upstream, 0.1)
        stalled = [asyncio.create_task(turn(upstream, 60)) for _ in range(2)]
        await asyncio.sleep(30)
        with pytest.raises(Overloaded) as caught:
            await turn(upstream, 0.1)
        await asyncio.gather(*stalled)
        return round(caught.value.retry_after_s or 0)

    assert on_virtual_clock(run()) == 13  # half of 30 s, less the 2 s that it may wait


DOWN = ProviderFault("offline", Kind.UNAVAILABLE, "down", charged="no")


@pytest.mark.parametrize("away_s", [20, 100])
def test_after_a_rest_one_call_tries_the_provider_before_the_others(away_s: float) -> None:
    """Those in line, in no hurry, all get their turn; each rest costs one call."""

    async def run() -> tuple[int, int, float]:
        upstream, loop = line(at_once=8), asyncio.get_running_loop()
        sent = failed = 0

        async def call() -> None:
            nonlocal sent, failed
            async with upstream.turn(Callers(Priority.BATCH), taking=nullcontext):
                sent += 1
                await asyncio.sleep(1)
                if 3 <= loop.time() < 3 + away_s:
                    failed += 1
                    upstream.failed(DOWN, upstream.cuts)
                else:
                    upstream.succeeded()

        await asyncio.gather(*(call() for _ in range(100)))
        return sent, failed, loop.time()

    sent, failed, took_s = on_virtual_clock(run())
    assert sent == 100
    assert failed <= 8 + 7 + away_s // 31
    assert took_s <= 100 / 8 + 3 + away_s + 31


def test_twenty_seconds_away_cost_at_most_thirty_requests() -> None:
    """Of a batch of 4,000 calls that come back when they are told, done within 25 s of the ideal."""

    async def run() -> tuple[int, float]:
        upstream, loop = line(at_once=16), asyncio.get_running_loop()
        failed = 0

        async def call() -> None:
            nonlocal failed
            while True:
                try:
                    async with upstream.turn(Callers(Priority.BATCH), taking=nullcontext):
                        await asyncio.sleep(0.05)
                        if not 3 <= loop.time() < 23:
                            return upstream.succeeded()
                        failed += 1
                        upstream.failed(DOWN, upstream.cuts)
                except Overloaded as exc:  # and the client sends it again when it is told to
                    await asyncio.sleep(exc.retry_after_s or 0)

        calls = iter(range(4000))

        async def caller() -> None:
            for _ in calls:
                await call()

        await asyncio.gather(*(caller() for _ in range(64)))
        return failed, loop.time()

    failed, took_s = on_virtual_clock(run())
    assert failed <= 30
    assert took_s <= 4000 / 16 * 0.05 + 25


def test_a_hurried_call_is_told_that_the_provider_rests() -> None:
    """Also one that was in line when the rest began, and one that comes while another tries it."""

    async def run() -> None:
        upstream, loop = line(at_once=1), asyncio.get_running_loop()
        under_way = asyncio.create_task(turn(upstream, 1, Callers(Priority.BATCH)))
        await asyncio.sleep(0)
        in_line = asyncio.create_task(turn(upstream, 1))
        await asyncio.sleep(0)
        for _ in range(5):
            upstream.failed(DOWN, upstream.cuts)
        assert isinstance((await asyncio.gather(in_line, return_exceptions=True))[0], Overloaded)
        await under_way
        with pytest.raises(Overloaded, match="offline is not called for the next 1 s"):
            await turn(upstream, 1)
        await asyncio.sleep(upstream.resting_s())
        trial = asyncio.create_task(turn(upstream, 3))
        await asyncio.sleep(1)
        with pytest.raises(Overloaded, match="offline is not called for the next 1 s"):  # as a call takes
            await turn(upstream, 1)
        upstream.succeeded()
        await trial
        assert await turn(upstream, 1) == 1
        assert loop.time() < 36

    on_virtual_clock(run())


def test_calls_pass_once_the_trial_call_was_answered() -> None:
    """While its picture is being stored the provider is open to the others already."""

    async def run() -> None:
        clock = asyncio.get_running_loop().time
        breaker = Breaker("paid", clock)
        breaker.failed(ProviderFault("paid", Kind.OUT_OF_FUNDS, "empty", charged="no"), 1)
        await asyncio.sleep(breaker.resting_s())
        assert await breaker.wait() is not None
        with pytest.raises(Overloaded):
            breaker.check()
        breaker.answered()
        breaker.check()
        assert await breaker.wait() is None

    on_virtual_clock(run())


def test_another_tries_the_provider_if_the_one_that_was_to_is_cancelled() -> None:
    """Where no call comes any more, too, as those in line would wait forever."""

    async def run() -> None:
        breaker = Breaker("offline", asyncio.get_running_loop().time)
        for _ in range(5):
            breaker.failed(DOWN, 1)
        assert await breaker.wait() is not None
        second, third = (asyncio.create_task(breaker.wait()) for _ in range(2))
        await asyncio.sleep(1)
        breaker.failed(DOWN, 1)
        await asyncio.sleep(1)
        second.cancel()
        assert await asyncio.wait_for(third, 60) is not None

    on_virtual_clock(run())


@pytest.mark.parametrize("away_s", [20, 200, math.inf])
def test_what_may_be_paid_is_asked_for_again_once_the_provider_is_back(away_s: float) -> None:
    """By the one trial call of each rest; from four minutes on a person must decide."""

    async def run() -> tuple[int, int]:
        clock = asyncio.get_running_loop().time
        provider: Any = Paid(keyed=True)
        came = asyncio.Event()

        async def cut() -> None:
            await came.wait()
            raise ProviderFault("paid", Kind.LOST, "cut", charged="unknown")

        async def back() -> None:
            if clock() < away_s:
                raise ProviderFault("paid", Kind.UNSENT, "refused", charged="no")

        provider.script = [*[cut] * 8, *[back] * 60]
        upstream = Upstream(provider, Limits(at_once=8), clock=clock)

        async def call(number: int) -> object:
            attempt = attrs.evolve(ATTEMPT, provider_key=f"key-{number}")
            async with upstream.turn(Callers(Priority.BATCH), taking=nullcontext) as turn:
                return await ask(upstream, WISH, attempt, begin=turn.begin)

        calls = [asyncio.create_task(call(number)) for number in range(8)]
        await asyncio.sleep(1)
        came.set()
        given = await asyncio.gather(*calls)
        assert len(provider.ledger) == 8
        return sum(isinstance(each, Settled) for each in given), len(provider.sent)

    unknown, sent = on_virtual_clock(run())
    assert unknown == (8 if math.isinf(away_s) else 0)
    assert sent <= 8 + 8 + 7 + min(away_s, 240 + 8 * 30) // 30


def test_what_was_written_too_late_is_not_sent_while_the_place_of_the_rate_is_away() -> None:
    """Nothing was paid, and the next provider may be asked."""

    class Place(Gates):
        away = False

        async def take(self, question: GateQuestion) -> Grant:
            if self.away:
                raise ConnectionError("refused")
            return await super().take(question)

    async def run() -> object:
        provider: Any = Paid(keyed=False)
        place, clock = Place(asyncio.get_running_loop().time), asyncio.get_running_loop().time
        gate = SharedGate("paint", "1/s", slots=place, patience_s=5, clock=clock)
        upstream = Upstream(provider, Limits(), clock=clock, gate=gate)
        async with upstream.turn(Callers(Priority.BATCH), taking=nullcontext) as turn:
            place.away = True
            await asyncio.sleep(3)  # until it was written down
            settled = await ask(upstream, WISH, ATTEMPT, begin=turn.begin)
            with pytest.raises(Overloaded, match="cannot be reached"):
                await ask(upstream, WISH, ATTEMPT, begin=turn.begin, maybe_paid=True)
        assert not provider.sent
        return settled

    settled = on_virtual_clock(run())
    assert isinstance(settled, Settled)
    assert settled.elsewhere
    assert settled.end is not None
    assert settled.end.spent == 0


@pytest.mark.parametrize("limit", [Sliding(20, 1), Fixed(20, 1)])
def test_the_rate_of_a_provider_is_learned(limit: Sliding | Fixed) -> None:
    """One that nobody has set and that refuses calls beyond it loses under 1 in 100 and 5 % of the time."""

    async def run() -> tuple[int, int, int]:
        upstream, loop = line(at_once=64), asyncio.get_running_loop()
        made, late, asked = 0, 0, 0

        async def calls() -> None:
            nonlocal made, late, asked
            while loop.time() < 120:
                async with upstream.turn(Callers(Priority.BATCH), taking=nullcontext):
                    cuts, sent_at = upstream.cuts, loop.time()
                    await asyncio.sleep(0.01)
                    asked += loop.time() > 1
                    if (wait_s := limit.refuses_for(loop.time())) is not None:
                        late += loop.time() > 1
                        fault = ProviderFault(
                            "offline",
                            Kind.RATE_LIMITED,
                            "answered 429",
                            charged="no",
                            retry_after_s=math.ceil(wait_s),
                        )
                        upstream.failed(fault, cuts, sent_at=sent_at)
                    else:
                        await asyncio.sleep(2)
                        made += 1
                        upstream.succeeded()

        await asyncio.gather(*(calls() for _ in range(80)))
        return made, late, asked

    made, late, asked = on_virtual_clock(run())
    assert made >= 0.95 * 120 * 20
    assert late < 0.01 * asked

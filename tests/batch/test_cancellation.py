"""Cancelling at every step the loop makes: nothing is left running, held or waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from blossom_async.batch import Gate, RateLimit, RetryPolicy, Slots, run, run_one, stream
from blossom_async.batch.timeouts import Timeout
from blossom_async.errors import RateLimited, ServerFailed
from tests.virtual_clock import VirtualClockLoop, on_virtual_clock


class Scene:
    """A run that uses every kind of wait there is, on limits that outlive it."""

    def __init__(self) -> None:
        self.slots = Slots(3)
        self.gates = (Gate(RateLimit(4)), Gate(RateLimit(9, per_s=3)))
        self.running = 0
        self.closed = False

    async def attempt(self, item: int) -> int:
        self.running += 1
        try:
            await asyncio.sleep(0.3)
            if item % 4 == 1:
                raise ServerFailed("again")
            if item == 6:
                raise RateLimited("slow down", retry_after_s=0.5)
            return item
        finally:
            self.running -= 1

    async def items(self) -> AsyncIterator[int]:
        try:
            for number in range(9):
                await asyncio.sleep(0.05)
                yield number
        finally:
            self.closed = True

    def options(self) -> dict[str, Any]:
        return {
            "max_concurrency": 4,
            "slots": self.slots,
            "gates": self.gates,
            "retry": RetryPolicy(max_attempts=2, first_wait_s=0.1, max_throttle_s=3),
            "timeout_s": 1.0,
            "deadline_s": 6.0,
        }

    async def run(self) -> None:
        await run(self.attempt, self.items(), **self.options())

    async def stream(self) -> None:
        async with stream(self.attempt, self.items(), window=5, ordered=True, **self.options()) as outcomes:
            async for _ in outcomes:
                await asyncio.sleep(0.1)

    async def run_one(self) -> None:
        options = self.options()
        del options["max_concurrency"], options["deadline_s"]
        self.closed = True
        calls = (run_one(self.attempt, n, **options) for n in (0, 2, 3, 4, 6))
        await asyncio.gather(*calls, return_exceptions=True)

    def check(self) -> None:
        assert self.running == 0
        assert self.closed
        assert self.slots.in_use == 0
        assert not self.slots._line
        assert not any(gate._turnstile.locked() or gate._head for gate in self.gates)


class SteppedLoop(VirtualClockLoop):
    """Calls ``at_step`` once, in its n-th pass."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._steps_left = step
        self.at_step: Any = None

    def _run_once(self) -> None:
        self._steps_left -= 1
        if self._steps_left == 0 and self.at_step is not None:
            self.at_step()
        super()._run_once()  # type: ignore[misc]


@pytest.mark.parametrize("what", ["run", "stream", "run_one"])
@pytest.mark.parametrize("times", [1, 2])
def test_cancelling_at_any_step_leaves_nothing(what: str, times: int) -> None:
    """In each pass of the loop a run makes, and once more in the next; then the limits still work."""
    step, done = 0, False
    while not done:
        step += 1
        scene = Scene()
        loop = SteppedLoop(step + 2)  # the passes before belong to the runner
        with asyncio.Runner(loop_factory=lambda loop=loop: loop) as runner:  # type: ignore[misc]

            async def watch(scene: Scene = scene, loop: SteppedLoop = loop) -> bool:
                task = asyncio.ensure_future(getattr(scene, what)())

                def cancel() -> None:
                    task.cancel()
                    if times == 2:
                        loop.call_soon(loop.call_soon, task.cancel)

                loop.at_step = cancel
                try:
                    await task
                except asyncio.CancelledError:
                    finished = False
                else:
                    finished = True
                await asyncio.sleep(0)
                left = asyncio.all_tasks() - {asyncio.current_task()}
                assert not left, left
                scene.check()
                async with asyncio.timeout(60):  # the limits still let everybody through
                    for gate in scene.gates:
                        await gate.acquire()
                    for _ in range(scene.slots.allowed):
                        await scene.slots.acquire()
                return finished

            done = runner.run(watch())
    assert step > 20


@pytest.mark.parametrize("leave_after", range(9))
def test_leaving_a_stream_at_any_item_leaves_nothing(leave_after: int) -> None:
    """By break, by an exception of the consumer, which comes through as it is."""

    async def leave(error: Exception | None) -> None:
        scene = Scene()
        seen = 0
        async with stream(scene.attempt, scene.items(), **scene.options()) as outcomes:
            async for _ in outcomes:
                seen += 1
                if seen > leave_after:
                    if error is not None:
                        raise error
                    break
        assert asyncio.all_tasks() == {asyncio.current_task()}
        scene.check()

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(leave(None))
        with pytest.raises(LookupError, match="the consumer's own"):
            runner.run(leave(LookupError("the consumer's own")))


async def indices(count: int) -> AsyncIterator[int]:
    """A generator over a stream, as a web application writes it."""

    async def attempt(item: int) -> int:
        await asyncio.sleep(1)
        return item

    async with stream(attempt, range(count), max_concurrency=3, ordered=True) as outcomes:
        async for outcome in outcomes:
            yield outcome.index


def test_a_generator_over_a_stream_may_be_dropped_halfway() -> None:
    """The loop closes it in another task than the one that read it, and nothing is left."""

    async def go() -> list[int]:
        seen = []
        async for index in indices(50):
            seen.append(index)
            if index == 4:
                break
        await asyncio.sleep(0.1)
        return seen

    assert on_virtual_clock(go()) == [0, 1, 2, 3, 4]


def test_generators_over_streams_may_be_read_in_turns() -> None:
    """They neither end in the order they began nor in the reverse."""

    async def go() -> list[tuple[int, int]]:
        first, second = indices(3), indices(5)
        pairs = [(await anext(first), await anext(second)) for _ in range(3)]
        assert [index async for index in first] == []
        assert [index async for index in second] == [3, 4]
        return pairs

    assert on_virtual_clock(go()) == [(0, 0), (1, 1), (2, 2)]


def test_a_stream_may_be_left_by_another_task_than_the_one_that_entered_it() -> None:
    """As fixtures and exit stacks do."""

    async def go() -> None:
        block = stream(asyncio.sleep, [1, 2, 3])
        outcomes = await asyncio.create_task(block.__aenter__())
        assert (await anext(outcomes)).index == 0
        await asyncio.create_task(block.__aexit__(None, None, None))
        assert asyncio.get_running_loop().time() == 1

    on_virtual_clock(go())


def test_nothing_starts_once_a_stream_is_left() -> None:
    """No retry that comes due while attempts take their time to end, and nothing after those."""
    starts: list[float] = []

    async def attempt(item: int) -> int:
        starts.append(asyncio.get_running_loop().time())
        if item == 0:
            return item
        if item % 2:
            raise ServerFailed("again")
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(50)
        return item

    async def leave() -> float:
        retry = RetryPolicy(first_wait_s=10, max_wait_s=10)
        async with stream(attempt, iter(range(100)), max_concurrency=5, retry=retry) as outcomes:
            await anext(outcomes)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        assert runner.run(leave()) == 50
    assert max(starts) == 0


def test_a_cancellation_at_the_instant_of_the_timeout_is_not_lost() -> None:
    """The task that was cancelled from outside ends, and is not told that it was too slow."""

    async def main() -> None:
        timeout = Timeout(5.0)
        task = asyncio.create_task(timeout.limit(asyncio.sleep(100)))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_at(5.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        timeout.close()

    on_virtual_clock(main())

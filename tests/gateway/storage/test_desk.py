"""Threads that answer questions in groups."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from blossom_async.gateway.storage.records.desk import Desk


async def test_questions_are_answered_in_groups_of_bounded_size() -> None:
    """Those that come while one is answered go together, but not all of them at once."""
    may_go_on, sizes = threading.Event(), []

    def answer(questions: Sequence[Any]) -> list[Any]:
        may_go_on.wait()
        sizes.append(len(questions))
        return [question * 2 for question in questions]

    desk = Desk("test", 1, answer)
    desk.start()
    asked = [asyncio.ensure_future(desk.ask(number)) for number in range(1200)]
    await asyncio.sleep(0)  # all of them are in the queue
    may_go_on.set()
    assert await asyncio.gather(*asked) == [number * 2 for number in range(1200)]
    desk.end()
    assert max(sizes) == 500
    assert sum(sizes) == 1200


async def test_a_crowd_is_gathered_and_a_single_question_is_not() -> None:
    """What is asked meanwhile goes with the crowd."""
    loop, begun, may_go_on = asyncio.get_running_loop(), threading.Event(), threading.Event()
    sizes: list[int] = []
    gathered: list[float] = []
    asked: list[asyncio.Future[Any]] = []

    def answer(questions: Sequence[Any]) -> list[Any]:
        begun.set()
        may_go_on.wait()
        sizes.append(len(questions))
        return list(questions)

    async def ask(count: int) -> None:
        asked.extend(asyncio.ensure_future(desk.ask(number)) for number in range(count))
        await asyncio.sleep(0)  # all of them are in the queue

    def gather(seconds: float) -> None:
        gathered.append(seconds)
        asyncio.run_coroutine_threadsafe(ask(3), loop).result()

    desk = Desk("test", 1, answer, gather=partial(gather, 0.25))
    desk.start()
    await ask(1)
    await asyncio.to_thread(begun.wait)
    await ask(9)
    may_go_on.set()
    await asyncio.gather(*asked)
    await asyncio.gather(*asked)  # and those that came meanwhile
    desk.end()
    assert (sizes, gathered) == ([1, 12], [0.25])

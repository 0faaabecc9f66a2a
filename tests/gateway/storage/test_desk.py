"""Threads that answer questions in groups."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
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

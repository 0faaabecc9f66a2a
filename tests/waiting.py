"""Waiting for something that sends no event, such as another process."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

LIMIT_S = 240.0  # a machine may be slow, and only a failure takes this long
LIMIT_MS = 1000 * LIMIT_S
_PAUSE_S = 0.02

GROWING_S = (0.3, 3.0, 30.0)
"""Time limits that have to run out, for a test that takes the first that was not too short to get there."""


def wait_until(condition: Callable[[], object]) -> None:
    """Returns once ``condition()`` is true. Raises ``TimeoutError`` after four minutes."""
    ends = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"still not so after {LIMIT_S:.0f} s: {inspect.getsource(condition).strip()}")
        time.sleep(_PAUSE_S)


async def until(condition: Callable[[], object | Awaitable[object]]) -> None:
    """As ``wait_until``, while the loop goes on; ``condition`` may be a coroutine function."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return
            await asyncio.sleep(_PAUSE_S)

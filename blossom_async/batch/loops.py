"""The event loop that a batch runs in, and waking those who wait in another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from blossom_async.errors import ConfigurationError

__all__ = ["running_loop", "wake"]


def running_loop() -> asyncio.AbstractEventLoop:
    """As ``asyncio.get_running_loop``. Raises ``ConfigurationError`` under trio, and where no loop runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "blossom_async runs on asyncio, and no asyncio event loop is running here; use asyncio.run(), or "
            'anyio.run(..., backend="asyncio"), and not trio'
        ) from None


def wake(waiter: asyncio.Future[None], too_late: Callable[[], object]) -> bool:
    """Sets the result of a future in its own event loop, from any loop and thread.

    False if it is done, or if its loop is closed and nobody waits any more; then it is cancelled.
    ``too_late`` is called when it turns out to be done only once its loop has been reached.
    """
    loop = waiter.get_loop()
    if waiter.done():
        return False
    if loop is asyncio._get_running_loop():
        waiter.set_result(None)
        return True
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(_set, waiter, too_late)
        return True
    with suppress(RuntimeError):
        waiter.cancel()
    return False


def _set(waiter: asyncio.Future[None], too_late: Callable[[], object]) -> None:
    if waiter.done():
        too_late()
    else:
        waiter.set_result(None)

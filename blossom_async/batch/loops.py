"""The event loop that limits and batches run in."""

from __future__ import annotations

import asyncio

from blossom_async.errors import ConfigurationError

__all__ = ["running_loop"]


def running_loop() -> asyncio.AbstractEventLoop:
    """As ``asyncio.get_running_loop``. Raises ``ConfigurationError`` under trio, and where no loop runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "blossom_async runs on asyncio, and no asyncio event loop is running here; use asyncio.run(), or "
            'anyio.run(..., backend="asyncio"), and not trio'
        ) from None

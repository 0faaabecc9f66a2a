"""The event loop of a command: uvloop where it is installed, Ctrl-C as cancellation."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["run", "stop_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns.

    Ctrl-C cancels it and raises ``KeyboardInterrupt`` once it has ended; a second one does not wait.
    """
    with asyncio.Runner(loop_factory=_quickest()) as runner:
        try:
            return runner.run(main)
        except KeyboardInterrupt:
            logging.disable(logging.CRITICAL)  # what is torn down now has nothing more to say
            raise


def _quickest() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


@contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C or SIGTERM sets; after the block they end the process as usual."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

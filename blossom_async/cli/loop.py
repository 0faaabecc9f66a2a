"""The event loop of a command: uvloop where it is installed, Ctrl-C and SIGTERM as cancellation."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["Terminated", "run", "stop_signals", "terminable"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


class Terminated(BaseException):
    """SIGTERM has ended what was under way, as ``KeyboardInterrupt`` says of Ctrl-C."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns.

    Ctrl-C cancels it and raises ``KeyboardInterrupt`` once it has ended; a second one does not wait.
    """
    _occupy_standard_streams()
    with asyncio.Runner(loop_factory=_quickest()) as runner:
        try:
            return runner.run(main)
        except (KeyboardInterrupt, Terminated):
            logging.disable(logging.CRITICAL)  # what is torn down now has nothing more to say
            raise


def _occupy_standard_streams() -> None:
    """Opens those that were closed, as in ``>&-``: a socket with such a number is more than uvloop bears."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _quickest() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM cancels the task in this block, as Ctrl-C does, and raises ``Terminated`` once it has ended.

    A second one ends the process as usual. Outside of the main thread, where signals do not arrive, the block
    runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker
    terminated = False

    def stop() -> None:
        nonlocal terminated
        terminated = True
        loop.remove_signal_handler(signal.SIGTERM)
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        yield
    except asyncio.CancelledError as exc:
        if terminated:
            raise Terminated from exc
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


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

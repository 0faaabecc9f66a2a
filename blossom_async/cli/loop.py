"""Runs a command's event loop: uvloop if installed; Ctrl-C and SIGTERM cancel."""

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
    """Raised after SIGTERM, as ``KeyboardInterrupt`` is after Ctrl-C."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end and returns its result.

    Ctrl-C cancels it and raises ``KeyboardInterrupt`` once it has ended; a second Ctrl-C does not wait.
    """
    _occupy_standard_streams()
    with asyncio.Runner(loop_factory=_quickest()) as runner:
        try:
            return runner.run(main)
        except (KeyboardInterrupt, Terminated):
            logging.disable(logging.CRITICAL)  # tasks that are torn down now would only log noise
            raise


def _occupy_standard_streams() -> None:
    """Opens closed ones, as in ``>&-``: uvloop cannot handle a socket with such a descriptor."""
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
    """Inside the block SIGTERM cancels the task, as Ctrl-C does, and then raises ``Terminated``.

    A second SIGTERM ends the process at once. Outside the main thread, where no signal arrives, nothing
    changes.
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
    """Gives an event that Ctrl-C or SIGTERM sets. After the block they end the process as usual."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

"""An event loop whose clock jumps to the next timer, so that hours of waiting take no time and are exact."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_TICK_S = 1e-9
_PASSES = 2_000_000


class VirtualClockStuckError(AssertionError):
    """The loop waits for something that no timer and no callback will ever bring, or spins without end."""


class _Selector(selectors.DefaultSelector):
    """Instead of waiting for a time, moves the clock there."""

    loop: VirtualClockLoop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            self.loop.nothing_ready(timeout)
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """``time()`` starts at 0 and moves only when nothing else can happen. ``passes`` counts loop passes."""

    def __init__(self) -> None:
        self.passes = 0
        self._now = 0.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = _TICK_S  # asyncio fires timers this much early

    def time(self) -> float:
        return self._now

    def nothing_ready(self, timeout: float | None) -> None:
        self.passes += 1
        if self.passes > _PASSES:
            raise VirtualClockStuckError(f"{_PASSES} passes of the loop: something spins")
        if self._ready:  # type: ignore[attr-defined]
            return
        if timeout is None:
            raise VirtualClockStuckError("everything waits and no timer is set: a wake-up was lost")
        # A limiter that computes in floats may set a timer for an instant that has come already: at least
        # a nanosecond for each pass that a timer causes keeps it from doing so for ever. To the timer's own
        # time and not by `timeout`, because now + (when - now) may be less than when.
        when = self._scheduled[0].when()  # type: ignore[attr-defined]
        self._now = max(when, self._now + _TICK_S)


def on_virtual_clock(coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns, run on a virtual clock of its own; no task may be left behind."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(_leaving_nothing(coroutine))


async def _leaving_nothing(coroutine: Coroutine[Any, Any, T]) -> T:
    result = await coroutine
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"
    return result

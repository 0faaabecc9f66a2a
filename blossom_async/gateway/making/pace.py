"""How long a line takes, judged by how long turns were held."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

__all__ = ["Pace"]

_WEIGHT = 0.1  # of the newest turn: some twenty turns later a change is known


class Pace:
    """The measured pace of a line whose turns are held for a while."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.usual_s: float | None = None
        """How long a turn is held, None before one has ended."""
        self._held = 0
        self._begun_at = 0.0  # the sum over those held

    def wait_s(self, ahead: int, at_once: int) -> float:
        """How long one more waits behind ``ahead`` others, when ``at_once`` turns are held at a time.

        Turns that last longer than usual already make it longer.
        """
        lasting_s = self._clock() - self._begun_at / self._held if self._held else 0.0
        return (ahead + 1) * max(self.usual_s or 0.0, lasting_s) / at_once

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """One turn."""
        begun_at = self._clock()
        self._held += 1
        self._begun_at += begun_at
        try:
            yield
        finally:
            self._held -= 1
            self._begun_at = self._begun_at - begun_at if self._held else 0.0
            took_s = self._clock() - begun_at
            before_s = took_s if self.usual_s is None else self.usual_s
            self.usual_s = before_s + _WEIGHT * (took_s - before_s)

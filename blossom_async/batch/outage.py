"""A server that has answered and no longer does: one attempt at a time asks whether it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from blossom_async.batch.line import Line

__all__ = ["Outage"]

_IN_A_ROW = 5  # failures with no answer in between; 2 % of failing attempts never look like an outage
_FIRST_WAIT_S = 0.5  # after the second probe; the first one is made at once
_LONGEST_WAIT_S = 2.0  # so that the end of an outage is noticed soon


class Outage:
    """``away`` while nothing is answered. Then nothing starts but one probe at a time.

    It takes a first answer to know that the server was there: before that, failures are failures.
    ``failures`` in a row; negative before the first answer. ``on_change`` is called when an outage begins or
    ends and after each probe that failed.
    """

    def __init__(self, on_change: Callable[[], None] | None = None) -> None:
        self.away = False
        self.failures = -1
        self.prober: object = None
        self._on_change = on_change
        self._began_at = 0.0
        self._may_probe = False
        self._probes = 0
        self._probe_failed = False
        self._line = Line(self._pass_on)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def lasts_s(self) -> float | None:
        """Seconds since it began; None while there is none."""
        return asyncio.get_running_loop().time() - self._began_at if self.away else None

    def answered(self) -> None:
        """The server has answered an attempt."""
        self.failures = 0
        if self.away:
            self.away, self.prober = False, None
            self.close()
            while self._line.grant():
                pass
            self._changed()

    def failed(self, job: object) -> bool:
        """An attempt was not answered. True if that is the outage's fault and not the job's."""
        if self.failures < 0:
            return False
        self.failures += 1
        if self.prober is job:
            self._probe_failed = True
        if not self.away and self.failures >= _IN_A_ROW:
            self.away, self._may_probe, self._probes = True, True, 0
            self._began_at = asyncio.get_running_loop().time()
            self._changed()
        return self.away

    async def turn(self, job: object) -> bool:
        """Waits until the outage is over, or this job is to probe; then True."""
        while self.away:
            if self._may_probe:
                self._may_probe, self._probe_failed, self.prober = False, False, job
                return True
            await self._line.wait()
        return False

    def probed(self, job: object) -> None:
        """A probe has ended. If it says nothing about the server, another may be made at once."""
        if self.prober is job:
            self.prober = None
            if self._probe_failed:
                wait_s = min(_FIRST_WAIT_S * 2**self._probes, _LONGEST_WAIT_S)
                self._probes += 1
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._ring)
                self._changed()
            else:
                self._ring()

    def close(self) -> None:
        """Cancels the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._may_probe = True
        self._line.grant()

    def _pass_on(self) -> None:
        if self.away and self._may_probe:
            self._line.grant()

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()

"""A server that has answered and no longer does: one attempt at a time asks whether it is back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

__all__ = ["Outage"]

_IN_A_ROW = 5  # failures without a success; of 20 % failing attempts, 5 in a row are 1 in 3,000
_FIRST_WAIT_S = 0.5  # between two probes; doubles
_LONGEST_WAIT_S = 2.0  # so that the end of an outage is noticed soon
_FEW_LAST_S = 30.0  # over which probes are spread before an item gets its last attempt


def _nothing() -> None:
    pass


class Outage:
    """``away`` while a server that has answered no longer does. Nothing but ``prober`` may start then, and
    between two probes there is none.

    It begins with five failures in a row without a success, or with as many as there are items left once the
    input has ended (``left``, None before that). It ends when a probe is answered: an attempt that started
    before the outage may still succeed while a server shuts down, and says nothing about new ones.

    ``on_due`` is called when the next probe may start, ``on_end`` when the server answers again, and
    ``on_patience`` when it has not for ``patience_s`` seconds.
    """

    def __init__(
        self,
        patience_s: float,
        *,
        left: Callable[[], int | None] = _nothing,
        on_due: Callable[[], object] = _nothing,
        on_end: Callable[[], object] = _nothing,
        on_patience: Callable[[], object] = _nothing,
    ) -> None:
        self.away: bool = False
        self.failures: int = -1  # in a row; negative before the first answer: a wrong address is no outage
        self.prober: object = None
        self._patience_s = patience_s
        self._left = left
        self._on_due = on_due
        self._on_end = on_end
        self._on_patience = on_patience
        self._loop = asyncio.get_running_loop()
        self._began_at = 0.0
        self._failed_at = 0.0  # when the outage began or the last probe failed
        self._probes = 0  # that failed
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def lasts_s(self) -> float | None:
        """Seconds since it began; None while there is none. May be asked in any thread."""
        return self._loop.time() - self._began_at if self.away else None

    def answered(self, job: object) -> None:
        """Notes that the server has answered an attempt at a job."""
        if not self.away:
            self.failures = 0
        elif job is self.prober:
            self.away, self.failures = False, 0
            self.close()
            self._on_end()

    def failed(self, job: object, *, stale: bool = False) -> None:
        """Notes that nothing answered an attempt at a job.

        ``stale``: its connection was closed while idle. One such says nothing, even of the last item.
        """
        if self.away:
            if job is self.prober:
                self._probes += 1
                self._failed_at = self._loop.time()
        elif self.failures >= 0:
            self.failures += 1
            left = self._left()
            if self.failures >= (_IN_A_ROW if left is None or stale else min(_IN_A_ROW, left)):
                self._begin()

    def is_time(self, spare: float) -> bool:
        """Whether the next probe may start. If not yet, ``on_due`` will be called then.

        ``spare`` attempts can be made before an item gets its last one. Few are spread more thinly.
        """
        if self.prober is not None:
            return False
        now = self._loop.time()
        due = self._failed_at + self._wait_s(spare)
        if due <= now:
            return True
        self._set("probe", due, self._on_due)
        return False

    def close(self) -> None:
        """Cancels the timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _begin(self) -> None:
        self.away = True
        self.prober = None
        self._probes = 0
        self._began_at = self._failed_at = self._loop.time()
        self._set("patience", self._began_at + self._patience_s, self._on_patience)

    def _wait_s(self, spare: float) -> float:
        """Between two probes, long enough that no item gets its last attempt within half a minute."""
        usual_s = min(math.ldexp(_FIRST_WAIT_S, min(self._probes, 8) - 1), _LONGEST_WAIT_S)
        so_far_s = max(self._failed_at - self._began_at, _FIRST_WAIT_S)
        if so_far_s >= _FEW_LAST_S:
            return usual_s if spare else _FEW_LAST_S
        thin_s = so_far_s * (math.pow(_FEW_LAST_S / so_far_s, 1 / (spare + 1)) - 1)
        return max(usual_s if self._probes else 0.0, thin_s)

    def _set(self, name: str, at: float, call: Callable[[], object]) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = self._loop.call_at(at, call)

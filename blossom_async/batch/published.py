"""Quotas that a server publishes with each answer, kept before it refuses anything."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import attrs

from blossom_async.batch.hints import Quota

__all__ = ["PublishedRates"]

_MARGIN = 1.005  # as of a stated limit,
_JITTER_S = 0.02  # and so much for requests that take longer to arrive than others
_OWN = 0.9  # share of a quota that is used up by this gate, as far as can be seen: others use none of it


@attrs.define
class _Budget:
    """``left`` starts until ``until``; then ``refill`` more, and again every ``every_s`` seconds.

    An answer to a request that was sent at ``sent_at`` has said so.
    """

    sent_at: float
    left: int
    until: float
    every_s: float
    refill: int
    most: int

    def renew(self, now: float) -> None:
        if now >= self.until:
            times = math.floor((now - self.until) / self.every_s) + 1
            self.left = min(self.most, self.left + times * self.refill)
            self.until += times * self.every_s


class PublishedRates:
    """What the last answers said. ``starts`` are the times of all starts, oldest first."""

    def __init__(self, starts: deque[float]) -> None:
        self._starts = starts
        self._windows: list[tuple[int, float]] = []
        self._budgets: dict[str, _Budget] = {}
        self._unshared = set[str]()  # quotas that nobody else was seen to use

    def __bool__(self) -> bool:
        return bool(self._windows or self._budgets)

    def forget(self) -> None:
        """Starts anew."""
        self._windows.clear()
        self._budgets.clear()
        self._unshared.clear()

    def heed(self, quotas: Iterable[Quota], sent_at: float, now: float) -> None:
        """Obeys these limits from now on. They came with the answer to a request sent at ``sent_at``.

        The server may not have counted what was sent since then.
        """
        windows = []
        for quota in quotas:
            if quota.per_s is not None and quota.amount is not None:
                windows.append(self._window(quota.amount, quota.per_s))
            before = self._budgets.get(quota.name)
            if before is not None and sent_at < before.sent_at:
                continue
            if quota.left is None or quota.reset_s is None or self._is_own(quota, sent_at):
                self._budgets.pop(quota.name, None)
            else:
                left = quota.left - sum(1 for start in self._starts.copy() if start > sent_at)
                if before is not None and sent_at == before.sent_at:
                    left = min(left, before.left)
                self._budgets[quota.name] = self._budget(quota, left, quota.reset_s, sent_at, now)
        self._windows = windows or self._windows

    def take(self) -> None:
        """Notes a start."""
        for budget in self._budgets.values():
            budget.left = max(0, budget.left - 1)

    def ready_at(self, now: float) -> float:
        """When the next attempt may start: at once, if that is not after ``now``."""
        at = -math.inf
        for amount, length_s in self._windows:
            if len(self._starts) >= amount:
                at = max(at, self._starts[-amount] + length_s)
        for budget in self._budgets.values():
            budget.renew(now)
            if budget.left < 1:
                at = max(at, budget.until)
        return at

    def _window(self, amount: int, per_s: float) -> tuple[int, float]:
        remembered = self._starts.maxlen or amount
        if amount > remembered:  # as many as are remembered, in the time that they may take
            amount, per_s = remembered, per_s * remembered / amount
        return amount, per_s * _MARGIN + _JITTER_S

    def _is_own(self, quota: Quota, sent_at: float) -> bool:
        """Whether what is used up of a quota are the starts of this gate, which its window counts."""
        if quota.per_s is None or quota.amount is None or quota.left is None:
            return False
        starts = self._starts.copy()
        own = sum(1 for start in starts if sent_at - quota.per_s < start <= sent_at)
        if quota.left + own < _OWN * quota.amount:
            self._unshared.discard(quota.name)
        elif quota.left + own <= quota.amount / _OWN:  # else the server has not counted all of them yet
            self._unshared.add(quota.name)
        return quota.name in self._unshared

    def _budget(self, quota: Quota, left: int, reset_s: float, sent_at: float, now: float) -> _Budget:
        said = quota.left or 0
        most = quota.amount or max(1, said)
        before = self._budgets.get(quota.name)
        if quota.evenly and most > said:
            every_s, refill = reset_s / (most - said), 1
            until = now + every_s
        else:
            every_s = max(reset_s, before.every_s if before and before.refill > 1 else 0.0)
            refill = most if quota.per_s is None else 1
            until = now + reset_s
        return _Budget(sent_at, max(0, left), until, max(every_s, 0.001), refill, most)

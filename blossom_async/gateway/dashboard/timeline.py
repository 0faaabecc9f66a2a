"""The numbers of a bar chart over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import attrs

from blossom_async.gateway.counting.traffic import hour_number
from blossom_async.gateway.dashboard.chart import ticks_above
from blossom_async.gateway.dashboard.rendering import short

__all__ = ["Slot", "Timeline", "by_hour", "day_name", "latest", "timeline"]

_DAY = 24

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Slot:
    """Bars side by side, one for each of the ``values`` of an hour or a day."""

    name: str
    values: tuple[int, ...]


@attrs.frozen(kw_only=True)
class Timeline:
    """``slots`` side by side; ``ticks`` from the top down to 0, evenly spaced."""

    slots: tuple[Slot, ...]
    ticks: tuple[int, ...]

    @property
    def top(self) -> int:
        """The highest tick, at least as high as any bar."""
        return self.ticks[0]


def timeline(slots: Sequence[Slot]) -> Timeline:
    """The chart of these; there is one at least."""
    return Timeline(slots=tuple(slots), ticks=ticks_above(max(max(slot.values) for slot in slots)))


def latest(hours: int, now: datetime) -> tuple[int, int]:
    """The first and the last of so many hours, this one included; of whole days if it is so many."""
    last = hour_number(now)
    if hours > 2 * _DAY:
        last = last // _DAY * _DAY + _DAY - 1
    return last - hours + 1, last


def by_hour(
    found: Mapping[int, T], first: int, last: int, *, hours_each: int, of: Sequence[Callable[[T], int]]
) -> Timeline:
    """The hours from ``first`` to ``last``, so many together: the sums ``of`` what was found in each."""
    slots = []
    for begin in range(first, last + 1, hours_each):
        within = [found[hour] for hour in range(begin, begin + hours_each) if hour in found]
        name = day_name(begin // _DAY)
        if hours_each < _DAY:
            name += f", {begin % _DAY:02}:00"
        slots.append(Slot(name=name, values=tuple(sum(map(part, within)) for part in of)))
    return timeline(slots)


def day_name(day: int) -> str:
    """A day, which is counted from 1970, for people: ``27 Nov``."""
    return short(datetime.fromtimestamp(day * 86_400, UTC))

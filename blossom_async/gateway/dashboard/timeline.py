"""The numbers of a bar chart over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

import attrs

from blossom_async.gateway.counting.traffic import hour_number
from blossom_async.gateway.dashboard.rendering import short
from blossom_async.models import DayStats

__all__ = ["Slot", "Timeline", "by_hour", "day_name", "latest", "timeline", "views_by_day"]

_DAY = 24
_MOST_SLOTS = 92  # more are too thin on a phone; a slot then covers several days
_STEPS = 4

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Slot:
    """Bars side by side, one for each of the ``values`` of an hour or a day."""

    name: str
    values: tuple[int, ...]


@attrs.frozen(kw_only=True)
class Timeline:
    """``slots`` side by side; ``ticks`` from the top down to 0, evenly spaced; each slot is of ``every``."""

    slots: tuple[Slot, ...]
    ticks: tuple[int, ...]
    every: str

    @property
    def top(self) -> int:
        """The highest tick, at least as high as any bar."""
        return self.ticks[0]


def timeline(slots: Sequence[Slot], every: str = "by day") -> Timeline:
    """The chart of these; there is one at least."""
    ticks = _ticks_above(max(max(slot.values) for slot in slots))
    return Timeline(slots=tuple(slots), ticks=ticks, every=every)


def views_by_day(days: Sequence[DayStats], first: date, last: date) -> Timeline:
    """Views and viewers on all days from ``first`` to ``last``, including days without views."""
    number = (last - first).days + 1
    width = math.ceil(number / _MOST_SLOTS)
    slots = []
    for start in range(0, number, width):
        begin, end = first + timedelta(days=start), first + timedelta(days=min(start + width, number) - 1)
        seen = [day for day in days if begin <= day.date <= end]
        years = first.year != last.year
        name = " to ".join(
            f"{short(day)} {day.year}" if years else short(day) for day in sorted({begin, end})
        )
        values = sum(day.views for day in seen), sum(day.viewers for day in seen)
        slots.append(Slot(name=name, values=values))
    return timeline(slots, "by day" if width == 1 else f"every {width} days")


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
    return timeline(slots, "by hour" if hours_each < _DAY else "by day")


def day_name(day: int) -> str:
    """A day, which is counted from 1970, for people: ``27 Nov``."""
    return short(datetime.fromtimestamp(day * 86_400, UTC))


def _ticks_above(highest: int) -> tuple[int, ...]:
    """Round numbers from one that nothing is above down to 0, evenly spaced."""
    step = _step(highest)
    return tuple(step * tick for tick in range(max(1, math.ceil(highest / step)), -1, -1))


def _step(highest: int) -> int:
    """The smallest of 1, 2, 5, 10, 20 and so on that reaches the highest bar in four steps."""
    unit = 1
    while True:
        for factor in (1, 2, 5):
            if unit * factor * _STEPS >= highest:
                return unit * factor
        unit *= 10

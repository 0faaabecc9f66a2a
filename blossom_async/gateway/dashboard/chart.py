"""The numbers of a bar chart of views and viewers by day."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, timedelta

import attrs

from blossom_async.models import DayStats

__all__ = ["Bar", "Chart", "chart", "ticks_above"]

_MOST_BARS = 92  # more are too thin on a phone; a bar then covers several days
_STEPS = 4


@attrs.frozen(kw_only=True)
class Bar:
    """The bar of ``views`` and, beside it, the one of ``viewers``, which is never higher."""

    first: date
    last: date
    views: int
    viewers: int


@attrs.frozen(kw_only=True)
class Chart:
    """``bars`` side by side below ``top``; ``ticks`` from the top down to 0, evenly spaced."""

    bars: tuple[Bar, ...]
    top: int
    ticks: tuple[int, ...]
    days_per_bar: int


def chart(days: Sequence[DayStats], first: date, last: date) -> Chart:
    """The chart of all days from ``first`` to ``last``, including days without views."""
    number = (last - first).days + 1
    width = math.ceil(number / _MOST_BARS)
    bars = []
    for start in range(0, number, width):
        begin, end = first + timedelta(days=start), first + timedelta(days=min(start + width, number) - 1)
        seen = [day for day in days if begin <= day.date <= end]
        bars.append(
            Bar(
                first=begin,
                last=end,
                views=sum(day.views for day in seen),
                viewers=sum(day.viewers for day in seen),
            )
        )
    ticks = ticks_above(max(bar.views for bar in bars))
    return Chart(bars=tuple(bars), top=ticks[0], ticks=ticks, days_per_bar=width)


def ticks_above(highest: int) -> tuple[int, ...]:
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

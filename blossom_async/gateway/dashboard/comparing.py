"""Whether two counts differ by more than chance."""

from __future__ import annotations

import math

__all__ = ["chance"]

_EXACT = 1000  # of both together; beyond it the normal approximation is as good


def chance(one: int, other: int) -> float:
    """The p-value: how often equally good variants, offered equally often, differ by as much or more.

    For counts of Poisson's distribution this is the exact conditional test, two-sided (Przyborowski and
    Wilenski, 1940): of all that both got, each half is as likely as in tosses of a coin.
    """
    total, most = one + other, max(one, other)
    if one == other:
        return 1.0
    if total > _EXACT:
        return math.erfc((most - 0.5 - total / 2) / math.sqrt(total / 2))
    tail = sum(math.comb(total, count) for count in range(most, total + 1))
    return min(1.0, 2 * tail / (1 << total))

"""What a batch may cost: reserved before an item is sent, so that the sum never exceeds the limit."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Generic, TypeVar

from blossom_async.errors import NotRun, ResponseError

__all__ = ["Spending", "amount"]

Item = TypeVar("Item")

_TOO_MUCH = Decimal("1e309")  # more than a float can hold; sums of what is below it cannot overflow


class Spending(Generic[Item]):
    """The sum of what the items sent may cost, at most ``max_cost``.

    In decimal, so that ten times 0.1 is 1.
    """

    def __init__(self, cost: Callable[[Item], float | Decimal], max_cost: Decimal) -> None:
        self.max_cost = max_cost
        self.spent: Decimal = Decimal(0)
        self._cost = cost

    def price(self, item: Item) -> Decimal:
        """The most that the item may cost. Raises ``ValueError`` for an invalid amount."""
        return amount(self._cost(item), "cost")

    def reserve(self, price: Decimal) -> bool:
        """Adds a price to the sum; False when that would exceed the limit."""
        if self.spent + price > self.max_cost:
            return False
        self.spent += price
        return True

    def settle(self, price: Decimal, error: Exception | None) -> Decimal:
        """What an item may have cost in the end: nothing if it was not sent or was refused (4xx).

        After any other error the server may have done the work and charged for it.
        """
        if isinstance(error, NotRun) or (isinstance(error, ResponseError) and error.status < 500):
            self.spent -= price
            return Decimal(0)
        return price


def amount(value: float | Decimal, name: str) -> Decimal:
    """A number from 0 to below 1e309 as a decimal. Raises ``ValueError`` for anything else."""
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    exact = Decimal(str(value)) if number else Decimal("NaN")
    if not (exact.is_finite() and 0 <= exact < _TOO_MUCH):
        raise ValueError(f"{name}: {value!r:.80} cannot be used; allowed: a number from 0 up, below 1e309")
    return exact

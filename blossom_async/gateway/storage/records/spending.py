"""What each API key has spent on each day: one row, kept by every attempt as it begins and ends.

Amounts are in millionths of a US dollar. ``reserved`` is the price of attempts that may have been paid.
"""

from __future__ import annotations

import sqlalchemy as sa

from blossom_async.gateway.storage.records.inserting import insert
from blossom_async.gateway.storage.records.tables import spending

__all__ = ["left", "reserve", "settle"]


def reserve(payer: str, day: int, amount: int, budget: int | None, connection: sa.Connection) -> bool:
    """Reserves the amount, unless the day's budget has less left; None: no limit.

    One statement decides and reserves, so that payers at the same time never pass the budget together.
    """
    fresh = {"payer": payer, "day": day, "reserved": 0, "spent": 0}
    connection.execute(insert(spending, connection).values(**fresh).on_conflict_do_nothing())
    within = sa.true() if budget is None else spending.c.reserved + spending.c.spent + amount <= budget
    reserving = spending.update().where(_row(payer, day), within)
    return connection.execute(reserving.values(reserved=spending.c.reserved + amount)).rowcount == 1


def settle(payer: str, day: int, reserved: int, spent: int, connection: sa.Connection) -> None:
    """Replaces what was reserved by what was spent."""
    sums = {"reserved": spending.c.reserved - reserved, "spent": spending.c.spent + spent}
    connection.execute(spending.update().where(_row(payer, day)).values(**sums))


def left(payer: str, day: int, budget: int, connection: sa.Connection) -> int:
    """What remains of the day's budget, at least 0."""
    total = spending.c.reserved + spending.c.spent
    gone: int | None = connection.scalar(sa.select(total).where(_row(payer, day)))
    return max(0, budget - (gone or 0))


def _row(payer: str, day: int) -> sa.ColumnElement[bool]:
    return (spending.c.payer == payer) & (spending.c.day == day)

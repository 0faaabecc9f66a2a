"""What each API key has spent on each day: one row, kept by every attempt as it begins and ends.

Amounts are in millionths of a US dollar. ``reserved`` is the price of attempts that may have been paid.
"""

from __future__ import annotations

import sqlalchemy as sa

from blossom_async.gateway.storage.records.inserting import insert
from blossom_async.gateway.storage.records.tables import spending

__all__ = ["left", "reserve", "settle"]


# Built once: building them takes longer than carrying them out.
_THIS = (spending.c.payer == sa.bindparam("of_payer")) & (spending.c.day == sa.bindparam("of_day"))
_AMOUNT = sa.bindparam("amount", type_=sa.BigInteger)
_RESERVING = spending.update().where(_THIS).values(reserved=spending.c.reserved + _AMOUNT)
_RESERVING_WITHIN = _RESERVING.where(
    spending.c.reserved + spending.c.spent + _AMOUNT <= sa.bindparam("budget", type_=sa.BigInteger)
)
_SETTLING = (
    spending.update()
    .where(_THIS)
    .values(
        reserved=spending.c.reserved - sa.bindparam("no_longer", type_=sa.BigInteger),
        spent=spending.c.spent + sa.bindparam("cost", type_=sa.BigInteger),
    )
)


def reserve(payer: str, day: int, amount: int, budget: int | None, connection: sa.Connection) -> bool:
    """Reserves the amount, unless the day's budget has less left; None: no limit.

    One statement decides and reserves, so that payers at the same time never pass the budget together.
    """
    updated = {"of_payer": payer, "of_day": day, "amount": amount}
    if budget is None:
        reserving = _RESERVING
    else:
        reserving, updated["budget"] = _RESERVING_WITHIN, budget
    if connection.execute(reserving, updated).rowcount == 1:
        return True
    fresh = {"payer": payer, "day": day, "reserved": 0, "spent": 0}
    connection.execute(insert(spending, connection.dialect.name).values(**fresh).on_conflict_do_nothing())
    return connection.execute(reserving, updated).rowcount == 1


def settle(payer: str, day: int, reserved: int, spent: int, connection: sa.Connection) -> None:
    """Replaces what was reserved by what was spent."""
    sums = {"of_payer": payer, "of_day": day, "no_longer": reserved, "cost": spent}
    connection.execute(_SETTLING, sums)


def left(payer: str, day: int, budget: int, connection: sa.Connection) -> int:
    """What remains of the day's budget, at least 0."""
    total = spending.c.reserved + spending.c.spent
    gone: int | None = connection.scalar(sa.select(total).where(_row(payer, day)))
    return max(0, budget - (gone or 0))


def _row(payer: str, day: int) -> sa.ColumnElement[bool]:
    return (spending.c.payer == payer) & (spending.c.day == day)

"""What each API key has spent on each day: one row, kept by every attempt as it begins and ends.

Amounts are in millionths of a US dollar. ``reserved`` is the price of attempts that may have been paid.
"""

from __future__ import annotations

import sqlalchemy as sa

from blossom_async.gateway.storage.records.inserting import insert
from blossom_async.gateway.storage.records.tables import api_keys, spending
from blossom_async.gateway.storage.records.together import Statement, together

__all__ = ["budget_of", "left", "reserve", "reserving", "settling"]


# Built once: building them takes longer than carrying them out.
_THIS = (spending.c.payer == sa.bindparam("of_payer")) & (spending.c.day == sa.bindparam("of_day"))
_AMOUNT = sa.bindparam("amount", type_=sa.BigInteger)
_OWN_BUDGET = sa.select(api_keys.c.daily_budget).where(api_keys.c.name == sa.bindparam("of_payer"))
_BUDGET = sa.func.coalesce(_OWN_BUDGET.scalar_subquery(), sa.bindparam("default", type_=sa.BigInteger))
_RESERVING = (
    spending.update()
    .where(_THIS, _BUDGET.is_(None) | (spending.c.reserved + spending.c.spent + _AMOUNT <= _BUDGET))
    .values(reserved=spending.c.reserved + _AMOUNT)
)
_SETTLING = (
    spending.update()
    .where(_THIS)
    .values(
        reserved=spending.c.reserved - sa.bindparam("no_longer", type_=sa.BigInteger),
        spent=spending.c.spent + sa.bindparam("cost", type_=sa.BigInteger),
    )
)


def reserving(payer: str, day: int, amount: int, default_budget: int | None) -> Statement:
    """The statement that reserves the amount in one row, unless the day's budget has less left.

    That is the payer's own, else the default one. One statement decides and reserves, so that payers at the
    same time never pass the budget together.
    """
    return _RESERVING, {"of_payer": payer, "of_day": day, "amount": amount, "default": default_budget}


def reserve(payer: str, day: int, amount: int, default_budget: int | None, connection: sa.Connection) -> bool:
    """Reserves as ``reserving``, where that has found no row: it may be the first of the day."""
    fresh = {"payer": payer, "day": day, "reserved": 0, "spent": 0}
    connection.execute(insert(spending, connection.dialect.name).values(**fresh).on_conflict_do_nothing())
    (reserved,) = together(connection, reserving(payer, day, amount, default_budget))
    return reserved.count == 1


def budget_of(payer: str, default_budget: int | None, connection: sa.Connection) -> int | None:
    """The payer's own budget of a day, else the default one; None: no limit."""
    own: int | None = connection.scalar(_OWN_BUDGET, {"of_payer": payer})
    return default_budget if own is None else own


def settling(payer: str, day: int, reserved: int, spent: int) -> Statement:
    """The statement that replaces what was reserved by what was spent."""
    return _SETTLING, {"of_payer": payer, "of_day": day, "no_longer": reserved, "cost": spent}


def left(payer: str, day: int, budget: int, connection: sa.Connection) -> int:
    """What remains of the day's budget, at least 0."""
    total = spending.c.reserved + spending.c.spent
    gone: int | None = connection.scalar(sa.select(total).where(_row(payer, day)))
    return max(0, budget - (gone or 0))


def _row(payer: str, day: int) -> sa.ColumnElement[bool]:
    return (spending.c.payer == payer) & (spending.c.day == day)

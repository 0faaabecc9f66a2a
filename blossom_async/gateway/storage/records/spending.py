"""What each API key has spent on each day: totals, kept by every attempt as it begins and ends.

Amounts are in millionths of a US dollar. ``reserved`` is the price of attempts that may have been paid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import attrs
import sqlalchemy as sa

from blossom_async.gateway.storage.records.documents import total
from blossom_async.gateway.storage.records.inserting import insert
from blossom_async.gateway.storage.records.tables import api_keys, attempts, spending, spending_by_provider
from blossom_async.gateway.storage.records.together import Statement, together

__all__ = [
    "Overview",
    "Today",
    "budget_of",
    "left",
    "overview",
    "reserve",
    "reserving",
    "settling",
]


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
_COST = sa.bindparam("cost", type_=sa.BigInteger)
_SUMS = ("calls", "pictures", "spent", "unpriced")
_OF_THE_SETTINGS = sa.select(sa.literal("", sa.Text), sa.cast(sa.null(), sa.BigInteger))


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


def settling(attempt: sa.ColumnElement[bool], found_by: Mapping[str, Any], spent: int) -> Statement:
    """The statement that replaces what an attempt has reserved by what was spent, if it is found."""
    return _settling(attempt), {**found_by, "cost": spent}


@cache
def _settling(attempt: sa.ColumnElement[bool]) -> sa.Executable:
    payer, day, reserved = (
        sa.select(column).where(attempt).scalar_subquery()
        for column in (attempts.c.payer, attempts.c.day, attempts.c.reserved)
    )
    return (
        spending.update()
        .where(spending.c.payer == payer, spending.c.day == day)
        .values(reserved=spending.c.reserved - reserved, spent=spending.c.spent + _COST)
    )


@attrs.frozen(kw_only=True)
class Today:
    """What a key has spent and reserved on a day, and its own budget."""

    payer: str
    spent: int
    reserved: int
    budget: int | None


@attrs.frozen(kw_only=True)
class Overview:
    """What keys have spent: by key and provider, the largest sums first; by day; and on the last day."""

    by_provider: Sequence[sa.RowMapping]
    by_day: dict[int, int]
    calls: int
    pictures: int
    unpriced: int
    today: Sequence[Today]


def overview(tenant: str | None, first: int, last: int, limit: int, connection: sa.Connection) -> Overview:
    """What the keys of a tenant, None: all keys, have spent on these days, both included."""
    table = spending_by_provider.c
    own = sa.select(api_keys.c.name).where(api_keys.c.tenant == tenant)
    these = table.day.between(first, last) & (sa.true() if tenant is None else table.payer.in_(own))
    sums = [total(table[name]).label(name) for name in _SUMS]
    by_day = connection.execute(sa.select(table.day, *sums).where(these).group_by(table.day)).mappings().all()
    by_provider = (
        sa.select(table.payer, table.provider, *sums)
        .where(these)
        .group_by(table.payer, table.provider)
        .order_by(sa.desc("spent"), sa.desc("calls"))
        .limit(limit)
    )
    return Overview(
        by_provider=connection.execute(by_provider).mappings().all(),
        by_day={row["day"]: row["spent"] for row in by_day},
        calls=sum(row["calls"] for row in by_day),
        pictures=sum(row["pictures"] for row in by_day),
        unpriced=sum(row["unpriced"] for row in by_day),
        today=_today(tenant, last, connection),
    )


def _today(tenant: str | None, day: int, connection: sa.Connection) -> list[Today]:
    """The keys that have a budget, or have spent something on this day."""
    live = sa.select(api_keys.c.name, api_keys.c.daily_budget).where(api_keys.c.revoked_at.is_(None))
    if tenant is None:
        known = live.union_all(_OF_THE_SETTINGS).subquery()
    else:
        known = live.where(api_keys.c.tenant == tenant).subquery()
    of_key = (spending.c.payer == known.c.name) & (spending.c.day == day)
    columns = (known.c.name, spending.c.spent, spending.c.reserved, known.c.daily_budget)
    rows = connection.execute(
        sa.select(*columns)
        .join_from(known, spending, of_key, isouter=True)
        .where(known.c.daily_budget.is_not(None) | spending.c.payer.is_not(None))
        .order_by(sa.func.coalesce(spending.c.spent, 0).desc(), known.c.name)
    )
    return [
        Today(payer=name, spent=spent or 0, reserved=kept or 0, budget=own) for name, spent, kept, own in rows
    ]


def left(payer: str, day: int, budget: int, connection: sa.Connection) -> int:
    """What remains of the day's budget, at least 0."""
    total = spending.c.reserved + spending.c.spent
    gone: int | None = connection.scalar(sa.select(total).where(_row(payer, day)))
    return max(0, budget - (gone or 0))


def _row(payer: str, day: int) -> sa.ColumnElement[bool]:
    return (spending.c.payer == payer) & (spending.c.day == day)

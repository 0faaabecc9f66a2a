"""SQL that differs between databases: members of JSON kept as text, and sums."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["members", "total"]


def members(document: sa.Column[str], name: str, connection: sa.Connection) -> sa.TableValuedAlias:
    """A table of ``key`` and ``value``: the texts in the object of this name."""
    if connection.dialect.name == "postgresql":
        inner = sa.cast(document, sa.JSON)[name]
        return sa.func.json_each_text(inner).table_valued("key", "value", joins_implicitly=True)
    return sa.func.json_each(document, f"$.{name}").table_valued("key", "value", joins_implicitly=True)


def total(numbers: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """The sum as a whole number, 0 of no rows. PostgreSQL would return a decimal."""
    return sa.func.coalesce(sa.cast(sa.func.sum(numbers), sa.BigInteger), 0)

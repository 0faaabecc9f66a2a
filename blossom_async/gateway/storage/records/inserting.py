"""Statements that differ between databases: ``INSERT ... ON CONFLICT``, and the clock."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["MICRO", "SERVER_TIME", "add_rows", "insert", "now_s", "rows_of"]

MICRO = 1_000_000
"""Units of ``SERVER_TIME`` in a second."""

_EPOCH = sa.func.extract("epoch", sa.func.clock_timestamp())
_CLOCK = sa.select(sa.cast(_EPOCH, sa.Double))

SERVER_TIME: sa.ColumnElement[int] = sa.cast(_EPOCH * MICRO, sa.BigInteger)
"""The clock of a server, in microseconds since 1970."""


def insert(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """An insert into the table that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def add_rows(statement: sa.Executable, rows: Sequence[Mapping[str, Any]], connection: sa.Connection) -> None:
    """Executes an insert, built once, for rows of values that the driver takes as they are.

    Looking for values to convert would take half of the time.
    """
    if rows:
        text, names = _text(statement, tuple(rows[0]), connection.dialect)
        plain = rows if names is None else [tuple(row[name] for name in names) for row in rows]
        connection.exec_driver_sql(text, plain)


def rows_of(
    statement: sa.Executable, values: Mapping[str, Any], connection: sa.Connection
) -> Sequence[Sequence[Any]]:
    """What a question gives, which was built once, for values and rows of which the same holds."""
    text, names = _text(statement, tuple(values), connection.dialect)
    plain = values if names is None else tuple(values[name] for name in names)
    return connection.exec_driver_sql(text, plain).all()


@lru_cache(16)
def _text(statement: sa.ClauseElement, names: tuple[str, ...], dialect: sa.Dialect) -> Any:
    compiled: Any = statement.compile(dialect=dialect, column_keys=names)
    return compiled.string, compiled.positiontup


def now_s(connection: sa.Connection) -> float:
    """The database's clock, in seconds since 1970; for a file that of the machine."""
    if connection.dialect.name == "sqlite":
        return time.time()
    now: float = connection.execute(_CLOCK).scalar_one()
    return now

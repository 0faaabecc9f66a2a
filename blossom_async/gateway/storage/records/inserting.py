"""Statements that differ between databases: ``INSERT ... ON CONFLICT``, and the clock."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["MICRO", "SERVER_TIME", "insert", "now_s"]

MICRO = 1_000_000
"""Units of ``SERVER_TIME`` in a second."""

_EPOCH = sa.func.extract("epoch", sa.func.clock_timestamp())
_CLOCK = sa.select(sa.cast(_EPOCH, sa.Double))

SERVER_TIME: sa.ColumnElement[int] = sa.cast(_EPOCH * MICRO, sa.BigInteger)
"""The clock of a server, in microseconds since 1970."""


def insert(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """An insert into the table that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def now_s(connection: sa.Connection) -> float:
    """The database's clock, in seconds since 1970; for a file that of the machine."""
    if connection.dialect.name == "sqlite":
        return time.time()
    now: float = connection.execute(_CLOCK).scalar_one()
    return now

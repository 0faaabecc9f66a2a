"""``INSERT ... ON CONFLICT`` in the dialect of the database that is connected."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["insert"]


def insert(table: sa.Table, connection: sa.Connection) -> sqlite.Insert | postgresql.Insert:
    """An insert into the table that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)

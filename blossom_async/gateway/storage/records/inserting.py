"""``INSERT ... ON CONFLICT`` in the dialect of a database."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["insert"]


def insert(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """An insert into the table that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)

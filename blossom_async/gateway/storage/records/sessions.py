"""Statements about sessions of the dashboard, which last by the clock of the database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from blossom_async.gateway.storage.records.inserting import now_s
from blossom_async.gateway.storage.records.tables import sessions

__all__ = ["begin", "end", "find"]


def begin(token: bytes, tenant: str, key: bytes, lasts: timedelta, connection: sa.Connection) -> None:
    """Stores a session, and removes those that have ended."""
    now = _now(connection)
    ends_at = now + lasts
    connection.execute(sessions.delete().where(sessions.c.ends_at <= now))
    connection.execute(sessions.insert().values(token=token, tenant=tenant, key=key, ends_at=ends_at))


def find(token: bytes, connection: sa.Connection) -> tuple[str, bytes] | None:
    """Tenant and key of the session; None if there is none, or it has ended."""
    this = (sessions.c.token == token) & (sessions.c.ends_at > _now(connection))
    row = connection.execute(sa.select(sessions.c.tenant, sessions.c.key).where(this)).first()
    return None if row is None else (row.tenant, row.key)


def end(token: bytes, connection: sa.Connection) -> None:
    """Removes the session, if there is one."""
    connection.execute(sessions.delete().where(sessions.c.token == token))


def _now(connection: sa.Connection) -> datetime:
    return datetime.fromtimestamp(now_s(connection), UTC)

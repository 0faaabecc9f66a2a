"""Statements about sessions of the dashboard."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from blossom_async.gateway.storage.records.tables import sessions

__all__ = ["begin", "end", "find"]


def begin(
    token: bytes, tenant: str, key: bytes, ends_at: datetime, now: datetime, connection: sa.Connection
) -> None:
    """Stores a session, and removes those that have ended."""
    connection.execute(sessions.delete().where(sessions.c.ends_at <= now))
    connection.execute(sessions.insert().values(token=token, tenant=tenant, key=key, ends_at=ends_at))


def find(token: bytes, now: datetime, connection: sa.Connection) -> tuple[str, bytes] | None:
    """Tenant and key of the session; None if there is none, or it has ended."""
    this = (sessions.c.token == token) & (sessions.c.ends_at > now)
    row = connection.execute(sa.select(sessions.c.tenant, sessions.c.key).where(this)).first()
    return None if row is None else (row.tenant, row.key)


def end(token: bytes, connection: sa.Connection) -> None:
    """Removes the session, if there is one."""
    connection.execute(sessions.delete().where(sessions.c.token == token))

"""Statements about API keys and access keys. Each takes its connection last, as ``Records`` passes it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs
import sqlalchemy as sa

from blossom_async.errors import Conflict
from blossom_async.gateway.storage.records.tables import (
    AccessKey,
    ApiKey,
    access_keys,
    api_keys,
    removed,
    revision,
)

__all__ = [
    "REMOVED",
    "access_key",
    "access_key_by_id",
    "add_api_key",
    "all_api_keys",
    "api_key_by_digest",
    "count_revision",
    "current_revision",
    "removed_since",
    "revoke_access_key",
    "revoke_api_key",
]

REMOVED = "blossom_removed"
"""The channel of PostgreSQL on which every delete and revocation is told, so that others look sooner."""

_REMOVED = 1000  # revisions whose picture is known; whoever looks less often forgets all


def add_api_key(key: ApiKey, connection: sa.Connection) -> None:
    """Stores a key. Raises ``Conflict`` (``name_taken``) if the name is or was in use."""
    if connection.scalar(sa.select(api_keys.c.name).where(api_keys.c.name == key.name)) is not None:
        raise Conflict(f"an API key named {key.name!r} exists; choose another name", code="name_taken")
    connection.execute(api_keys.insert().values(**attrs.asdict(key)))


def all_api_keys(connection: sa.Connection) -> list[ApiKey]:
    """All keys, the oldest first, including revoked ones."""
    return [ApiKey(**row) for row in _rows(connection, sa.select(api_keys).order_by(api_keys.c.created_at))]


def api_key_by_digest(digest: bytes, connection: sa.Connection) -> ApiKey | None:
    """The key with this SHA-256, even if it is revoked."""
    rows = _rows(connection, sa.select(api_keys).where(api_keys.c.digest == digest))
    return ApiKey(**rows[0]) if rows else None


def revoke_api_key(name: str, now: datetime, connection: sa.Connection) -> bool:
    """Revokes the key; False if unknown."""
    if connection.scalar(sa.select(api_keys.c.name).where(api_keys.c.name == name)) is None:
        return False
    live = (api_keys.c.name == name) & api_keys.c.revoked_at.is_(None)
    connection.execute(api_keys.update().where(live).values(revoked_at=now))
    count_revision(connection)
    return True


def access_key(tenant: str, name: str, fresh_id: str, now: datetime, connection: sa.Connection) -> AccessKey:
    """The tenant's access key of that name, created with ``fresh_id`` if needed. It may be revoked."""
    if (known := _access_key(tenant, name, connection)) is not None:
        return known
    made = AccessKey(tenant=tenant, name=name, access_id=fresh_id, created_at=now)
    connection.execute(
        access_keys.insert().values(tenant=tenant, name=name, access_id=fresh_id, created_at=now)
    )
    return made


def access_key_by_id(access_id: str, connection: sa.Connection) -> AccessKey | None:
    """The access key that a URL names, even if it is revoked."""
    rows = _rows(connection, sa.select(access_keys).where(access_keys.c.access_id == access_id))
    return AccessKey(**rows[0]) if rows else None


def revoke_access_key(
    tenant: str, name: str, fresh_id: str, now: datetime, connection: sa.Connection
) -> None:
    """Revokes the name for good: all URLs signed under it are refused, and none can be signed any more."""
    access_key(tenant, name, fresh_id, now, connection)
    of_that_name = (access_keys.c.tenant == tenant) & (access_keys.c.name == name)
    live = of_that_name & access_keys.c.revoked_at.is_(None)
    connection.execute(access_keys.update().where(live).values(revoked_at=now))
    count_revision(connection)


def current_revision(connection: sa.Connection) -> int:
    """A number that grows with every delete and revocation."""
    value: int | None = connection.scalar(sa.select(revision.c.value))
    return value or 0


def count_revision(connection: sa.Connection, image_id: str | None = None) -> None:
    """Increments the revision. Every delete and revocation calls it, last in its own transaction.

    ``image_id`` is the picture that was deleted. The row is locked until the transaction ends, so that
    revisions become visible in their order.
    """
    counting = revision.update().values(value=revision.c.value + 1).returning(revision.c.value)
    value: int = connection.execute(counting).scalar_one()
    connection.execute(removed.insert().values(revision=value, image_id=image_id))
    connection.execute(removed.delete().where(removed.c.revision <= value - _REMOVED))
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_notify(REMOVED, "")))


def removed_since(known: int, now: int, connection: sa.Connection) -> list[str | None] | None:
    """The pictures deleted since that revision, None for each key that was revoked; None if not known."""
    later = sa.select(removed).where(removed.c.revision > known).order_by(removed.c.revision)
    rows = connection.execute(later).all()
    whole = [row.revision for row in rows] == list(range(known + 1, known + 1 + len(rows)))
    return [row.image_id for row in rows] if whole and known + len(rows) >= now else None


def _access_key(tenant: str, name: str, connection: sa.Connection) -> AccessKey | None:
    of_that_name = (access_keys.c.tenant == tenant) & (access_keys.c.name == name)
    rows = _rows(connection, sa.select(access_keys).where(of_that_name))
    return AccessKey(**rows[0]) if rows else None


def _rows(connection: sa.Connection, statement: sa.Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(statement).mappings()]

"""What is left to clear away, and whether the database takes a write: the statements."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa

from blossom_async.gateway.storage.records.images import record
from blossom_async.gateway.storage.records.tables import ImageRecord, images, revision

__all__ = ["check_writable", "expired_unswept", "having_files", "mark_swept"]


def expired_unswept(
    now: datetime, after: ImageRecord | None, limit: int, connection: sa.Connection
) -> list[ImageRecord]:
    """Pictures that have expired and still have files, those that expired first at the front.

    ``after`` is the last one of the part before.
    """
    due = images.c.swept_at.is_(None) & images.c.deleted_at.is_(None) & (images.c.expires_at <= now)
    if after is not None:
        due &= sa.tuple_(images.c.expires_at, images.c.id) > sa.tuple_(
            sa.literal(after.expires_at, images.c.expires_at.type), sa.literal(after.id)
        )
    found = sa.select(images).where(due).order_by(images.c.expires_at, images.c.id).limit(limit)
    return [record(row) for row in connection.execute(found)]


def mark_swept(ids: Collection[str], now: datetime, connection: sa.Connection) -> None:
    """Their files are gone."""
    connection.execute(images.update().where(images.c.id.in_(ids)).values(swept_at=now))


def having_files(ids: Collection[str], connection: sa.Connection) -> set[str]:
    """Those of the ids whose pictures are there and have their files."""
    whole = images.c.id.in_(ids) & images.c.deleted_at.is_(None) & images.c.swept_at.is_(None)
    return set(connection.scalars(sa.select(images.c.id).where(whole)))


def check_writable(connection: sa.Connection) -> None:
    """Writes something that changes nothing."""
    connection.execute(revision.update().values(value=revision.c.value))

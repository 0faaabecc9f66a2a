"""Statements of the upkeep: what is to be removed, and whether the database can be written."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa

from blossom_async.errors import Overloaded
from blossom_async.gateway.storage.records import variants
from blossom_async.gateway.storage.records.images import record
from blossom_async.gateway.storage.records.tables import ImageRecord, images, revision
from blossom_async.gateway.storage.records.totals import sweep_pictures

__all__ = ["check_writable", "expired_unswept", "having_files", "mark_swept"]


def expired_unswept(
    now: datetime, after: ImageRecord | None, limit: int, connection: sa.Connection
) -> list[ImageRecord]:
    """Expired pictures that still have files, the first to expire first.

    ``after`` is the last picture of the previous page.
    """
    due = images.c.swept_at.is_(None) & images.c.deleted_at.is_(None) & (images.c.expires_at <= now)
    if after is not None:
        due &= sa.tuple_(images.c.expires_at, images.c.id) > sa.tuple_(
            sa.literal(after.expires_at, images.c.expires_at.type), sa.literal(after.id)
        )
    found = sa.select(images).where(due).order_by(images.c.expires_at, images.c.id).limit(limit)
    return [record(row) for row in connection.execute(found)]


def mark_swept(ids: Collection[str], now: datetime, connection: sa.Connection) -> None:
    """Records that the files of these pictures were removed."""
    left = images.c.id.in_(ids) & images.c.swept_at.is_(None)
    marking = images.update().where(left).values(swept_at=now)
    swept = connection.execute(marking.returning(images.c.tenant, images.c.files, images.c.deleted_at))
    rows = swept.all()
    variants.forget(ids, connection)
    sweep_pictures(rows, connection)


def having_files(ids: Collection[str], connection: sa.Connection) -> set[str]:
    """The ids whose pictures, or the pictures of whose variants, exist and have their files."""
    whole = images.c.id.in_(ids) & images.c.deleted_at.is_(None) & images.c.swept_at.is_(None)
    pictures = set(connection.scalars(sa.select(images.c.id).where(whole)))
    return pictures | variants.of_live_pictures(ids, connection)


def check_writable(connection: sa.Connection) -> None:
    """Writes a value over itself. Raises if the database cannot be written."""
    if connection.dialect.name == "postgresql":  # others would wait for the row
        if connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on":
            raise Overloaded(
                "The database is read-only: it is no primary server any more.", code="storage_failed"
            )
        return
    connection.execute(revision.update().values(value=revision.c.value))

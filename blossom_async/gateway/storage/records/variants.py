"""Statements about pictures in fewer pixels. Their rows are written after their files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import attrs
import sqlalchemy as sa

from blossom_async.gateway.storage.records.tables import ImageRecord, StoredFile, Variant, images, variants

__all__ = ["add", "files_of", "find", "forget", "of_live_pictures"]


def find(image_id: str, width: int, file_format: str, connection: sa.Connection) -> Variant | None:
    """The picture in that width and format, if it was made."""
    wanted = (
        (variants.c.image_id == image_id) & (variants.c.width == width) & (variants.c.format == file_format)
    )
    row = connection.execute(sa.select(variants).where(wanted)).first()
    return None if row is None else _variant(row)


def add(made: Variant, now: datetime, connection: sa.Connection) -> Variant | None:
    """Stores the row of a variant whose file is stored; returns the one that counts.

    That is an earlier one, if another process was quicker, and None if the picture has been deleted or has
    expired: then nothing refers to the file.
    """
    kept = images.c.deleted_at.is_(None) & images.c.swept_at.is_(None)
    kept &= images.c.expires_at.is_(None) | (images.c.expires_at > now)
    picture = sa.select(images.c.id).where((images.c.id == made.image_id) & kept)
    if connection.scalar(picture.with_for_update()) is None:
        return None
    known = find(made.image_id, made.width, made.file.format, connection)
    if known is None:
        row = {"id": made.id, "image_id": made.image_id, "width": made.width, **attrs.asdict(made.file)}
        connection.execute(variants.insert(), row)
    return known or made


def files_of(pictures: Sequence[ImageRecord], connection: sa.Connection) -> dict[str, list[tuple[str, str]]]:
    """The id and format of each file of these pictures and their variants, by picture."""
    found = {picture.id: [(picture.id, file.format) for file in picture.files] for picture in pictures}
    wanted = variants.c.image_id.in_(found)
    for row in connection.execute(sa.select(variants).where(wanted)):
        found[row.image_id].append((row.id, row.format))
    return found


def of_live_pictures(ids: Collection[str], connection: sa.Connection) -> set[str]:
    """Which of the ids belong to variants whose pictures still have their files."""
    whole = images.c.deleted_at.is_(None) & images.c.swept_at.is_(None)
    asked = sa.select(variants.c.id).join(images, images.c.id == variants.c.image_id)
    return set(connection.scalars(asked.where(variants.c.id.in_(ids) & whole)))


def forget(ids: Collection[str], connection: sa.Connection) -> None:
    """Removes the rows of these pictures, whose files are gone."""
    connection.execute(variants.delete().where(variants.c.image_id.in_(ids)))


def _variant(row: sa.Row[Any]) -> Variant:
    file = StoredFile(format=row.format, sha256=row.sha256, file_size=row.file_size)
    return Variant(id=row.id, image_id=row.image_id, width=row.width, file=file)

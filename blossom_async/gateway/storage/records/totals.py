"""Statements that keep totals as they change, so that no page counts what has gathered.

A change of pictures or views calls them in its own transaction, after all else. Rows are changed in the order
of their keys, so that changes at the same time wait for each other and never in a circle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from blossom_async.gateway.storage.records import statistics, texts
from blossom_async.gateway.storage.records.inserting import insert
from blossom_async.gateway.storage.records.tables import campaigns, images, stored_files
from blossom_async.gateway.storage.records.together import Statement, together

__all__ = ["add_views", "adding", "erase_picture", "sweep_pictures"]


def adding(rows: Sequence[Mapping[str, Any]], dialect: str) -> list[Statement]:
    """The statements that count new rows of ``images``."""
    whole = [row for row in rows if row["swept_at"] is None and row["deleted_at"] is None]
    files = _adding_files([(row["tenant"], row["files"]) for row in whole], 1, dialect)
    pictures: Counter[tuple[str, str]] = Counter()
    newest: dict[tuple[str, str], datetime] = {}
    for row in rows:
        if row["tracking_id"] is not None:
            campaign = row["tenant"], row["tracking_id"]
            pictures[campaign] += 1
            newest[campaign] = max(row["created_at"], newest.get(campaign, row["created_at"]))
    changed = [_row(*one, pictures=number, newest=newest[one]) for one, number in sorted(pictures.items())]
    return [*files, *((_adding(dialect), row) for row in changed), *statistics.adding(rows, dialect)]


def add_views(
    counts: Mapping[tuple[str, str, int, str], Sequence[int]], connection: sa.Connection
) -> dict[tuple[str, str], int | None]:
    """Counts the views of a tally; returns for each campaign which days its statistics lack."""
    views: Counter[tuple[str, str]] = Counter()
    for (tenant, name, _, _), count in counts.items():
        views[tenant, name] += count[0]
    rows = [_row(*one, views=number) for one, number in sorted(views.items())]
    if not rows:
        return {}
    columns = (campaigns.c.tenant, campaigns.c.tracking_id, campaigns.c.uncounted_from)
    found = connection.execute(_adding(connection.dialect.name).returning(*columns), rows)
    return {(row.tenant, row.tracking_id): row.uncounted_from for row in found}


def erase_picture(row: sa.Row[Any], connection: sa.Connection) -> None:
    """Takes away a picture whose row has been erased; ``row`` is what it was before."""
    texts.erase(row, connection)
    if row.swept_at is None:
        together(connection, *_adding_files([(row.tenant, row.files)], -1, connection.dialect.name))
    if row.tracking_id is None:
        return
    left = statistics.of(images, row.tenant, row.tracking_id)
    newest = sa.select(sa.func.max(images.c.created_at)).where(left).scalar_subquery()
    this = statistics.of(campaigns, row.tenant, row.tracking_id)
    connection.execute(
        campaigns.update()
        .where(this)
        .values(pictures=campaigns.c.pictures - 1, newest=newest, changes=campaigns.c.changes + 1)
    )


def sweep_pictures(rows: Sequence[sa.Row[Any]], connection: sa.Connection) -> None:
    """Subtracts the files of pictures that have been marked as swept."""
    files = [(row.tenant, row.files) for row in rows if row.deleted_at is None]
    together(connection, *_adding_files(files, -1, connection.dialect.name))


def _row(
    tenant: str, name: str, *, pictures: int = 0, newest: datetime | None = None, views: int = 0
) -> dict[str, Any]:
    sums = {"pictures": pictures, "newest": newest, "views": views}
    return {"tenant": tenant, "tracking_id": name, **sums, "changes": 0, "uncounted_from": None}


# Built once: that takes longer than carrying them out.
@cache
def _adding(dialect: str) -> sqlite.Insert | postgresql.Insert:
    adding = insert(campaigns, dialect)
    new, old = adding.excluded.newest, campaigns.c.newest
    later = sa.case((old.is_(None) | (new > old), new), else_=old)
    sums = {name: campaigns.c[name] + adding.excluded[name] for name in ("pictures", "views")}
    kept = {**sums, "newest": later, "changes": campaigns.c.changes + 1}
    return adding.on_conflict_do_update(index_elements=campaigns.primary_key, set_=kept)


@cache
def _counting_files(dialect: str) -> sa.Executable:
    adding = insert(stored_files, dialect)
    sums = {name: stored_files.c[name] + adding.excluded[name] for name in ("files", "bytes")}
    return adding.on_conflict_do_update(index_elements=stored_files.primary_key, set_=sums)


def _adding_files(pictures: Sequence[tuple[str, str]], sign: int, dialect: str) -> list[Statement]:
    files: Counter[tuple[str, str]] = Counter()
    size: Counter[tuple[str, str]] = Counter()
    for tenant, text in pictures:
        for file in orjson.loads(text):
            files[tenant, file["format"]] += sign
            size[tenant, file["format"]] += sign * file["file_size"]
    return [
        (
            _counting_files(dialect),
            {"tenant": tenant, "format": name, "files": number, "bytes": size[tenant, name]},
        )
        for (tenant, name), number in sorted(files.items())
    ]

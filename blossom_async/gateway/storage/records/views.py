"""Statements about views of pictures."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from operator import itemgetter
from typing import Any

import attrs
import sqlalchemy as sa

from blossom_async.errors import Conflict
from blossom_async.gateway.storage.records import statistics, totals
from blossom_async.gateway.storage.records.documents import members, total
from blossom_async.gateway.storage.records.inserting import add_rows, insert
from blossom_async.gateway.storage.records.statistics import COUNTS, labels_in
from blossom_async.gateway.storage.records.tables import campaigns as campaigns_table
from blossom_async.gateway.storage.records.tables import images, imports, salts, viewers, views

__all__ = [
    "CampaignViews",
    "add_viewers",
    "add_views",
    "campaign_views",
    "campaigns",
    "counted_anew",
    "fold",
    "forget_salts",
    "imported_up_to",
    "salts_to_forget",
    "store",
    "store_imported",
]

_SALT_LIFE = timedelta(hours=48)
_SALT_AHEAD = timedelta(hours=1)  # a salt made later than this was made by a clock that was ahead
_IDS_AT_ONCE = 1000
_MOST_GROUPS = 1000

Picture = tuple[str, str, int, str]
"""Tenant, tracking id, day and picture id: the key of ``views``."""


@attrs.frozen
class CampaignViews:
    """The views of a campaign: rows of views, loads, microseconds of load time, and viewers.

    Rows of ``days`` begin with the number of the day, rows of ``groups`` with a metadata key and its value.
    """

    days: Sequence[tuple[int, int, int, int, int]]
    groups: Sequence[tuple[str, str, int, int, int, int]]


def store(
    counts: Mapping[Picture, Sequence[int]],
    seen: Collection[tuple[Picture, bytes]],
    now: datetime,
    connection: sa.Connection,
) -> None:
    """Adds views: for each picture and day the counts, and who has seen it.

    Of a viewer only a hash is stored, keyed with a salt of the day. All processes share the salt, and it is
    deleted 48 hours after it was made: then nobody can tell whose hash it is. Views of a picture that was
    deleted meanwhile count for its campaign only.
    """
    live = _live({picture[3] for picture in counts}, connection)
    labels_of = {image_id: labels_in(request) for image_id, request in live.items()}

    def row(picture: Picture) -> dict[str, Any]:
        tenant, tracking_id, day, image_id = picture
        image_id = image_id if image_id in live else ""
        return {"tenant": tenant, "tracking_id": tracking_id, "day": day, "image_id": image_id}

    sums = (dict(zip(COUNTS, count, strict=True)) for count in counts.values())
    added = [row(picture) | count for picture, count in zip(counts, sums, strict=True)]
    forget_salts(now, connection)
    keys = {day: _salt(day, now, connection) for day in {picture[2] for picture, _ in seen}}
    by = [row(picture) | {"viewer": _hashed(keys[picture[2]], picture, who)} for picture, who in seen]
    uncounted_from = totals.add_views(counts, connection)  # from here on nobody else counts here
    statistics.count(added, by, labels_of, uncounted_from, connection)
    add_views(added, connection)
    add_viewers(by, connection)


def add_views(rows: Sequence[dict[str, Any]], connection: sa.Connection) -> None:
    """Adds the counts in rows of ``views`` to the stored ones."""
    add_rows(_adding_views(connection.dialect.name), _in_order(rows, views), connection)


def add_viewers(rows: Sequence[dict[str, Any]], connection: sa.Connection) -> None:
    """Adds rows of ``viewers``; one that exists is not added again."""
    add_rows(_adding_viewers(connection.dialect.name), _in_order(rows, viewers), connection)


@cache
def _adding_views(dialect: str) -> sa.Executable:
    adding = insert(views, dialect)
    counts = {name: views.c[name] + adding.excluded[name] for name in COUNTS}
    return adding.on_conflict_do_update(index_elements=views.primary_key, set_=counts)


@cache
def _adding_viewers(dialect: str) -> sa.Executable:
    return insert(viewers, dialect).on_conflict_do_nothing()


def salts_to_forget(now: datetime, connection: sa.Connection) -> bool:
    """Whether ``forget_salts`` would delete any."""
    return connection.scalar(sa.select(salts.c.day).where(_old_salts(now)).limit(1)) is not None


def forget_salts(now: datetime, connection: sa.Connection) -> None:
    """Deletes the salts that were made 48 hours ago or earlier, and those a clock ahead would keep longer."""
    connection.execute(salts.delete().where(_old_salts(now)))


def fold(
    image_id: str, connection: sa.Connection
) -> tuple[Sequence[Mapping[Any, Any]], Sequence[Mapping[Any, Any]]]:
    """Keeps a deleted picture's views for its campaign, and removes the link to the picture.

    Returns what ``views`` and ``viewers`` had of it.
    """
    own, by = (
        connection.execute(sa.select(table).where(table.c.image_id == image_id)).mappings().all()
        for table in (views, viewers)
    )
    add_views([{**row, "image_id": ""} for row in own], connection)
    add_viewers([{**row, "image_id": ""} for row in by], connection)
    for table, rows in ((views, own), (viewers, by)):
        if rows:
            connection.execute(table.delete().where(table.c.image_id == image_id))
    return own, by


def campaign_views(
    tenant: str, tracking_id: str, first: int, last: int, connection: sa.Connection
) -> CampaignViews | None:
    """The views of a tenant's campaign from the first to the last day; None if there is no such campaign.

    ``groups`` has the 1,000 metadata values with the most views, including values without views. Deleted
    pictures are in no group.
    """

    of_it = statistics.of(campaigns_table, tenant, tracking_id)
    known = connection.execute(sa.select(campaigns_table.c.uncounted_from).where(of_it)).first()
    if known is None:
        return None
    asked = tenant, tracking_id, first, last
    if known.uncounted_from is not None:
        return counted_anew(*asked, connection)
    groups = statistics.by_label(*asked, _MOST_GROUPS, connection)
    return CampaignViews(statistics.by_day(*asked, connection), groups)


def counted_anew(
    tenant: str, tracking_id: str, first: int, last: int, connection: sa.Connection
) -> CampaignViews:
    """The same from all that was stored, which takes seconds for a large campaign."""
    seen, by = (
        statistics.of(table, tenant, tracking_id) & table.c.day.between(first, last)
        for table in (views, viewers)
    )
    return CampaignViews(_days(seen, by, connection), _groups(tenant, tracking_id, seen, by, connection))


def _days(
    seen: sa.ColumnElement[bool], by: sa.ColumnElement[bool], connection: sa.Connection
) -> list[tuple[int, int, int, int, int]]:
    sums = [total(views.c[name]) for name in COUNTS]
    rows = sa.select(views.c.day, *sums).where(seen, views.c.views > 0)
    counted = connection.execute(rows.group_by(views.c.day).order_by(views.c.day)).all()
    several = sa.select(viewers.c.day, sa.func.count(viewers.c.viewer.distinct()).label("several")).where(by)
    known = {row.day: row.several for row in connection.execute(several.group_by(viewers.c.day))}
    return [(day, *counts, known.get(day, 0)) for day, *counts in counted]


def _groups(
    tenant: str,
    tracking_id: str,
    seen: sa.ColumnElement[bool],
    by: sa.ColumnElement[bool],
    connection: sa.Connection,
) -> list[tuple[str, str, int, int, int, int]]:
    metadata = members(images.c.request, "metadata", connection)
    # Distinct, as they are anyway: the database then reads the JSON of each picture once, not once a viewer.
    labels = (
        sa.select(images.c.id, metadata.c.key, metadata.c.value)
        .select_from(images.join(metadata, sa.true()))
        .where(statistics.of(images, tenant, tracking_id))
        .distinct()
        .subquery()
    )
    label = (labels.c.key, labels.c.value)
    # Summed for each picture first: joining every day of every picture takes minutes.
    sums = [total(views.c[name]).label(name) for name in COUNTS]
    picture = sa.select(views.c.image_id, *sums).where(seen).group_by(views.c.image_id).subquery()
    totalled = [total(picture.c[name]) for name in COUNTS]
    counted = connection.execute(
        sa.select(*label, *totalled)
        .select_from(labels.outerjoin(picture, picture.c.image_id == labels.c.id))
        .group_by(*label)
        .order_by(totalled[0].desc(), *label)
        .limit(_MOST_GROUPS)
    ).all()
    several = connection.execute(
        sa.select(*label, sa.func.count(viewers.c.viewer.distinct()))
        .select_from(viewers.join(labels, viewers.c.image_id == labels.c.id))
        .where(by)
        .group_by(*label)
    )
    known = {(key, value): count for key, value, count in several}
    return [(key, value, *counts, known.get((key, value), 0)) for key, value, *counts in counted]


def campaigns(image_ids: Collection[str], connection: sa.Connection) -> dict[str, tuple[str, str]]:
    """Tenant and tracking id of the pictures that are tracked and not deleted."""
    found: dict[str, tuple[str, str]] = {}
    for some in _in_parts(image_ids):
        rows = connection.execute(
            sa.select(images.c.id, images.c.tenant, images.c.tracking_id).where(
                images.c.id.in_(some), images.c.tracking_id.is_not(None)
            )
        )
        found |= {image_id: (tenant, tracking_id) for image_id, tenant, tracking_id in rows}
    return found


def imported_up_to(log: bytes, connection: sa.Connection) -> int:
    """How many bytes of an access log have been imported."""
    return connection.scalar(sa.select(imports.c.position).where(imports.c.log == log)) or 0


def store_imported(
    log: bytes,
    start: int,
    stop: int,
    counts: Mapping[Picture, Sequence[int]],
    seen: Collection[tuple[Picture, bytes]],
    now: datetime,
    connection: sa.Connection,
) -> None:
    """As ``store``, for the bytes of an access log from ``start`` to ``stop``, which count only once.

    Raises ``Conflict`` if another process has imported these bytes meanwhile.
    """
    fresh = insert(imports, connection.dialect.name).values(log=log, position=0)
    connection.execute(fresh.on_conflict_do_nothing())
    this = (imports.c.log == log) & (imports.c.position == start)
    if not connection.execute(imports.update().where(this).values(position=stop)).rowcount:
        raise Conflict(
            "another process is importing this log; wait until it has finished, then import the log again",
            code="import_under_way",
        )
    store(counts, seen, now, connection)


def _live(image_ids: Collection[str], connection: sa.Connection) -> dict[str, str]:
    """The requests of those that are not deleted, by id."""
    live: dict[str, str] = {}
    for some in _in_parts(image_ids):
        wanted = images.c.id.in_(some) & images.c.deleted_at.is_(None)
        rows = sa.select(images.c.id, images.c.request).where(wanted).order_by(images.c.id)
        # Held until the views are stored: a delete meanwhile would leave their link to the picture.
        live |= {row.id: row.request for row in connection.execute(rows.with_for_update(read=True))}
    return live


def _in_order(rows: Sequence[dict[str, Any]], table: sa.Table) -> list[dict[str, Any]]:
    """The rows by their keys, so that processes that write at the same time never wait in a circle."""
    return sorted(rows, key=itemgetter(*table.primary_key.columns.keys()))


def _in_parts(image_ids: Collection[str]) -> list[list[str]]:
    ids = sorted(image_ids)
    return [ids[start : start + _IDS_AT_ONCE] for start in range(0, len(ids), _IDS_AT_ONCE)]


def _old_salts(now: datetime) -> sa.ColumnElement[bool]:
    return (salts.c.made_at <= now - _SALT_LIFE) | (salts.c.made_at > now + _SALT_AHEAD)


def _salt(day: int, now: datetime, connection: sa.Connection) -> bytes:
    fresh = {"day": day, "salt": secrets.token_bytes(32), "made_at": now}
    connection.execute(insert(salts, connection.dialect.name).on_conflict_do_nothing(), fresh)
    salt: bytes = connection.execute(sa.select(salts.c.salt).where(salts.c.day == day)).scalar_one()
    return salt


def _hashed(salt: bytes, picture: Picture, who: bytes) -> bytes:
    tenant, tracking_id, _, _ = picture
    message = f"{len(tenant)} {tenant}{tracking_id}".encode() + who
    return hmac.digest(salt, message, "sha256")[:16]

"""Statements of the dashboard. Each is about one tenant and takes its connection last."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import attrs
import sqlalchemy as sa

from blossom_async.gateway.storage.records.images import record
from blossom_async.gateway.storage.records.tables import ImageRecord, images, viewers, views
from blossom_async.models import DayStats

__all__ = [
    "STATES",
    "Campaign",
    "Page",
    "Stored",
    "campaign_pictures",
    "campaign_total",
    "campaigns",
    "days_of",
    "page",
    "stored",
    "views_of",
]

STATES = ("live", "expired", "deleted")

_LOOKED_THROUGH = 20_000  # pictures read by one question: it occupies a reader for under 0.1 s
_CAMPAIGNS = 100
_FIRST_DAY = date(1970, 1, 1)


@attrs.frozen(kw_only=True)
class Page:
    """Pictures, the newest first. ``older`` is where the next page starts, None at the end.

    ``pictures`` may be empty before the end: then none of those searched so far matches.
    """

    pictures: tuple[ImageRecord, ...]
    older: tuple[datetime, str] | None


@attrs.frozen(kw_only=True)
class Campaign:
    """A ``tracking_id``, how many pictures it has, and when the newest was made."""

    tracking_id: str
    pictures: int
    newest: datetime


@attrs.frozen(kw_only=True)
class Stored:
    """Files and bytes of some pictures by format. ``last`` is the last id, None at the end."""

    by_format: dict[str, tuple[int, int]]
    last: str | None


def page(
    tenant: str,
    words: str,
    state: str,
    before: tuple[datetime, str] | None,
    limit: int,
    now: datetime,
    connection: sa.Connection,
) -> Page:
    """The newest pictures before a point that are in the state and contain the words.

    ``words`` are searched for literally, ignoring case, in prompts and tracking ids. Empty words and an empty
    state match every picture.
    """
    within = sa.select(images).where(images.c.tenant == tenant)
    if before is not None:
        moment, image_id = before
        within = within.where(
            images.c.created_at <= moment, (images.c.created_at < moment) | (images.c.id < image_id)
        )
    looked_through = _LOOKED_THROUGH if words or state else limit + 1
    window = within.order_by(images.c.created_at.desc(), images.c.id.desc()).limit(looked_through).subquery()
    matching = sa.select(window).order_by(window.c.created_at.desc(), window.c.id.desc()).limit(limit + 1)
    if words:
        prompt = sa.type_coerce(window.c.request, sa.JSON)["prompt"].as_string()
        erased = window.c.deleted_at.is_not(None)  # their prompt is a placeholder
        holds = prompt.icontains(words, autoescape=True) & ~erased
        matching = matching.where(holds | window.c.tracking_id.icontains(words, autoescape=True))
    if state:
        matching = matching.where(_in_state(window, state, now))
    found = tuple(record(row) for row in connection.execute(matching))
    if len(found) > limit:
        return Page(pictures=found[:limit], older=(found[limit - 1].created_at, found[limit - 1].id))
    end = connection.execute(
        sa.select(window.c.created_at, window.c.id).offset(looked_through - 1).limit(1)
    ).first()
    return Page(pictures=found, older=None if end is None else (end.created_at, end.id))


def views_of(pictures: Sequence[ImageRecord], connection: sa.Connection) -> dict[str, int]:
    """The views of one tenant's pictures, by id. Untracked pictures are left out."""
    tracked = [picture for picture in pictures if picture.request.tracking_id is not None]
    if not tracked:
        return {}
    rows = connection.execute(
        sa.select(views.c.image_id, sa.func.sum(views.c.views))
        .where(
            views.c.tenant == tracked[0].tenant,
            views.c.tracking_id.in_({picture.request.tracking_id for picture in tracked}),
            views.c.image_id.in_([picture.id for picture in tracked]),
        )
        .group_by(views.c.image_id)
    )
    return {picture.id: 0 for picture in tracked} | {image_id: int(seen) for image_id, seen in rows}


def days_of(picture: ImageRecord, connection: sa.Connection) -> list[DayStats]:
    """The days on which a picture was viewed, in order."""
    seen = connection.execute(
        sa.select(views.c.day, views.c.views, views.c.loads, views.c.load_us)
        .where(_of(picture, views))
        .order_by(views.c.day)
    ).all()
    by = sa.select(viewers.c.day, sa.func.count().label("several")).where(_of(picture, viewers))
    number = {row.day: row.several for row in connection.execute(by.group_by(viewers.c.day))}
    return [
        DayStats(
            date=_FIRST_DAY + timedelta(days=row.day),
            views=row.views,
            viewers=number.get(row.day, 0),
            avg_load_time=row.load_us / row.loads / 1000 if row.loads else None,
        )
        for row in seen
    ]


def campaigns(tenant: str, connection: sa.Connection) -> list[Campaign]:
    """The campaigns of the newest pictures, the one with the newest picture first."""
    newest = (
        sa.select(images.c.tracking_id, images.c.created_at)
        .where(images.c.tenant == tenant)
        .order_by(images.c.created_at.desc())
        .limit(_LOOKED_THROUGH)
        .subquery()
    )
    last = sa.func.max(newest.c.created_at)
    found = connection.execute(
        sa.select(newest.c.tracking_id, sa.func.count().label("pictures"), last.label("newest"))
        .where(newest.c.tracking_id.is_not(None))
        .group_by(newest.c.tracking_id)
        .order_by(last.desc())
        .limit(_CAMPAIGNS)
    ).all()
    return [Campaign(**row._mapping) for row in found]


def campaign_total(tenant: str, tracking_id: str, connection: sa.Connection) -> int:
    """All views of a campaign."""
    own = (views.c.tenant == tenant) & (views.c.tracking_id == tracking_id)
    return connection.scalar(sa.select(sa.func.sum(views.c.views)).where(own)) or 0


def campaign_pictures(
    tenant: str, tracking_id: str, limit: int, connection: sa.Connection
) -> tuple[int, list[ImageRecord]]:
    """How many pictures a campaign has, and the newest of them."""
    own = (images.c.tenant == tenant) & (images.c.tracking_id == tracking_id)
    number = connection.scalar(sa.select(sa.func.count()).where(own))
    newest = sa.select(images).where(own).order_by(images.c.created_at.desc(), images.c.id.desc())
    return number or 0, [record(row) for row in connection.execute(newest.limit(limit))]


def stored(tenant: str, after: str, connection: sa.Connection) -> Stored:
    """The files of the next pictures after the id ``after``."""
    part = (
        sa.select(images.c.id, images.c.files, images.c.tenant, images.c.deleted_at, images.c.swept_at)
        .where(images.c.id > after)
        .order_by(images.c.id)
        .limit(_LOOKED_THROUGH)
        .subquery()
    )
    file = sa.func.json_each(part.c.files).table_valued("value")
    kind = sa.func.json_extract(file.c.value, "$.format")
    size = sa.func.sum(sa.func.json_extract(file.c.value, "$.file_size"))
    rows = connection.execute(
        sa.select(kind, sa.func.count(), size)
        .select_from(part.join(file, sa.true()))
        .where(part.c.tenant == tenant, part.c.deleted_at.is_(None), part.c.swept_at.is_(None))
        .group_by(kind)
        .order_by(kind)
    )
    by_format = {name: (number, int(weight)) for name, number, weight in rows}
    last: str | None = connection.scalar(sa.select(part.c.id).offset(_LOOKED_THROUGH - 1).limit(1))
    return Stored(by_format=by_format, last=last)


def _of(picture: ImageRecord, table: sa.Table) -> sa.ColumnElement[bool]:
    return (
        (table.c.tenant == picture.tenant)
        & (table.c.tracking_id == picture.request.tracking_id)
        & (table.c.image_id == picture.id)
    )


def _in_state(pictures: sa.Subquery, state: str, now: datetime) -> sa.ColumnElement[bool]:
    deleted = pictures.c.deleted_at.is_not(None)
    over = pictures.c.expires_at.is_not(None) & (pictures.c.expires_at <= now)
    expired = pictures.c.swept_at.is_not(None) | over
    return {"live": ~deleted & ~expired, "expired": ~deleted & expired, "deleted": deleted}[state]

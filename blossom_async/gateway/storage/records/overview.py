"""Statements of the dashboard. Each is about one tenant and takes its connection last."""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile
from typing import Any

import attrs
import orjson
import sqlalchemy as sa

from blossom_async.gateway.storage.records import statistics, texts
from blossom_async.gateway.storage.records.documents import total
from blossom_async.gateway.storage.records.images import record
from blossom_async.gateway.storage.records.tables import ImageRecord, images, stored_files, viewers, views
from blossom_async.gateway.storage.records.tables import campaigns as totals
from blossom_async.models import IMAGE_ID, DayStats

__all__ = [
    "STATES",
    "Campaign",
    "Page",
    "Span",
    "campaign_pictures",
    "campaigns",
    "cursor",
    "days_of",
    "number",
    "page",
    "point_of",
    "stored",
    "views_of",
]

STATES = ("live", "expired", "deleted")

_LOOKED_THROUGH = 10_000  # pictures read by one question: it occupies a reader for under 50 ms
_AT_ONCE = 200  # of the pictures that hold the words
_COUNTED = 1000
_CAMPAIGNS = 100
_SAMPLES = 500
_NEWEST_FIRST = (images.c.created_at.desc(), images.c.id.desc())
_OLDEST_FIRST = (images.c.created_at.asc(), images.c.id.asc())
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR = re.compile(rf"([0-9]{{1,17}})-({IMAGE_ID})", re.ASCII)
_FIRST_DAY = date(1970, 1, 1)


@attrs.frozen(kw_only=True)
class Page:
    """Pictures in order of their age. ``next`` is where the next page starts, None at the end.

    ``pictures`` may be empty before the end: then none of those searched so far matches.
    """

    pictures: tuple[ImageRecord, ...]
    next: tuple[datetime, str] | None


@attrs.frozen(kw_only=True)
class Span:
    """Times from ``since`` on and before ``until``; None is no limit."""

    since: datetime | None = None
    until: datetime | None = None


_EVER = Span()


@attrs.frozen(kw_only=True)
class Campaign:
    """A ``tracking_id``: how many pictures and views it has, and when the newest picture was made."""

    tracking_id: str
    pictures: int
    newest: datetime
    views: int


def cursor(point: tuple[datetime, str]) -> str:
    """A point between two pictures as text, for ``point_of``."""
    return f"{(point[0] - _EPOCH) // timedelta(microseconds=1)}-{point[1]}"


def point_of(cursor: str) -> tuple[datetime, str] | None:
    """The point; None for any other text."""
    found = _CURSOR.fullmatch(cursor)
    return None if found is None else (_EPOCH + timedelta(microseconds=int(found[1])), found[2])


def page(
    tenant: str,
    words: str,
    state: str,
    past: tuple[datetime, str] | None,
    limit: int,
    now: datetime,
    connection: sa.Connection,
    *,
    tracking_id: str | None = None,
    made: Span = _EVER,
    oldest: bool = False,
) -> Page:
    """The first pictures past a point that are in the state, contain the words and have the tracking id.

    They begin with the newest, or with the oldest, and go on in that order.
    ``words`` are searched for literally, ignoring case, in prompts and tracking ids; a line break is a space.
    Empty words, an empty state and no tracking id match every picture; the state ``kept`` each that was not
    deleted.
    """
    wanted = sa.select(images)
    if tracking_id is not None:
        wanted = wanted.where(images.c.tracking_id == tracking_id)
    if state:
        wanted = wanted.where(_in_state(state, now))
    if words:
        return _searched(
            wanted, _matching(tenant, words, past, made, connection, oldest), limit, connection, oldest
        )
    order = _OLDEST_FIRST if oldest else _NEWEST_FIRST
    wanted = wanted.order_by(*order).limit(limit + 1)
    own = _own(tenant, made)
    if tracking_id is not None:
        own &= images.c.tracking_id == tracking_id
    if past is not None:
        own &= _beyond(past, later=oldest)
    end = None
    if state:  # an index finds where to stop, so that no more rows are read than fill the page
        point = sa.select(images.c.created_at, images.c.id).where(own).order_by(*order)
        end = connection.execute(point.offset(_LOOKED_THROUGH - 1).limit(1)).first()
    if end is not None:
        own &= _beyond((end.created_at, end.id), later=not oldest, itself=True)
    found = tuple(record(row) for row in connection.execute(wanted.where(own)))
    if len(found) > limit:
        return Page(pictures=found[:limit], next=_point(found[limit - 1]))
    return Page(pictures=found, next=None if end is None else (end.created_at, end.id))


def number(
    tenant: str, words: str, state: str, made: Span, now: datetime, connection: sa.Connection
) -> tuple[int, bool]:
    """How many pictures ``page`` would find on all its pages, and whether there may be more.

    It counts to 1,000.
    """
    if words:
        points = list(islice(_matching(tenant, words, None, made, connection), _COUNTED + 1))
        if not state:
            return min(len(points), _COUNTED), len(points) > _COUNTED
        these = images.c.id.in_([image_id for _, image_id in points]) & _in_state(state, now)
        found = connection.scalar(sa.select(sa.func.count()).where(these)) if points else 0
        return min(found or 0, _COUNTED), len(points) > _COUNTED
    most = _LOOKED_THROUGH if state else _COUNTED + 1
    newest = sa.select(images).where(_own(tenant, made)).order_by(*_NEWEST_FIRST).limit(most).subquery()
    fitting = sa.func.count().filter(_in_state(state, now, newest)) if state else sa.func.count()
    found, seen = connection.execute(sa.select(fitting, sa.func.count()).select_from(newest)).one()
    return min(found, _COUNTED), found > _COUNTED or seen == most


def _own(tenant: str, made: Span) -> sa.ColumnElement[bool]:
    own = images.c.tenant == tenant
    if made.since is not None:
        own &= images.c.created_at >= made.since
    return own if made.until is None else own & (images.c.created_at < made.until)


def _beyond(point: texts.Point, *, later: bool, itself: bool = False) -> sa.ColumnElement[bool]:
    """The pictures on one side of a point, with or without that picture."""
    moment, image_id = point
    beyond, from_it_on = (operator.gt, operator.ge) if later else (operator.lt, operator.le)
    same_moment = (from_it_on if itself else beyond)(images.c.id, image_id)
    # The first part is what an index is searched by.
    return sa.and_(
        from_it_on(images.c.created_at, moment), sa.or_(beyond(images.c.created_at, moment), same_moment)
    )


def _matching(
    tenant: str,
    words: str,
    past: texts.Point | None,
    made: Span,
    connection: sa.Connection,
    oldest: bool = False,
) -> Iterator[texts.Point]:
    """As ``texts.matching``, for pictures made in the span."""
    since, until = made.since, made.until
    if oldest:
        if since is not None:
            past = (since, "") if past is None else max(past, (since, ""))
        points = texts.matching(tenant, words, past, connection, oldest=True)
        return takewhile(lambda point: until is None or point[0] < until, points)
    if until is not None:
        past = (until, "") if past is None else min(past, (until, ""))
    points = texts.matching(tenant, words, past, connection)
    return takewhile(lambda point: since is None or point[0] >= since, points)


def _searched(
    wanted: sa.Select[Any],
    points: Iterator[texts.Point],
    limit: int,
    connection: sa.Connection,
    oldest: bool,
) -> Page:
    """The page of those pictures among ``points``, in that order, that are wanted."""
    found: list[ImageRecord] = []
    for _ in range(0, _LOOKED_THROUGH, _AT_ONCE):
        some = list(islice(points, _AT_ONCE))
        if not some:
            return Page(pictures=tuple(found), next=None)
        # By their ids alone, and sorted here: asked for more, SQLite reads all pictures of the tenant.
        rows = connection.execute(wanted.where(images.c.id.in_([image_id for _, image_id in some])))
        in_order = sorted(rows, key=lambda row: (row.created_at, row.id), reverse=not oldest)
        found += map(record, in_order[: limit + 1 - len(found)])
        if len(found) > limit:
            return Page(pictures=tuple(found[:limit]), next=_point(found[limit - 1]))
        if len(some) < _AT_ONCE:
            return Page(pictures=tuple(found), next=None)
    return Page(pictures=tuple(found), next=some[-1])


def _point(picture: ImageRecord) -> texts.Point:
    return picture.created_at, picture.id


def views_of(pictures: Sequence[ImageRecord], connection: sa.Connection) -> dict[str, int]:
    """The views of pictures, by id. Untracked pictures are left out."""
    tracked = [picture for picture in pictures if picture.request.tracking_id is not None]
    if not tracked:
        return {}
    rows = connection.execute(
        sa.select(views.c.image_id, total(views.c.views))
        .where(views.c.image_id.in_([picture.id for picture in tracked]))
        .group_by(views.c.image_id)
    )
    return {picture.id: 0 for picture in tracked} | {image_id: int(seen) for image_id, seen in rows}


def days_of(picture: ImageRecord, connection: sa.Connection) -> list[DayStats]:
    """The days on which a picture was viewed, in order."""
    seen = connection.execute(
        sa.select(views.c.day, views.c.views, views.c.loads, views.c.load_us)
        .where(views.c.image_id == picture.id)
        .order_by(views.c.day)
    ).all()
    by = sa.select(viewers.c.day, sa.func.count().label("several")).where(viewers.c.image_id == picture.id)
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
    """The campaigns that have pictures, the one with the newest picture first."""
    columns = [totals.c[name] for name in ("tracking_id", "pictures", "newest", "views")]
    own = sa.select(*columns).where(totals.c.tenant == tenant, totals.c.pictures > 0)
    newest = own.order_by(totals.c.newest.desc()).limit(_CAMPAIGNS)
    return [Campaign(**row._mapping) for row in connection.execute(newest)]


def campaign_pictures(
    tenant: str, tracking_id: str, limit: int, labels: Collection[tuple[str, str]], connection: sa.Connection
) -> tuple[int, list[ImageRecord], dict[tuple[str, str], ImageRecord]]:
    """How many pictures a campaign has, the newest of them, and one for each label, a metadata key and value.

    Pictures with the labels are looked for among the newest 500.
    """
    this = statistics.of(totals, tenant, tracking_id)
    number = connection.scalar(sa.select(totals.c.pictures).where(this))
    own = statistics.of(images, tenant, tracking_id)
    newest = sa.select(images).where(own).order_by(*_NEWEST_FIRST).limit(_SAMPLES)
    rows = connection.execute(newest).all()
    having: dict[tuple[str, str], sa.Row[Any]] = {}
    for row in rows:  # only those that are shown are read into records, which takes ten times as long
        for label in orjson.loads(row.request)["metadata"].items():
            if label in labels:
                having.setdefault(label, row)
    return number or 0, list(map(record, rows[:limit])), {label: record(row) for label, row in having.items()}


def stored(tenant: str, connection: sa.Connection) -> dict[str, tuple[int, int]]:
    """How many files of each format there are, and their bytes."""
    own = (stored_files.c.tenant == tenant) & (stored_files.c.files > 0)
    columns = [stored_files.c[name] for name in ("format", "files", "bytes")]
    rows = connection.execute(sa.select(*columns).where(own).order_by(stored_files.c.format))
    return {row.format: (row.files, row.bytes) for row in rows}


def _in_state(state: str, now: datetime, pictures: sa.FromClause = images) -> sa.ColumnElement[bool]:
    deleted = pictures.c.deleted_at.is_not(None)
    over = pictures.c.expires_at.is_not(None) & (pictures.c.expires_at <= now)
    expired = pictures.c.swept_at.is_not(None) | over
    states = {
        "live": ~deleted & ~expired,
        "expired": ~deleted & expired,
        "deleted": deleted,
        "kept": ~deleted,
    }
    return states[state]

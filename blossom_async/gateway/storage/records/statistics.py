"""The totals behind a campaign's statistics: by day, by label, and by both.

A label is a key of the metadata with its value. A deleted picture has none: its views count for the campaign
only. An expired one keeps its own.

Whoever changes these totals has changed the campaign's row in ``campaigns`` before, in the same transaction:
one process at a time changes them. That row says which days they hold: those before ``uncounted_from``.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import orjson
import sqlalchemy as sa

from blossom_async.gateway.storage.records.documents import total
from blossom_async.gateway.storage.records.inserting import add_rows, insert, rows_of
from blossom_async.gateway.storage.records.tables import (
    ALL_UNCOUNTED,
    campaign_days,
    campaigns,
    images,
    label_days,
    labels,
    viewers,
    views,
)
from blossom_async.gateway.storage.records.together import Statement

__all__ = [
    "COUNTS",
    "adding",
    "any_uncounted",
    "by_day",
    "by_label",
    "count",
    "labels_in",
    "of",
    "recount",
    "take_away",
]

Label = tuple[bytes, str, str]
"""A hash of key and value, which may be too long for an index; the key and the value."""

Row = Mapping[Any, Any]
_Day = tuple[str, str, int]  # tenant, tracking id, day
_LabelDay = tuple[str, str, int, Label]

COUNTS = ("views", "loads", "load_us")
"""The columns of what is counted by picture and day."""

_SUMS = (*COUNTS, "viewers")
_ROWS_AT_ONCE = 10_000  # that one transaction counts anew, unless a day has more
_IDS_AT_ONCE = 1000
_VIEWERS_AT_ONCE = 100
_ASKED = ("tenant", "tracking_id", "day", *(f"viewer_{number}" for number in range(_VIEWERS_AT_ONCE)))
_SEEN = sa.select(viewers.c.viewer, viewers.c.image_id).where(
    *(viewers.c[name] == sa.bindparam(name) for name in _ASKED[:3]),
    viewers.c.viewer.in_([sa.bindparam(name) for name in _ASKED[3:]]),
)
_BEFORE_ALL = ALL_UNCOUNTED + 1
_LEFT = sa.select(campaigns.c.tenant, campaigns.c.tracking_id, campaigns.c.uncounted_from).where(
    campaigns.c.uncounted_from.is_not(None)
)


def labels_in(request: str) -> list[Label]:
    """The labels of a picture, whose request is as it is stored."""
    return [(_hash(key, value), key, value) for key, value in orjson.loads(request)["metadata"].items()]


def of(table: sa.Table, tenant: str, tracking_id: str) -> sa.ColumnElement[bool]:
    """The rows of a campaign."""
    return (table.c.tenant == tenant) & (table.c.tracking_id == tracking_id)


def adding(rows: Sequence[Row], dialect: str) -> list[Statement]:
    """The statements that count the labels of new rows of ``images``."""
    pictures: Counter[tuple[str, str, Label]] = Counter()
    for row in rows:
        if row["tracking_id"] is not None:
            for label in labels_in(row["request"]):
                pictures[row["tenant"], row["tracking_id"], label] += 1
    return [
        (_adding_labels(dialect), _label_row(*which, pictures=number))
        for which, number in sorted(pictures.items())
    ]


def count(
    counts: Sequence[Row],
    seen: Sequence[Row],
    labels_of: Mapping[str, Sequence[Label]],
    uncounted_from: Mapping[tuple[str, str], int | None],
    connection: sa.Connection,
) -> None:
    """Counts what is about to be added to ``views`` and ``viewers``.

    ``labels_of`` has the labels of those pictures that are not deleted.
    """
    held = _held(seen, uncounted_from)
    by_day: dict[_Day, set[bytes]] = defaultdict(set)
    for row in held:
        by_day[_day_of(row)].add(row["viewer"])
    known = {day: _pictures_seen(day, sorted(several), connection) for day, several in by_day.items()}
    others = {
        image_id for pictures in known.values() for several in pictures.values() for image_id in several
    }
    labels_of = {**_labels_of(others - labels_of.keys(), connection), **labels_of}
    _count(_held(counts, uncounted_from), held, known, labels_of, connection)


def take_away(
    row: sa.Row[Any], counts: Sequence[Row], seen: Sequence[Row], connection: sa.Connection
) -> None:
    """Takes a picture out of its labels that has been deleted and folded; all is given as it was before."""
    own = labels_in(row.request)
    if row.tracking_id is None or not own:
        return
    campaign = row.tenant, row.tracking_id
    start = connection.scalar(sa.select(campaigns.c.uncounted_from).where(of(campaigns, *campaign)))
    sums: dict[_LabelDay, list[int]] = defaultdict(_nothing)
    for counted in _held(counts, {campaign: start}):
        for label in own:
            _add(sums[*_day_of(counted), label], counted, sign=-1)
    by_day: dict[_Day, list[bytes]] = defaultdict(list)
    for counted in _held(seen, {campaign: start}):
        by_day[_day_of(counted)].append(counted["viewer"])
    for day, several in by_day.items():
        left = _pictures_seen(day, several, connection)
        labels_of = _labels_of({image_id for others in left.values() for image_id in others}, connection)
        for viewer in several:
            for label in set(own) - _all_labels(left.get(viewer, ()), labels_of):
                sums[*day, label][3] -= 1
    _add_to_labels(sums, connection)
    one_less = [_label_row(*campaign, label, pictures=-1) for label in own]
    add_rows(_adding_labels(connection.dialect.name), one_less, connection)
    if emptied := [{"of_day": day, "of_label": label[0]} for _, _, day, label in sums]:
        nothing_left = sa.and_(*(label_days.c[name] == 0 for name in _SUMS))
        connection.execute(label_days.delete().where(_this_day(*campaign), nothing_left), emptied)
    nobodys = of(labels, *campaign) & labels.c.label.in_([label for label, _, _ in own])
    if start != ALL_UNCOUNTED:  # else ``pictures`` says nothing, and all labels are written anew
        nobodys &= labels.c.pictures <= 0
    connection.execute(labels.delete().where(nobodys))


def by_day(
    tenant: str, tracking_id: str, first: int, last: int, connection: sa.Connection
) -> list[tuple[int, int, int, int, int]]:
    """The days with views: each with views, loads, microseconds of load time, and viewers."""
    wanted = of(campaign_days, tenant, tracking_id) & campaign_days.c.day.between(first, last)
    rows = sa.select(*(campaign_days.c[name] for name in ("day", *_SUMS)))
    rows = rows.where(wanted, campaign_days.c.views > 0).order_by(campaign_days.c.day)
    return [tuple(row) for row in connection.execute(rows)]


def by_label(
    tenant: str, tracking_id: str, first: int, last: int, limit: int, connection: sa.Connection
) -> list[tuple[str, str, int, int, int, int]]:
    """The labels with the most views: key, value, views, loads, microseconds of load time, and viewers."""
    own = of(labels, tenant, tracking_id) & (labels.c.pictures > 0)
    ends = sa.select(sa.func.min(campaign_days.c.day), sa.func.max(campaign_days.c.day))
    begin, end = connection.execute(ends.where(of(campaign_days, tenant, tracking_id))).one()
    if begin is None or (first <= begin and end <= last):  # the index has them in order
        source: sa.FromClause = labels
        sums: list[sa.ColumnElement[int]] = [labels.c[name] for name in _SUMS]
    else:
        days = label_days.c
        wanted = of(label_days, tenant, tracking_id) & days.day.between(first, last)
        columns = [total(days[name]).label(name) for name in _SUMS]
        some = sa.select(days.label, *columns).where(wanted).group_by(days.label).subquery()
        sums = [sa.func.coalesce(some.c[name], 0).label(name) for name in _SUMS]
        source = labels.outerjoin(some, some.c.label == labels.c.label)
    rows = sa.select(labels.c.key, labels.c.value, *sums).select_from(source).where(own)
    found = connection.execute(rows.order_by(sums[0].desc(), labels.c.label.desc()).limit(limit)).all()
    return sorted(map(tuple, found), key=lambda row: (-row[2], row[0], row[1]))


def any_uncounted(connection: sa.Connection) -> bool:
    """Whether ``recount`` has anything to do."""
    return connection.execute(_LEFT.limit(1)).first() is not None


def recount(connection: sa.Connection) -> int:
    """Counts some of what earlier versions have changed; returns how many rows, 0 if nothing is left.

    They stored it before the migration, or since then as another process.
    """
    counted = 0
    while counted < _ROWS_AT_ONCE:
        row = connection.execute(_LEFT.limit(1).with_for_update(skip_locked=True)).first()
        if row is None:
            break
        campaign, start = (row.tenant, row.tracking_id), row.uncounted_from
        if start == ALL_UNCOUNTED:
            counted += 1 + _recount_pictures(*campaign, connection)
            later: int | None = _BEFORE_ALL
        else:
            day = connection.scalar(
                sa.select(sa.func.min(views.c.day)).where(of(views, *campaign) & (views.c.day >= start))
            )
            counted += 1 + (0 if day is None else _recount_day(*campaign, day, connection))
            later = None if day is None else day + 1
        change = campaigns.update().where(of(campaigns, *campaign))
        connection.execute(change.values(uncounted_from=later, changes=campaigns.c.changes + 1))
    return counted


def _recount_pictures(tenant: str, tracking_id: str, connection: sa.Connection) -> int:
    for table in (labels, label_days, campaign_days):
        connection.execute(table.delete().where(of(table, tenant, tracking_id)))
    requests = sa.select(images.c.request).where(of(images, tenant, tracking_id))
    pictures: Counter[Label] = Counter()
    number = 0
    for request in connection.scalars(requests.execution_options(yield_per=_IDS_AT_ONCE)):
        pictures.update(labels_in(request))
        number += 1
    rows = [_label_row(tenant, tracking_id, label, pictures=several) for label, several in pictures.items()]
    add_rows(_adding_labels(connection.dialect.name), rows, connection)
    return number


def _recount_day(tenant: str, tracking_id: str, day: int, connection: sa.Connection) -> int:
    counts, seen = (
        connection.execute(sa.select(table).where(of(table, tenant, tracking_id), table.c.day == day))
        .mappings()
        .all()
        for table in (views, viewers)
    )
    labels_of = _labels_of({row["image_id"] for row in (*counts, *seen)}, connection)
    _count(counts, seen, {}, labels_of, connection)
    return len(counts) + len(seen)


def _held(rows: Sequence[Row], uncounted_from: Mapping[tuple[str, str], int | None]) -> Sequence[Row]:
    """The rows of those days that the totals hold."""
    if all(start is None for start in uncounted_from.values()):
        return rows
    starts = [uncounted_from[row["tenant"], row["tracking_id"]] for row in rows]
    return [row for row, start in zip(rows, starts, strict=True) if start is None or row["day"] < start]


def _pictures_seen(day: _Day, these: Sequence[bytes], connection: sa.Connection) -> dict[bytes, list[str]]:
    """The ids of the pictures that these viewers have seen on the day."""
    seen: dict[bytes, list[str]] = defaultdict(list)
    for start in range(0, len(these), _VIEWERS_AT_ONCE):
        some = these[start : start + _VIEWERS_AT_ONCE]
        padded = [*some, *[some[0]] * (_VIEWERS_AT_ONCE - len(some))]
        asked = dict(zip(_ASKED, (*day, *padded), strict=True))
        for viewer, image_id in rows_of(_SEEN, asked, connection):
            seen[viewer].append(image_id)
    return seen


def _labels_of(image_ids: Collection[str], connection: sa.Connection) -> dict[str, list[Label]]:
    """The labels of those pictures that are not deleted."""
    ids = sorted(image_ids)
    found = {}
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = images.c.id.in_(ids[start : start + _IDS_AT_ONCE]) & images.c.deleted_at.is_(None)
        for image_id, request in connection.execute(sa.select(images.c.id, images.c.request).where(some)):
            found[image_id] = labels_in(request)
    return found


def _count(
    counts: Sequence[Row],
    seen: Sequence[Row],
    known: Mapping[_Day, Mapping[bytes, Collection[str]]],
    labels_of: Mapping[str, Sequence[Label]],
    connection: sa.Connection,
) -> None:
    """``known`` are the pictures that the viewers had seen before."""
    days: dict[_Day, list[int]] = defaultdict(_nothing)
    of_labels: dict[_LabelDay, list[int]] = defaultdict(_nothing)
    for row in counts:
        day = _day_of(row)
        _add(days[day], row)
        for label in labels_of.get(row["image_id"], ()):
            _add(of_labels[*day, label], row)
    new: dict[_Day, dict[bytes, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in seen:
        new[_day_of(row)][row["viewer"]].append(row["image_id"])
    for day, pictures in new.items():
        for viewer, several in pictures.items():
            new_labels = _all_labels(several, labels_of)
            if before := known[day].get(viewer) if known else None:
                new_labels -= _all_labels(before, labels_of)
            else:
                days[day][3] += 1
            for label in new_labels:
                of_labels[*day, label][3] += 1
    rows = [dict(zip(_DAY, (*day, *sums), strict=True)) for day, sums in sorted(days.items())]
    add_rows(_adding_up(campaign_days, connection.dialect.name), rows, connection)
    _add_to_labels(of_labels, connection)


def _all_labels(image_ids: Iterable[str], labels_of: Mapping[str, Sequence[Label]]) -> set[Label]:
    return {label for image_id in image_ids for label in labels_of.get(image_id, ())}


def _add_to_labels(sums: Mapping[_LabelDay, Sequence[int]], connection: sa.Connection) -> None:
    days: list[Row] = []
    ever: dict[tuple[str, str, Label], list[int]] = defaultdict(_nothing)
    for (tenant, tracking_id, day, label), counted in sorted(sums.items()):
        days.append(dict(zip(_LABEL_DAY, (tenant, tracking_id, day, label[0], *counted), strict=True)))
        whole = ever[tenant, tracking_id, label]
        whole[:] = map(int.__add__, whole, counted)
    add_rows(_adding_up(label_days, connection.dialect.name), days, connection)
    rows = [{**_label_row(*one), **dict(zip(_SUMS, whole, strict=True))} for one, whole in ever.items()]
    add_rows(_adding_labels(connection.dialect.name), rows, connection)


def _label_row(tenant: str, tracking_id: str, label: Label, *, pictures: int = 0) -> dict[str, Any]:
    one, key, value = label
    named = {"tenant": tenant, "tracking_id": tracking_id, "label": one, "key": key, "value": value}
    return {**named, "pictures": pictures, **dict.fromkeys(_SUMS, 0)}


def _this_day(tenant: str, tracking_id: str) -> sa.ColumnElement[bool]:
    this = (label_days.c.day == sa.bindparam("of_day")) & (label_days.c.label == sa.bindparam("of_label"))
    return of(label_days, tenant, tracking_id) & this


def _nothing() -> list[int]:
    return [0, 0, 0, 0]


def _day_of(row: Row) -> _Day:
    return row["tenant"], row["tracking_id"], row["day"]


def _add(sums: list[int], row: Row, sign: int = 1) -> None:
    for at, name in enumerate(COUNTS):
        sums[at] += sign * row[name]


@lru_cache(10_000)
def _hash(key: str, value: str) -> bytes:
    return hashlib.blake2b(f"{len(key)} {key}{value}".encode(), digest_size=16).digest()


_DAY = tuple(campaign_days.c.keys())
_LABEL_DAY = tuple(label_days.c.keys())


# Built once: that takes longer than carrying them out.
@cache
def _adding_up(table: sa.Table, dialect: str) -> sa.Executable:
    new = insert(table, dialect)
    sums = {name: table.c[name] + new.excluded[name] for name in _SUMS}
    return new.on_conflict_do_update(index_elements=table.primary_key, set_=sums)


@cache
def _adding_labels(dialect: str) -> sa.Executable:
    new = insert(labels, dialect)
    sums = {name: labels.c[name] + new.excluded[name] for name in ("pictures", *_SUMS)}
    return new.on_conflict_do_update(index_elements=labels.primary_key, set_=sums)

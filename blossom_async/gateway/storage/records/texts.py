"""What searches look through: prompts and tracking ids, apart from all else and packed.

A new picture has a row of its own. Upkeep packs rows into one of hundreds of pictures, which a database reads
ten times as fast. ``docs/performance.md`` says how long a search of a million pictures takes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import orjson
import sqlalchemy as sa

from blossom_async.gateway.storage.records.tables import UNLIKE_TEXTS, images, texts
from blossom_async.gateway.storage.records.together import Statement

__all__ = [
    "Point",
    "add",
    "add_missing",
    "adding",
    "any_outlived",
    "erase",
    "erase_outlived",
    "matching",
    "pack",
    "searchable",
]

Point = tuple[datetime, str]
"""When a picture was made, and its id: pictures are listed by it."""

_PACKED = 256  # pictures of a row
_MOST_CHARACTERS = 100_000  # of a packed row: an erasure writes it anew
_LOOKED_AT_FIRST = 600  # rows: those not packed yet, and some that are
_ROWS_AT_FIRST = 4  # of packed pictures with a frequent word they fill the page, and count more than 1,000
_ROWS_AT_ONCE = 50
_PACKING = 0x7061636B  # the advisory lock of whoever moves texts from row to row
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)
_BREAKS = dict.fromkeys((*range(32), 127), " ")
_NEW = texts.insert()
_NEWEST_FIRST = (texts.c.last_at.desc(), texts.c.last_id.desc())
_DELETE = texts.delete().where(
    texts.c.tenant == sa.bindparam("of_tenant"),
    texts.c.last_at == sa.bindparam("of_at"),
    texts.c.last_id == sa.bindparam("of_id"),
)


def searchable(text: str) -> str:
    """The text as it is searched: without case, in one line."""
    return text.casefold().translate(_BREAKS)


def add(rows: Sequence[Mapping[str, Any]], connection: sa.Connection) -> None:
    """Makes new rows of ``images`` found; those of deleted pictures are left out."""
    if found := [row for _, row in adding(rows)]:
        connection.execute(_NEW, found)


def adding(rows: Sequence[Mapping[str, Any]]) -> list[Statement]:
    """The statements that make new rows of ``images`` found."""
    live = [row for row in rows if row["deleted_at"] is None]
    return [(_NEW, _row([((row["created_at"], row["id"]), _line(row))], row["tenant"])) for row in live]


def erase(row: sa.Row[Any], connection: sa.Connection) -> None:
    """Removes a picture; ``row`` is what ``images`` held of it."""
    _lock(connection)
    point = row.created_at, row.id
    around = (
        (texts.c.tenant == row.tenant)
        & (texts.c.last_at >= row.created_at)
        & (texts.c.first_at <= row.created_at)
        & texts.c.points.contains(row.id, autoescape=True)
    )
    for held in connection.execute(sa.select(texts).where(around)).all():
        kept = [pair for pair in _pairs(held) if pair[0] != point]
        connection.execute(_DELETE, [_key(held)])
        if kept:
            connection.execute(_NEW, _row(kept, row.tenant))


def matching(
    tenant: str, words: str, past: Point | None, connection: sa.Connection, *, oldest: bool = False
) -> Iterator[Point]:
    """The pictures of a tenant past a point that hold the words, the newest first or the oldest.

    A word that many hold is found among the newest; for any other all texts are looked through once.
    """
    needle = searchable(words)
    wanted = texts.c.tenant == tenant
    if past is not None:
        wanted &= texts.c.last_at >= past[0] if oldest else texts.c.first_at <= past[0]
    held: list[Point] = []  # the oldest first
    for keys in _keys(wanted, _holding(needle, connection), connection, oldest):
        these = (
            (texts.c.tenant == tenant)
            & texts.c.last_at.in_([key.last_at for key in keys])
            & texts.c.last_id.in_([key.last_id for key in keys])
        )
        order = (texts.c.first_at,) if oldest else _NEWEST_FIRST
        for row in connection.execute(sa.select(texts).where(these).order_by(*order)):
            if oldest:  # rows overlap where a picture came late
                cut = bisect_left(held, (row.first_at, ""))
                ready, held = held[:cut], held[cut:]
            else:
                cut = bisect_left(held, (row.last_at + _TICK, ""))
                ready, held = held[cut:][::-1], held[:cut]
            yield from ready
            for point, line in _pairs(row):
                if needle in line and (past is None or (point > past if oldest else point < past)):
                    insort(held, point)
    yield from held if oldest else reversed(held)


def _keys(
    wanted: sa.ColumnElement[bool], holding: sa.ColumnElement[bool], connection: sa.Connection, oldest: bool
) -> Iterator[Sequence[Any]]:
    """The keys of rows that hold what is searched for, in order, some at a time."""
    keys, older = sa.select(texts.c.last_at, texts.c.last_id), sa.true()
    if not oldest:
        first = keys.add_columns(holding.label("holds")).where(wanted).order_by(*_NEWEST_FIRST)
        newest = connection.execute(first.limit(_LOOKED_AT_FIRST)).all()
        found = [key for key in newest if key.holds]
        yield found[:_ROWS_AT_FIRST]
        yield from _in_parts(found[_ROWS_AT_FIRST:])
        if len(newest) < _LOOKED_AT_FIRST:
            return
        at, name = newest[-1][:2]
        older = (texts.c.last_at < at) | ((texts.c.last_at == at) & (texts.c.last_id < name))
    order = (texts.c.first_at,) if oldest else _NEWEST_FIRST
    yield from _in_parts(connection.execute(keys.where(wanted, older, holding).order_by(*order)).all())


def _in_parts(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (keys[start : start + _ROWS_AT_ONCE] for start in range(0, len(keys), _ROWS_AT_ONCE))


def pack(connection: sa.Connection) -> int:
    """Packs the oldest unpacked rows of a tenant into one; returns how many, 0 while there are few."""
    _lock(connection)
    single = texts.c.pictures == 1
    tenant = connection.scalar(
        sa.select(texts.c.tenant).where(single).group_by(texts.c.tenant)
        .having(sa.func.count() >= 2 * _PACKED).limit(1)
    )  # fmt: skip
    if tenant is None:
        return 0
    oldest = sa.select(texts).where(texts.c.tenant == tenant, single)
    rows = connection.execute(oldest.order_by(texts.c.last_at, texts.c.last_id).limit(_PACKED)).all()
    taken = rows[: _fitting(len(row.lines) for row in rows)]
    connection.execute(_DELETE, [_key(row) for row in taken])
    connection.execute(_NEW, _row([pair for row in taken for pair in _pairs(row)], tenant))
    return len(taken)


def add_missing(connection: sa.Connection) -> int:
    """Packs pictures that were stored without a text into one row; returns how many, 0 if there are none.

    An earlier version has stored them: before the migration, or since then as another process.
    """
    _lock(connection)
    rows = connection.execute(_unlike(images.c.deleted_at.is_(None))).mappings().all()
    if not rows:
        return 0
    tenant = rows[0]["tenant"]
    pairs = [((row["created_at"], row["id"]), _line(row)) for row in rows if row["tenant"] == tenant]
    pairs = pairs[: _fitting(len(line) for _, line in pairs)]
    connection.execute(_NEW, _row(pairs, tenant))
    _now_alike([image_id for (_, image_id), _ in pairs], True, connection)
    return len(pairs)


def any_outlived(connection: sa.Connection) -> bool:
    """Whether there is the text of a picture that an earlier version has deleted, as another process."""
    return connection.execute(_unlike(images.c.deleted_at.is_not(None)).limit(1)).first() is not None


def erase_outlived(connection: sa.Connection) -> int:
    """Removes the texts of some of such pictures; returns of how many."""
    _lock(connection)
    rows = connection.execute(_unlike(images.c.deleted_at.is_not(None))).all()
    for row in rows:
        erase(row, connection)
    _now_alike([row.id for row in rows], False, connection)
    return len(rows)


def _unlike(which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    wanted = sa.select(images).where(UNLIKE_TEXTS, which).order_by(images.c.tenant, images.c.created_at)
    return wanted.limit(_PACKED).with_for_update(skip_locked=True)  # who deletes one waits for ``_lock``


def _now_alike(ids: Sequence[str], in_texts: bool, connection: sa.Connection) -> None:
    connection.execute(images.update().where(images.c.id.in_(ids)).values(in_texts=in_texts))


def _fitting(sizes: Iterable[int]) -> int:
    """How many texts of these sizes a packed row takes, the first two in any case."""
    return max(2, sum(size <= _MOST_CHARACTERS for size in accumulate(sizes)))


def _line(row: Mapping[Any, Any]) -> str:
    prompt = searchable(orjson.loads(row["request"])["prompt"])
    return prompt if row["tracking_id"] is None else f"{prompt}\t{searchable(row['tracking_id'])}"


def _row(pairs: Sequence[tuple[Point, str]], tenant: str) -> dict[str, Any]:
    points = sorted(point for point, _ in pairs)
    return {
        "tenant": tenant,
        "last_at": points[-1][0],
        "last_id": points[-1][1],
        "first_at": points[0][0],
        "pictures": len(pairs),
        "points": " ".join(f"{(at - _EPOCH) // _TICK}-{name}" for (at, name), _ in pairs),
        "lines": "\n".join(line for _, line in pairs),
    }


def _pairs(row: sa.Row[Any]) -> list[tuple[Point, str]]:
    points = []
    for told in row.points.split(" "):
        at, _, name = told.partition("-")
        points.append((_EPOCH + timedelta(microseconds=int(at)), name))
    return list(zip(points, row.lines.split("\n"), strict=True))


def _holding(needle: str, connection: sa.Connection) -> sa.ColumnElement[bool]:
    if connection.dialect.name == "postgresql":  # in half of the time of a ``LIKE``
        return sa.func.strpos(texts.c.lines, needle) > 0
    return texts.c.lines.contains(needle, autoescape=True)


def _key(row: sa.Row[Any]) -> dict[str, Any]:
    return {"of_tenant": row.tenant, "of_at": row.last_at, "of_id": row.last_id}


def _lock(connection: sa.Connection) -> None:
    """Until the end of the transaction nobody else moves texts. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_PACKING)))

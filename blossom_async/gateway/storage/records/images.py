"""Statements about pictures and idempotency keys, one by one and grouped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import attrs
import orjson
import sqlalchemy as sa

from blossom_async.errors import BlossomError, Conflict
from blossom_async.gateway.storage.records import statistics, texts, totals
from blossom_async.gateway.storage.records.keys import count_revision
from blossom_async.gateway.storage.records.tables import (
    IdempotencyEntry,
    ImageRecord,
    StoredFile,
    idempotency,
    images,
)
from blossom_async.gateway.storage.records.together import Statement, together
from blossom_async.gateway.storage.records.views import fold
from blossom_async.models import ImageRequest, OpenAIRequest, checked, image_request

__all__ = [
    "Add",
    "Delete",
    "Erasing",
    "Get",
    "add_preview",
    "adding",
    "answers",
    "apply_alone",
    "apply_apart",
    "apply_together",
    "entry_in",
    "find_idempotent",
    "looking_for",
    "record",
    "request_of",
    "request_text",
    "to_row",
]

_ERASED = "(deleted)"  # in place of the prompt of a deleted picture
_KEPT_BESIDE = {"tracking_id", "in_texts"}  # columns that are no field of a record


@attrs.frozen
class Add:
    """Stores a picture, and the idempotency key it was made with."""

    image: dict[str, Any]
    entry: dict[str, Any] | None


@attrs.frozen
class Delete:
    """Erases a picture's text; True if it existed."""

    image_id: str
    now: datetime

    def __call__(self, connection: sa.Connection) -> bool:
        return _erase(connection, self)


@attrs.frozen
class Erasing:
    """A change whose deletions must not stay readable in any file."""

    change: Callable[[sa.Connection], Any]

    def __call__(self, connection: sa.Connection) -> Any:
        return self.change(connection)


@attrs.frozen
class Get:
    image_id: str


ONE_IS_AT_FAULT = (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.InterfaceError, OverflowError, ValueError)
"""Errors caused by a single change: the others of its group are then applied without it."""


def apply_together(connection: sa.Connection, changes: Sequence[Any]) -> list[Any]:
    adds = [change for change in changes if isinstance(change, Add)]
    if adds:
        connection.execute(_NEW_PICTURE, [add.image for add in adds])
    if entries := [add.entry for add in adds if add.entry is not None]:
        connection.execute(_NEW_ENTRY, entries)
    rows = [add.image for add in adds]
    texts.add(rows, connection)
    together(connection, *totals.adding(rows, connection.dialect.name))
    return [None if isinstance(change, Add) else change(connection) for change in changes]


def adding(change: Add, dialect: str) -> list[Statement]:
    """The statements that make the change, in order."""
    entry: list[Statement] = [] if change.entry is None else [(_NEW_ENTRY, change.entry)]
    rows = [change.image]
    return [(_NEW_PICTURE, change.image), *entry, *texts.adding(rows), *totals.adding(rows, dialect)]


def apply_apart(connection: sa.Connection, change: Any) -> Any:
    try:
        with connection.begin_nested():
            return apply_alone(connection, change)
    except (BlossomError, *ONE_IS_AT_FAULT) as exc:
        return exc


def apply_alone(connection: sa.Connection, change: Any) -> Any:
    """What the change returns. Raises ``Conflict`` for a picture or a key that is there already."""
    if not isinstance(change, Add):
        return change(connection)
    picture, *others = adding(change, connection.dialect.name)
    try:
        together(connection, picture)
    except sa.exc.IntegrityError as exc:
        raise Conflict("A picture with this id exists.", code="id_taken") from exc
    try:
        together(connection, *others, last=True)
    except sa.exc.IntegrityError as exc:
        raise Conflict(
            "The Idempotency-Key was used by another request; ask again to get its answer.",
            code="idempotency_key_taken",
        ) from exc
    return None


def _erase(connection: sa.Connection, change: Delete) -> bool:
    live = (images.c.id == change.image_id) & images.c.deleted_at.is_(None)
    row = connection.execute(sa.select(images).where(live).with_for_update()).first()
    if row is None:
        return False
    request = request_of(row.request)
    kept = ImageRequest(
        _ERASED, width=request.width, height=request.height, quality=request.quality, format=request.format
    )
    connection.execute(
        images.update()
        .where(live)
        .values(
            request=request_text(kept),
            tracking_id=None,
            thumbhash=None,
            dominant_color=None,
            deleted_at=change.now,
            in_texts=False,
        )
    )
    totals.erase_picture(row, connection)
    seen = fold(change.image_id, connection)
    statistics.take_away(row, *seen, connection)
    count_revision(connection, change.image_id)
    return True


def add_preview(image_id: str, preview: str, colour: str, connection: sa.Connection) -> None:
    """Stores the preview of a picture, unless that was deleted."""
    live = (images.c.id == image_id) & images.c.deleted_at.is_(None)
    connection.execute(images.update().where(live).values(thumbhash=preview, dominant_color=colour))


def answers(connection: sa.Connection, questions: Sequence[Any]) -> list[Any]:
    """Answers all look-ups by id with one statement."""
    ids = {question.image_id for question in questions if isinstance(question, Get)}
    found = {}
    if ids:
        rows = connection.execute(sa.select(images).where(images.c.id.in_(ids)))
        found = {row.id: record(row) for row in rows}
    return [
        found.get(question.image_id) if isinstance(question, Get) else question(connection)
        for question in questions
    ]


# Built once: building them takes seven times as long as carrying them out.
_NEW_PICTURE = images.insert()
_NEW_ENTRY = idempotency.insert()
_OF_KEY = sa.select(idempotency).where(
    idempotency.c.tenant == sa.bindparam("of_tenant"), idempotency.c.key == sa.bindparam("of_key")
)


def find_idempotent(tenant: str, key: str, connection: sa.Connection) -> IdempotencyEntry | None:
    """Which picture the tenant's key made; None if the key was not used."""
    (found,) = together(connection, looking_for(tenant, key))
    return entry_in(found.rows)


def looking_for(tenant: str, key: str) -> Statement:
    """The statement that finds which picture the tenant's key made."""
    return _OF_KEY, {"of_tenant": tenant, "of_key": key}


def entry_in(rows: Sequence[Sequence[Any]]) -> IdempotencyEntry | None:
    """The entry in the rows that ``looking_for`` returns."""
    return IdempotencyEntry(**dict(zip(idempotency.c.keys(), rows[0], strict=True))) if rows else None


def record(row: sa.Row[Any]) -> ImageRecord:
    """The picture in a row of ``images``."""
    known = {name: value for name, value in row._mapping.items() if name not in _KEPT_BESIDE}
    files = tuple(StoredFile(**file) for file in orjson.loads(row.files))
    return ImageRecord(**{**known, "request": request_of(row.request), "files": files})


def to_row(known: ImageRecord) -> dict[str, Any]:
    """The row of ``images`` for a picture, with JSON columns as text."""
    return {
        **attrs.asdict(known, recurse=False),
        "tracking_id": known.request.tracking_id,
        "request": request_text(known.request),
        "files": orjson.dumps([attrs.asdict(file) for file in known.files]).decode(),
        "in_texts": known.deleted_at is None,
    }


def request_text(request: ImageRequest) -> str:
    """A request as it is stored."""
    # With all defaults, unlike models.to_json: a later default must not change an earlier request.
    return orjson.dumps(attrs.asdict(request)).decode()


def request_of(text: str) -> ImageRequest:
    """The inverse of ``request_text``."""
    options = orjson.loads(text)
    return checked(options, OpenAIRequest) if "pictures" in options else image_request(options)

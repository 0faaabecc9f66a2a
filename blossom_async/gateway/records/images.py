"""Pictures and idempotency keys: the statements, for one change or question and for many together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import attrs
import orjson
import sqlalchemy as sa

from blossom_async.errors import Conflict
from blossom_async.gateway.records.tables import IdempotencyEntry, ImageRecord, idempotency, images
from blossom_async.models import ImageRequest, image_request

_ERASED = "(deleted)"  # stands where the prompt of a deleted picture stood


@attrs.frozen
class Add:
    image: dict[str, Any]
    entry: dict[str, Any] | None


@attrs.frozen
class Delete:
    image_id: str
    now: datetime


@attrs.frozen
class Get:
    image_id: str


@attrs.frozen
class Find:
    tenant: str
    key: str


ONE_IS_AT_FAULT = (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.InterfaceError, OverflowError, ValueError)
"""What a single row can cause: the others of its group are then applied without it."""


def apply_together(connection: sa.Connection, changes: Sequence[Any]) -> list[Any]:
    adds = [change for change in changes if isinstance(change, Add)]
    if adds:
        connection.execute(images.insert(), [add.image for add in adds])
    if entries := [add.entry for add in adds if add.entry is not None]:
        connection.execute(idempotency.insert(), entries)
    return [None if isinstance(change, Add) else _erase(connection, change) for change in changes]


def apply_apart(connection: sa.Connection, change: Any) -> Any:
    if isinstance(change, Delete):
        return _erase(connection, change)
    try:
        with connection.begin_nested():
            _insert(connection, images, change.image, "id_taken", "A picture of this id exists.")
            if change.entry is not None:
                _insert(
                    connection,
                    idempotency,
                    change.entry,
                    "idempotency_key_taken",
                    "The Idempotency-Key was used by another request; ask again to get its answer.",
                )
    except (Conflict, *ONE_IS_AT_FAULT) as exc:
        return exc
    return None


def _insert(
    connection: sa.Connection, table: sa.Table, row: dict[str, Any], code: str, sentence: str
) -> None:
    try:
        connection.execute(table.insert(), row)
    except sa.exc.IntegrityError as exc:
        raise Conflict(sentence, code=code) from exc


def _erase(connection: sa.Connection, change: Delete) -> bool:
    live = (images.c.id == change.image_id) & images.c.deleted_at.is_(None)
    text = connection.scalar(sa.select(images.c.request).where(live).with_for_update())
    if text is None:
        return False
    request = _request(text)
    kept = ImageRequest(
        _ERASED, width=request.width, height=request.height, quality=request.quality, format=request.format
    )
    connection.execute(images.update().where(live).values(request=request_text(kept), deleted_at=change.now))
    return True


def answers(connection: sa.Connection, questions: Sequence[Any]) -> list[Any]:
    ids = {question.image_id for question in questions if isinstance(question, Get)}
    found = {}
    if ids:
        rows = connection.execute(sa.select(images).where(images.c.id.in_(ids)))
        found = {row.id: _record(row) for row in rows}
    return [
        found.get(question.image_id) if isinstance(question, Get) else _entry(connection, question)
        for question in questions
    ]


def _entry(connection: sa.Connection, question: Find) -> IdempotencyEntry | None:
    row = connection.execute(
        sa.select(idempotency).where(
            idempotency.c.tenant == question.tenant, idempotency.c.key == question.key
        )
    ).first()
    return None if row is None else IdempotencyEntry(**row._mapping)


def _record(row: sa.Row[Any]) -> ImageRecord:
    return ImageRecord(**{**row._mapping, "request": _request(row.request)})


def request_text(request: ImageRequest) -> str:
    # In full, not models.to_json: a default that changes later must not change what was asked for then.
    return orjson.dumps(attrs.asdict(request)).decode()


def _request(text: str) -> ImageRequest:
    return image_request(orjson.loads(text))


# FULL: in WAL, NORMAL loses acknowledged commits in a power cut (sqlite.org/pragma.html#pragma_synchronous).

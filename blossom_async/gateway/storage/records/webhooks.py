"""Statements about webhooks that are to be delivered.

A row is written in the transaction that ends a deferred picture. It holds no text of the picture: that is
looked up when the webhook is sent, so a delete removes it from webhooks too.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

import attrs
import sqlalchemy as sa

from blossom_async.gateway.storage.records.tables import Webhook, webhooks

__all__ = ["any_due", "bring_forward", "claim", "delivered", "enqueue", "forget", "put_off"]


def enqueue(image_id: str, tenant: str, kind: str, now: datetime, connection: sa.Connection) -> None:
    """Adds a webhook that is due at once; ``kind`` is ``image.completed`` or ``image.failed``."""
    webhook = Webhook(
        id=f"msg_{secrets.token_hex(16)}",
        image_id=image_id,
        tenant=tenant,
        kind=kind,
        created_at=now,
        next_at=now,
    )
    connection.execute(webhooks.insert().values(**attrs.asdict(webhook)))


def any_due(now: datetime, connection: sa.Connection) -> bool:
    """Whether ``claim`` would return any."""
    due = sa.exists().where(webhooks.c.next_at <= now).select_from(webhooks)
    return bool(connection.scalar(sa.select(due)))


def claim(now: datetime, until: datetime, limit: int, connection: sa.Connection) -> list[Webhook]:
    """The webhooks that are due, the longest waiting first, with this attempt counted.

    No other process claims them before ``until``. If this one dies before that, it may have sent them or not.
    """
    due = sa.select(webhooks).where(webhooks.c.next_at <= now).order_by(webhooks.c.next_at).limit(limit)
    free = due.with_for_update(skip_locked=True)  # another process is claiming the others
    found = [Webhook(**row) for row in connection.execute(free).mappings()]
    connection.execute(
        webhooks.update()
        .where(webhooks.c.id.in_([webhook.id for webhook in found]))
        .values(next_at=until, attempts=webhooks.c.attempts + 1)
    )
    return [attrs.evolve(webhook, next_at=until, attempts=webhook.attempts + 1) for webhook in found]


def delivered(webhook: Webhook, status: int, now: datetime, connection: sa.Connection) -> None:
    """Records the delivery: the webhook is not sent again."""
    values = {"next_at": None, "delivered_at": now, "last_status": status}
    connection.execute(webhooks.update().where(webhooks.c.id == webhook.id).values(**values))


def put_off(
    webhook: Webhook, status: int | None, next_at: datetime | None, connection: sa.Connection
) -> None:
    """Sets the next attempt, or gives up with None. Changes nothing if a later attempt has begun."""
    this = (webhooks.c.id == webhook.id) & (webhooks.c.attempts == webhook.attempts)
    connection.execute(
        webhooks.update()
        .where(this, webhooks.c.delivered_at.is_(None))
        .values(next_at=next_at, last_status=status)
    )


def bring_forward(by: timedelta, now: datetime, connection: sa.Connection) -> None:
    """Moves the attempts that are not due yet, after the clock was set back by that much."""
    waiting = sa.select(webhooks.c.id, webhooks.c.next_at).where(webhooks.c.next_at > now)
    for row in connection.execute(waiting).all():
        this = (webhooks.c.id == row.id) & (webhooks.c.next_at == row.next_at)
        connection.execute(webhooks.update().where(this).values(next_at=max(now, row.next_at - by)))


def forget(before: datetime, connection: sa.Connection) -> None:
    """Deletes the webhooks created before this time, delivered or not."""
    connection.execute(webhooks.delete().where(webhooks.c.created_at < before))

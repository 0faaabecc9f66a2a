"""Webhooks that are to be delivered: the statements.

A row is written in the transaction that ends a deferred call, so nothing comes between the two. It has no
words of the picture: they are looked up when it is sent, and a delete takes them away here as well.
"""

from __future__ import annotations

import secrets
from datetime import datetime

import attrs
import sqlalchemy as sa

from blossom_async.gateway.storage.records.tables import Webhook, webhooks

__all__ = ["any_due", "claim", "delivered", "enqueue", "forget", "put_off"]


def enqueue(image_id: str, tenant: str, kind: str, now: datetime, connection: sa.Connection) -> None:
    """A webhook that is due at once; ``kind`` is ``image.completed`` or ``image.failed``."""
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
    """Whether ``claim`` would find one."""
    due = sa.exists().where(webhooks.c.next_at <= now).select_from(webhooks)
    return bool(connection.scalar(sa.select(due)))


def claim(now: datetime, until: datetime, limit: int, connection: sa.Connection) -> list[Webhook]:
    """Those that are due, the longest waiting first, with this attempt counted.

    Nobody else finds them before ``until``: who claims them and ends without a word has sent them or not.
    """
    due = sa.select(webhooks).where(webhooks.c.next_at <= now).order_by(webhooks.c.next_at).limit(limit)
    found = [Webhook(**row) for row in connection.execute(due).mappings()]
    connection.execute(
        webhooks.update()
        .where(webhooks.c.id.in_([webhook.id for webhook in found]))
        .values(next_at=until, attempts=webhooks.c.attempts + 1)
    )
    return [attrs.evolve(webhook, next_at=until, attempts=webhook.attempts + 1) for webhook in found]


def delivered(webhook: Webhook, status: int, now: datetime, connection: sa.Connection) -> None:
    """It is not sent again."""
    values = {"next_at": None, "delivered_at": now, "last_status": status}
    connection.execute(webhooks.update().where(webhooks.c.id == webhook.id).values(**values))


def put_off(
    webhook: Webhook, status: int | None, next_at: datetime | None, connection: sa.Connection
) -> None:
    """It is sent again at ``next_at``, or given up with None. Nothing where a later attempt has begun."""
    this = (webhooks.c.id == webhook.id) & (webhooks.c.attempts == webhook.attempts)
    connection.execute(
        webhooks.update()
        .where(this, webhooks.c.delivered_at.is_(None))
        .values(next_at=next_at, last_status=status)
    )


def forget(before: datetime, connection: sa.Connection) -> None:
    """Takes away the rows from before this time, delivered or not."""
    connection.execute(webhooks.delete().where(webhooks.c.created_at < before))

"""Statements about the calls that an API key has left at all gateways on a database together."""

from __future__ import annotations

import sqlalchemy as sa

from blossom_async.batch import RateLimit
from blossom_async.gateway.storage.records.inserting import insert, now_s
from blossom_async.gateway.storage.records.tables import quotas

__all__ = ["take"]


def take(
    key: bytes, limit: RateLimit, want: int, unused: int, connection: sa.Connection
) -> tuple[int, float]:
    """How many of the calls wanted the key has left, which count as made from now on; and what it owes then.

    That is in how many seconds all calls of the limit are left again. ``unused`` calls of an earlier question
    were not made, and no longer count.
    """
    connection.execute(
        insert(quotas, connection.dialect.name).values(key=key, full_at=0.0).on_conflict_do_nothing()
    )
    of_key = quotas.c.key == key
    full_at = connection.execute(sa.select(quotas.c.full_at).where(of_key).with_for_update()).scalar_one()
    now, step = now_s(connection), limit.per_s / limit.amount
    # It owes no more than this; else the clock was set back.
    owed_s = max(0.0, min(full_at - now, limit.per_s) - unused * step)
    granted = min(want, int((limit.per_s * (1 + 1e-9) - owed_s) / step))
    owed_s += granted * step
    connection.execute(quotas.update().where(of_key).values(full_at=now + owed_s))
    return granted, owed_s

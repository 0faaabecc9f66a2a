"""What the database knows for the metrics, over all tenants and gateways."""

from __future__ import annotations

from typing import Any

import attrs
import sqlalchemy as sa

from blossom_async.gateway.storage.records.tables import (
    ClaimState,
    api_keys,
    attempts,
    calls,
    spending,
    stored_files,
    webhooks,
)

__all__ = ["Kept", "kept"]


@attrs.frozen(kw_only=True)
class Kept:
    """Amounts are in millionths of a US dollar, by the name of an API key; "" is the settings' keys."""

    files: dict[str, tuple[int, int]]
    """By format: files, and their bytes."""
    held: dict[str, int]
    """By provider: calls that may have been paid."""
    spent: dict[str, int]
    """Of the day, with what is reserved."""
    budgets: dict[str, int]
    webhooks: int
    """Those that are still to be delivered."""


def kept(day: int, connection: sa.Connection) -> Kept:
    """Reads it; ``day`` is counted from 1970."""
    sums = (sa.func.sum(stored_files.c.files), sa.func.sum(stored_files.c.bytes))
    files = connection.execute(sa.select(stored_files.c.format, *sums).group_by(stored_files.c.format))
    last = sa.select(attempts.c.image_id, sa.func.max(attempts.c.n).label("n")).group_by(attempts.c.image_id)
    unknown = sa.select(calls.c.image_id).where(calls.c.state == ClaimState.UNKNOWN)
    newest = last.where(attempts.c.image_id.in_(unknown)).subquery()
    of_claim = (attempts.c.image_id == newest.c.image_id) & (attempts.c.n == newest.c.n)
    held = (
        sa.select(attempts.c.provider, sa.func.count()).join(newest, of_claim).group_by(attempts.c.provider)
    )
    spent = sa.select(spending.c.payer, spending.c.spent + spending.c.reserved).where(spending.c.day == day)
    budgets = sa.select(api_keys.c.name, api_keys.c.daily_budget).where(
        api_keys.c.daily_budget.is_not(None), api_keys.c.revoked_at.is_(None)
    )
    waiting = sa.select(sa.func.count()).where(webhooks.c.next_at.is_not(None))
    return Kept(
        files={name: (int(number), int(size)) for name, number, size in files},
        held=_pairs(held, connection),
        spent=_pairs(spent, connection),
        budgets=_pairs(budgets, connection),
        webhooks=connection.scalar(waiting) or 0,
    )


def _pairs(statement: sa.Select[Any], connection: sa.Connection) -> dict[str, int]:
    return {row[0]: int(row[1]) for row in connection.execute(statement)}

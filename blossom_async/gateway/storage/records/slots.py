"""Statements about slots at a provider, which the processes on a database share."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from blossom_async.gateway.storage.records.inserting import insert, now_s
from blossom_async.gateway.storage.records.tables import owners, slots

__all__ = ["deal", "shares"]

_NOBODY = ""  # the owner in the row that is locked while slots are dealt
_TURN_S = 5.0  # where there are fewer slots than processes, they take turns of this length


def deal(owner: str, provider: str, limit: int, in_use: int, wanted: int, connection: sa.Connection) -> int:
    """How many of the ``limit`` slots this process may use from now on; 0 for one that was taken for dead.

    Until this is answered it uses at most ``in_use``, and it could use ``wanted``. What it may use and what
    the other living processes have never exceed the limit together: a process that gets fewer has them until
    it asks again.
    """
    _lock(provider, connection)
    alive = sa.select(owners.c.name).where(owners.c.alive_until > 0)
    if owner not in (living := set(connection.scalars(alive))):
        return 0
    rows = connection.execute(sa.select(slots).where(slots.c.provider == provider)).all()
    others = [row for row in rows if row.owner in living and row.owner != owner]
    asked = {row.owner: row.wanted for row in others} | {owner: wanted}
    share = shares(limit, asked, int(now_s(connection) / _TURN_S))[owner]
    granted: int = max(0, min(share, limit - sum(row.held for row in others)))
    _note(connection, provider=provider, owner=owner, held=max(in_use, granted), wanted=wanted)
    gone = [row.owner for row in rows if row.owner not in living and row.owner != _NOBODY]
    if gone:
        connection.execute(slots.delete().where(slots.c.provider == provider, slots.c.owner.in_(gone)))
    return granted


def shares(limit: int, wanted: Mapping[str, int], turn: int) -> dict[str, int]:
    """The slots divided: first to those who want them, the same to each, and then what is left.

    Each has one at least, so that a call that comes need not wait; where there are too few for that, it is
    another's ``turn`` each time.
    """
    names = sorted(wanted)
    first = turn % len(names)
    given = dict.fromkeys(names[first:] + names[:first], 0)
    for _ in range(limit):
        unmet = [name for name in given if given[name] < max(1, wanted[name])]
        given[min(unmet or given, key=given.__getitem__)] += 1
    return given


def _lock(provider: str, connection: sa.Connection) -> None:
    """Lets others wait that deal slots of this provider, until the transaction ends."""
    this = sa.select(slots).where(slots.c.provider == provider, slots.c.owner == _NOBODY)
    while connection.execute(this.with_for_update()).first() is None:
        _note(connection, provider=provider, owner=_NOBODY, held=0, wanted=0)


def _note(connection: sa.Connection, **row: object) -> None:
    noted = insert(slots, connection.dialect.name).values(**row)
    connection.execute(
        noted.on_conflict_do_update(
            index_elements=[slots.c.provider, slots.c.owner],
            set_={"held": noted.excluded.held, "wanted": noted.excluded.wanted},
        )
    )

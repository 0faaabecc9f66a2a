"""Statements about limits that many processes share: each row gives out the start times of one."""

from __future__ import annotations

import math

import attrs
import sqlalchemy as sa

from blossom_async.batch import GateQuestion, Grant
from blossom_async.batch.start_times import GateState, StartLog, grant
from blossom_async.errors import Rejected
from blossom_async.gateway.storage.records.inserting import insert, now_s
from blossom_async.gateway.storage.records.tables import gates

__all__ = ["MOST_GATES", "take", "take_and_tell"]

MOST_GATES = 1000
"""Limits of one tenant that may be in use at once."""

_REMEMBERED = 1000  # starts: each takes 8 bytes of the row

_STATE = tuple(gates.c[field.name] for field in attrs.fields(GateState))


def take(tenant: str, question: GateQuestion, connection: sa.Connection) -> Grant:
    """Start times under the tenant's limit of that name, as ``GatePlace`` says, by the database's clock.

    Raises ``Rejected`` (``too_many_gates``) for a new one while the tenant has ``MOST_GATES`` in use.
    """
    state, _ = _held(tenant, question.name, connection)
    now = now_s(connection)  # the row is this transaction's alone from here on
    state, granted = grant(state, now, question)
    after = {**attrs.asdict(state), "idle_at": state.idle_at}
    connection.execute(gates.update().where(*_this(tenant, question.name)).values(**after))
    return granted


def take_and_tell(tenant: str, question: GateQuestion, connection: sa.Connection) -> Grant:
    """As ``take``, for those who tell when each start was made: late starts cost less of the rate.

    Where both are asked for one name, ``take`` gives nothing until this has not been asked for a period.
    """
    state, packed = _held(tenant, question.name, connection)
    now = now_s(connection)
    log = None if packed is None else StartLog.unpacked(packed, remembered=_REMEMBERED)
    if log is None or log.last != state.last or log.is_ahead(now):  # or ``take`` was asked, or the clock set
        unknown_since = -math.inf if log is None and not state.last else now
        log = StartLog(unknown_since, question.limit, remembered=_REMEMBERED)
    log.note(question.used)
    granted = log.take(now, question)
    after = {"log": log.packed(), "last": log.last, "paused_until": log.idle_at, "idle_at": log.idle_at}
    connection.execute(gates.update().where(*_this(tenant, question.name)).values(**after))
    return granted


def _held(tenant: str, name: str, connection: sa.Connection) -> tuple[GateState, bytes | None]:
    """The state of the limit and its log, whose row no other transaction can change before this one ends."""
    looking = sa.select(*_STATE, gates.c.log).where(*_this(tenant, name)).with_for_update()
    while (row := connection.execute(looking).one_or_none()) is None:
        _make_room(tenant, connection)
        fresh = {**attrs.asdict(GateState(0.0)), "tenant": tenant, "name": name, "idle_at": 0.0}
        connection.execute(insert(gates, connection.dialect.name).values(**fresh).on_conflict_do_nothing())
    *state, packed = row
    return GateState(*state), packed


def _make_room(tenant: str, connection: sa.Connection) -> None:
    of_tenant = gates.c.tenant == tenant
    number = sa.select(sa.func.count()).select_from(gates).where(of_tenant)
    if connection.execute(number).scalar_one() < MOST_GATES:
        return
    connection.execute(gates.delete().where(of_tenant, gates.c.idle_at < now_s(connection)))
    if connection.execute(number).scalar_one() >= MOST_GATES:
        raise Rejected(
            f"{MOST_GATES} shared limits are in use; allowed: {MOST_GATES}; use fewer names, or wait until "
            "some have not been used for their period",
            code="too_many_gates",
        )


def _this(tenant: str, name: str) -> tuple[sa.ColumnElement[bool], ...]:
    return gates.c.tenant == tenant, gates.c.name == name

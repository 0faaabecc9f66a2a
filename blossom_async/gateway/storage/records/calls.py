"""Pictures being made: who asked, what was sent to which provider, and what it cost. The statements.

A picture is claimed before anything is paid; the claim is deleted when the picture is stored. A claim whose
outcome is unknown stays until a person decides. Attempts stay, as the ledger: each is on the disk before its
first byte leaves. Amounts are in millionths of a US dollar.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any

import attrs
import orjson
import sqlalchemy as sa

from blossom_async.errors import Conflict, PaymentRequired
from blossom_async.gateway.storage.records import spending
from blossom_async.gateway.storage.records.documents import total
from blossom_async.gateway.storage.records.images import (
    Add,
    adding,
    entry_in,
    find_idempotent,
    looking_for,
    request_of,
    request_text,
    to_row,
)
from blossom_async.gateway.storage.records.inserting import insert
from blossom_async.gateway.storage.records.tables import (
    AttemptOutcome,
    Claim,
    ClaimState,
    IdempotencyEntry,
    ImageRecord,
    ProviderAttempt,
    attempts,
    calls,
    idempotency,
)
from blossom_async.gateway.storage.records.together import (
    Message,
    NothingMatched,
    Statement,
    Steps,
    in_messages,
    together,
)
from blossom_async.gateway.storage.records.webhooks import enqueue

__all__ = [
    "ATTEMPT_MAY_BECOME",
    "CLAIM_MAY_BECOME",
    "OPEN",
    "AttemptEnd",
    "adopt",
    "attempts_of",
    "begin_attempt",
    "check_budget",
    "claim",
    "claim_by_id",
    "claim_by_key",
    "end_attempt",
    "fail",
    "finish",
    "forget",
    "give_up",
    "keys_between",
    "owners",
    "release",
    "reopen",
    "spent_by_day",
    "standing",
    "unknown_claims",
]

CLAIM_MAY_BECOME: Mapping[ClaimState | None, Set[ClaimState | None]] = {
    None: {ClaimState.RUNNING},
    ClaimState.RUNNING: {ClaimState.RUNNING, ClaimState.FAILED, ClaimState.UNKNOWN, None},
    ClaimState.UNKNOWN: {ClaimState.RUNNING, None},
    ClaimState.FAILED: {None},
}
"""The allowed transitions of a claim; None: there is none. Running to running is a change of owner."""

ATTEMPT_MAY_BECOME: Mapping[AttemptOutcome | None, Set[AttemptOutcome]] = {
    None: {AttemptOutcome.SENT},
    AttemptOutcome.SENT: set(AttemptOutcome) - {AttemptOutcome.SENT},
    AttemptOutcome.UNKNOWN: set(AttemptOutcome) - {AttemptOutcome.SENT},
    AttemptOutcome.OK: set(),
    AttemptOutcome.FAILED: set(),
    AttemptOutcome.CHARGED: set(),
}
"""The allowed transitions of an attempt. What was settled with the provider stays as it is."""

OPEN = frozenset({AttemptOutcome.SENT, AttemptOutcome.UNKNOWN})
"""Outcomes of attempts that may or may not have been paid."""


# Statements that every paid picture needs are built once: that takes longer than carrying them out.
_OWN = (
    (calls.c.image_id == sa.bindparam("of_image"))
    & (calls.c.owner == sa.bindparam("of_owner"))
    & (calls.c.state == ClaimState.RUNNING)
)
_HELD = sa.select(calls.c.image_id).where(_OWN).with_for_update()
_ENDING = calls.delete().where(_OWN)
_NEW_ATTEMPT = attempts.insert()
_WITHDRAWING = calls.delete().where(
    calls.c.image_id == sa.bindparam("of_image"),
    sa.exists().where(
        idempotency.c.tenant == sa.bindparam("of_tenant"), idempotency.c.key == sa.bindparam("of_key")
    ),
)


@attrs.frozen(kw_only=True)
class AttemptEnd:
    """How attempt ``n`` of a picture ended. ``spent`` None: what it cost is not known."""

    n: int
    outcome: AttemptOutcome
    spent: int | None
    request_id: str | None = None


@in_messages
def claim(new: Claim, connection: sa.Connection) -> Steps[Claim | IdempotencyEntry]:
    """The new claim, now stored; or what its key has already: an earlier claim, or the picture it made.

    It is stored first, and the key is looked up after that: if the looks came first, another process could
    finish its picture between them, and neither would find it.
    """
    claiming = _claiming(connection.dialect.name), _row(new)
    if new.key is None:
        yield Message([claiming], last=True)
        return new
    of_key = {"of_tenant": new.tenant, "of_key": new.key}
    withdrawing = _WITHDRAWING, {"of_image": new.image_id, **of_key}
    message = Message([claiming, withdrawing, looking_for(new.tenant, new.key)], last=True)
    while True:
        claimed, withdrawn, found = yield message
        if claimed.rows and not withdrawn.count:
            return new
        made = entry_in(found.rows) if claimed.rows else standing(new.tenant, new.key, connection)
        if made is not None:
            return made


@cache
def _claiming(dialect: str) -> sa.Executable:
    unless_standing = insert(calls, dialect).on_conflict_do_nothing(
        index_elements=[calls.c.tenant, calls.c.key]
    )
    return unless_standing.returning(calls.c.image_id)


def standing(tenant: str, key: str, connection: sa.Connection) -> Claim | IdempotencyEntry | None:
    """What the tenant's key has already: a claim, else the picture made under it."""
    # In this order: a claim that ends between the two looks has made the picture.
    return claim_by_key(tenant, key, connection) or find_idempotent(tenant, key, connection)


def claim_by_id(image_id: str, connection: sa.Connection) -> Claim | None:
    """The claim of a picture that is not there yet, or never will be."""
    return _one(connection, calls.c.image_id == image_id)


def claim_by_key(tenant: str, key: str, connection: sa.Connection) -> Claim | None:
    """The claim under the tenant's key, None once its picture is stored."""
    return _one(connection, (calls.c.tenant == tenant) & (calls.c.key == key))


def keys_between(tenant: str, first: str, last: str, connection: sa.Connection) -> list[str]:
    """The tenant's idempotency keys from ``first`` to before ``last``, of claims and of stored pictures."""
    found: list[str] = []
    for table in (calls, idempotency):
        within = (table.c.tenant == tenant) & (table.c.key >= first) & (table.c.key < last)
        found += connection.scalars(sa.select(table.c.key).where(within))
    return found


def owners(connection: sa.Connection) -> set[str]:
    """The processes that have claims under way."""
    return set(
        connection.scalars(sa.select(calls.c.owner).where(calls.c.state == ClaimState.RUNNING).distinct())
    )


def adopt(gone: str, owner: str, connection: sa.Connection) -> list[Claim]:
    """Hands the running claims of a process that has ended to ``owner``, and returns them."""
    theirs = (calls.c.owner == gone) & (calls.c.state == ClaimState.RUNNING)
    # By the owner's name in the row itself: of two that adopt at once, the later one finds another there.
    moved = connection.execute(calls.update().where(theirs).values(owner=owner).returning(calls))
    return sorted(map(_claim, moved.mappings()), key=attrgetter("created_at"))


def reopen(image_id: str, owner: str, connection: sa.Connection) -> Claim | None:
    """The unknown claim, running again under this owner; None if it is not unknown."""
    held = (calls.c.image_id == image_id) & (calls.c.state == ClaimState.UNKNOWN)
    moved = _move(held, ClaimState.RUNNING, connection, owner=owner, problem=None)
    return claim_by_id(image_id, connection) if moved else None


def attempts_of(image_id: str, connection: sa.Connection) -> list[ProviderAttempt]:
    """The attempts at a picture, in order."""
    rows = connection.execute(
        sa.select(attempts).where(attempts.c.image_id == image_id).order_by(attempts.c.n)
    )
    return [ProviderAttempt(**row) for row in rows.mappings()]


@in_messages
def begin_attempt(
    claim: Claim, attempt: ProviderAttempt, default_budget: int | None, connection: sa.Connection
) -> Steps[None]:
    """Reserves its price, while ``claim`` is this process's.

    Raises ``Conflict`` if it is not, and ``PaymentRequired``: ``budget_exhausted`` beyond the key's budget of
    the day, ``price_unknown`` for a budget that cannot be kept because the attempt is not ``priced``.

    ``default_budget`` is for keys without one of their own. Once this is on the disk the request may leave:
    whoever finds it later knows that it may have.
    """
    payer, day = attempt.payer, attempt.day
    amounts = payer, day, attempt.reserved, default_budget
    holding, reserving = (_HELD, _of(claim)), spending.reserving(*amounts)
    beginning = _NEW_ATTEMPT, attrs.asdict(attempt)
    if attempt.priced:
        with contextlib.suppress(NothingMatched):  # why not, is told below
            yield Message([holding, reserving, beginning], needed=2, last=True)
            return
    held, reserved = yield Message([holding, reserving])
    if not held.rows:
        raise _taken_over()
    if not attempt.priced and (spending.budget_of(payer, default_budget, connection)) is not None:
        raise PaymentRequired(
            f"what this picture costs at {attempt.provider} is not known, so the API key's daily budget "
            "cannot be kept; name another model or size, or use a key without a budget",
            code="price_unknown",
        )
    if reserved.count != 1 and not spending.reserve(*amounts, connection):
        raise _beyond(attempt, *_left(attempt, default_budget, connection))
    yield Message([beginning], last=True)


def check_budget(attempt: ProviderAttempt, default_budget: int | None, connection: sa.Connection) -> None:
    """Raises ``PaymentRequired`` as ``begin_attempt`` would now, beyond the budget; reserves nothing."""
    budget, left = _left(attempt, default_budget, connection)
    if budget is not None and left < attempt.reserved:
        raise _beyond(attempt, budget, left)


def _left(
    attempt: ProviderAttempt, default_budget: int | None, connection: sa.Connection
) -> tuple[int | None, int]:
    """The budget of the key that pays, and what is left of it on the day."""
    budget = spending.budget_of(attempt.payer, default_budget, connection)
    return budget, spending.left(attempt.payer, attempt.day, budget or 0, connection)


def _beyond(attempt: ProviderAttempt, budget: int | None, left: int) -> PaymentRequired:
    return PaymentRequired(
        f"the API key's budget of {(budget or 0) / 1e6:.2f} US dollars a day has {left / 1e6:.4f} left, and "
        f"this picture costs {attempt.reserved / 1e6:.4f}; wait for the next day (UTC), or raise the budget",
        code="budget_exhausted",
    )


@in_messages
def end_attempt(claim: Claim, end: AttemptEnd, now: datetime, _: sa.Connection) -> Steps[None]:
    """Settles an attempt; its claim goes on. Raises ``Conflict`` unless it is this process's."""
    yield from _if_own(claim, _HELD, _settling(claim.image_id, end, now), last=True)


def _settling(image_id: str, end: AttemptEnd, now: datetime) -> list[Statement]:
    """The statements that settle an attempt, and book what it cost."""
    this = {"of_image": image_id, "of_n": end.n}
    ended = {"outcome": end.outcome, "spent": end.spent or 0, "request_id": end.request_id, "ended_at": now}
    if end.spent is not None:
        ended["priced"] = True
    ending, open_ = _ending(end.outcome)
    if end.outcome in OPEN:
        return [(ending, {**this, **ended})]
    return [spending.settling(open_, this, end.spent or 0), (ending, {**this, **ended})]


@cache
def _ending(after: AttemptOutcome) -> tuple[sa.Executable, sa.ColumnElement[bool]]:
    """Ends the attempt ``of_n`` at the picture ``of_image``, if it may; and what finds it before that."""
    may_end = [before for before, afters in ATTEMPT_MAY_BECOME.items() if before and after in afters]
    this = (attempts.c.image_id == sa.bindparam("of_image")) & (attempts.c.n == sa.bindparam("of_n"))
    open_ = this & sa.or_(sa.false(), *(attempts.c.outcome == each for each in may_end))
    return attempts.update().where(open_), open_


@in_messages
def finish(
    claim: Claim,
    record: ImageRecord,
    entry: IdempotencyEntry | None,
    end: AttemptEnd,
    now: datetime,
    connection: sa.Connection,
) -> Steps[None]:
    """The picture is stored: its row, its key, the end of its attempt and its webhook, or none of them.

    Raises ``Conflict`` when the claim is not this process's any more.
    """
    add = Add(to_row(record), None if entry is None else attrs.asdict(entry))
    storing = [*adding(add, connection.dialect.name), *_settling(record.id, end, now)]
    try:
        yield from _if_own(claim, _ENDING, storing, last=not record.request.defer)
    except sa.exc.IntegrityError as exc:
        if entry is None:
            raise
        raise Conflict(
            "the Idempotency-Key has made another picture meanwhile; use a new key for each request",
            code="idempotency_key_taken",
        ) from exc
    if record.request.defer:
        enqueue(record.id, record.tenant, "image.completed", now, connection)


@in_messages
def fail(
    claim: Claim,
    state: ClaimState,
    problem: dict[str, Any],
    end: AttemptEnd | None,
    now: datetime,
    connection: sa.Connection,
) -> Steps[None]:
    """Settles the attempt, keeps the claim as ``failed`` or ``unknown``, and queues its webhook.

    ``problem`` is the reason, in the words of the answer. Raises ``Conflict`` unless it is this process's.
    """
    settling = [] if end is None else _settling(claim.image_id, end, now)
    yield from _if_own(claim, _HELD, settling)
    told = orjson.dumps(problem).decode()
    moved = _move(_mine(claim), state, connection, owner=None, problem=told, ended_at=now)
    if moved and claim.request.defer:
        enqueue(claim.image_id, claim.tenant, "image.failed", now, connection)


@in_messages
def give_up(claim: Claim, end: AttemptEnd | None, now: datetime, _: sa.Connection) -> Steps[None]:
    """Settles the attempt and removes the claim, as if it had never been made. Its attempts stay.

    Raises ``Conflict`` unless the claim is this process's.
    """
    settling = [] if end is None else _settling(claim.image_id, end, now)
    yield from _if_own(claim, _ENDING, settling, last=True)


def forget(image_id: str, connection: sa.Connection) -> bool:
    """Removes a failed claim; its key may be used again. False if it is not failed."""
    failed = (calls.c.image_id == image_id) & (calls.c.state == ClaimState.FAILED)
    return _move(failed, None, connection) == 1


def unknown_claims(connection: sa.Connection) -> list[tuple[Claim, ProviderAttempt]]:
    """Claims that may or may not have been paid, each with the attempt in question, the oldest first."""
    found = _several(connection, calls.c.state == ClaimState.UNKNOWN)
    return [(claim, attempts_of(claim.image_id, connection)[-1]) for claim in found]


def release(image_id: str, connection: sa.Connection, *, paid: bool, now: datetime) -> bool:
    """Ends an unknown claim as a person decided; its key may be used again. False if it is not unknown."""
    held = sa.select(calls.c.image_id).where(
        calls.c.image_id == image_id, calls.c.state == ClaimState.UNKNOWN
    )
    if connection.scalar(held.with_for_update()) is None:
        return False
    last = attempts_of(image_id, connection)[-1]
    paid_usd = last.reserved if last.priced else None
    spent = paid_usd if paid else 0
    outcome = AttemptOutcome.CHARGED if paid else AttemptOutcome.FAILED
    end = AttemptEnd(n=last.n, outcome=outcome, spent=spent, request_id=last.request_id)
    together(connection, *_settling(image_id, end, now))
    _move(calls.c.image_id == image_id, None, connection)
    return True


def spent_by_day(first: int, last: int, connection: sa.Connection) -> Sequence[sa.RowMapping]:
    """For each day, payer and provider: attempts, pictures, micro-dollars spent and still reserved.

    ``unpriced`` attempts cost something that nobody knows.
    """
    open_ = attempts.c.outcome.in_(OPEN)
    columns = (attempts.c.day, attempts.c.payer, attempts.c.provider)
    return (
        connection.execute(
            sa.select(
                *columns,
                sa.func.count().label("attempts"),
                total(sa.case((attempts.c.outcome == AttemptOutcome.OK, 1), else_=0)).label("pictures"),
                total(attempts.c.spent).label("spent"),
                total(sa.case((attempts.c.priced, 0), else_=1)).label("unpriced"),
                total(sa.case((open_, attempts.c.reserved), else_=0)).label("reserved"),
            )
            .where(attempts.c.day.between(first, last))
            .group_by(*columns)
            .order_by(*columns)
        )
        .mappings()
        .all()
    )


def _mine(claim: Claim) -> sa.ColumnElement[bool]:
    owned = (calls.c.owner == claim.owner) & (calls.c.state == ClaimState.RUNNING)
    return (calls.c.image_id == claim.image_id) & owned


def _if_own(
    claim: Claim, first: sa.Executable, others: Sequence[Statement], *, last: bool = False
) -> Steps[None]:
    """Carries out the statements, of which the first holds or ends a claim of this process.

    Raises ``Conflict`` if another has taken it over.
    """
    try:
        yield Message([(first, _of(claim)), *others], needed=1, last=last)
    except NothingMatched:
        raise _taken_over() from None


def _of(claim: Claim) -> dict[str, Any]:
    return {"of_image": claim.image_id, "of_owner": claim.owner}


def _taken_over() -> Conflict:
    return Conflict(
        "another process has taken this picture over; ask again with the same Idempotency-Key",
        code="finished_elsewhere",
    )


def _move(
    condition: sa.ColumnElement[bool], after: ClaimState | None, connection: sa.Connection, **values: Any
) -> int:
    """Moves these claims to the state, from any that may become it; returns how many."""
    may_move = [before for before, states in CLAIM_MAY_BECOME.items() if before and after in states]
    these = condition & calls.c.state.in_(may_move)
    if after is None:
        return connection.execute(calls.delete().where(these)).rowcount
    return connection.execute(calls.update().where(these).values(state=after, **values)).rowcount


def _one(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Claim | None:
    found = _several(connection, condition)
    return found[0] if found else None


def _several(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Claim]:
    rows = connection.execute(sa.select(calls).where(condition).order_by(calls.c.created_at)).mappings()
    return [_claim(row) for row in rows]


def _claim(row: sa.RowMapping) -> Claim:
    request = request_of(row["request"])
    problem = None if row["problem"] is None else orjson.loads(row["problem"])
    return Claim(**{**row, "request": request, "problem": problem})


def _row(claim: Claim) -> dict[str, Any]:
    return {
        **attrs.asdict(claim, recurse=False),
        "request": request_text(claim.request),
        "problem": None if claim.problem is None else orjson.dumps(claim.problem).decode(),
    }

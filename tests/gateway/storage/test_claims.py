"""Claims and attempts: no statement moves one from a state to another that the table does not allow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa

from blossom_async.errors import BlossomError
from blossom_async.gateway.storage.records import calls as statements
from blossom_async.gateway.storage.records.tables import (
    METADATA,
    AttemptOutcome,
    Claim,
    ClaimState,
    ImageRecord,
    ProviderAttempt,
    StoredFile,
    attempts,
    calls,
)
from blossom_async.models import ImageRequest

NOW = datetime(2026, 11, 27, tzinfo=UTC)
ID = "a" * 22
WISH = ImageRequest("a lake", width=32, height=32, seed=7)
CLAIM = Claim(
    image_id=ID, tenant="main", payer="", key="k", fingerprint="f", request=WISH, owner="me", created_at=NOW
)
ATTEMPT = ProviderAttempt(
    image_id=ID, n=0, tenant="main", payer="", provider="paid", provider_key="pk",
    day=20_000, reserved=40_000, priced=True, sent_at=NOW,
)  # fmt: skip
PICTURE = ImageRecord(
    id=ID, tenant="main", request=WISH, width=32, height=32,
    files=(StoredFile(format="png", sha256="0" * 64, file_size=1),),
    provider="paid", model="m", seed=7, cost=1, created_at=NOW, expires_at=None,
)  # fmt: skip

ENDS = [statements.AttemptEnd(n=0, outcome=outcome, spent=1) for outcome in AttemptOutcome]
READ = {
    "attempts_of", "check_budget", "claim_by_id", "claim_by_key", "keys_between", "owners", "spent_by_day",
    "standing", "unknown_claims",
}  # fmt: skip
CHANGES: dict[str, list[Any]] = {
    "claim": [partial(statements.claim, CLAIM)],
    "adopt": [partial(statements.adopt, "me", "another")],
    "reopen": [partial(statements.reopen, ID, "another")],
    "begin_attempt": [partial(statements.begin_attempt, CLAIM, ATTEMPT, None)],
    "end_attempt": [partial(statements.end_attempt, CLAIM, end, NOW) for end in ENDS],
    "finish": [partial(statements.finish, CLAIM, PICTURE, None, ENDS[1], NOW)],
    "fail": [partial(statements.fail, CLAIM, state, {"status": 502}, ENDS[2], NOW) for state in ClaimState],
    "give_up": [partial(statements.give_up, CLAIM, ENDS[2], NOW)],
    "forget": [partial(statements.forget, ID)],
    "release": [partial(statements.release, ID, paid=paid, now=NOW) for paid in (True, False)],
}
"""Every statement that changes something, with what it can be asked for."""


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    METADATA.create_all(engine)
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def books(connection: sa.Connection, state: ClaimState | None, outcome: AttemptOutcome | None) -> None:
    """One claim in this state, with one attempt of this outcome."""
    connection.rollback()
    statements.claim(CLAIM, connection)
    if outcome is not None:
        statements.begin_attempt(CLAIM, ATTEMPT, None, connection)
        connection.execute(attempts.update().values(outcome=outcome))
    if state is None:
        connection.execute(calls.delete())
    else:
        connection.execute(calls.update().values(state=state))


def test_no_statement_leaves_the_table_of_transitions(connection: sa.Connection) -> None:
    """Tried from every state; and each transition of the table is made by some statement."""
    claims: set[tuple[ClaimState | None, ClaimState | None]] = set()
    tries: set[tuple[AttemptOutcome | None, AttemptOutcome | None]] = set()
    for change in (change for changes in CHANGES.values() for change in changes):
        for state, outcome in product([None, *ClaimState], [None, *AttemptOutcome]):
            books(connection, state, outcome)
            with suppress(BlossomError, sa.exc.IntegrityError, IndexError):
                change(connection)
                claims.add((state, connection.scalar(sa.select(calls.c.state))))
                tries.add((outcome, connection.scalar(sa.select(attempts.c.outcome))))
    allowed = {(before, after) for before, may in statements.CLAIM_MAY_BECOME.items() for after in may}
    assert {move for move in claims if move[0] is not move[1]} | {(ClaimState.RUNNING,) * 2} == allowed
    allowed_ends = {(before, after) for before, may in statements.ATTEMPT_MAY_BECOME.items() for after in may}
    assert {end for end in tries if end[0] is not end[1]} | {(AttemptOutcome.UNKNOWN,) * 2} == allowed_ends


def test_every_statement_that_changes_something_is_tried() -> None:
    """A new one belongs into the walk above."""
    public = {name for name in statements.__all__ if name.islower()}  # the others are no statements
    assert public == READ | set(CHANGES)


@pytest.mark.parametrize("state", [ClaimState.FAILED, ClaimState.UNKNOWN])
def test_only_a_running_claim_becomes_a_picture(state: ClaimState, connection: sa.Connection) -> None:
    """What another process has ended is not stored over its end."""
    books(connection, state, AttemptOutcome.SENT)
    with pytest.raises(BlossomError, match="taken this picture over"):
        statements.finish(CLAIM, PICTURE, None, ENDS[1], NOW, connection)

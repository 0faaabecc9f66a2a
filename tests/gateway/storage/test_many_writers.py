"""Several processes on one database: each race has one winner, in every kind of database.

Two connections run what two processes would. The second begins while the transaction of the first is open,
and goes on once the first has committed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import attrs
import pytest
import sqlalchemy as sa

from blossom_async.errors import Conflict, PaymentRequired
from blossom_async.gateway.storage.records import (
    AttemptOutcome,
    Claim,
    ClaimState,
    IdempotencyEntry,
    views,
    webhooks,
)
from blossom_async.gateway.storage.records import calls as statements
from blossom_async.gateway.storage.records.images import Delete
from blossom_async.gateway.storage.records.store import Records
from blossom_async.gateway.storage.records.tables import attempts, calls, idempotency, spending
from blossom_async.gateway.storage.records.upkeep import mark_swept
from tests.gateway.storage.test_claims import ATTEMPT, CLAIM, NOW, PICTURE
from tests.waiting import wait_until

T = TypeVar("T")
ENTRY = IdempotencyEntry(tenant="main", key="k", fingerprint="f", image_id=PICTURE.id)
END = statements.AttemptEnd(n=0, outcome=AttemptOutcome.OK, spent=1)
Change = Callable[[sa.Connection], T]


class Two:
    """Two processes on one database."""

    def __init__(self, place: Path | str) -> None:
        self.first, self.second = (Records(place)._database for _ in range(2))
        self.first.prepare()

    def do(self, change: Change[T]) -> T:
        """Makes a change by itself."""
        with self.first.writing.begin() as connection:
            return change(connection)

    def race(self, one: Change[object], other: Change[T]) -> T:
        """What ``other`` gives that begins before ``one`` has committed, and waits for it where it must."""
        with ThreadPoolExecutor(1) as pool:
            with self.first.writing.connect() as connection:
                one(connection)
                begun = threading.Event()
                given = pool.submit(self._other, other, begun)
                wait_until(lambda: given.done() or (begun.is_set() and self._waits()))
                connection.commit()
            return given.result()

    def close(self) -> None:
        for database in (self.first, self.second):
            database.reading.dispose()
            database.writing.dispose()

    def _other(self, change: Change[T], begun: threading.Event) -> T:
        begun.set()
        (given,) = self.second.apply([change])
        if isinstance(given, Exception):
            raise given
        return given  # type: ignore[no-any-return]

    def _waits(self) -> bool:
        """Whether the second waits for a lock. SQLite's does from its beginning, and nobody can see it."""
        if self.first.reading.dialect.name == "sqlite":
            return True
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        with self.first.reading.connect() as connection:
            return bool(connection.exec_driver_sql(waiting).scalar())


@pytest.fixture
def two(place: Path | str) -> Iterator[Two]:
    two = Two(place)
    yield two
    two.close()


def paying(two: Two, claim: Claim = CLAIM) -> None:
    """A claim with an attempt under way."""
    two.do(partial(statements.claim, claim))
    two.do(partial(statements.begin_attempt, claim, attrs.evolve(ATTEMPT, image_id=claim.image_id), None))


def count(two: Two, table: sa.Table) -> int:
    with two.first.reading.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_of_two_claims_of_a_key_one_is_joined(two: Two) -> None:
    """The later process gets the claim of the earlier one, and no error."""
    given = two.race(
        partial(statements.claim, CLAIM),
        partial(statements.claim, attrs.evolve(CLAIM, image_id="b" * 22, owner="another")),
    )
    assert given == CLAIM
    assert count(two, calls) == 1


def test_a_key_whose_picture_is_just_being_stored_is_not_paid_again(two: Two) -> None:
    """Wherever the claim ends between the looks of another process."""
    paying(two)
    given = two.race(
        partial(statements.finish, CLAIM, PICTURE, ENTRY, END, NOW),
        partial(statements.claim, attrs.evolve(CLAIM, image_id="b" * 22, owner="another")),
    )
    assert given == ENTRY
    assert (count(two, calls), count(two, idempotency)) == (0, 1)


def test_a_budget_is_not_passed_by_two_at_once(two: Two) -> None:
    """Each fits alone; the second is refused."""
    other = attrs.evolve(CLAIM, image_id="b" * 22, key="other", owner="another")
    for claim in (CLAIM, other):
        two.do(partial(statements.claim, claim))
    with pytest.raises(PaymentRequired, match=r"0\.0200 left"):
        two.race(
            partial(statements.begin_attempt, CLAIM, ATTEMPT, 60_000),
            partial(statements.begin_attempt, other, attrs.evolve(ATTEMPT, image_id=other.image_id), 60_000),
        )
    with two.first.reading.connect() as connection:
        assert connection.scalar(sa.select(spending.c.reserved)) == ATTEMPT.reserved


def test_calls_are_adopted_by_one(two: Two) -> None:
    """Of two that find the same process gone, one gets its calls and the other none."""
    for number in range(3):
        two.do(partial(statements.claim, attrs.evolve(CLAIM, image_id=f"{number:022}", key=None)))
    taken: list[Claim] = []
    left = two.race(
        lambda connection: taken.extend(statements.adopt("me", "one", connection)),
        partial(statements.adopt, "me", "other"),
    )
    assert ({claim.owner for claim in taken}, len(taken), left) == ({"one"}, 3, [])


def test_an_unknown_call_is_reopened_by_one(two: Two) -> None:
    """The other learns that it is not unknown any more."""
    paying(two)
    two.do(partial(statements.fail, CLAIM, ClaimState.UNKNOWN, {"status": 409}, None, NOW))
    given = two.race(
        partial(statements.reopen, CLAIM.image_id, "one"), partial(statements.reopen, CLAIM.image_id, "other")
    )
    assert given is None


ENDINGS: dict[str, Change[object]] = {
    "begin": partial(statements.begin_attempt, CLAIM, attrs.evolve(ATTEMPT, n=1), None),
    "end": partial(statements.end_attempt, CLAIM, END, NOW),
    "finish": partial(statements.finish, CLAIM, PICTURE, ENTRY, END, NOW),
    "fail": partial(statements.fail, CLAIM, ClaimState.FAILED, {"status": 502}, END, NOW),
    "give up": partial(statements.give_up, CLAIM, END, NOW),
}


@pytest.mark.parametrize("change", ENDINGS.values(), ids=ENDINGS)
def test_who_lost_a_call_changes_nothing_of_it(change: Change[object], two: Two) -> None:
    """A process that was taken for dead, and wakes while another takes its call over."""
    paying(two)
    with pytest.raises(Conflict, match="taken this picture over"):
        two.race(partial(statements.adopt, "me", "another"), change)
    with two.first.reading.connect() as connection:
        assert connection.scalar(sa.select(calls.c.owner)) == "another"
        assert connection.execute(sa.select(attempts.c.outcome)).scalars().all() == [AttemptOutcome.SENT]


def test_a_webhook_is_claimed_by_one(two: Two) -> None:
    """Two processes that look at the same time never send the same."""
    for number in range(3):
        two.do(partial(webhooks.enqueue, f"{number:022}", "main", "image.completed", NOW))
    later = NOW + timedelta(minutes=1)
    sent = two.race(
        partial(webhooks.claim, NOW, later, 2),
        partial(webhooks.claim, NOW, later, 2),
    )
    assert len(sent) == 1


def test_views_in_any_order_never_wait_in_a_circle(two: Two) -> None:
    """Both processes have seen the same pictures, in opposite orders; no view is lost."""
    ids = [f"{number:022}" for number in range(20)]
    for image_id in ids:
        two.do(partial(statements.claim, claim := attrs.evolve(CLAIM, image_id=image_id, key=None)))
        two.do(partial(statements.finish, claim, attrs.evolve(PICTURE, id=image_id), None, END, NOW))
    seen = [("main", f"campaign {number % 2}", 20_000, image_id) for number, image_id in enumerate(ids)]

    def store(order: list[tuple[str, str, int, str]]) -> Change[None]:
        counts = dict.fromkeys(order, (1, 0, 0))
        return partial(views.store, counts, {(picture, bytes(32)) for picture in order}, NOW)

    with ThreadPoolExecutor(2) as pool:
        both = [(two.first, seen), (two.second, seen[::-1])]
        done = [pool.submit(database.apply, [store(order)]) for _ in range(10) for database, order in both]
    assert {answer for each in done for answer in each.result()} == {None}
    with two.first.reading.connect() as connection:
        told = views.campaign_views("main", "campaign 0", 0, 99_999, connection)
    assert told is not None
    assert [day[1:] for day in told.days] == [(200, 0, 0, 1)]


def test_views_of_a_picture_that_is_being_deleted_keep_no_link_to_it(two: Two) -> None:
    """They count for its campaign."""
    two.do(partial(statements.claim, CLAIM))
    two.do(partial(statements.finish, CLAIM, PICTURE, None, END, NOW))
    picture = ("main", "spring", 20_000, PICTURE.id)
    two.race(Delete(PICTURE.id, NOW), partial(views.store, {picture: (1, 0, 0)}, {(picture, bytes(32))}, NOW))
    with two.first.reading.connect() as connection:
        assert views.campaign_views("main", "spring", 0, 99_999, connection) is not None
        assert connection.scalar(sa.text("SELECT image_id FROM views")) == ""
        assert connection.scalar(sa.text("SELECT image_id FROM viewers")) == ""


def test_a_picture_swept_by_two_is_taken_away_once(two: Two) -> None:
    """From the totals of stored files."""
    two.do(partial(statements.claim, CLAIM))
    two.do(partial(statements.finish, CLAIM, PICTURE, None, END, NOW))
    sweep = partial(mark_swept, [PICTURE.id], NOW)
    two.race(sweep, sweep)
    with two.first.reading.connect() as connection:
        assert connection.execute(sa.text("SELECT files, bytes FROM stored_files")).all() == [(0, 0)]


def test_an_access_log_is_counted_by_one_import(two: Two) -> None:
    """The other stops before it counts anything twice."""
    importing = partial(views.store_imported, b"log", 0, 100, {}, set(), NOW)
    with pytest.raises(Conflict, match="importing this log"):
        two.race(importing, importing)

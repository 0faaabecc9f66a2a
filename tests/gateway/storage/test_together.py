"""Statements carried out one after another, in each kind of database."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import attrs
import pytest
import sqlalchemy as sa

from blossom_async.errors import Conflict, Overloaded
from blossom_async.gateway.storage.records import (
    AttemptOutcome,
    Claim,
    IdempotencyEntry,
    ImageRecord,
    ProviderAttempt,
    Records,
    calls,
)
from blossom_async.gateway.storage.records.images import looking_for
from blossom_async.gateway.storage.records.postgres import Postgres
from blossom_async.gateway.storage.records.sqlite import Sqlite
from blossom_async.gateway.storage.records.tables import spending
from blossom_async.gateway.storage.records.together import (
    Message,
    NothingMatched,
    Statement,
    Steps,
    in_messages,
    together,
)
from blossom_async.gateway.storage.records.wire import Patient, Sent
from blossom_async.models import ImageRequest

_NEW = spending.insert()
_RAISE = spending.update().where(spending.c.payer == sa.bindparam("of")).values(spent=spending.c.spent + 1)
_ALL = sa.select(spending.c.payer, spending.c.spent).order_by(spending.c.payer)


def paid(payer: str) -> Statement:
    return _NEW, {"payer": payer, "day": 1, "reserved": 0, "spent": 5}


@in_messages
def payment(payer: str, connection: sa.Connection) -> Steps[str]:
    """Returns how far the log had been written before it was committed."""
    at = sa.text("SELECT pg_current_wal_insert_lsn()::text")
    _, place = yield Message([paid(payer), (at, {})], last=True)
    return str(place.rows[0][0])


@pytest.fixture
def database(place: Path | str) -> Iterator[Sqlite | Postgres]:
    database = Records(place)._database
    database.prepare()
    yield database
    database.reading.dispose()
    database.writing.dispose()


def rows(database: Sqlite | Postgres) -> list[tuple[str, int]]:
    with database.reading.connect() as connection:
        return [(row.payer, row.spent) for row in connection.execute(_ALL)]


def test_each_sees_what_those_before_it_have_done(database: Sqlite | Postgres) -> None:
    """Rows and counts come in the order of the statements."""

    def change(connection: sa.Connection) -> list[object]:
        one, both, none, found, missing = together(
            connection,
            paid("ada"),
            (_RAISE, {"of": "ada"}),
            (_RAISE, {"of": "bob"}),
            (_ALL, {}),
            looking_for("t", "k"),
        )
        return [one.count, both.count, none.count, [tuple(row) for row in found.rows], list(missing.rows)]

    assert database.apply([change]) == [[1, 1, 0, [("ada", 6)], []]]
    assert rows(database) == [("ada", 6)]


def test_each_change_of_a_group_has_an_end_of_its_own(database: Sqlite | Postgres) -> None:
    """Also if another of the group is refused, by the server or by what it finds."""
    now, wish = datetime(2026, 11, 27, tzinfo=UTC), ImageRequest("a lake", width=32, height=32, seed=7)
    first = Claim(
        image_id="a" * 22, tenant="t", payer="", key="k", fingerprint="f", request=wish, owner="me",
        created_at=now,
    )  # fmt: skip
    second = attrs.evolve(first, image_id="b" * 22)
    elsewhere = attrs.evolve(first, image_id="c" * 22, key="l")
    attempt = ProviderAttempt(
        image_id=first.image_id, n=0, tenant="t", payer="", provider="paid", provider_key="pk", day=20_000,
        reserved=4, priced=True, sent_at=now,
    )  # fmt: skip
    begun = [
        partial(calls.claim, first),
        partial(calls.claim, second),
        partial(calls.begin_attempt, first, attempt, 10),
        partial(calls.begin_attempt, elsewhere, attempt, 10),
        partial(calls.begin_attempt, first, attrs.evolve(attempt, n=1, reserved=7), 10),
    ]
    *given, taken_over, beyond = database.apply(begun)
    assert given == [first, first, None]
    assert taken_over.code == "finished_elsewhere"
    assert beyond.code == "budget_exhausted"

    def made(claim: Claim) -> Any:
        picture = ImageRecord(
            id=claim.image_id, tenant="t", request=wish, width=32, height=32, files=(), provider="paid",
            model="m", seed=7, cost=1, created_at=now, expires_at=None,
        )  # fmt: skip
        entry = IdempotencyEntry(tenant="t", key="k", fingerprint="f", image_id=claim.image_id)
        end = calls.AttemptEnd(n=0, outcome=AttemptOutcome.OK, spent=3)
        return partial(calls.finish, claim, picture, entry, end, now)

    claim_again, ending = partial(calls.claim, second), partial(calls.give_up, elsewhere, None, now)
    assert database.apply([partial(calls.claim, elsewhere), made(first)]) == [elsewhere, None]
    taken, replayed, again = database.apply([made(elsewhere), claim_again, made(first)])
    assert database.apply([ending]) == [None]
    assert taken.code == "idempotency_key_taken"
    assert replayed == IdempotencyEntry(tenant="t", key="k", fingerprint="f", image_id=first.image_id)
    assert again.code == "finished_elsewhere"
    with database.reading.connect() as connection:
        assert connection.execute(sa.select(spending.c.reserved, spending.c.spent)).all() == [(0, 3)]


def test_a_group_is_sent_in_one_message(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is committed by itself; what the server refuses is made alone, and what it has forgotten again."""
    sent = []
    exchange = Patient.exchange

    def counted(self: Patient, parts: list[list[Sent]]) -> Any:
        sent.append(len(parts))
        return exchange(self, parts)

    monkeypatch.setattr(Patient, "exchange", counted)
    database = Postgres(sa.make_url(postgres_url))
    database.prepare()
    sent.clear()
    assert all(isinstance(place, str) for place in database.apply([partial(payment, of) for of in "abc"]))
    assert sent == [4]  # the last one waits for the disk
    place, refused, other = database.apply([partial(payment, of) for of in "dae"])
    assert isinstance(refused, sa.exc.IntegrityError)
    assert place < other
    with database.writing.connect() as connection:
        connection.exec_driver_sql("DEALLOCATE ALL")
    assert len(database.apply([partial(payment, of) for of in "fg"])) == 2
    assert [payer for payer, _ in rows(database)] == list("abcdefg")
    database.reading.dispose()
    database.writing.dispose()


def test_nobody_knows_of_a_group_whose_connection_is_lost(postgres_url: str) -> None:
    """None of it is made again."""
    runs = []

    @in_messages
    def losing(_: sa.Connection) -> Steps[None]:
        runs.append(1)
        yield Message([(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"), {})], last=True)

    database = Postgres(sa.make_url(postgres_url))
    database.prepare()
    told = database.apply([partial(payment, "a"), partial(losing), partial(payment, "b")])
    assert all(isinstance(each, Overloaded) for each in told)
    assert runs == [1]
    assert rows(database) == [("a", 5)]
    database.reading.dispose()
    database.writing.dispose()


def test_nothing_is_left_of_those_before_one_that_fails(database: Sqlite | Postgres) -> None:
    """The error is that of the statement; the change after it is made all the same."""
    failed, made = database.apply(
        [
            lambda connection: together(connection, paid("ada"), paid("ada"), paid("bob")),
            lambda connection: together(connection, paid("cy"))[0].count,
        ]
    )
    assert isinstance(failed, sa.exc.IntegrityError)
    assert made == 1
    assert rows(database) == [("cy", 5)]


def test_nothing_is_changed_if_a_row_that_is_needed_is_missing(database: Sqlite | Postgres) -> None:
    """Neither by the statements, nor for what the change does next."""

    def change(connection: sa.Connection) -> int:
        with pytest.raises(NothingMatched):
            together(connection, (_ALL, {}), (_RAISE, {"of": "bob"}), paid("cy"), needed=2, last=True)
        (raised, _) = together(connection, (_RAISE, {"of": "ada"}), paid("bob"), needed=1, last=True)
        return raised.count

    assert database.apply([lambda connection: together(connection, paid("ada"))[0].count]) == [1]
    assert database.apply([change]) == [1]
    assert rows(database) == [("ada", 6), ("bob", 5)]


def test_a_connection_that_has_ended_since_is_replaced(postgres_url: str) -> None:
    """Nothing of the change was made on it, so it is made on another, once."""
    database = Postgres(sa.make_url(postgres_url))
    database.prepare()
    assert database.apply([lambda connection: together(connection, paid("ada"))[0].count]) == [1]
    with database.reading.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    database.reading.dispose()
    assert database.apply([lambda connection: together(connection, paid("bob"))[0].count]) == [1]
    assert rows(database) == [("ada", 5), ("bob", 5)]
    database.reading.dispose()
    database.writing.dispose()


def test_the_last_of_a_change_commit_in_the_same_round_trip(postgres_url: str) -> None:
    """Others see it while the change still runs."""

    database = Postgres(sa.make_url(postgres_url))
    database.prepare()

    def change(connection: sa.Connection) -> object:
        together(connection, paid("ada"), last=True)
        return rows(database)

    assert database.apply([change, change]) == [[("ada", 5)], ANY]
    database.reading.dispose()
    database.writing.dispose()


def test_a_change_is_not_made_again_that_may_have_been_committed(postgres_url: str) -> None:
    """The connection ends while the server has been told to commit: nobody knows, and it is said so."""
    runs = []
    ends = sa.text("SELECT pg_terminate_backend(pg_backend_pid())")

    def change(connection: sa.Connection) -> None:
        runs.append(1)
        together(connection, paid("ada"), (ends, {}), last=True)

    database = Postgres(sa.make_url(postgres_url))
    database.prepare()
    (told,) = database.apply([change])
    assert isinstance(told, Overloaded)
    assert runs == [1]
    database.reading.dispose()
    database.writing.dispose()


def test_statements_that_the_server_has_deallocated_are_prepared_again(postgres_url: str) -> None:
    """As a pool does between two that use a connection."""
    database = Postgres(sa.make_url(postgres_url))
    database.prepare()

    def forgetting(connection: sa.Connection) -> None:
        connection.exec_driver_sql("DEALLOCATE ALL")

    made = [lambda connection, of=of: together(connection, paid(of), last=True)[0].count for of in "abc"]
    assert database.apply([made[0], forgetting, made[1]]) == [1, None, 1]
    assert database.apply([forgetting]) == [None]
    assert database.apply([made[2]]) == [1]
    assert rows(database) == [("a", 5), ("b", 5), ("c", 5)]
    database.reading.dispose()
    database.writing.dispose()


@pytest.mark.parametrize("last", [True, False])
def test_a_server_that_has_stopped_is_not_waited_for(last: bool, postgres_url: str) -> None:
    """The change is made on another connection, unless it may have been committed on this one."""
    database = Postgres(sa.make_url(postgres_url))
    database.prepare()
    with database.writing.connect() as connection:
        backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()

    def change(connection: sa.Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if driver.info.backend_pid == backend:
            driver.answer_s = 0.2  # the other has as long as it needs
            os.kill(backend, signal.SIGSTOP)
        together(connection, paid("ada"), last=last)

    try:
        (told,) = database.apply([change])
    finally:
        os.kill(backend, signal.SIGCONT)
    assert isinstance(told, Overloaded) == last
    assert not last or "no answer for 0.2 s" in told.detail
    database.reading.dispose()
    database.writing.dispose()


@pytest.mark.parametrize("others", [[], [partial(payment, "ada")], ["refused"]])
def test_what_was_changed_is_on_the_disk(others: list[Any], postgres_url: str) -> None:
    """The last of a group waits for all of them, also where nothing of it is left."""

    def refused(_: sa.Connection) -> None:
        raise Conflict("no")

    database = Postgres(sa.make_url(postgres_url))
    database.prepare()
    changes = [partial(payment, "ada"), *(refused if other == "refused" else other for other in others)]
    place, *_ = database.apply(changes)
    with database.reading.connect() as connection:
        flushed = f"SELECT pg_current_wal_flush_lsn() > '{place}'::pg_lsn"
        assert connection.exec_driver_sql(flushed).scalar_one()
    database.reading.dispose()
    database.writing.dispose()

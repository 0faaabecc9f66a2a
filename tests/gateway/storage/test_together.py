"""Statements carried out one after another, in each kind of database."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import sqlalchemy as sa

from blossom_async.errors import Conflict, Overloaded
from blossom_async.gateway.storage.records import Records
from blossom_async.gateway.storage.records.images import looking_for
from blossom_async.gateway.storage.records.postgres import Postgres
from blossom_async.gateway.storage.records.sqlite import Sqlite
from blossom_async.gateway.storage.records.tables import spending
from blossom_async.gateway.storage.records.together import NothingMatched, Statement, together

_NEW = spending.insert()
_RAISE = spending.update().where(spending.c.payer == sa.bindparam("of")).values(spent=spending.c.spent + 1)
_ALL = sa.select(spending.c.payer, spending.c.spent).order_by(spending.c.payer)


def paid(payer: str) -> Statement:
    return _NEW, {"payer": payer, "day": 1, "reserved": 0, "spent": 5}


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


def test_what_was_changed_is_on_the_disk_if_the_last_change_is_refused(postgres_url: str) -> None:
    """The last of a group waits for all of them, also where nothing of it is left."""

    def made(connection: sa.Connection) -> str:
        together(connection, paid("ada"))
        return str(connection.exec_driver_sql("SELECT pg_current_wal_insert_lsn()").scalar_one())

    def refused(_: sa.Connection) -> None:
        raise Conflict("no")

    database = Postgres(sa.make_url(postgres_url))
    database.prepare()
    place, _ = database.apply([made, refused])
    with database.reading.connect() as connection:
        flushed = f"SELECT pg_current_wal_flush_lsn() > '{place}'::pg_lsn"
        assert connection.exec_driver_sql(flushed).scalar_one()
    database.reading.dispose()
    database.writing.dispose()

"""Processes that share a server's database, and how others see that one has ended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from blossom_async.gateway.storage.leases import Lease
from blossom_async.gateway.storage.records import Records
from blossom_async.gateway.storage.records.tables import owners
from tests.gateway.storage.test_records import NOW, a_record
from tests.waiting import until, wait_until


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def opened(url: str, clock: Clock) -> Iterator[Lease]:
    lease = Lease(url, clock=clock)
    lease.open()
    yield lease
    lease.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def rows(url: str) -> dict[str, int]:
    """Until when each process is alive, by the server's clock."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = {name: until for name, until in connection.execute(sa.select(owners))}  # noqa: C416 - rows
    engine.dispose()
    return found


def pass_in_beats(url: str, clock: Clock, *leases: Lease, seconds: int = 6) -> None:
    """Time in which these processes renew their rows as they should."""
    for _ in range(seconds):
        before = rows(url)
        clock.now += 1
        wait_until(lambda: all(rows(url).get(lease.name) != before.get(lease.name) for lease in leases))  # noqa: B023


def said(url: str, statement: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_process_is_alive_until_it_closes(postgres_url: str, clock: Clock) -> None:
    """To the others and to itself; then others take over at once."""
    with opened(postgres_url, clock) as other:
        with opened(postgres_url, clock) as first:
            pass_in_beats(postgres_url, clock, first, other)
            assert not first.has_ended(first.name)
            assert not other.has_ended(first.name)
        assert other.has_ended(first.name)
        assert other.has_ended(first.name)  # for good


def test_a_process_that_renews_its_row_no_more_is_dead(postgres_url: str, clock: Clock) -> None:
    """Whatever time it says: clocks are set, by hours."""
    with opened(postgres_url, clock) as left:
        said(postgres_url, "INSERT INTO owners VALUES ('died', 1), ('died ahead', 9000000000000000)")
        said(postgres_url, "INSERT INTO owners VALUES ('lives', 0)")
        for moment in range(7):
            said(postgres_url, f"UPDATE owners SET alive_until = {moment + 1} WHERE name = 'lives'")  # noqa: S608
            pass_in_beats(postgres_url, clock, left, seconds=1)
        assert left.has_ended("died")
        assert left.has_ended("died ahead")
        assert not left.has_ended("lives")
        assert left.has_ended("never was")


def test_the_row_of_a_dead_process_is_removed(postgres_url: str, clock: Clock) -> None:
    """Also if nobody asks whether it lives: what it held otherwise is free then."""
    with opened(postgres_url, clock) as left:
        said(postgres_url, "INSERT INTO owners VALUES ('died ahead', 9000000000000000)")
        pass_in_beats(postgres_url, clock, left, seconds=7)
        wait_until(lambda: set(rows(postgres_url)) == {left.name})


def test_who_was_taken_for_dead_goes_on_under_another_name(postgres_url: str, clock: Clock) -> None:
    """A stopped process that wakes does not get its calls back."""
    with opened(postgres_url, clock) as stopped, opened(postgres_url, clock) as other:
        before, own = stopped.name, other.name
        said(postgres_url, "DELETE FROM owners")
        clock.now += 1
        wait_until(lambda: stopped.name != before and other.name != own)
        pass_in_beats(postgres_url, clock, stopped, other)
        assert other.has_ended(before)
        assert stopped.has_ended(before)
        assert not other.has_ended(stopped.name)


def test_who_has_only_begun_takes_nobody_for_dead(postgres_url: str, clock: Clock) -> None:
    """The database may have been away for all of them; those that live renew their rows first."""
    with opened(postgres_url, clock) as fresh:
        said(postgres_url, "INSERT INTO owners VALUES ('late', 1)")
        assert not fresh.has_ended("late")
        pass_in_beats(postgres_url, clock, fresh)
        assert fresh.has_ended("late")


def test_whose_own_beat_is_late_takes_nobody_for_dead(postgres_url: str, clock: Clock) -> None:
    """A server that stalls does so for all of them: each needs time to renew its row after it."""
    with opened(postgres_url, clock) as fresh:
        said(postgres_url, "INSERT INTO owners VALUES ('late', 1)")
        pass_in_beats(postgres_url, clock, fresh)
        engine = sa.create_engine(postgres_url)
        with engine.begin() as stalling:
            stalling.execute(sa.select(owners).where(owners.c.name == fresh.name).with_for_update())
            clock.now += 6
            assert not fresh.has_ended("late")
            before = rows(postgres_url)[fresh.name]
        engine.dispose()
        wait_until(lambda: rows(postgres_url)[fresh.name] != before)
        pass_in_beats(postgres_url, clock, fresh, seconds=4)
        assert not fresh.has_ended("late")
        pass_in_beats(postgres_url, clock, fresh, seconds=4)
        assert fresh.has_ended("late")


async def test_a_delete_is_heard_by_the_others(postgres_url: str, clock: Clock) -> None:
    """So that they look before it is their time."""
    heard: list[None] = []
    lease = Lease(postgres_url, heard=lambda: heard.append(None), clock=clock)
    await asyncio.to_thread(lease.open)
    await until(lambda: len(heard) == 1)  # once it listens
    records = Records(postgres_url)
    await records.open()
    record = a_record()
    await records.add(record)
    await records.delete(record.id, NOW)
    await until(lambda: len(heard) > 1)
    await records.close()
    await asyncio.to_thread(lease.close)


def test_why_the_database_cannot_be_reached_is_logged(
    postgres_url: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each reason once, in the words of the server; the process goes on when it can."""
    database = sa.make_url(postgres_url).database
    server = postgres_url.replace(f"/{database}?", "/postgres?")
    allowing = f"ALTER DATABASE {database} ALLOW_CONNECTIONS"
    reason = f'the database cannot be reached: .*database "{database}" is not currently accepting connections'
    with opened(postgres_url, clock) as lease:
        said(server, f"{allowing} false")
        said(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ~ '^test'")
        wait_until(lambda: re.search(reason, caplog.text))
        said(server, f"{allowing} true")
        pass_in_beats(postgres_url, clock, lease, seconds=2)
    assert len(re.findall(reason, caplog.text)) == 1

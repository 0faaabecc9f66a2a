"""Slots at a provider that the processes on a database share, in each kind of database."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import sqlalchemy as sa

from blossom_async.gateway.storage.records import Records, slots
from blossom_async.gateway.storage.records.tables import owners

LIMIT = 5


@attrs.define
class Process:
    """A gateway as the database sees it."""

    name: str
    granted: int = 0
    in_use: int = 0
    waiting: int = 0

    def deal(self, connection: sa.Connection) -> None:
        most, wanted = max(self.in_use, self.granted), self.in_use + self.waiting
        self.granted = slots.deal(self.name, "openai", LIMIT, most, wanted, connection)


@pytest.fixture(autouse=True)
def one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No slot changes hands because a turn ends in the middle of a test."""
    monkeypatch.setattr(slots, "_TURN_S", 1e12)


@pytest.fixture
def connection(place: Path | str) -> Iterator[sa.Connection]:
    database = Records(place)._database
    database.prepare()
    with database.writing.begin() as connection:
        yield connection
    database.reading.dispose()
    database.writing.dispose()


def born(connection: sa.Connection, *names: str) -> list[Process]:
    connection.execute(owners.insert(), [{"name": name, "alive_until": 1} for name in names])
    return [Process(name) for name in names]


def die(connection: sa.Connection, process: Process) -> None:
    connection.execute(owners.delete().where(owners.c.name == process.name))


def test_no_more_are_used_than_there_are(connection: sa.Connection) -> None:
    """Whatever starts, ends, waits and dies, in any order; and all are given out again."""
    chance = random.Random(7)  # noqa: S311 - repeatable
    living = born(connection, "a", "b", "c")
    for n in range(300):
        process = chance.choice(living)
        match chance.choice(("start", "start", "end", "wait", "deal", "deal", "die")):
            case "start" if process.in_use < process.granted:
                process.in_use += 1
            case "end" if process.in_use:
                process.in_use -= 1
            case "wait":
                process.waiting = chance.choice((0, 1, 20))
            case "deal":
                process.deal(connection)
            case "die" if chance.random() < 0.2:
                living.remove(process)
                die(connection, process)
                living += born(connection, f"successor {n}")
        assert sum(max(each.in_use, 0) for each in living) <= LIMIT
    for process in living:
        process.in_use, process.waiting = 0, 20
    for _ in range(3):
        for process in living:
            process.deal(connection)
    assert sorted(process.granted for process in living) == [1, 2, 2]


def test_slots_of_a_dead_process_go_to_the_others(connection: sa.Connection) -> None:
    """As soon as its row is gone; it gets none itself, should it wake."""
    one, other = born(connection, "one", "other")
    one.waiting = other.waiting = 9
    one.deal(connection)
    assert one.granted == LIMIT  # it is alone so far
    one.in_use = 4
    other.deal(connection)
    assert other.granted == 0
    die(connection, one)
    other.deal(connection)
    assert other.granted == LIMIT
    one.deal(connection)
    assert one.granted == 0


def test_who_has_too_many_gives_them_back_as_calls_end(connection: sa.Connection) -> None:
    """Until then the other waits."""
    one, other = born(connection, "one", "other")
    one.waiting = other.waiting = 9
    one.deal(connection)
    one.in_use = LIMIT
    other.deal(connection)
    one.deal(connection)
    assert one.granted < LIMIT
    one.deal(connection)
    other.deal(connection)
    assert other.granted == 0
    one.in_use = one.granted
    one.deal(connection)
    other.deal(connection)
    assert one.granted + other.granted == LIMIT


@pytest.mark.parametrize(
    ("limit", "wanted", "given"),
    [
        (16, {"a": 0, "b": 0}, {"a": 8, "b": 8}),
        (16, {"a": 99, "b": 0}, {"a": 15, "b": 1}),
        (16, {"a": 99, "b": 3, "c": 99}, {"a": 7, "b": 3, "c": 6}),
        (16, {"a": 4, "b": 0}, {"a": 8, "b": 8}),
        (3, {"a": 9}, {"a": 3}),
    ],
)
def test_slots_are_divided_by_need(limit: int, wanted: dict[str, int], given: dict[str, int]) -> None:
    """The same to each who wants as many; nobody is without one, and none is left over."""
    assert slots.shares(limit, wanted, 0) == given


def test_processes_take_turns_where_there_are_too_few() -> None:
    """Two of three have one each time, and each is left out in turn."""
    turns = [slots.shares(2, {"a": 9, "b": 9, "c": 9}, turn) for turn in range(3)]
    assert sorted("".join(name for name in given if given[name]) for given in turns) == ["ab", "bc", "ca"]

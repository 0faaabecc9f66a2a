"""Statements that are carried out one after another without waiting for each answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import attrs
import sqlalchemy as sa

__all__ = [
    "TOGETHER",
    "Answered",
    "Message",
    "NothingMatched",
    "Statement",
    "Steps",
    "carried_on",
    "in_messages",
    "steps_of",
    "together",
]

P = ParamSpec("P")
T = TypeVar("T")

TOGETHER = "together"
"""In the ``info`` of connections that have a way of their own: a function like ``together``."""

Statement = tuple[sa.Executable, Mapping[str, Any]]
"""A statement that was built once, and its parameters."""


class NothingMatched(Exception):
    """A statement that had to match a row has matched none, and no other has changed anything."""


@attrs.frozen
class Answered:
    """The result of a statement: the rows that it returned, and how many it matched."""

    rows: Sequence[Sequence[Any]]
    count: int


@attrs.frozen
class Message:
    """What ``together`` is given."""

    statements: Sequence[Statement]
    needed: int = 0
    last: bool = False


Steps = Generator[Message, list[Answered], T]
"""A change that yields what it asks of the database, and goes on with the answers."""


def in_messages(steps: Callable[P, Steps[T]]) -> Callable[P, T]:
    """The change as a function, whose last argument is the connection.

    Until it yields, it asks nothing of the database: so its first message may be sent with those of others.
    """

    @wraps(steps)
    def change(*args: P.args, **named: P.kwargs) -> T:
        begun = steps(*args, **named)
        connection: Any = args[-1]
        return carried_on(begun, connection, next(begun))

    change.__dict__["steps"] = steps
    return change


def steps_of(change: Any, connection: sa.Connection) -> Steps[Any] | None:
    """The steps of a change, which is a ``partial`` of one ``in_messages``; None for any other."""
    steps = getattr(change.func, "steps", None) if isinstance(change, partial) else None
    return None if steps is None else steps(*change.args, connection, **change.keywords)


def carried_on(steps: Steps[T], connection: sa.Connection, message: Message) -> T:
    """What the change returns, from this message of it on."""
    try:
        while True:
            try:
                given = together(connection, *message.statements, needed=message.needed, last=message.last)
            except Exception as exc:  # noqa: BLE001 - it is the change that judges it
                message = steps.throw(exc)
            else:
                message = steps.send(given)
    except StopIteration as end:
        returned: T = end.value
        return returned


def together(
    connection: sa.Connection, *statements: Statement, needed: int = 0, last: bool = False
) -> list[Answered]:
    """The result of each statement. When one fails, those after it are not carried out.

    A server is asked for all of them in one round trip; each sees what others have committed before it. Rows
    are as the driver gives them: text and numbers only. With ``last`` nothing more is changed in the
    transaction: a server may be told to commit in the same round trip.

    Raises ``NothingMatched`` if one of the first ``needed`` statements matches no row. All but the last of
    these only read, and none stands before them in the transaction of a server.
    """
    carry_out = connection.info.get(TOGETHER, _one_by_one)
    given: list[Answered] = carry_out(connection, *statements, needed=needed, last=last)
    return given


def _one_by_one(connection: sa.Connection, *statements: Statement, needed: int, last: bool) -> list[Answered]:
    answers = []
    for number, (statement, parameters) in enumerate(statements, 1):
        result = connection.execute(statement, parameters)
        rows: Sequence[Sequence[Any]] = result.all() if result.returns_rows else ()
        count = len(rows) if result.returns_rows else result.rowcount
        if number <= needed and not count:
            raise NothingMatched
        answers.append(Answered(rows, count))
    return answers

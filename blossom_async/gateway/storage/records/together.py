"""Statements that are carried out one after another without waiting for each answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import sqlalchemy as sa

__all__ = ["TOGETHER", "Answered", "NothingMatched", "Statement", "together"]

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

"""Transactions of PostgreSQL in few round trips: one begins with its first statements, and ends with its last
ones, in one message.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, cast

import attrs
import psycopg
import sqlalchemy as sa
from psycopg.abc import Buffer
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import TransactionStatus
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import OperationalError

from blossom_async.gateway.storage.records.together import (
    TOGETHER,
    Answered,
    Message,
    NothingMatched,
    Statement,
    Steps,
    carried_on,
    steps_of,
)
from blossom_async.gateway.storage.records.wire import Patient, Sent

__all__ = ["Change", "OutcomeUnknown", "begun_together", "change", "use_pipelines"]

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_CHANGE = "change"  # in a connection's ``info``, during one
_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


@attrs.define
class Change:
    """What follows the last COMMIT of a change, and whether it has been carried out."""

    after: str | None
    done: bool = False

    def end(self, connection: sa.Connection) -> None:
        """Carries out what follows, unless it came in one message with the COMMIT."""
        if self.after is not None and not self.done:
            _carry_out(self.after, connection)


class OutcomeUnknown(OperationalError):
    """The connection was lost after the server had been told to commit."""


def use_pipelines(engine: sa.Engine) -> None:
    """Lets the connections of an engine in AUTOCOMMIT, each a ``Patient``, begin transactions as needed."""

    @sa.event.listens_for(engine, "connect")
    def _(connection: Patient, record: Any) -> None:
        record.info[TOGETHER] = _pipelined
        connection.prepare_threshold = None  # after a rollback psycopg would deallocate all, ours as well

    @sa.event.listens_for(engine, "before_cursor_execute")
    def _(connection: sa.Connection, *_: object) -> None:
        _begin(connection)


@contextmanager
def change(connection: sa.Connection, after: str | None, *, done: bool = False) -> Iterator[Change]:
    """In the block statements with ``last`` are followed by COMMIT and ``after``, in one message.

    ``after`` is a transaction of its own: it holds no row that the change has locked. It is ``done`` if
    nothing has been changed since it was carried out.
    """
    info = connection.info  # a connection that is lost has none
    info[_CHANGE] = Change(after, done)
    try:
        yield info[_CHANGE]
    finally:
        del info[_CHANGE]


def _begin(connection: sa.Connection) -> None:
    """Begins the transaction, unless it has begun."""
    if _begins(connection):
        _carry_out(_BEGIN, connection)


def _carry_out(statement: str, connection: sa.Connection) -> None:
    try:
        _driver(connection).execute(statement)
    except psycopg.Error as exc:
        raise _told(exc, connection) from exc


def _begins(connection: sa.Connection) -> bool:
    """Whether the transaction has yet to begin. SQLAlchemy knows of it from here on."""
    if not connection.in_transaction():
        connection.begin()  # else ``commit`` would do nothing
    if _driver(connection).info.transaction_status != TransactionStatus.IDLE:
        return False
    if (this := connection.info.get(_CHANGE)) is not None:
        this.done = False
    return True


def _pipelined(connection: sa.Connection, *statements: Statement, needed: int, last: bool) -> list[Answered]:
    if not statements:
        return []
    driver = _driver(connection)
    # Whether a connection that is lost meanwhile has committed, nobody knows. So one that may be lost already
    # is not told to: the change is then made on another.
    this: Change | None = connection.info.get(_CHANGE)
    commits = last and this is not None and not driver.has_news()
    queue: list[Sent] = [(_BEGIN, ())] if _begins(connection) else []
    first = len(queue)
    try:
        queue += _sent(statements, needed, driver)
        if commits:
            queue.append(("COMMIT", ()))
            if this is not None and this.after is not None:
                queue.append((this.after, ()))
        (results,) = driver.exchange([queue])
        if isinstance(results, psycopg.Error):
            raise results
    except psycopg.errors.DivisionByZero as exc:  # by no other statement
        _carry_out("ROLLBACK", connection)
        raise NothingMatched from exc
    except psycopg.Error as exc:
        raise _told(exc, connection, commits=commits) from exc
    if commits and this is not None:
        this.done = True
    return _answered(results[first : first + len(statements)], driver)


def begun_together(
    changes: Sequence[Any], connection: sa.Connection, after: str
) -> dict[int, Callable[[], Any]]:
    """Sends the first messages of the changes ``in_messages`` that only have one, as one message.

    Each is a transaction of its own. Returns, for each that was carried out, a function that gives what the
    change returns or raises; there is none for those that have to be made one by one. If no change is left,
    ``after`` is carried out, too.
    """
    driver = _driver(connection)
    if driver.has_news():  # it may be lost already: as above
        return {}
    begun: dict[int, Steps[Any]] = {}
    parts: list[list[Sent]] = []
    for number, change in enumerate(changes):
        if (steps := steps_of(change, connection)) is None:
            continue
        with contextlib.suppress(Exception):  # it is raised when the change is made by itself
            message = next(steps)
            if message.last:
                parts.append(_sent(message.statements, message.needed, driver))
                begun[number] = steps
    if not parts:
        return {}
    if len(parts) == len(changes):
        parts.append([(after, ())])
    try:
        results = driver.exchange(parts)
    except psycopg.Error as exc:
        raise _told(exc, connection, commits=True) from exc
    made: dict[int, Callable[[], Any]] = {}
    for (number, steps), given in zip(begun.items(), results, strict=False):
        if isinstance(given, psycopg.errors.DivisionByZero):
            made[number] = partial(_gone_on, partial(steps.throw, NothingMatched()), steps, connection)
        elif not isinstance(given, psycopg.Error):
            made[number] = partial(_gone_on, partial(steps.send, _answered(given, driver)), steps, connection)
    return made


def _gone_on(step: Callable[[], Message], steps: Steps[Any], connection: sa.Connection) -> Any:
    try:
        message = step()
    except StopIteration as end:
        return end.value
    return carried_on(steps, connection, message)


def _sent(statements: Sequence[Statement], needed: int, driver: Patient) -> list[Sent]:
    transformer, encoding = Transformer(driver), driver.info.encoding.replace("ascii", "utf-8")
    queue: list[Sent] = []
    for number, (statement, given) in enumerate(statements):
        text, bind = _compiled(statement, tuple(given), needed=number < needed)
        queue.append((text, [_as_text(value, encoding, transformer) for value in bind(given)]))
    return queue


def _as_text(value: Any, encoding: str, transformer: Any) -> Buffer | None:
    """The value as ``_Text`` and the driver write it, which takes several times as long."""
    kind = type(value)
    if kind is str:
        text: str = value
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(encoding)
    if kind is int:
        return b"%d" % value
    if value is None:
        return None
    dumped: Buffer | None = transformer.dump_sequence([value], [PyFormat.TEXT])[0]
    return dumped


def _answered(results: Sequence[Any], driver: Patient) -> list[Answered]:
    transformer = Transformer(driver)
    answers = []
    for result in results:
        transformer.set_pgresult(result)
        rows = transformer.load_rows(0, result.ntuples, tuple)
        answers.append(Answered(rows, result.command_tuples or 0))
    return answers


@lru_cache(256)
def _compiled(
    statement: sa.ClauseElement, names: tuple[str, ...], *, needed: bool
) -> tuple[str, Callable[[Any], list[Any]]]:
    """The statement as the server takes it, and a function that puts its parameters in order.

    One that is ``needed`` fails where it matches no row, so that the server carries out nothing behind it.
    """
    compiled = cast("Any", statement.compile(dialect=_DIALECT, column_keys=names))
    order, processors = compiled.positiontup, compiled._bind_processors

    def bind(given: Any) -> list[Any]:
        values = compiled.construct_params(given)
        return [processors[name](values[name]) if name in processors else values[name] for name in order]

    text: str = compiled.string
    if needed:
        returning = "" if isinstance(statement, sa.Select) else " RETURNING 1"
        text = f"WITH matched AS ({text}{returning}) SELECT 1 / count(*) FROM matched"  # noqa: S608 - no values
    return text, bind


def _driver(connection: sa.Connection) -> Patient:
    return cast("Patient", connection.connection.driver_connection)


def _told(exc: psycopg.Error, connection: sa.Connection, *, commits: bool = False) -> BaseException:
    """The error as SQLAlchemy raises it."""
    lost = connection.dialect.is_disconnect(exc, connection.connection.dbapi_connection, None)  # type: ignore[arg-type]
    if lost and commits:
        told: BaseException = OutcomeUnknown(
            None, None, exc, hide_parameters=True, connection_invalidated=True
        )
    else:
        told = sa.exc.DBAPIError.instance(
            None,
            None,
            exc,
            psycopg.Error,
            hide_parameters=True,
            connection_invalidated=lost,
            dialect=connection.dialect,
        )
    if lost:
        connection.invalidate(exc)
    return told

"""Transactions of PostgreSQL in few round trips: one begins with its first statements, in one message."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus

from blossom_async.gateway.storage.records.together import TOGETHER, Answered, Statement

__all__ = ["begin", "begin_with", "use_pipelines"]

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_OPENING = "opening"  # in a connection's ``info``: what its next transaction begins with


def use_pipelines(engine: sa.Engine) -> None:
    """Lets the connections of an engine in AUTOCOMMIT begin transactions as they are needed."""

    @sa.event.listens_for(engine, "connect")
    def _(_: object, record: Any) -> None:
        record.info[TOGETHER] = _pipelined

    @sa.event.listens_for(engine, "before_cursor_execute")
    def _(connection: sa.Connection, *_: object) -> None:
        begin(connection)


def begin_with(connection: sa.Connection, *statements: str) -> None:
    """The next transaction begins with these statements, or with none."""
    connection.info[_OPENING] = (_BEGIN, *statements)


def begin(connection: sa.Connection) -> None:
    """Begins the transaction, unless it has begun."""
    if opening := _opening(connection):
        try:
            _driver(connection).execute("; ".join(opening))
        except psycopg.Error as exc:
            raise _told(exc, connection) from exc


def _opening(connection: sa.Connection) -> Sequence[str]:
    """What begins the transaction, nothing if it has begun. SQLAlchemy knows of it from here on."""
    if not connection.in_transaction():
        connection.begin()  # else ``commit`` would do nothing
    if _driver(connection).info.transaction_status != TransactionStatus.IDLE:
        return ()
    opening: Sequence[str] = connection.info.pop(_OPENING, (_BEGIN,))
    return opening


def _pipelined(connection: sa.Connection, *statements: Statement) -> list[Answered]:
    if not statements:
        return []
    compiled = [_compiled(each, tuple(given), connection.dialect) for each, given in statements]
    opening, driver = _opening(connection), _driver(connection)
    try:
        with driver.pipeline():
            for text in opening:
                driver.execute(text)
            cursors = [
                driver.execute(one.string, _bound(one, given))
                for one, (_, given) in zip(compiled, statements, strict=True)
            ]
    except psycopg.Error as exc:
        raise _told(exc, connection) from exc
    return [Answered(cursor.fetchall() if cursor.description else (), cursor.rowcount) for cursor in cursors]


@lru_cache(256)
def _compiled(statement: sa.ClauseElement, names: tuple[str, ...], dialect: sa.Dialect) -> Any:
    return statement.compile(dialect=dialect, column_keys=names)


def _bound(compiled: Any, given: Any) -> dict[str, Any]:
    values = compiled.construct_params(given)
    for name, process in compiled._bind_processors.items():
        values[name] = process(values[name])
    return cast("dict[str, Any]", values)


def _driver(connection: sa.Connection) -> psycopg.Connection[Any]:
    return cast("psycopg.Connection[Any]", connection.connection.driver_connection)


def _told(exc: psycopg.Error, connection: sa.Connection) -> BaseException:
    """The error as SQLAlchemy raises it."""
    lost = connection.dialect.is_disconnect(exc, connection.connection.dbapi_connection, None)  # type: ignore[arg-type]
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

"""PostgreSQL: connects, migrates under a lock, and puts its errors into words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from psycopg.abc import Buffer
from psycopg.types.string import StrDumper

from blossom_async.errors import BlossomError, ConfigurationError, Overloaded, in_one_line
from blossom_async.gateway.storage.records.images import ONE_IS_AT_FAULT, apply_alone
from blossom_async.gateway.storage.records.inserting import SERVER_TIME
from blossom_async.gateway.storage.records.pipelines import (
    OutcomeUnknown,
    begun_together,
    change,
    use_pipelines,
)
from blossom_async.gateway.storage.records.schema import bring_up_to_date
from blossom_async.gateway.storage.records.tables import owners
from blossom_async.gateway.storage.records.wire import NoAnswer, Patient

__all__ = ["Postgres"]

_OLDEST = 15
_RETRY_S = 1.0  # what a caller is asked to wait while the server cannot be reached
_TRIES = 10
# Serialization failure, deadlock, a row that another made meanwhile, prepared statements that are gone.
_AGAIN = {"40001", "40P01", "23505", "26000"}
_FULL = "53100"
_MIGRATING = 0x626C6F73736F6D  # the advisory lock of migrations
_REACHING = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "blossom",
}
# The second frees the rows that a stopped process holds. Commits wait for the disk.
_SESSION = (
    "SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '10s'; "
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'"
)
# Of the writer no commit waits, but a message behind the last of a group does: what was written before it is
# then on the disk as well, and no row is locked meanwhile.
_WRITERS_SESSION = (
    f"{_SESSION}; SET default_transaction_isolation = 'read committed'; "
    "SELECT set_config('blossom.commit', current_setting('synchronous_commit'), false); "
    "SET synchronous_commit = off"
)
_WAITING = (
    "SELECT set_config('synchronous_commit', current_setting('blossom.commit'), true), "
    "pg_logical_emit_message(true, 'blossom', '')"
)

_ANYONE_LIVES = sa.select(sa.exists().where(owners.c.alive_until > SERVER_TIME))


class Postgres:
    """A database on a server, for the processes of any number of machines.

    Each change is a transaction of its own: two processes that lock many rows at once, in different orders,
    would wait for each other. A group of changes waits for the disk once, and those ``in_messages`` for the
    server, too.
    """

    def __init__(self, url: sa.URL) -> None:
        self._name = (
            f"PostgreSQL database {url.database} at {url.host or url.query.get('host') or 'localhost'}"
        )
        self.writing: sa.Engine = _engine(url, _WRITERS_SESSION)
        use_pipelines(self.writing)
        self.reading: sa.Engine = _engine(url, _SESSION)
        self.studying: sa.Engine = self.reading

    def prepare(self) -> None:
        """Migrates the database. Raises ``ConfigurationError`` if it cannot be reached or used."""
        try:
            self._check_connections()
            with self.writing.begin() as connection, _unhurried(connection):
                _check(self._name, connection)
                connection.exec_driver_sql(_WAITING)
                connection.exec_driver_sql("SET LOCAL lock_timeout = '60s'")
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATING)))
                bring_up_to_date(self._name, connection)
        except sa.exc.DBAPIError as exc:
            raise ConfigurationError(
                f"The {self._name} cannot be used ({_reason(exc)}). "
                "Check BLOSSOM_DATABASE_URL and that the server is running."
            ) from exc

    def _check_connections(self) -> None:
        with self.reading.connect() as one, self.reading.connect() as other:
            asked = sa.select(sa.func.pg_backend_pid())
            backends = [connection.scalar(asked) for connection in (one, other, one, other)]
        if backends[:2] != backends[2:] or backends[0] == backends[1]:
            raise ConfigurationError(
                f"The {self._name} is behind a pooler in transaction mode, where a session's settings are "
                "lost, or apply to another. Name the server itself, or a pooler in session mode."
            )

    @contextmanager
    def alone(self) -> Iterator[sa.Connection]:
        """A transaction, as long as it takes, during which no gateway can start here.

        Raises ``ConfigurationError`` if one runs here, and if the server ends the transaction.
        """
        try:
            with self.writing.begin() as connection, _unhurried(connection):
                connection.exec_driver_sql(_WAITING)
                connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATING)))
                if connection.scalar(_ANYONE_LIVES):
                    raise ConfigurationError(f"A gateway runs on the {self._name}. Stop it, then try again.")
                yield connection
        except sa.exc.DBAPIError as exc:
            raise ConfigurationError(f"The {self._name} failed ({_reason(exc)}). Try again.") from exc

    def apply(self, changes: Sequence[Any]) -> list[Any]:
        """Makes each change in its own transaction; all of them are on the disk then."""
        answers: dict[int, Any] = {}
        try:
            # On one connection: while it stands, the server has not lost what was not waited for.
            with self.writing.connect() as connection:
                begun = begun_together(changes, connection, _WAITING)
                for number, go_on in begun.items():
                    answers[number] = _answer(changes[number], connection, begun=go_on, waits=True)
                left = [number for number in range(len(changes)) if number not in begun]
                for number in left:
                    first, waits = not answers, number == left[-1]
                    answers[number] = _answer(changes[number], connection, first=first, waits=waits)
                if left and isinstance(answers[left[-1]], Exception) and len(answers) > 1:  # rolled back
                    _applied(_nothing, connection, waits=True)
        except sa.exc.DBAPIError as exc:
            # Nobody knows whether those before it are on the disk; those behind it would wait for a server
            # that is away.
            self.writing.dispose()
            error = self.error("written", exc)
            known = {number: answer for number, answer in answers.items() if isinstance(answer, Exception)}
            return [known.get(number, error) for number in range(len(changes))]
        return [answers[number] for number in range(len(changes))]

    def purge(self) -> bool:
        """True: what was deleted leaves the server's files when the server cleans up."""
        return True

    def error(self, done: str, exc: sa.exc.DBAPIError) -> Overloaded:
        """What the callers are told."""
        if _state(exc) == _FULL:
            sentence, code = "The disk that holds the database is full; make room, then", "storage_full"
        else:
            # Why there is no connection names the server and its user: that is for the log.
            told = _state(exc) or isinstance(exc.orig, NoAnswer)
            reason = _reason(exc) if told else "it cannot be reached"
            sentence, code = f"The database could not be {done} ({reason});", "storage_failed"
        error = Overloaded(
            f"{sentence} send the request again in {_RETRY_S:g} s.", code=code, retry_after_s=_RETRY_S
        )
        error.__cause__ = exc
        return error


@contextmanager
def _unhurried(connection: sa.Connection) -> Iterator[None]:
    """Answers in the block may take as long as the server works."""
    driver = cast("Patient", connection.connection.driver_connection)
    driver.answer_s = math.inf
    try:
        yield
    finally:
        del driver.answer_s


class _Text(StrDumper):
    """Text without NUL, which PostgreSQL cannot hold: what is stored has none, so a look-up finds nothing."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))


def _answer(made: Any, connection: sa.Connection, **how: Any) -> Any:
    try:
        return _applied(made, connection, **how)
    except (BlossomError, *ONE_IS_AT_FAULT) as exc:
        if getattr(exc, "connection_invalidated", False):
            raise
        return exc


def _applied(
    made: Any,
    connection: sa.Connection,
    *,
    waits: bool,
    first: bool = False,
    begun: Callable[[], Any] | None = None,
) -> Any:
    """Makes the change, or goes on with one whose first message has been answered and waited for."""
    for _ in range(_TRIES):
        try:
            with change(connection, _WAITING if waits else None, done=begun is not None) as this:
                answer = apply_alone(connection, made) if begun is None else begun()
        except sa.exc.DBAPIError as exc:
            connection.rollback()
            # Only the first change of a group may take another connection, and only if it was not made.
            other = first and not isinstance(exc, OutcomeUnknown)
            if not (other if exc.connection_invalidated else _state(exc) in _AGAIN):
                raise
            failure, begun = exc, None
        except BaseException:
            connection.rollback()
            raise
        else:
            connection.commit()  # if this fails, nobody knows whether it was made
            this.end(connection)
            return answer
    raise failure


def _nothing(_: sa.Connection) -> None:
    pass


def _engine(url: sa.URL, session: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        connect_args=_REACHING,
        hide_parameters=True,  # they contain prompts, and errors are logged
    )

    @sa.event.listens_for(engine, "do_connect")
    def _(_: object, __: object, args: Any, named: Any) -> Patient:
        return Patient.connect(*args, **named)

    @sa.event.listens_for(engine, "connect")
    def _(connection: Patient, _: object) -> None:
        before, connection.autocommit = connection.autocommit, True
        connection.execute(session)
        connection.adapters.register_dumper(str, _Text)
        connection.autocommit = before

    return engine


def _check(name: str, connection: sa.Connection) -> None:
    major = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10_000
    if major < _OLDEST:
        raise ConfigurationError(
            f"The {name} is PostgreSQL {major}; allowed: {_OLDEST} and later. Update the server."
        )
    if connection.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "on":
        raise ConfigurationError(f"The {name} is read-only. Name the primary server in BLOSSOM_DATABASE_URL.")


def _state(exc: sa.exc.DBAPIError) -> str | None:
    return getattr(exc.orig, "sqlstate", None)


def _reason(exc: sa.exc.DBAPIError) -> str:
    """What the server said, without the values in it."""
    if isinstance(exc.orig, psycopg.Error) and exc.orig.diag.message_primary:
        return exc.orig.diag.message_primary
    return in_one_line(exc.orig)

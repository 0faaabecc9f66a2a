"""The SQLite file: opens it, migrates it, and puts its errors into words."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from blossom_async.errors import BlossomError, ConfigurationError, Overloaded, in_one_line
from blossom_async.gateway.storage.records.images import ONE_IS_AT_FAULT, apply_apart, apply_together
from blossom_async.gateway.storage.records.schema import bring_up_to_date, version
from blossom_async.gateway.storage.records.tables import revision

__all__ = ["Sqlite"]

_BUSY_TIMEOUT_S = 10.0  # how long another process may hold the write lock before this one gives up
_BUSY_RETRY_S = 5.0  # what a caller is asked to wait then
_NO_FILES_RETRY_S = 1.0
_FULL_RETRY_S = 10.0  # somebody has to make room
_PURGE_WAIT_MS = 100  # how long readers of other processes may hold up the writer after a delete
_LITTLE_ROOM = 1 << 20  # bytes; SQLite's side files take some hundred kB from the start
_FULL = {sqlite3.SQLITE_FULL}
_NO_ROOM_PERHAPS = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}  # also if a side file finds no room
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

# secure_delete: an erased prompt is overwritten, not just unlinked.
_WRITER_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
_READER_PRAGMAS = ("query_only=ON",)
# mmap_size: no page is copied, so that searching a million pictures takes a third of the CPU. But where the
# disk then fails to read a page, the process ends, instead of an error. So look-ups do without.
_STUDENT_PRAGMAS = (*_READER_PRAGMAS, f"mmap_size={1 << 31}")


class Sqlite:
    """A database in one file, for the processes of one machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.writing: sa.Engine = _engine(path, _WRITER_PRAGMAS)
        self.reading: sa.Engine = _engine(path, _READER_PRAGMAS)
        self.studying: sa.Engine = _engine(path, _STUDENT_PRAGMAS)

    def prepare(self) -> None:
        """Creates the file if needed, and migrates it. Raises ``ConfigurationError``."""
        _prepare(self._path, self.reading, self.writing)

    def apply(self, changes: Sequence[Any]) -> list[Any]:
        """Makes the changes in one transaction; one that is at fault is left out of it."""
        try:
            with self.writing.begin() as connection:
                return apply_together(connection, changes)
        except (BlossomError, *ONE_IS_AT_FAULT):
            with self.writing.begin() as connection:
                return [apply_apart(connection, change) for change in changes]

    def purge(self) -> bool:
        """Removes what was deleted from ``-wal``; False if a reader of another process held it up."""
        return _truncated_wal(self.writing)

    def error(self, done: str, exc: sa.exc.DBAPIError) -> Overloaded:
        """What the callers are told."""
        return _storage_error(done, exc)


def _engine(path: Path, pragmas: Sequence[str]) -> sa.Engine:
    # isolation_level None stops sqlite3 from beginning transactions. The writer begins IMMEDIATE, so that it
    # waits for other processes at the start and never midway; a reader's SELECT is a snapshot by itself.
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"isolation_level": None, "timeout": _BUSY_TIMEOUT_S},
        hide_parameters=True,  # they contain prompts, and errors are logged
    )

    @sa.event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, _: object) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    if pragmas is _WRITER_PRAGMAS:

        @sa.event.listens_for(engine, "begin")
        def _(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _truncated_wal(engine: sa.Engine) -> bool:
    connection = engine.raw_connection()  # SQLAlchemy would begin a transaction, which allows no checkpoint
    try:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_PURGE_WAIT_MS}")
        try:
            busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            cursor.execute(f"PRAGMA busy_timeout={int(_BUSY_TIMEOUT_S * 1000)}")
            cursor.close()
        return not busy
    finally:
        connection.close()


def _prepare(path: Path, read_engine: sa.Engine, write_engine: sa.Engine) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConfigurationError(_disk_is_full(path)) from exc
        raise ConfigurationError(
            f"The database {path} cannot be created ({os.strerror(exc.errno or errno.EIO)}). "
            "Choose a data folder that this user may write to."
        ) from exc
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            return _migrate(path, read_engine, write_engine)
        except sa.exc.DBAPIError as exc:
            # Switching to WAL does not wait for locks, so two first starts at once may collide.
            if _sqlite_code(exc) in _BUSY and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            raise ConfigurationError(_cannot_open(path, exc)) from exc
        except (sa.exc.SQLAlchemyError, sqlite3.Error, UnicodeError) as exc:
            # SQLite may accept a damaged schema that SQLAlchemy cannot read.
            raise ConfigurationError(_damaged(path)) from exc


def _cannot_open(path: Path, exc: sa.exc.DBAPIError) -> str:
    code = _sqlite_code(exc)
    if code == sqlite3.SQLITE_NOTADB:
        return f"{path} is not a database. Move it elsewhere, or choose another data folder."
    if code in _BUSY:
        return f"The database {path} is locked by another program. Stop it, or choose another data folder."
    if code in _FULL or (code in _NO_ROOM_PERHAPS and _little_room(path)):
        return _disk_is_full(path)
    if code in _DAMAGED:
        return _damaged(path)
    reason = in_one_line(exc.orig)
    return f"The database {path} cannot be opened for writing ({reason}). Check its owner and permissions."


def _little_room(path: Path) -> bool:
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize < _LITTLE_ROOM


def _disk_is_full(path: Path) -> str:
    return f"The disk that holds the database {path} is full. Make room, or choose another data folder."


def _damaged(path: Path) -> str:
    return f"The database {path} is damaged. Restore it from a backup, or choose another data folder."


def _migrate(path: Path, read_engine: sa.Engine, write_engine: sa.Engine) -> None:
    with read_engine.connect() as connection:
        version(f"database {path}", connection)  # refuse a foreign file before changing anything in it
    with write_engine.begin() as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            if _little_room(path):
                raise ConfigurationError(_disk_is_full(path))
            raise ConfigurationError(
                f"The folder of {path} cannot hold a database in WAL mode. "
                "Choose a data folder on a local disk."
            )
        bring_up_to_date(f"database {path}", connection)
        connection.execute(sa.select(revision))  # a damaged schema may have its columns under other names


def _sqlite_code(exc: sa.exc.DBAPIError) -> int:
    code: int = getattr(exc.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF  # the primary code, without its variants


def _storage_error(done: str, exc: sa.exc.DBAPIError) -> Overloaded:
    if _sqlite_code(exc) in _FULL:
        error = Overloaded(
            "The disk that holds the database is full; make room, then send the request again in "
            f"{_FULL_RETRY_S:g} s.",
            code="storage_full",
            retry_after_s=_FULL_RETRY_S,
        )
    elif _sqlite_code(exc) == sqlite3.SQLITE_CANTOPEN:  # it was open at the start: no file is free for it
        error = Overloaded(
            f"The database could not be opened ({exc.orig}); send the request again in "
            f"{_NO_FILES_RETRY_S:g} s.",
            code="storage_failed",
            retry_after_s=_NO_FILES_RETRY_S,
        )
    elif _sqlite_code(exc) in _BUSY:
        error = Overloaded(
            f"The database is locked by another program; send the request again in {_BUSY_RETRY_S:g} s.",
            code="storage_failed",
            retry_after_s=_BUSY_RETRY_S,
        )
    else:
        error = Overloaded(
            f"The database could not be {done} ({exc.orig}); send the request again.", code="storage_failed"
        )
    error.__cause__ = exc
    return error

"""The database: what is known of each stored picture. SQLite, one writer thread, a few reader threads.

Callers never wait for each other's disk: the writer takes everything that is queued, commits it with one
fsync and then answers all who asked. Readers do the same with look-ups. Several processes may open the
same file.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import queue
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import orjson
import sqlalchemy as sa

from blossom_async.errors import ConfigurationError, Conflict, Overloaded
from blossom_async.gateway.migrations import HEAD, REVISIONS
from blossom_async.models import ImageRequest, image_request

__all__ = ["IdempotencyEntry", "ImageRecord", "Records"]

_BUSY_TIMEOUT_S = 10.0  # how long another process may hold the write lock before this one gives up
_BUSY_RETRY_S = 5.0  # what a caller is asked to wait then
_PURGE_WAIT_MS = 100  # how long readers of other processes may hold up the writer after a delete
_LITTLE_ROOM = 1 << 20  # bytes; SQLite's side files need some hundred kB to begin with
_GROUP = 500  # questions answered together at most; keeps one transaction short and one SELECT bounded
_ERASED = "(deleted)"  # stands where the prompt of a deleted picture stood
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FULL = {sqlite3.SQLITE_FULL}
_NO_ROOM_PERHAPS = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}  # also without room for a side file
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@attrs.frozen(kw_only=True)
class ImageRecord:
    """All that is known of a stored picture. Times are aware and in UTC, to the microsecond.

    ``request`` is the checked request with its seed pinned. Once ``deleted_at`` is set it holds only size,
    format and quality: the prompt, the metadata and the rest were erased.
    """

    id: str
    request: ImageRequest
    sha256: str
    file_size: int
    provider: str
    model: str
    seed: int
    cost: int
    created_at: datetime
    expires_at: datetime | None
    deleted_at: datetime | None = None


@attrs.frozen(kw_only=True)
class IdempotencyEntry:
    """Which picture a tenant's ``Idempotency-Key`` made; ``fingerprint`` is of the request it came with."""

    tenant: str
    key: str
    fingerprint: str
    image_id: str


class _UtcTime(sa.TypeDecorator[datetime]):
    """Microseconds since 1970 in UTC: sorts, compares and survives any driver."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: sa.Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, _: sa.Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


METADATA = sa.MetaData()

_images = sa.Table(
    "images",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("file_size", sa.BigInteger, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("cost", sa.BigInteger, nullable=False),
    sa.Column("created_at", _UtcTime, nullable=False),
    sa.Column("expires_at", _UtcTime),
    sa.Column("deleted_at", _UtcTime),
)

_idempotency = sa.Table(
    "idempotency",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("image_id", sa.Text, sa.ForeignKey("images.id"), nullable=False),
)


@attrs.frozen
class _Add:
    image: dict[str, Any]
    entry: dict[str, Any] | None


@attrs.frozen
class _Delete:
    image_id: str
    now: datetime


@attrs.frozen
class _Get:
    image_id: str


@attrs.frozen
class _Find:
    tenant: str
    key: str


class Records:
    """The pictures of one database file, created by ``open`` where there is none.

    What ``add`` and ``delete`` have answered is on the disk and survives a power cut. A caller that is
    cancelled while it waits harms no one; its change may still be made.

    Every method raises ``Overloaded`` when the database cannot be read or written, with code
    ``storage_full`` when the disk has no room and ``storage_failed`` otherwise; the next call tries anew.
    It has ``retry_after_s`` when another program holds the database locked.
    """

    def __init__(self, path: Path, *, readers: int = 2) -> None:
        self._path = path
        self._write_engine = _sqlite(path, writes=True)
        self._read_engine = _sqlite(path, writes=False)
        self._writer = _Desk("blossom-records-writer", 1, self._commit)
        self._readers = _Desk("blossom-records-reader", readers, self._look_up)
        self._unpurged = False

    async def open(self) -> None:
        """The database, ready and on this program's schema.

        Raises ``ConfigurationError`` when the file cannot be made or written, is no database of ours, or
        was written by a newer version of this program.
        """
        await asyncio.to_thread(self._begin)
        self._writer.start()
        self._readers.start()

    async def close(self) -> None:
        """Everything handed in before is committed and answered; then the threads end."""
        try:
            await asyncio.to_thread(self._end)
        except RuntimeError:  # the interpreter ends: it has no more threads to give
            self._end()

    async def add(self, record: ImageRecord, entry: IdempotencyEntry | None = None) -> None:
        """Store a picture and the idempotency key it came with, both or neither.

        Raises ``Conflict`` when the tenant has used the key before (code ``idempotency_key_taken``) or the
        id is taken (``id_taken``).
        """
        image = attrs.asdict(record, recurse=False) | {"request": _request_text(record.request)}
        await self._writer.ask(_Add(image, None if entry is None else attrs.asdict(entry)))

    async def delete(self, image_id: str, now: datetime) -> bool:
        """True when the picture was live and is now deleted: its prompt and metadata are erased for good.

        False when there is none of that id or it was deleted before. The words are out of all files of the
        database, unless another process is reading at this moment: then they stay in ``-wal`` until the next
        delete, or until ``close``.
        """
        deleted: bool = await self._writer.ask(_Delete(image_id, now))
        return deleted

    async def get(self, image_id: str) -> ImageRecord | None:
        """The picture of that id, deleted and expired ones included."""
        record: ImageRecord | None = await self._readers.ask(_Get(image_id))
        return record

    async def find_idempotent(self, tenant: str, key: str) -> IdempotencyEntry | None:
        """What the tenant's key made, if it was used."""
        entry: IdempotencyEntry | None = await self._readers.ask(_Find(tenant, key))
        return entry

    def _begin(self) -> None:
        try:
            _prepare(self._path, self._read_engine, self._write_engine)
        except ConfigurationError:
            self._dispose()
            raise
        self._unpurged = True  # whoever had it open before may have been killed after a delete
        self._purge()

    def _end(self) -> None:
        self._writer.end()
        self._readers.end()
        self._purge()
        self._dispose()

    def _purge(self) -> None:
        """Takes what was deleted out of ``-wal``, where commits stay readable until they are written over."""
        if self._unpurged:
            # What fails here fails again, and is said, at the next change. The deletes are committed anyway.
            with contextlib.suppress(sa.exc.DBAPIError, sqlite3.Error):
                self._unpurged = not _truncated_wal(self._write_engine)

    def _dispose(self) -> None:
        self._read_engine.dispose()
        self._write_engine.dispose()

    def _commit(self, changes: Sequence[Any]) -> list[Any]:
        answers = self._applied(changes)
        if any(isinstance(change, _Delete) for change in changes):
            self._unpurged = True
            self._purge()
        return answers

    def _applied(self, changes: Sequence[Any]) -> list[Any]:
        try:
            try:
                with self._write_engine.begin() as connection:
                    return _apply_together(connection, changes)
            except _ONE_IS_AT_FAULT:
                with self._write_engine.begin() as connection:
                    return [_apply_apart(connection, change) for change in changes]
        except sa.exc.DBAPIError as exc:
            self._write_engine.dispose()  # after an I/O error only a fresh connection is known to be sound
            return [_storage_error("written", exc) for _ in changes]

    def _look_up(self, questions: Sequence[Any]) -> list[Any]:
        try:
            with self._read_engine.connect() as connection:
                return _answers(connection, questions)
        except sa.exc.DBAPIError as exc:
            self._read_engine.dispose()
            return [_storage_error("read", exc) for _ in questions]


_ONE_IS_AT_FAULT = (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.InterfaceError, OverflowError, ValueError)
"""What a single row can cause: the others of its group are then applied without it."""


def _apply_together(connection: sa.Connection, changes: Sequence[Any]) -> list[Any]:
    adds = [change for change in changes if isinstance(change, _Add)]
    if adds:
        connection.execute(_images.insert(), [add.image for add in adds])
    if entries := [add.entry for add in adds if add.entry is not None]:
        connection.execute(_idempotency.insert(), entries)
    return [None if isinstance(change, _Add) else _erase(connection, change) for change in changes]


def _apply_apart(connection: sa.Connection, change: Any) -> Any:
    if isinstance(change, _Delete):
        return _erase(connection, change)
    try:
        with connection.begin_nested():
            _insert(connection, _images, change.image, "id_taken", "A picture of this id exists.")
            if change.entry is not None:
                _insert(
                    connection,
                    _idempotency,
                    change.entry,
                    "idempotency_key_taken",
                    "The Idempotency-Key was used by another request; ask again to get its answer.",
                )
    except (Conflict, *_ONE_IS_AT_FAULT) as exc:
        return exc
    return None


def _insert(
    connection: sa.Connection, table: sa.Table, row: dict[str, Any], code: str, sentence: str
) -> None:
    try:
        connection.execute(table.insert(), row)
    except sa.exc.IntegrityError as exc:
        raise Conflict(sentence, code=code) from exc


def _erase(connection: sa.Connection, change: _Delete) -> bool:
    live = (_images.c.id == change.image_id) & _images.c.deleted_at.is_(None)
    text = connection.scalar(sa.select(_images.c.request).where(live).with_for_update())
    if text is None:
        return False
    request = _request(text)
    kept = ImageRequest(
        _ERASED, width=request.width, height=request.height, quality=request.quality, format=request.format
    )
    connection.execute(
        _images.update().where(live).values(request=_request_text(kept), deleted_at=change.now)
    )
    return True


def _answers(connection: sa.Connection, questions: Sequence[Any]) -> list[Any]:
    ids = {question.image_id for question in questions if isinstance(question, _Get)}
    found = {}
    if ids:
        rows = connection.execute(sa.select(_images).where(_images.c.id.in_(ids)))
        found = {row.id: _record(row) for row in rows}
    return [
        found.get(question.image_id) if isinstance(question, _Get) else _entry(connection, question)
        for question in questions
    ]


def _entry(connection: sa.Connection, question: _Find) -> IdempotencyEntry | None:
    row = connection.execute(
        sa.select(_idempotency).where(
            _idempotency.c.tenant == question.tenant, _idempotency.c.key == question.key
        )
    ).first()
    return None if row is None else IdempotencyEntry(**row._mapping)


def _record(row: sa.Row[Any]) -> ImageRecord:
    return ImageRecord(**{**row._mapping, "request": _request(row.request)})


def _request_text(request: ImageRequest) -> str:
    # In full, not models.to_json: a default that changes later must not change what was asked for then.
    return orjson.dumps(attrs.asdict(request)).decode()


def _request(text: str) -> ImageRequest:
    return image_request(orjson.loads(text))


# FULL: in WAL, NORMAL loses acknowledged commits in a power cut (sqlite.org/pragma.html#pragma_synchronous).
# secure_delete: an erased prompt is overwritten, not only forgotten.
_WRITER_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")


def _sqlite(path: Path, *, writes: bool) -> sa.Engine:
    # isolation_level None takes the BEGINs out of sqlite3's hands. The writer begins IMMEDIATE, so that it
    # waits for other processes there and never in the middle; a reader's SELECT is a snapshot by itself.
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"isolation_level": None, "timeout": _BUSY_TIMEOUT_S},
        hide_parameters=True,  # they hold prompts, and errors end up in logs
    )
    pragmas = _WRITER_PRAGMAS if writes else ("query_only=ON",)

    @sa.event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, _: object) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    if writes:

        @sa.event.listens_for(engine, "begin")
        def _(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _truncated_wal(engine: sa.Engine) -> bool:
    connection = engine.raw_connection()  # a checkpoint cannot be made in the transaction SQLAlchemy begins
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
            # Switching to WAL does not wait for locks by itself, so two first starts at once may collide.
            if _sqlite_code(exc) in _BUSY and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            raise ConfigurationError(_cannot_open(path, exc)) from exc
        except (sa.exc.SQLAlchemyError, sqlite3.Error, UnicodeError) as exc:
            # What SQLite does not notice of a schema of random bytes, its readers stumble over.
            raise ConfigurationError(_damaged(path)) from exc


def _cannot_open(path: Path, exc: sa.exc.DBAPIError) -> str:
    code = _sqlite_code(exc)
    if code == sqlite3.SQLITE_NOTADB:
        return f"{path} is not a database. Move it away, or choose another data folder."
    if code in _BUSY:
        return f"The database {path} is locked by another program. Stop it, or choose another data folder."
    if code in _FULL or (code in _NO_ROOM_PERHAPS and _little_room(path)):
        return _disk_is_full(path)
    if code in _DAMAGED:
        return _damaged(path)
    reason = " ".join(str(exc.orig).split())
    return f"The database {path} cannot be opened for writing ({reason}). Check its owner and permissions."


def _little_room(path: Path) -> bool:
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize < _LITTLE_ROOM


def _disk_is_full(path: Path) -> str:
    return f"The disk that holds the database {path} is full. Make room, or choose another data folder."


def _damaged(path: Path) -> str:
    return (
        f"The database {path} is damaged. Put a copy of it from before in its place, "
        "or choose another data folder."
    )


def _migrate(path: Path, read_engine: sa.Engine, write_engine: sa.Engine) -> None:
    with read_engine.connect() as connection:
        _version(path, connection)  # refuse a foreign file before anything in it is changed
    with write_engine.begin() as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            if _little_room(path):
                raise ConfigurationError(_disk_is_full(path))
            raise ConfigurationError(
                f"The folder of {path} cannot hold a database in WAL mode. "
                "Choose a data folder on a local disk."
            )
        if _version(path, connection) != HEAD:
            _upgrade(connection)


def _version(path: Path, connection: sa.Connection) -> str | None:
    tables = sa.inspect(connection).get_table_names()
    if not tables:
        return None
    version = None
    if "alembic_version" in tables:
        version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if version not in REVISIONS:
        raise ConfigurationError(
            f"The database {path} has schema {version!r}, this program knows {', '.join(REVISIONS)}: a newer "
            "version or another program wrote it. Update blossom-async, or choose another data folder."
        )
    return str(version)


def _upgrade(connection: sa.Connection) -> None:
    # Imported here: it costs 100 ms, and a database that is up to date never needs it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "blossom_async.gateway:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _sqlite_code(exc: sa.exc.DBAPIError) -> int:
    code: int = getattr(exc.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF  # the primary code; the rest tells variants apart


def _storage_error(done: str, exc: sa.exc.DBAPIError) -> Overloaded:
    if _sqlite_code(exc) in _FULL:
        error = Overloaded(
            "The disk that holds the database is full; make room, then send the request again.",
            code="storage_full",
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


@attrs.define(eq=False)
class _Ticket:
    question: Any
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class _Desk:
    """Threads that take everything queued, answer it together, and wake each event loop once.

    ``answer`` gets the questions and gives their answers in the same order; an exception among the answers
    is raised where that question was asked. The threads are daemons: a desk that nobody ended holds up no
    interpreter exit.
    """

    def __init__(self, name: str, threads: int, answer: Callable[[Sequence[Any]], list[Any]]) -> None:
        self._answer = answer
        self._queue: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # no ticket may come to lie behind the end of the queue
        self._open = False
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(threads)]

    def start(self) -> None:
        self._open = True
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """All that was asked before is answered; then the threads are gone. A second call does nothing."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            thread.join()

    async def ask(self, question: Any) -> Any:
        loop = asyncio.get_running_loop()
        ticket = _Ticket(question, loop.create_future(), loop)
        with self._lock:
            if not self._open:
                raise RuntimeError("the records are not open")
            self._queue.put(ticket)
        return await ticket.future

    def _work(self) -> None:
        more = True
        while more:
            tickets, more = self._take()
            if tickets:
                try:
                    answers = self._answer([ticket.question for ticket in tickets])
                except Exception as exc:  # noqa: BLE001 - the thread must live on; whoever asked gets it
                    answers = [exc] * len(tickets)
                _settle(tickets, answers)

    def _take(self) -> tuple[list[_Ticket], bool]:
        """What is queued, at least one ticket of it; and whether there may be more."""
        tickets: list[_Ticket] = []
        try:
            ticket = self._queue.get()
            while ticket is not None:
                tickets.append(ticket)
                if len(tickets) == _GROUP:
                    return tickets, True
                ticket = self._queue.get_nowait()
        except queue.Empty:
            return tickets, True
        return tickets, False


def _settle(tickets: Sequence[_Ticket], answers: Sequence[Any]) -> None:
    by_loop = defaultdict(list)
    for ticket, answer in zip(tickets, answers, strict=True):
        by_loop[ticket.loop].append((ticket.future, answer))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_wake, pairs)
        except RuntimeError:  # that loop is closed, and with it everyone who waited there
            continue


def _wake(pairs: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, answer in pairs:
        if future.done():  # cancelled while it waited
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)

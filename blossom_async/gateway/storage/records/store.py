"""``Records``: reads and writes the database from an event loop without blocking it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import sqlalchemy as sa

from blossom_async.errors import ConfigurationError, in_one_line
from blossom_async.gateway.storage.forks import Home
from blossom_async.gateway.storage.records.desk import Desk
from blossom_async.gateway.storage.records.images import (
    Add,
    Delete,
    Erasing,
    Get,
    answers,
    find_idempotent,
    to_row,
)
from blossom_async.gateway.storage.records.sqlite import Sqlite
from blossom_async.gateway.storage.records.tables import IdempotencyEntry, ImageRecord, revision
from blossom_async.gateway.storage.threads import in_a_thread

if TYPE_CHECKING:
    from blossom_async.gateway.storage.records.postgres import Postgres

__all__ = ["Records", "enough_connections", "postgres"]

T = TypeVar("T")

# For a server, where each group costs a round trip and a flush of its disk, as its own commit_delay.
_GATHER_S = 0.002


class Records:
    """The records in one database: a file, which ``open`` creates if needed, or a URL of PostgreSQL.

    Once ``add``, ``delete`` or ``write`` returns, its change survives a power cut. A call that is cancelled
    may still make its change.

    Every method raises ``Overloaded`` when the database cannot be read or written, with code ``storage_full``
    when the disk is full and ``storage_failed`` otherwise; the next call tries again. The error has
    ``retry_after_s`` when another program has locked the database.
    """

    def __init__(self, place: Path | str, *, readers: int = 2) -> None:
        self._database = _database(place)
        on_a_server = not isinstance(place, Path)
        gather = partial(time.sleep, _GATHER_S) if on_a_server else None
        self._writer = Desk("blossom-records-writer", 1, self._commit, gather=gather)
        reading, studying = self._database.reading, self._database.studying
        self._readers = Desk("blossom-records-reader", readers, partial(self._look_up, reading))
        self._student = Desk("blossom-records-student", 1, partial(self._look_up, studying))
        self._apart = Desk("blossom-records-apart", 1, self._commit) if on_a_server else None
        writing = [self._database.writing] * 2 if on_a_server else []
        self._connected = [*[reading] * readers, studying, *writing]  # the connections of these threads
        self._unpurged = False
        self._home = Home()

    async def open(self) -> None:
        """Opens the database and migrates it to this program's schema.

        Raises ``ConfigurationError`` when the file cannot be created or written, is not a database of this
        program, or was written by a newer version of it.
        """
        self._home = Home()
        await asyncio.to_thread(self._begin)
        self._writer.start()
        self._readers.start()
        self._student.start()
        if self._apart is not None:
            self._apart.start()

    async def close(self) -> None:
        """Commits and answers everything asked before, then ends the threads."""
        await in_a_thread(self._end)

    async def add(self, record: ImageRecord, entry: IdempotencyEntry | None = None) -> None:
        """Stores a picture and the idempotency key it was made with, both or neither.

        Raises ``Conflict`` when the tenant has used the key before (code ``idempotency_key_taken``) or the
        id is taken (``id_taken``).
        """
        await self._writer.ask(Add(to_row(record), None if entry is None else attrs.asdict(entry)))

    async def delete(self, image_id: str, now: datetime) -> bool:
        """Deletes a picture and erases its prompt and metadata. False if it does not exist or was deleted.

        The text is removed from all files of the database, unless another process is reading at this moment:
        then it stays in ``-wal`` until the next delete or ``close``.
        """
        deleted: bool = await self._writer.ask(Delete(image_id, now))
        return deleted

    async def get(self, image_id: str) -> ImageRecord | None:
        """The picture of that id, even if it is deleted or expired."""
        record: ImageRecord | None = await self._readers.ask(Get(image_id))
        return record

    async def find_idempotent(self, tenant: str, key: str) -> IdempotencyEntry | None:
        """Which picture the tenant's key made; None if the key was not used."""
        return await self.read(partial(find_idempotent, tenant, key))

    async def write(self, change: Callable[[sa.Connection], T], *, erases: bool = False) -> T:
        """What the change returns, once it is on the disk. It may run twice, with the first run rolled back.

        It runs in the writer's thread, in one transaction with others. If it raises a ``BlossomError``, only
        this change is rolled back. With ``erases`` its deletions reach all files, as those of ``delete``.
        """
        given: T = await self._writer.ask(Erasing(change) if erases else change)
        return given

    async def write_apart(self, change: Callable[[sa.Connection], T]) -> T:
        """As ``write``; on a server it does not wait for other changes."""
        given: T = await (self._apart or self._writer).ask(change)
        return given

    async def settled(self) -> None:
        """Returns once all that was read so far survives a power cut.

        A server shows what another process has changed a moment before that is on its disk.
        """
        if self._apart is not None:
            await self.write(lambda _: None)

    async def read(self, question: Callable[[sa.Connection], T]) -> T:
        """What the question returns, asked in a reader's thread."""
        given: T = await self._readers.ask(question)
        return given

    async def study(self, question: Callable[[sa.Connection], T]) -> T:
        """As ``read``, for questions that may take seconds: look-ups do not wait for them."""
        given: T = await self._student.ask(question)
        return given

    def _begin(self) -> None:
        try:
            self._database.prepare()
            self._connect()
        except ConfigurationError:
            self._dispose()
            raise
        self._unpurged = True  # the process before may have been killed after a delete
        self._purge()

    def _connect(self) -> None:
        """Opens the connections of the threads: none is needed later, nor a file of SQLite to read."""
        with enough_connections(), contextlib.ExitStack() as opened:
            for engine in self._connected:
                connection = opened.enter_context(engine.connect())
                connection.execute(sa.select(revision))  # the first look opens the side files

    def _end(self) -> None:
        self._writer.end()
        self._readers.end()
        self._student.end()
        if self._apart is not None:
            self._apart.end()
        self._purge()
        self._dispose()

    def _purge(self) -> None:
        """Removes what was deleted from ``-wal``, where commits stay readable until they are overwritten."""
        if self._unpurged and self._home.is_here:
            # The deletes are committed. An error here shows up again, and is raised, at the next change.
            with contextlib.suppress(sa.exc.DBAPIError, sqlite3.Error):
                self._unpurged = not self._database.purge()

    def _dispose(self) -> None:
        # In a forked process the connections are still the parent's: they are dropped, not closed.
        for engine in (self._database.reading, self._database.studying, self._database.writing):
            engine.dispose(close=self._home.is_here)

    def _commit(self, changes: Sequence[Any]) -> list[Any]:
        answers = self._applied(changes)
        if any(isinstance(change, Delete | Erasing) for change in changes):
            self._unpurged = True
            self._purge()
        return answers

    def _applied(self, changes: Sequence[Any]) -> list[Any]:
        try:
            return self._database.apply(changes)
        except sa.exc.DBAPIError as exc:
            self._database.writing.dispose()  # after an I/O error only a new connection can be trusted
            return [self._database.error("written", exc) for _ in changes]

    def _look_up(self, engine: sa.Engine, questions: Sequence[Any], *, again: bool = True) -> list[Any]:
        try:
            with engine.connect() as connection:
                return answers(connection, questions)
        except sa.exc.DBAPIError as exc:
            engine.dispose()
            if exc.connection_invalidated and again:  # the server ended it since, as when it restarts
                return self._look_up(engine, questions, again=False)
            return [self._database.error("read", exc) for _ in questions]


@contextlib.contextmanager
def enough_connections() -> Iterator[None]:
    """Raises ``ConfigurationError`` where the block gets no connection, or loses it."""
    try:
        yield
    except sa.exc.DBAPIError as exc:
        raise ConfigurationError(
            f"The database gives this gateway too few connections ({in_one_line(exc.orig)}). "
            "It needs seven: end what uses them up, or raise max_connections of the server or its pool."
        ) from exc


def postgres(url: str) -> Postgres:
    """The database at the URL. Raises ``ConfigurationError`` without its driver."""
    # Imported here: most gateways need no driver of PostgreSQL.
    try:
        from blossom_async.gateway.storage.records.postgres import Postgres
    except ImportError as exc:
        raise ConfigurationError(
            "the driver of PostgreSQL is not installed; pip install '.[postgres]' in the checkout"
        ) from exc
    return Postgres(sa.make_url(url))


def _database(place: Path | str) -> Sqlite | Postgres:
    return Sqlite(place) if isinstance(place, Path) else postgres(place)

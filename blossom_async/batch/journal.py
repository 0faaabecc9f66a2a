"""A file of finished items, each on disk before its result is handed out, to resume after a crash."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import stat
import threading
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import attrs
import orjson

from blossom_async.batch.attempts import new_run_id
from blossom_async.batch.cancellation import completion
from blossom_async.batch.outcome import Outcome
from blossom_async.batch.spending import amount
from blossom_async.errors import ConfigurationError, JournalMismatch
from blossom_async.locks import lock, unlock

__all__ = ["Journal", "JournalFound", "OpenJournal", "Recalled"]

Item = TypeVar("Item")
Value = TypeVar("Value")

_VERSION = 1
_CRC_LENGTH = len(b',"crc":"01234567"}\n')
_LONGEST_LINE = 64 * 2**20  # a longer one is not a record; it is skipped without being held in memory
_INDICES = 100_000_000
_SPARSE_INDICES = 1_000_000  # a line is longer than a byte, so only indices above size + this are impossible
_FINISHED, _FAILED = 1, 2
_GROUP_S = 0.005  # at least this long between commits, so that they are fewer and larger
_sync = getattr(os, "fdatasync", os.fsync)  # fdatasync is cheaper, but not every POSIX system has it
_log = logging.getLogger("blossom_async.batch")


@attrs.frozen
class JournalFound:
    """What was in a journal when it was opened.

    ``finished`` items have a value and are not sent again, unless ``decode`` refuses it; ``failed`` items are
    sent again. ``cut_bytes`` is the length of an unfinished line at the end, which was removed. The items of
    ``damaged_lines`` before the end are sent again.
    """

    finished: int
    failed: int
    cut_bytes: int
    damaged_lines: int


@attrs.frozen
class Recalled:
    """What is recorded about an item: its value if it is finished, and what it may have cost."""

    finished: bool
    value: Any
    cost: Decimal


def _as_is(value: Any) -> Any:
    return value


@attrs.define
class Journal:
    """The file in which a batch records each item as it ends, so that the same call resumes after a crash.

    ``path`` of a JSON Lines file, created if missing · ``run`` describes in one line what is run (endpoint,
    model, options); a journal of another run is refused · ``encode`` turns a value into JSON data, at most
    64 MiB, and ``decode`` turns it back; without them values must be JSON data · ``found`` is set when a run
    opens the file.

    ``decode`` raises ``ValueError`` for a value that is unusable or has expired. Its item is sent again, and
    what the old value cost stays spent. Any other exception of ``encode`` or ``decode`` ends the batch.

    Each line ends with a CRC-32. A record is on disk (fdatasync, shared by many) before its outcome is handed
    out, so an item whose value was seen is never sent again. An item under way in a crash is sent again under
    the same ``Attempt.key``. An item that failed is tried again. The file is locked (flock) against a second
    process. POSIX only.
    """

    path: Path = attrs.field(converter=Path)
    run: str = attrs.field(default="", kw_only=True)
    encode: Callable[[Any], Any] = attrs.field(default=_as_is, kw_only=True, repr=False)
    decode: Callable[[Any], Any] = attrs.field(default=_as_is, kw_only=True, repr=False)
    found: JournalFound | None = attrs.field(default=None, init=False)


class OpenJournal(Generic[Item, Value]):
    """A journal and the thread that opens, scans, writes and closes its file, outside the event loop."""

    def __init__(
        self,
        journal: Journal,
        on_durable: Callable[[list[Outcome[Item, Value]]], None],
        on_failure: Callable[[BaseException, list[Outcome[Item, Value]]], None],
        *,
        run_id: str | None = None,
    ) -> None:
        self.path: Path = journal.path
        self._journal = journal
        # The keys of another id are not those under which its items were sent.
        self._run = journal.run if run_id is None else f"{journal.run} ({run_id})".lstrip()
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._queue: queue.SimpleQueue[tuple[bytes, Outcome[Item, Value]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[_File] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._write, name="blossom journal", daemon=True)
        self._file: _File | None = None
        self._process = os.getpid()
        self._refused = 0
        self._first_refused = ""
        self.run_id: str = ""

    async def open(self) -> None:
        """Reads the file. Raises ``ConfigurationError`` when this run cannot be recorded in it.

        Unexpected errors of the writer thread are raised unchanged.
        """
        self._thread.start()
        self._file = await self._opened
        self.run_id = self._file.run_id
        self._journal.found = found = self._file.found
        if found.cut_bytes or found.damaged_lines:
            _log.warning(
                "journal %s: %d bytes of an unfinished line removed, %d damaged lines skipped; "
                "their items are sent again",
                self.path,
                found.cut_bytes,
                found.damaged_lines,
            )

    @property
    def length(self) -> int:
        """One more than the highest index of a finished item."""
        return self._file.length if self._file is not None else 0

    @property
    def spent(self) -> Decimal:
        """What all recorded items may have cost."""
        return self._file.spent if self._file is not None else Decimal(0)

    def recall(self, index: int, key: str) -> Recalled | None:
        """What is recorded about an item.

        None if nothing usable is recorded.
        Raises ``ConfigurationError`` when another item is finished in that place, or the file is unreadable.
        """
        assert self._file is not None  # noqa: S101 - for the type checker; open() sets it
        try:
            record = self._file.record(index)
        except OSError as exc:
            raise _unusable(self.path, "read", exc) from exc
        if record is None:
            return None
        if record["key"] != key:
            if not record["ok"]:
                return None
            raise JournalMismatch(
                f"journal {self.path}: item {index} is not the item recorded there: it or its options differ "
                "from what is on record; delete the journal, use another one, or run the batch it belongs to"
            )
        if not record["ok"]:
            return Recalled(False, None, _cost(record))
        try:
            value = self._journal.decode(record["value"])
        except ValueError as exc:
            self._first_refused = self._first_refused or f"item {index}: {exc}"[:500]
            self._refused += 1
            return None
        return Recalled(True, value, _cost(record))

    def append(self, outcome: Outcome[Item, Value], key: str, cost: Decimal) -> None:
        """Queues an outcome for writing; ``on_durable`` receives it once it is on disk.

        Raises ``ConfigurationError`` when its value cannot be written as JSON, or is too long, and in a
        process that was forked while the journal was open.
        """
        if self._forked:
            raise ConfigurationError(
                f"journal {self.path}: was opened by process {self._process}, and this is a fork of it; "
                "allowed: one process; start the batch in the process that is to run it"
            )
        record: dict[str, Any] = {"index": outcome.index, "key": key, "ok": outcome.ok}
        if outcome.ok:
            record["value"] = self._journal.encode(outcome.value)
        else:
            record["error"] = f"{type(outcome.error).__name__}: {outcome.error}"[:500]
        if cost:
            record["cost"] = str(cost)
        record["attempts"] = outcome.attempts
        record["elapsed_s"] = round(outcome.elapsed_s, 3)
        try:
            line = _line(record)
        except (TypeError, ValueError) as exc:
            raise ConfigurationError(
                f"journal {self.path}: the value of item {outcome.index} cannot be written: {exc}; "
                "give the journal an encode function that makes it JSON"
            ) from exc
        if len(line) > _LONGEST_LINE:
            raise ConfigurationError(
                f"journal {self.path}: the value of item {outcome.index} takes a line of {len(line)} "
                f"bytes; allowed: {_LONGEST_LINE}; give the journal an encode function that puts it elsewhere"
            )
        self._queue.put((line, outcome))

    async def close(self) -> None:
        """Returns when everything is on disk and the file is closed, even if cancelled meanwhile."""
        if self._thread.ident is None or self._forked:  # the thread has stayed with the parent
            return
        self._queue.put(None)
        try:
            await completion(self._closed)
        finally:
            self._ended()

    def _ended(self) -> None:
        self._thread.join()
        if self._refused:
            _log.warning(
                "journal %s: %d recorded values were unusable (first %s); their items were sent again",
                self.path,
                self._refused,
                self._first_refused,
            )

    @property
    def _forked(self) -> bool:
        return self._process != os.getpid()

    # In the writer thread

    def _write(self) -> None:
        file: _File | None = None
        try:
            file = _File(self.path, self._run)
        except BaseException as exc:  # noqa: BLE001 - the event loop waits for the answer, whatever it is
            self._call(_set_exception, self._opened, self._reason(exc))
        else:
            self._call(_set_result, self._opened, file)
            self._commit_groups(file)
        finally:
            if file is not None:
                with suppress(OSError):  # what was handed out is already on disk
                    file.close()
            self._call(_set_result, self._closed, None)

    def _commit_groups(self, file: _File) -> None:
        failed: BaseException | None = None
        closing, last_commit = False, 0.0
        while not closing:
            first = self._queue.get()
            time.sleep(max(0.0, last_commit + _GROUP_S - time.monotonic()))
            taken = [first]
            while not self._queue.empty():
                taken.append(self._queue.get())
            group = [entry for entry in taken if entry is not None]
            closing = len(group) < len(taken)
            if group and failed is None:
                try:
                    file.append(b"".join([line for line, _ in group]))
                except BaseException as exc:  # noqa: BLE001 - as in _write
                    failed = self._reason(exc)
            last_commit = time.monotonic()
            outcomes = [outcome for _, outcome in group]
            if failed is not None:
                self._call(self._on_failure, failed, outcomes)
            elif group:
                self._call(self._on_durable, outcomes)

    def _reason(self, exc: BaseException) -> BaseException:
        return _unusable(self.path, "written", exc) if isinstance(exc, OSError) else exc

    def _call(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop was closed while the batch ran: nobody waits any more
            self._queue.put(None)


class _File:
    """The file: locked, its header checked, its torn end removed, its records found by index."""

    def __init__(self, path: Path, run: str) -> None:
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would block
        try:
            self._fd = os.open(path, flags, 0o600)
        except ValueError as exc:  # a NUL, or a character that the file system cannot encode
            raise ConfigurationError(f"journal {str(path)!r}: not a valid path: {exc}; use another") from exc
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise ConfigurationError(
                    f"journal {path}: is a device, a pipe or a socket; allowed: a regular file; use another "
                    "path"
                )
            self._lock()
            self._offsets = array("q")
            self._lengths = array("q")
            self.length = 0
            self.run_id = ""
            self.spent = Decimal(0)
            self.found = self._scan(run)
        except BaseException:
            unlock(self._fd)
            raise

    def close(self) -> None:
        unlock(self._fd)

    def append(self, lines: bytes) -> None:
        """Raises ``OSError``; then the end may be torn and nothing more may be appended."""
        self._write(lines)
        _sync(self._fd)

    def record(self, index: int) -> dict[str, Any] | None:
        if index >= len(self._offsets) or self._offsets[index] < 0:
            return None
        return _item_record(os.pread(self._fd, self._lengths[index], self._offsets[index]), index + 1)

    def _lock(self) -> None:
        try:
            lock(self._fd, self._path, "use another path for the journal")
        except BlockingIOError:
            raise ConfigurationError(
                f"journal {self._path}: another run is writing it; wait for that run to end, or use another "
                "journal"
            ) from None

    def _scan(self, run: str) -> JournalFound:
        state = bytearray()  # by index: 0, _FINISHED or _FAILED
        damaged = damaged_since = 0
        with os.fdopen(os.dup(self._fd), "rb") as lines:
            lines.seek(0)
            header = lines.readline(_LONGEST_LINE)
            if not self._check_header(header, run):
                return JournalFound(0, 0, len(header), 0)
            indices = min(_INDICES, _SPARSE_INDICES + os.fstat(self._fd).st_size)
            good_end = position = len(header)
            for line, length in _lines(lines):
                start, position = position, position + length
                record = _item_record(line, indices)
                if record is None:
                    damaged_since += 1
                    continue
                damaged, damaged_since = damaged + damaged_since, 0
                good_end = position
                index = record["index"]
                if index >= len(self._offsets):
                    missing = max(index + 1 - len(self._offsets), len(self._offsets) // 8)
                    self._offsets.extend([-1] * missing)
                    self._lengths.extend([0] * missing)
                    state.extend(bytes(missing))
                if state[index] == _FAILED:
                    before = self.record(index)
                    if before is not None and before["key"] == record["key"]:  # it was sent again
                        self.spent -= _cost(before)
                self.spent += _cost(record)
                self._offsets[index] = start
                self._lengths[index] = length
                state[index] = _FINISHED if record["ok"] else _FAILED
        self.length = state.rfind(_FINISHED) + 1
        if position > good_end:
            os.ftruncate(self._fd, good_end)
            _sync(self._fd)
        return JournalFound(state.count(_FINISHED), state.count(_FAILED), position - good_end, damaged)

    def _check_header(self, line: bytes, run: str) -> bool:
        """True if the header is this run's, False if a new one was written."""
        header = _record(line)
        if header is None:
            start = b'{"journal":'
            cut = not line.endswith(b"\n") and len(line) < _LONGEST_LINE
            unfinished = cut and (line.startswith(start) or start.startswith(line))
            if not unfinished:
                raise JournalMismatch(
                    f"journal {self._path}: its first line is not that of a journal, so it is left as it is; "
                    "use another path"
                )
            self.run_id = new_run_id()
            os.ftruncate(self._fd, 0)
            self._write(_line({"journal": _VERSION, "run": run, "id": self.run_id}))
            os.fsync(self._fd)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)  # otherwise the file's name may not survive a crash
            finally:
                os.close(folder)
            return False
        if header.get("journal") != _VERSION or header.get("run") != run:
            seen = f"version {header.get('journal')}, run {header.get('run')!r:.200}"
            raise JournalMismatch(
                f"journal {self._path}: belongs to another run ({seen}; this is version {_VERSION}, run "
                f"{run!r:.200}); run that one, or use another journal"
            )
        self.run_id = str(header.get("id"))
        return True

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]


def _line(record: dict[str, Any]) -> bytes:
    body = orjson.dumps(record)[:-1]
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None if it is damaged."""
    body = line[:-_CRC_LENGTH]
    if line[-_CRC_LENGTH:] != b',"crc":"%08x"}\n' % zlib.crc32(body):
        return None
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _item_record(line: bytes, indices: int) -> dict[str, Any] | None:
    """The record of an item with an index below ``indices``; None if the line is not one."""
    record = _record(line)
    if record is None or type(record.get("index")) is not int or not 0 <= record["index"] < indices:
        return None
    if type(record.get("ok")) is not bool or not isinstance(record.get("key"), str):
        return None
    if record["ok"] and "value" not in record:
        return None
    try:
        _cost(record)
    except (ValueError, ArithmeticError):
        return None
    return record


def _cost(record: dict[str, Any]) -> Decimal:
    """Raises ``ValueError`` or ``ArithmeticError`` for an invalid amount."""
    if "cost" not in record:
        return Decimal(0)
    text = record["cost"]
    if not isinstance(text, str):
        raise ValueError(f"cost: {text!r:.80} cannot be used; allowed: a number as text")
    return amount(Decimal(text), "cost")


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each line and its length. A line that is too long comes empty, with its length."""
    while line := file.readline(_LONGEST_LINE):
        length, end = len(line), line
        while not end.endswith(b"\n") and (end := file.readline(_LONGEST_LINE)):
            line, length = b"", length + len(end)
        yield line, length


def _unusable(path: Path, use: str, exc: OSError) -> ConfigurationError:
    error = ConfigurationError(
        f"journal {path}: cannot be {use}: {exc.strerror or exc}; nothing new is started"
    )
    error.__cause__ = exc
    return error


def _set_result(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], exception: BaseException) -> None:
    if not future.done():
        future.set_exception(exception)

"""Reads prompt files: one entry after the other, each knowing its line, in constant memory."""

from __future__ import annotations

import asyncio
import csv
import difflib
import os
import re
import stat
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, Self, TypeVar, get_args, get_type_hints

import orjson

from blossom_async.errors import ConfigurationError
from blossom_async.models import ImageOptions

__all__ = ["FORMATS", "BrokenLine", "Entry", "PromptFile", "entries"]

FORMATS = ("txt", "csv", "tsv", "jsonl")

MAX_LINE = 1_048_576  # bytes; prompts end at 32,000 characters
MAX_RECORD = 100  # lines a quoted field may span before its quote counts as forgotten
MAX_DEPTH = 16  # lists and objects in each other; options need two
_PEEK = 8192
_AHEAD = 64  # entries read from a pipe before they are asked for

_SUFFIXES = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
_OFTEN_PROMPTS = ("prompts", "text", "texts", "caption", "captions", "description")
_CLOSE = 0.75  # of difflib's ratio: a slip of the finger, not another word
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')

T = TypeVar("T")
Notice = Callable[[str], object]
Line = tuple[int, "str | BrokenLine"]


class BrokenLine(ValueError):
    """A line that is no entry of a prompt file; the message says what was seen and what is allowed."""


class Entry(Mapping[str, Any]):
    """The settings of one picture, and the ``line`` they stand on, from 1.

    A broken line is an entry too: reading it raises its ``BrokenLine``, so that it fails as an item of its
    own, in its place, and the batch goes on.
    """

    __slots__ = ("_error", "_settings", "line")

    def __init__(self, line: int, settings: Mapping[str, Any] | BrokenLine) -> None:
        self.line = line
        self._error = settings if isinstance(settings, BrokenLine) else None
        self._settings = {} if isinstance(settings, BrokenLine) else settings

    @property
    def prompt(self) -> str | None:
        """The prompt, as far as there is one."""
        prompt = self._settings.get("prompt")
        return prompt if isinstance(prompt, str) else None

    def _readable(self) -> Mapping[str, Any]:
        if self._error is not None:
            raise self._error
        return self._settings

    def __getitem__(self, name: str) -> Any:
        return self._readable()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readable())

    def __len__(self) -> int:
        return len(self._readable())

    def __repr__(self) -> str:
        return f"<Entry of line {self.line}: {str(self._error or dict(self._settings))[:80]}>"


class PromptFile:
    """A prompt file, or standard input for ``-``.

    ``name`` is what it is called in messages. Leaving the block closes it. Raises ``ConfigurationError``
    when it cannot be opened or its format is not known.
    """

    def __init__(self, path: str, kind: str | None = None) -> None:
        self.name = "stdin" if path == "-" else path
        self.kind = kind or ("txt" if path == "-" else _kind(path))
        self._file = _opened(path, self.name)
        self._regular = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode) and path != "-"
        self._path = path
        self._in_thread = False

    def is_same(self, other: Path) -> bool:
        """Whether writing to the other path would write over the prompts."""
        try:
            return self._regular and other.samefile(self._path)
        except OSError:
            return False

    def count(self, limit: int | None) -> int | None:
        """How many entries there are, None for what can be read only once. Reads the file through."""
        if not self._regular:
            return None
        with _opened(self._path, self.name) as file:
            return sum(1 for _ in islice(entries(file, self.kind, self.name), limit))

    async def entries(self, limit: int | None, notice: Notice) -> AsyncIterator[Entry]:
        """The entries, at most ``limit``; ``notice`` gets what a person should know of the columns.

        A pipe is read in a thread of its own, so that waiting for the next line holds nothing else up.
        Raises ``ConfigurationError`` for what is no prompt file at all.
        """
        found = islice(entries(self._file, self.kind, self.name, notice), limit)
        if self._regular:
            for entry in found:
                yield entry
            return
        self._in_thread = True
        async for entry in _from_thread(_closing(self._file, found)):
            yield entry

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._in_thread:  # closing would wait for the thread's read; the thread closes it
            self._file.close()


def entries(file: BinaryIO, kind: str, name: str, notice: Notice = lambda _: None) -> Iterator[Entry]:
    """The entries of an open file. Raises ``ConfigurationError`` for what is no prompt file at all."""
    try:
        lines = _lines(_text(file, name))
        if kind == "txt":
            yield from _txt(lines)
        elif kind == "jsonl":
            yield from _jsonl(lines)
        else:
            yield from _table(_fields_of_csv(lines) if kind == "csv" else _fields_of_tsv(lines), name, notice)
    except OSError as exc:
        raise ConfigurationError(f"{name}: {exc.strerror}") from exc


def _kind(path: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix and suffix not in _SUFFIXES:
        raise ConfigurationError(
            f"{path}: the format cannot be told from {suffix!r}; say --input-format {'|'.join(FORMATS)}"
        )
    return _SUFFIXES.get(suffix, "txt")


def _opened(path: str, name: str) -> BinaryIO:
    try:
        # A reader of its own for standard input: the interpreter would wait for the lock of its own at exit.
        return os.fdopen(os.dup(0), "rb") if path == "-" else Path(path).open("rb")
    except FileNotFoundError as exc:
        raise ConfigurationError(f"{name}: there is no such file") from exc
    except OSError as exc:
        raise ConfigurationError(f"{name}: {exc.strerror}") from exc


def _text(file: BinaryIO, name: str) -> BinaryIO:
    """The file, past a byte order mark, once its beginning looks like UTF-8 text."""
    start: bytes = file.peek(_PEEK)[:_PEEK]  # type: ignore[attr-defined]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigurationError(f"{name}: it is UTF-16; allowed: UTF-8. Save it as UTF-8 first")
    if b"\0" in start:
        raise ConfigurationError(f"{name}: it is binary; allowed: UTF-8 text")
    if start.startswith(b"\xef\xbb\xbf"):
        file.read(3)
    return file


def _lines(file: BinaryIO) -> Iterator[Line]:
    """Numbered lines without their ends; one that is no text is broken."""
    number = 0
    while raw := file.readline(MAX_LINE):
        number += 1
        if len(raw) == MAX_LINE and not raw.endswith(b"\n"):
            while (more := file.readline(MAX_LINE)) and not more.endswith(b"\n"):
                pass
            yield number, BrokenLine(f"the line is longer than {MAX_LINE:,} bytes")
            continue
        try:
            yield number, raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as exc:
            seen = f"byte 0x{raw[exc.start]:02x} at {exc.start + 1}"
            yield number, BrokenLine(f"the line is not UTF-8 ({seen}); save the file as UTF-8")


def _txt(lines: Iterable[Line]) -> Iterator[Entry]:
    for number, line in lines:
        if isinstance(line, BrokenLine):
            yield Entry(number, line)
        elif (prompt := line.strip()) and not prompt.startswith("#"):
            yield Entry(number, {"prompt": prompt})


def _jsonl(lines: Iterable[Line]) -> Iterator[Entry]:
    for number, line in lines:
        if isinstance(line, BrokenLine):
            yield Entry(number, line)
        elif line.strip():
            yield Entry(number, _json(line))


def _json(line: str) -> Mapping[str, Any] | BrokenLine:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        return BrokenLine(f"the line is not JSON: {exc.msg} at character {exc.colno}")
    if _too_deep(value):
        return BrokenLine(f"the line nests lists or objects more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        return {"prompt": value}
    if isinstance(value, dict):
        return value
    return BrokenLine(f"the line is {line.strip():.40}; allowed: an object of options, or a string")


def _too_deep(value: object) -> bool:
    """Whether lists and objects lie so deep in each other that showing them would fail."""
    layer: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        layer = [part for part in layer if isinstance(part, dict | list)]
        if not layer:
            return False
        layer = [inner for part in layer for inner in (part.values() if isinstance(part, dict) else part)]
    return True


def _table(rows: Iterator[tuple[int, list[str] | BrokenLine]], name: str, notice: Notice) -> Iterator[Entry]:
    """Entries of a table whose first row names the columns."""
    _, header = next(rows, (0, []))
    if isinstance(header, BrokenLine):
        raise ConfigurationError(f"{name}: the header cannot be read: {header}")
    columns = [_column(title) for title in header]
    if "prompt" not in columns:
        raise ConfigurationError(f"{name}: there is no column 'prompt'; {_without_prompt(header, columns)}")
    if twice := sorted({column for column in columns if columns.count(column) > 1 and column in _READ}):
        raise ConfigurationError(f"{name}: column {twice[0]!r} is there twice")
    if ignored := [_unused(title) for title in header if _column(title) not in _READ]:
        notice(f"{name}: columns that are no options and not used: {', '.join(ignored)}")
    for number, row in rows:
        if isinstance(row, BrokenLine):
            yield Entry(number, row)
        elif len(row) != len(columns):
            yield Entry(
                number, BrokenLine(f"the line has {len(row)} fields; allowed: {len(columns)}, as the header")
            )
        else:
            cells = zip(columns, row, strict=True)
            yield Entry(
                number, {column: _READ[column](cell) for column, cell in cells if _given(column, cell)}
            )


def _without_prompt(header: list[str], columns: list[str]) -> str:
    """What a header without prompts has instead, and what to do about it."""
    seen = ", ".join(title.strip() for title in header) or "nothing"
    other = next((mark for mark in _SEPARATORS if len(header) == 1 and mark in header[0]), None)
    if other is not None:
        return (
            f"the first line has {seen:.200}, which looks separated by {_SEPARATORS[other]}; "
            "allowed: commas in .csv, tabs in .tsv"
        )
    meant = next((column for column in columns if column in _OFTEN_PROMPTS), None)
    meant = meant or next(iter(difflib.get_close_matches("prompt", columns, 1, _CLOSE)), None)
    advice = f". Rename {header[columns.index(meant)].strip()!r} to 'prompt' if that is it" if meant else ""
    return f"the first line has {seen:.200}{advice}"


def _unused(title: str) -> str:
    close = difflib.get_close_matches(_column(title), _READ, 1, _CLOSE)
    return f"{title.strip()} (did you mean {close[0]}?)" if close else title.strip()


def _column(title: str) -> str:
    return title.strip().lower().replace(" ", "_").replace("-", "_")


def _given(column: str, cell: str) -> bool:
    return column == "prompt" or (column in _READ and bool(cell.strip()))


# A cell that cannot be converted stays text, for ImageRequest to refuse: options are checked in one place.
def _whole(cell: str) -> int | str:
    cell = cell.strip()
    return int(cell) if _WHOLE.fullmatch(cell) else cell


def _flag(cell: str) -> bool | str:
    return _FLAGS.get(cell.strip().lower(), cell.strip())


def _object(cell: str) -> Any:
    try:
        value = orjson.loads(cell)
    except orjson.JSONDecodeError:
        return cell
    return cell if _too_deep(value) else value


def _reader(kind: Any) -> Callable[[str], Any]:
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if bool in kinds:
        return _flag
    if int in kinds:
        return _whole
    return str.strip if str in kinds else _object


_READ: dict[str, Callable[[str], Any]] = {
    "prompt": str.strip,
    **{name: _reader(kind) for name, kind in get_type_hints(ImageOptions).items()},
}
"""Column -> how a cell becomes the option's value."""


def _fields_of_tsv(lines: Iterable[Line]) -> Iterator[tuple[int, list[str] | BrokenLine]]:
    """Fields between tabs: a quote is text, as the format has it, but a spreadsheet's quoting is undone."""
    for number, line in lines:
        if isinstance(line, BrokenLine):
            yield number, line
        elif line.strip():
            yield number, [_unquoted(field) for field in line.split("\t")]


def _unquoted(field: str) -> str:
    quoted = _QUOTED.fullmatch(field)
    return quoted[1].replace('""', '"') if quoted else field


def _fields_of_csv(lines: Iterable[Line]) -> Iterator[tuple[int, list[str] | BrokenLine]]:
    """Records of RFC 4180. One that breaks costs its first line; reading goes on with the next.

    So a quote that was forgotten swallows no more than its own line.
    """
    source = _Again(lines)
    while (first := source.next()) is not None:
        number, line = first
        if isinstance(line, BrokenLine):
            yield number, line
            continue
        record = _Record(line, source)
        try:
            fields = next(csv.reader(record, strict=True))
        except (csv.Error, BrokenLine) as exc:
            source.back(record.more)
            yield number, BrokenLine(f"the line is not CSV: {exc}")
            continue
        if fields and any(fields):
            yield number, fields


class _Again:
    """An iterator that lines can be given back to."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = iter(lines)
        self._back: deque[Line] = deque()

    def next(self) -> Line | None:
        return self._back.popleft() if self._back else next(self._lines, None)

    def back(self, lines: list[Line]) -> None:
        self._back.extendleft(reversed(lines))


class _Record:
    """The lines one record is read from: the first, then as many ``more`` as its quotes ask for."""

    def __init__(self, first: str, source: _Again) -> None:
        self._first: str | None = first
        self._source = source
        self.more: list[Line] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._first is not None:
            line, self._first = self._first, None
            return line + "\n"
        if len(self.more) >= MAX_RECORD:
            raise BrokenLine(f"a quote is not closed within {MAX_RECORD} lines")
        following = self._source.next()
        if following is None:
            raise BrokenLine("a quote is not closed")
        self.more.append(following)
        if isinstance(following[1], BrokenLine):
            raise BrokenLine("a quote is not closed before a line that is no text")
        return following[1] + "\n"


def _closing(file: BinaryIO, items: Iterator[T]) -> Iterator[T]:
    with file:
        yield from items


async def _from_thread(items: Iterator[T]) -> AsyncIterator[T]:
    """The items of an iterator that may block, read a little ahead in a thread.

    The thread ends with the iterator, or with the process: nothing can wake it from a read.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[T | BaseException | None] = asyncio.Queue()
    room = threading.Semaphore(_AHEAD)

    def hand_over(item: T | BaseException | None) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, item)

    def read() -> None:
        try:
            try:
                for item in items:
                    hand_over(item)
                    room.acquire()
                hand_over(None)
            except Exception as exc:  # noqa: BLE001 - raised in the task that reads the queue
                hand_over(exc)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    threading.Thread(target=read, name="blossom-prompts", daemon=True).start()
    while (item := await arrived.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        room.release()
        yield item

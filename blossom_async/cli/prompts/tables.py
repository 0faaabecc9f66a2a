"""Entries of csv and tsv files: a header of column names, then a record for each entry."""

from __future__ import annotations

import csv
import difflib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from blossom_async.cli.prompts.entry import BrokenLine, Entry
from blossom_async.cli.prompts.lines import Line
from blossom_async.cli.prompts.settings import READ, given, option_name
from blossom_async.errors import ConfigurationError

__all__ = ["MAX_RECORD", "csv_fields", "table", "tsv_fields"]

MAX_RECORD = 100  # lines a quoted field may span before its quote counts as forgotten
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
_OFTEN_PROMPTS = ("prompts", "text", "texts", "caption", "captions", "description")
_CLOSE = 0.75  # of difflib's ratio: a slip of the finger, not another word
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def table(
    rows: Iterator[tuple[int, list[str] | BrokenLine]], name: str, notice: Callable[[str], object]
) -> Iterator[Entry]:
    """Entries of a table whose first row names the columns."""
    _, header = next(rows, (0, []))
    if isinstance(header, BrokenLine):
        raise ConfigurationError(f"{name}: the header cannot be read: {header}")
    columns = [option_name(title) for title in header]
    if "prompt" not in columns:
        raise ConfigurationError(f"{name}: there is no column 'prompt'; {_without_prompt(header, columns)}")
    if twice := sorted({column for column in columns if columns.count(column) > 1 and column in READ}):
        raise ConfigurationError(f"{name}: column {twice[0]!r} is there twice")
    if ignored := [_unused(title) for title in header if option_name(title) not in READ]:
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
            yield Entry(number, {column: READ[column](cell) for column, cell in cells if given(column, cell)})


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
    close = difflib.get_close_matches(option_name(title), READ, 1, _CLOSE)
    return f"{title.strip()} (did you mean {close[0]}?)" if close else title.strip()


def tsv_fields(lines: Iterable[Line]) -> Iterator[tuple[int, list[str] | BrokenLine]]:
    """Fields between tabs: a quote is text, as the format has it, but a spreadsheet's quoting is undone."""
    for number, line in lines:
        if isinstance(line, BrokenLine):
            yield number, line
        elif line.strip():
            yield number, [_unquoted(field) for field in line.split("\t")]


def _unquoted(field: str) -> str:
    quoted = _QUOTED.fullmatch(field)
    return quoted[1].replace('""', '"') if quoted else field


def csv_fields(lines: Iterable[Line]) -> Iterator[tuple[int, list[str] | BrokenLine]]:
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

"""Lines to the fields of csv and tsv records, quoted line breaks included."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from blossom_async.cli.prompts.entry import BrokenLine
from blossom_async.cli.prompts.lines import MAX_LINE, Line
from blossom_async.cli.prompts.settings import option_name

__all__ = ["DELIMITERS", "MAX_RECORD", "Record", "csv_records", "tsv_records"]

MAX_RECORD = 100  # lines a quoted field may span; beyond, its closing quote is taken as forgotten
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEP = re.compile("sep=(.)")  # the first line, as Excel writes and reads it
_QUOTED = re.compile(r'"((?:[^"]++|"")*+)"(?=\t|\Z)')
_OPEN = re.compile(r'"(?:[^"]++|"")*+\Z')

Record = tuple[int, "list[str] | BrokenLine"]


def csv_records(lines: Iterable[Line]) -> Iterator[Record]:
    """Records of RFC 4180, separated as the header is: by commas, semicolons, tabs or bars.

    A record that breaks costs its first line, and reading goes on with the next: a forgotten quote swallows
    no other line.
    """
    source = _Again(lines)
    return _records(source, partial(_csv_fields, delimiter=_delimiter(source)))


def tsv_records(lines: Iterable[Line]) -> Iterator[Record]:
    """Fields between tabs, otherwise as ``csv_records``.

    Quotes are text, as tsv has no quoting, unless they enclose a whole field as a spreadsheet writes it.
    """
    return _records(_Again(lines), _tsv_fields)


def _records(source: _Again, fields_of: Callable[[_Lines], list[str]]) -> Iterator[Record]:
    while (first := source.next()) is not None:
        number, line = first
        if isinstance(line, BrokenLine):
            yield number, line
            continue
        if not line.strip():
            continue
        record = _Lines(line, source)
        try:
            fields = fields_of(record)
        except BrokenLine as exc:
            source.back(record.more)
            yield number, exc
            continue
        if any(fields):
            yield number, fields


def _delimiter(source: _Again) -> str:
    """The delimiter under which the first line names a prompt, else the one that gives most fields."""
    first = source.next()
    if first is None or isinstance(first[1], BrokenLine):
        source.back([first] if first is not None else [])
        return ","
    if named := _SEP.fullmatch(first[1]):
        return named[1]
    source.back([first])
    header = first[1]

    def fits(delimiter: str) -> tuple[bool, int]:
        titles = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
        return "prompt" in map(option_name, titles), len(titles)

    return max(DELIMITERS, key=fits)


def _csv_fields(record: _Lines, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(record, strict=True, delimiter=delimiter, skipinitialspace=True))
    except (csv.Error, BrokenLine) as exc:
        raise BrokenLine(f"the line is not CSV: {exc}") from exc


def _tsv_fields(record: _Lines) -> list[str]:
    text = next(record).removesuffix("\n")
    while True:
        fields, at = [], 0
        while at <= len(text) and not _OPEN.match(text, at):
            field, at = _tsv_field(text, at)
            fields.append(field)
        if at > len(text):
            return fields
        try:
            text += "\n" + next(record).removesuffix("\n")
        except BrokenLine as exc:
            raise BrokenLine(f"the line is not TSV: {exc}") from exc


def _tsv_field(text: str, at: int) -> tuple[str, int]:
    """The field that begins there, and where the next one begins."""
    if quoted := _QUOTED.match(text, at):
        return quoted[1].replace('""', '"'), quoted.end() + 1
    end = text.find("\t", at)
    end = len(text) if end < 0 else end
    if "\n" in text[at:end]:
        raise BrokenLine("the line is not TSV: text follows a quote that was closed on a later line")
    return text[at:end], end + 1


class _Again:
    """An iterator that lines can be given back to."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = iter(lines)
        self._back: deque[Line] = deque()

    def next(self) -> Line | None:
        return self._back.popleft() if self._back else next(self._lines, None)

    def back(self, lines: list[Line]) -> None:
        self._back.extendleft(reversed(lines))


class _Lines:
    """The lines of one record: the first, then as many ``more`` as its quotes need."""

    def __init__(self, first: str, source: _Again) -> None:
        self._first: str | None = first
        self._source = source
        self._room = MAX_LINE - len(first)
        self.more: list[Line] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._first is not None:
            line, self._first = self._first, None
            return line + "\n"
        if len(self.more) >= MAX_RECORD or self._room < 0:
            raise BrokenLine(f"a quote is not closed within {MAX_RECORD} lines")
        following = self._source.next()
        if following is None:
            raise BrokenLine("a quote is not closed")
        self.more.append(following)
        if isinstance(following[1], BrokenLine):
            raise BrokenLine("a quote is not closed before a line that is not text")
        self._room -= len(following[1])
        return following[1] + "\n"

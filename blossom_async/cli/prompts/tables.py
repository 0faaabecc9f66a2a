"""Entries of csv and tsv files: a header of column names, then a record for each entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from blossom_async.cli.prompts.entry import BrokenLine, Entry
from blossom_async.cli.prompts.records import DELIMITERS, Record
from blossom_async.cli.prompts.settings import OPTIONS, misspelt, option_name, prompt_in_disguise, read
from blossom_async.errors import ConfigurationError

__all__ = ["table"]


def table(records: Iterator[Record], name: str, notice: Callable[[str], object]) -> Iterator[Entry]:
    """Entries of a table whose first record names the columns.

    ``notice`` is told of columns that are not options; they are ignored. Raises ``ConfigurationError`` for a
    header without a prompt, with an option twice or with one that is misspelt.
    """
    _, header = next(records, (0, []))
    if isinstance(header, BrokenLine):
        raise ConfigurationError(f"{name}: the header cannot be read: {header}")
    columns = [option_name(title) for title in header]
    _check(header, columns, name)
    if ignored := [title.strip() for title in header if title.strip() and option_name(title) not in OPTIONS]:
        notice(f"{name}: ignored columns that are not options: {', '.join(ignored)}")
    for number, record in records:
        yield Entry(number, record if isinstance(record, BrokenLine) else _settings(columns, record))


def _settings(columns: list[str], record: list[str]) -> dict[str, object] | BrokenLine:
    if len(record) != len(columns):
        hint = "; put quotes around a prompt with commas" if len(record) > len(columns) else ""
        return BrokenLine(f"the line has {len(record)} fields; allowed: {len(columns)}, as the header{hint}")
    cells = zip(columns, record, strict=True)
    found = {column: read(column, cell) for column, cell in cells if column in OPTIONS}
    return {column: value for column, value in found.items() if value is not None}


def _check(header: list[str], columns: list[str], name: str) -> None:
    if "prompt" not in columns:
        raise ConfigurationError(f"{name}: there is no column 'prompt'; {_instead(header, columns)}")
    if twice := next((column for column in columns if column in OPTIONS and columns.count(column) > 1), None):
        raise ConfigurationError(f"{name}: column {twice!r} is there twice; allowed: once. Remove one")
    for title, column in zip(header, columns, strict=True):
        if meant := misspelt(column, frozenset(columns)):
            raise ConfigurationError(
                f"{name}: unknown option {title.strip()!r}. Did you mean {meant!r}? Rename or remove it"
            )


def _instead(header: list[str], columns: list[str]) -> str:
    """What a header without prompts has instead, and what to do about it."""
    seen = ", ".join(title.strip() for title in header) or "nothing"
    other = next((mark for mark in DELIMITERS if len(header) == 1 and mark in header[0]), None)
    if other is not None:
        return (
            f"the first line has {seen:.200}, which looks separated by {DELIMITERS[other]}; "
            "allowed: tabs in .tsv. Say --input-format csv"
        )
    disguised = prompt_in_disguise(columns)
    if disguised is None:
        return f"the first line has {seen:.200}"
    title = header[columns.index(disguised)].strip()
    return f"the first line has {seen:.200}. Rename {title!r} to 'prompt' if that is it"

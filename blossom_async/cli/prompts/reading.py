"""The entries of a prompt file, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import orjson

from blossom_async.cli.prompts.entry import BrokenLine, Entry
from blossom_async.cli.prompts.lines import Line, lines
from blossom_async.cli.prompts.settings import MAX_DEPTH, too_deep
from blossom_async.cli.prompts.tables import csv_fields, table, tsv_fields
from blossom_async.errors import ConfigurationError

__all__ = ["FORMATS", "entries"]

FORMATS = ("txt", "csv", "tsv", "jsonl")


def entries(
    file: BinaryIO, kind: str, name: str, notice: Callable[[str], object] = lambda _: None
) -> Iterator[Entry]:
    """The entries of an open file. Raises ``ConfigurationError`` for what is no prompt file at all."""
    try:
        read = lines(file, name)
        if kind == "txt":
            yield from _txt(read)
        elif kind == "jsonl":
            yield from _jsonl(read)
        else:
            yield from table(csv_fields(read) if kind == "csv" else tsv_fields(read), name, notice)
    except OSError as exc:
        raise ConfigurationError(f"{name}: {exc.strerror}") from exc


def _txt(read: Iterable[Line]) -> Iterator[Entry]:
    for number, line in read:
        if isinstance(line, BrokenLine):
            yield Entry(number, line)
        elif (prompt := line.strip()) and not prompt.startswith("#"):
            yield Entry(number, {"prompt": prompt})


def _jsonl(read: Iterable[Line]) -> Iterator[Entry]:
    for number, line in read:
        if isinstance(line, BrokenLine):
            yield Entry(number, line)
        elif line.strip():
            yield Entry(number, _json(line))


def _json(line: str) -> Mapping[str, Any] | BrokenLine:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        return BrokenLine(f"the line is not JSON: {exc.msg} at character {exc.colno}")
    if too_deep(value):
        return BrokenLine(f"the line nests lists or objects more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        return {"prompt": value}
    if isinstance(value, dict):
        return value
    return BrokenLine(f"the line is {line.strip():.40}; allowed: an object of options, or a string")

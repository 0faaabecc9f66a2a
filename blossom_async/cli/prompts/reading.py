"""The entries of a prompt file, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from blossom_async.cli.prompts.entry import BrokenLine, Entry
from blossom_async.cli.prompts.jsonl import jsonl
from blossom_async.cli.prompts.lines import Line, lines
from blossom_async.cli.prompts.records import csv_records, tsv_records
from blossom_async.cli.prompts.tables import table
from blossom_async.errors import ConfigurationError
from blossom_async.models import VISIBLE

__all__ = ["FORMATS", "entries"]

FORMATS = ("txt", "csv", "tsv", "jsonl")


def entries(
    file: BinaryIO, kind: str, name: str, notice: Callable[[str], object] = lambda _: None
) -> Iterator[Entry]:
    """The entries of an open file; ``notice`` is told which of its names are ignored.

    Raises ``ConfigurationError`` for a file that is not a prompt file, or cannot be read to its end.
    """
    try:
        read = lines(file, name)
        if kind == "txt":
            yield from _txt(read)
        elif kind == "jsonl":
            yield from jsonl(read, name, notice)
        else:
            yield from table(csv_records(read) if kind == "csv" else tsv_records(read), name, notice)
    except OSError as exc:
        raise ConfigurationError(f"{name}: {exc.strerror}; make it readable, then start again") from exc


def _txt(read: Iterable[Line]) -> Iterator[Entry]:
    for number, line in read:
        if isinstance(line, BrokenLine):
            yield Entry(number, line)
        elif VISIBLE.search(prompt := line.strip()) and not prompt.startswith("#"):
            yield Entry(number, {"prompt": prompt})

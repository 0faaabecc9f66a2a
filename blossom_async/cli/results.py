"""What a batch leaves behind: a line for each item, a table to read, and what it came to."""

from __future__ import annotations

import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import attrs
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from blossom_async.batch import Outcome
from blossom_async.cli.prompts import Entry
from blossom_async.cli.words import CannotStart, duration, plural, said
from blossom_async.errors import BlossomError

if TYPE_CHECKING:
    from blossom_async.models import ImageInfo

__all__ = ["JsonLines", "Result", "Shown", "Tally", "json_stdout"]

_SHORT_ENOUGH = 30  # rows; beyond, the table has the first ones and the failures
_FIRST = 12


@attrs.frozen
class Result:
    """One item of a batch, with all that is written about it. ``place`` is its file and line."""

    index: int
    place: str
    prompt: str | None
    info: ImageInfo | None
    error: str | None
    reused: bool

    @classmethod
    def of(cls, outcome: Outcome[Any, ImageInfo], name: str) -> Result:
        """The result of an entry of the prompt file of that name."""
        entry: Entry = outcome.item
        place = f"{name}:{entry.line}"
        error = None if outcome.error is None else f"{place}: {_why(outcome.error)}"
        reused = outcome.ok and outcome.attempts == 0
        return cls(outcome.index, place, entry.prompt, outcome.value, error, reused)

    def json(self) -> bytes:
        """One line of JSON."""
        made = {
            name: getattr(self.info, name, None)
            for name in ("url", "id", "width", "height", "format", "file_size", "cost", "seed")
        }
        line = {"index": self.index, "prompt": self.prompt, **made, "error": self.error}
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _why(error: Exception) -> str:
    if isinstance(error, BlossomError | ValueError | TypeError):
        return str(error)
    return f"{type(error).__name__}: {error}"


class JsonLines:
    """A file with a line for each result, each on its way to the disk when ``add`` returns.

    Raises ``CannotStart`` when the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        try:
            self._file = path.open("ab")  # what an earlier run wrote stays until there is something to write
        except OSError as exc:
            raise self._failed(exc) from exc

    def add(self, result: Result) -> None:
        """Writes one line."""
        assert self._file is not None  # noqa: S101 - for the type checker
        try:
            if result.index == 0 and stat.S_ISREG(self._path.stat().st_mode):
                self._file.truncate(0)
            self._file.write(result.json())
            self._file.flush()
        except OSError as exc:
            raise self._failed(exc) from exc

    def close(self) -> None:
        """Closes the file. What could not be written was said by ``add``."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _failed(self, exc: OSError) -> CannotStart:
        return CannotStart(f"--out {self._path}: {exc.strerror}")


def json_stdout(result: Result) -> None:
    """The result as a line of JSON on stdout."""
    sys.stdout.buffer.write(result.json())
    sys.stdout.buffer.flush()


@attrs.define
class Tally:
    """What the batch came to so far."""

    total: int | None = None
    done: int = 0
    failed: int = 0
    credits: int = 0
    reused: int = 0
    elapsed_s: float = 0.0
    unlisted: int = 0

    def add(self, result: Result) -> None:
        """Counts one result."""
        if result.info is None:
            self.failed += 1
        else:
            self.done += 1
            self.reused += result.reused
            self.credits += result.info.cost

    def sentence(self, *, ended: bool) -> str:
        """``24 of 24 pictures in 1.9 s (12.6/s), 24 credits``."""
        known = self.done + self.failed if ended else self.total
        count = f"{self.done:,} of {plural(known, 'picture')}" if known else plural(self.done, "picture")
        rate = f" ({self.done / self.elapsed_s:.1f}/s)" if self.elapsed_s > 0 and self.done else ""
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{count} in {duration(self.elapsed_s)}{rate}, {plural(self.credits, 'credit')}{failed}"


class Shown:
    """The results a person is shown: all of a few or of as many as were asked for, else some of each kind."""

    def __init__(self, *, all_rows: bool) -> None:
        self._all = all_rows
        self._rows: list[Result] = []
        self._failures: list[Result] = []
        self._count = 0
        self._failed = 0

    def add(self, result: Result) -> None:
        """Keeps the result if it may be shown."""
        self._count += 1
        self._failed += result.info is None
        if self._all or len(self._rows) < _SHORT_ENOUGH:
            self._rows.append(result)
        elif result.info is None and len(self._failures) < _SHORT_ENOUGH:
            self._failures.append(result)

    def write(self, console: Console) -> None:
        """Writes the table, and what it leaves out."""
        if not self._count:
            return
        rows = self._rows
        if self._count > len(self._rows):
            failures = [row for row in self._rows[_FIRST:] if row.info is None] + self._failures
            rows = self._rows[:_FIRST] + failures[:_SHORT_ENOUGH]
        console.print(_table(rows, console.width))
        if left_out := self._count - len(rows):
            failed = self._failed - sum(row.info is None for row in rows)
            which = f", {failed:,} of them failed" if failed else ""
            console.print(Text(f" and {left_out:,} more{which}; --all shows every row", style="dim"))


def _table(rows: list[Result], width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", width=width)
    longest = max((len(row.info.url) for row in rows if row.info), default=0)
    number = len(f"{rows[-1].index + 1}")
    beside = width - longest - number - 6 >= 16
    table.add_column("#", justify="right", style="dim", no_wrap=True, width=number)
    if beside:  # the URL whole, since people copy it, and of the prompt what fits
        table.add_column("prompt", no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column("picture", overflow="fold", width=longest or width * 2 // 3)
        for row in rows:
            table.add_row(str(row.index + 1), _prompt(row), _outcome(row))
    else:
        table.add_column("prompt, picture", overflow="fold", ratio=1)
        for row in rows:
            prompt = _prompt(row)
            prompt.truncate(width - number - 4, overflow="ellipsis")
            table.add_row(str(row.index + 1), Text("\n").join([prompt, _outcome(row)]))
    return table


def _prompt(row: Result) -> Text:
    return Text(said(row.prompt or "-")[:300])


def _outcome(row: Result) -> Text:
    if row.info is None:
        return Text(said(row.error or "")[:400], style="red")
    url = said(row.info.url)
    return Text(url, style=f"cyan link {url}" if url.isascii() and " " not in url else "cyan")

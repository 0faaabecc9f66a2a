"""The results of a batch: a line of JSON for each item, a table to read, and totals."""

from __future__ import annotations

import asyncio
import errno
import os
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
from blossom_async.cli.prompts.entry import Entry
from blossom_async.cli.words import CannotStart, duration, plural, said, stdout_checked
from blossom_async.errors import BlossomError, NotRun

if TYPE_CHECKING:
    from blossom_async.models import ImageInfo

__all__ = ["InTurn", "JsonLines", "Result", "Shown", "Tally", "json_stdout"]

_SHORT_ENOUGH = 30  # rows; a longer table shows the first ones and the failures
_FIRST = 12


@attrs.frozen
class Result:
    """What became of one item. ``place`` is its file and line.

    ``stopped_by`` is why the run stopped before it, None if the item was tried.
    """

    index: int
    place: str
    prompt: str | None
    info: ImageInfo | None
    error: str | None
    reused: bool
    stopped_by: str | None = None

    @classmethod
    def of(cls, outcome: Outcome[Any, ImageInfo], name: str) -> Result:
        """The result of an entry; ``name`` is the name of its prompt file."""
        entry: Entry = outcome.item
        place = f"{name}:{entry.line}"
        failure, stop = outcome.error, None
        if isinstance(failure, NotRun):  # a reason of the whole run, and so of the command's options
            stop = failure.reason.replace("max_cost", "--max-cost")
            failure = NotRun(stop)
        error = None if failure is None else f"{place}: {_why(failure)}"
        reused = outcome.ok and outcome.attempts == 0
        return cls(outcome.index, place, entry.prompt, outcome.value, error, reused, stop)

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


class InTurn:
    """Puts results that arrive in any order back into the order of their items.

    ``received`` counts the results so far; ``any_done`` is True once one of them is a picture.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._next = 0
        self._early: dict[int, Result] = {}
        self._moved = asyncio.Event()
        self.received: int = 0
        self.any_done: bool = False

    def add(self, result: Result) -> None:
        """Accepts a result."""
        self.received += 1
        self.any_done = self.any_done or result.info is not None
        self._early[result.index] = result

    def pop(self) -> Result | None:
        """The next result in order, None while it is missing."""
        result = self._early.pop(self._next, None)
        if result is not None:
            self._next += 1
            self._moved.set()
        return result

    def pop_early(self) -> list[Result]:
        """All results left, in order, once no more will arrive."""
        early, self._early = self._early, {}
        return [early[index] for index in sorted(early)]

    async def room(self, index: int) -> None:
        """Waits until the item may start: the number of results that wait for an earlier one is bounded."""
        while index - self._next >= self._window:
            self._moved.clear()
            await self._moved.wait()


class JsonLines:
    """A file with one line per result, each handed to the operating system when ``add`` returns.

    The lines of an earlier run stay until there is a first result. Raises ``CannotStart`` if the file cannot
    be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = False
        try:
            self._file: IO[bytes] = os.fdopen(_appending(path), "ab")
        except OSError as exc:
            raise self._failed(exc) from exc

    def add(self, result: Result) -> None:
        """Writes one line."""
        try:
            if not self._begun and stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                self._file.truncate(0)
            self._begun = True
            self._file.write(result.json())
            self._file.flush()
        except OSError as exc:
            raise self._failed(exc) from exc

    def close(self) -> None:
        """Closes the file. ``add`` has reported anything that could not be written."""
        with suppress(OSError):
            self._file.close()

    def _failed(self, exc: OSError) -> CannotStart:
        if exc.errno == errno.ENXIO:
            return CannotStart(f"--out {self._path}: nothing reads this pipe; start its reader first")
        return CannotStart(f"--out {self._path}: {exc.strerror}; make room, or name another file")


def _appending(path: Path) -> int:
    """Opens a file for appending. Fails for a pipe without a reader instead of waiting for one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def json_stdout(result: Result) -> None:
    """Prints the result as a line of JSON. Raises ``CannotStart`` if stdout cannot be written."""
    if sys.stdout is not None:
        with stdout_checked():
            sys.stdout.buffer.write(result.json())


@attrs.define
class Tally:
    """Totals so far. ``reused`` of the ``done`` came from an earlier run and cost nothing now.

    ``stopped_by`` is why the run stopped before its end, None while it has not.
    """

    total: int | None = None
    done: int = 0
    failed: int = 0
    credits: int = 0
    reused: int = 0
    elapsed_s: float = 0.0
    stopped_by: str | None = None

    def add(self, result: Result) -> None:
        """Counts one result. Items that were not tried have not failed."""
        self.stopped_by = self.stopped_by or result.stopped_by
        if result.info is None:
            self.failed += result.stopped_by is None
        else:
            self.done += 1
            self.reused += result.reused
            self.credits += 0 if result.reused else result.info.cost

    @property
    def made(self) -> int:
        """Pictures made by this run."""
        return self.done - self.reused

    @property
    def per_second(self) -> float:
        """Pictures made per second."""
        return self.made / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def sentence(self, *, ended: bool) -> str:
        """``24 of 24 pictures in 1.9 s (12.6/s), 24 credits``."""
        known = self.done + self.failed if ended else self.total
        count = f"{self.done:,} of {plural(known, 'picture')}" if known else plural(self.done, "picture")
        new = f", {self.made:,} of them new," if self.reused else ""
        rate = f" ({self.per_second:.1f}/s)" if self.per_second else ""
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{count}{new} in {duration(self.elapsed_s)}{rate}, {plural(self.credits, 'credit')}{failed}"


class Shown:
    """The table: every row of a short run or with ``all_rows``, else the first rows and some failures."""

    def __init__(self, *, all_rows: bool) -> None:
        self._all = all_rows
        self._rows: list[Result] = []
        self._failures: list[Result] = []
        self._count = 0
        self._failed = 0

    def add(self, result: Result) -> None:
        """Counts the result, and keeps it if the table may show it."""
        self._count += 1
        self._failed += result.info is None
        if self._all or len(self._rows) < _SHORT_ENOUGH:
            self._rows.append(result)
        elif result.info is None and len(self._failures) < _SHORT_ENOUGH:
            self._failures.append(result)

    def write(self, console: Console) -> None:
        """Prints the table, and how many rows it leaves out."""
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
    if beside:  # the whole URL, because people copy it, and as much of the prompt as fits
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
    return Text(url, style=f"cyan link {url}" if url and url.isascii() and " " not in url else "cyan")

"""A prompt file, or standard input."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

from blossom_async.cli.prompts.entry import Entry
from blossom_async.cli.prompts.reading import FORMATS, entries
from blossom_async.errors import ConfigurationError

__all__ = ["PromptFile"]

_AHEAD = 64  # entries read from a pipe before they are asked for

_SUFFIXES = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}

T = TypeVar("T")


class PromptFile:
    """A prompt file, or standard input for ``-``.

    ``name`` is what it is called in messages. Leaving the block closes it. Raises ``ConfigurationError``
    when it cannot be opened or its format is not known.
    """

    def __init__(self, path: str, kind: str | None = None) -> None:
        self.name: str = "stdin" if path == "-" else path
        self.kind: str = kind or ("txt" if path == "-" else _kind(path))
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

    async def entries(self, limit: int | None, notice: Callable[[str], object]) -> AsyncIterator[Entry]:
        """The entries, at most ``limit``; ``notice`` gets what a person should know of the columns.

        A pipe is read in a thread of its own, so that waiting for the next line holds nothing else up.
        Raises ``ConfigurationError`` for a file that is not a prompt file.
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

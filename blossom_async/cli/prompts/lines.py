"""Bytes to numbered lines of text, whatever their line ends; UTF-8, or UTF-16 and UTF-32 with a mark."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import BinaryIO

from blossom_async.cli.prompts.entry import BrokenLine
from blossom_async.errors import ConfigurationError

__all__ = ["MAX_LINE", "Line", "lines"]

MAX_LINE = 1_048_576  # bytes; prompts end at 32,000 characters
_PEEK = 8192
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

Line = tuple[int, "str | BrokenLine"]


def lines(file: BinaryIO, name: str) -> Iterator[Line]:
    """Numbered lines without their ends (LF, CRLF or CR); one that is not text is broken. Closes the file.

    Raises ``ConfigurationError`` for a file that is not text.
    """
    # Latin-1 has a character for every byte: this splits bytes at any line end.
    with io.TextIOWrapper(_as_utf8(file, name), "latin-1", newline=None) as split:
        number = 0
        while part := split.readline(MAX_LINE):
            number += 1
            if len(part) == MAX_LINE and not part.endswith("\n"):
                while (more := split.readline(MAX_LINE)) and not more.endswith("\n"):
                    pass
                yield number, BrokenLine(f"the line is longer than {MAX_LINE:,} bytes")
            else:
                yield number, _text(part.removesuffix("\n").encode("latin-1"))


def _text(raw: bytes) -> str | BrokenLine:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        seen = f"byte 0x{raw[exc.start]:02x} at {exc.start + 1}"
        return BrokenLine(f"the line is not UTF-8 ({seen}); save the file as UTF-8")
    if "\0" in text:
        seen = f"a NUL character at {text.index(chr(0)) + 1}"
        return BrokenLine(f"the line has {seen}; allowed: text without any; save the file as UTF-8")
    return text.removeprefix("\ufeff")  # also where files with marks were joined


def _as_utf8(file: BinaryIO, name: str) -> BinaryIO:
    """The file in UTF-8, once its first bytes look like text."""
    start: bytes = file.peek(_PEEK)[:_PEEK]  # type: ignore[attr-defined]
    encoding = next((_MARKS[mark] for mark in _MARKS if start.startswith(mark)), None)
    if encoding is not None:
        return io.BufferedReader(_Utf8(file, encoding))
    if b"\0" in start:
        raise ConfigurationError(
            f"{name}: it is binary, or UTF-16 without a byte order mark; allowed: text. Save it as UTF-8"
        )
    return file


class _Utf8(io.RawIOBase):
    """A file in another encoding, read as UTF-8. Invalid input stays invalid, so that its line fails."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        more = True
        while more and not self._ready:
            part = self._file.read1(_PEEK)  # type: ignore[attr-defined]
            more = bool(part)
            text = self._decoder.decode(part, final=not part)
            self._ready = text.encode("utf-8").replace("\ufffd".encode(), b"\xff")
        taken, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

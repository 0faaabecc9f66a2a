"""Bytes to numbered lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from blossom_async.cli.prompts.entry import BrokenLine
from blossom_async.errors import ConfigurationError

__all__ = ["MAX_LINE", "Line", "lines"]

MAX_LINE = 1_048_576  # bytes; prompts end at 32,000 characters
_PEEK = 8192

Line = tuple[int, "str | BrokenLine"]


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


def lines(file: BinaryIO, name: str) -> Iterator[Line]:
    """Numbered lines without their ends; one that is not text is broken.

    Raises ``ConfigurationError`` for a file that is not UTF-8 text.
    """
    file = _text(file, name)
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

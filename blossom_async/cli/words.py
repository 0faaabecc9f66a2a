"""Text for the terminal: messages on stderr, figures, and untrusted text made safe to print."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

__all__ = ["CannotStart", "duration", "plural", "said", "say", "size", "stdout_checked", "typed"]

# Control characters can drive a terminal; bidirectional overrides can make one line read as another.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def typed(argument: str) -> str:
    """An argument as it was typed, where Python took the locale for ASCII and the terminal sends UTF-8."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:  # neither: refused as a prompt, with the place
        return argument


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class CannotStart(click.ClickException):
    """The command cannot go on. The message says why and what to do."""

    exit_code = 2


def said(text: str) -> str:
    """The text on one line, with control characters replaced."""
    return _STEERING.sub("�", text.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))


def say(line: str) -> None:
    """Prints one line on stderr, after the command's name, with control characters replaced."""
    if sys.stderr is not None:
        click.echo(
            f"blossom: {said(line)}", file=sys.stderr
        )  # `err=True` writes UTF-8 where ASCII is asked for


@contextmanager
def stdout_checked() -> Iterator[None]:
    """Flushes stdout when the block ends.

    Raises ``CannotStart`` if stdout cannot be written, for example on a full disk. A ``BrokenPipeError``
    passes through: a reader that has seen enough is not a failure.
    """
    try:
        yield
        _flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        if exc.errno not in _NO_ROOM or exc.filename is not None:
            raise
        _let_go()
        raise CannotStart(f"standard output: {exc.strerror}; make room, or redirect it elsewhere") from exc


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _let_go() -> None:
    """Discards what stdout still holds: at exit the interpreter would try to write it again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def plural(count: int, one: str) -> str:
    """``1 picture``, ``1,632 pictures``."""
    return f"{count:,} {one}" if count == 1 else f"{count:,} {one}s"


def duration(seconds: float) -> str:
    """``1.9 s``, ``2 min 40 s``, ``3 h 5 min``."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """``812 B``, ``24 kB``, ``1.2 MB``."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.0f} kB" if count < 999_500 else f"{count / 1_000_000:.1f} MB"

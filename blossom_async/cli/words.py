"""What the commands say on stderr, with everything from outside made safe to show."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

__all__ = ["CannotStart", "duration", "plural", "said", "say", "size", "stdout_checked"]

# Control characters can steer a terminal, and bidirectional overrides can make one line read as another.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class CannotStart(click.ClickException):
    """Nothing was begun, and the message says what to do about it."""

    exit_code = 2


def said(text: str) -> str:
    """The text on one line, without characters that would steer a terminal."""
    return _STEERING.sub("�", text.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))


def say(line: str) -> None:
    """One line on stderr, after the command's name, without characters that would steer a terminal."""
    click.echo(f"blossom: {said(line)}", err=True)


@contextmanager
def stdout_checked() -> Iterator[None]:
    """What the block writes to stdout has been written when it ends.

    Raises ``CannotStart`` when that cannot be, as on a full disk. A reader that has gone away is no failure
    of the output: its ``BrokenPipeError`` passes.
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
        raise CannotStart(f"standard output: {exc.strerror}") from exc


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _let_go() -> None:
    """Sends what stdout still holds nowhere: the interpreter would try to write it at its end."""
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

"""Locks on files, which end with the process that holds them and are not inherited by those it forks."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from blossom_async.errors import ConfigurationError

__all__ = ["lock", "unlock"]

_held: set[int] = set()


_ANOTHER_FOLDER = "choose another folder with BLOSSOM_DATA_DIR, or mount this one with locks"


def lock(descriptor: int, path: Path, instead: str = _ANOTHER_FOLDER) -> None:
    """Locks an open file for this process.

    A forked process would hold the lock for as long as it lives, so its copy of the descriptor is closed.
    Raises ``BlockingIOError`` if another process has the file locked, ``ConfigurationError`` if it cannot be
    locked, as on NFS without lockd; ``instead`` says what to do then.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as exc:
        raise ConfigurationError(
            f"{path} cannot be locked ({exc.strerror}), and without a lock two processes would do the same "
            f"work twice; allowed: a folder on a local disk, or on a file system with locks; {instead}"
        ) from exc
    _held.add(descriptor)


def unlock(descriptor: int) -> None:
    """Closes the file, which ends its lock."""
    _held.discard(descriptor)
    os.close(descriptor)


def _close_in_child() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)

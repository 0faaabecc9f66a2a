"""Locks on files, which end with the process that holds them and are not inherited by those it forks."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

__all__ = ["lock", "unlock"]

_held: set[int] = set()


def lock(descriptor: int) -> None:
    """Locks an open file for this process. Raises ``BlockingIOError`` if another process has it locked.

    A forked process would hold the lock for as long as it lives, so its copy of the descriptor is closed.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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

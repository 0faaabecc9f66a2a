"""Locks on files, and processes that are forked while they are held."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from blossom_async.errors import ConfigurationError
from blossom_async.locks import lock, unlock
from tests.forking import FORKS, forked


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT)


def test_only_one_may_hold_a_lock(tmp_path: Path) -> None:
    """A second one is refused until the first has ended."""
    first, second = opened(tmp_path / "lock"), opened(tmp_path / "lock")
    lock(first, tmp_path)
    with pytest.raises(BlockingIOError):
        lock(second, tmp_path)
    unlock(first)
    lock(second, tmp_path)
    unlock(second)


@FORKS
def test_a_forked_process_holds_no_lock_of_its_parent(tmp_path: Path) -> None:
    """The lock ends with its holder, however long a process lives that was forked meanwhile."""
    held = opened(tmp_path / "lock")
    lock(held, tmp_path)
    with forked():
        unlock(held)
        again = opened(tmp_path / "lock")
        lock(again, tmp_path)
        unlock(again)


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence has the path, the reason and what to do."""

    def no_locks(*_: object) -> None:  # as NFS without lockd answers, which this machine does not have
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    file = opened(tmp_path / "lock")
    with pytest.raises(ConfigurationError, match=r"/lock cannot be locked \(No locks .*local disk"):
        lock(file, tmp_path / "lock")
    os.close(file)

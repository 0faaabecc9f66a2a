"""Which processes of this gateway are alive: each holds a lock until it ends."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Protocol

from blossom_async.locks import lock, unlock

__all__ = ["Living", "Owner", "anyone_lives"]


class Living(Protocol):
    """This process among those that share a database."""

    name: str
    """What its calls are held under. It changes if the others have taken the process for dead."""

    def open(self) -> None:
        """Marks this process as alive."""

    def close(self) -> None:
        """Lets others take over what this process has not finished."""

    def has_ended(self, name: str) -> bool:
        """Whether the process of that name is dead, for good."""


def anyone_lives(folder: Path) -> bool:
    """Whether a process marks itself as alive on the folder."""
    for path in folder.glob("*.lock"):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            lock(descriptor, path)
        except BlockingIOError:
            os.close(descriptor)
            return True
        unlock(descriptor)
    return False


class Owner:
    """This process as seen by others on the data folder. Its lock is released however the process ends.

    Processes that it forks are not part of it: they neither hold its lock nor release it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name: str = secrets.token_hex(8)
        self._lock: int | None = None
        self._process = 0

    def open(self) -> None:
        """Marks this process as alive. Raises ``ConfigurationError`` if the folder cannot hold locks."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = self._locked(self.name, os.O_CREAT)
        self._process = os.getpid()

    def close(self) -> None:
        """Releases the lock: others may take over what this process has not finished."""
        if self._lock is not None and self._process == os.getpid():
            self._path(self.name).unlink(missing_ok=True)
            unlock(self._lock)
        self._lock = None

    def has_ended(self, name: str) -> bool:
        """Whether the process of that name has ended; if so, its lock file is removed."""
        if name == self.name:
            return False
        try:
            descriptor = self._locked(name, 0)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        self._path(name).unlink(missing_ok=True)
        unlock(descriptor)
        return True

    def _locked(self, name: str, flags: int) -> int:
        path = self._path(name)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        try:
            lock(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"

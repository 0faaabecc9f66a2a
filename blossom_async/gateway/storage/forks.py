"""Refuses work in a forked process: the threads and connections it needs stayed in the parent."""

from __future__ import annotations

import os

__all__ = ["Home"]


class Home:
    """Remembers the process that created it."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        """False in a process that was forked later."""
        return self._process == os.getpid()

    def check(self, what: str) -> None:
        """Raises ``RuntimeError`` in a process that was forked later."""
        if not self.is_here:
            raise RuntimeError(
                f"{what} were opened by process {self._process}, and this is one that it forked; threads and "
                "database connections do not survive a fork: open them in this process"
            )

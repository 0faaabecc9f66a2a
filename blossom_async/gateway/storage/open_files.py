"""Files that are asked for again and again, opened once."""

from __future__ import annotations

import asyncio
import os

__all__ = ["IF_IN_MEMORY", "OpenFiles"]

IF_IN_MEMORY: int | None = getattr(os, "RWF_NOWAIT", None)
"""For ``os.preadv``, of Linux: an error instead of waiting for the disk."""

_MOST = 64
_KEPT_S = 1.0
_READ_AHEAD = 128 << 10  # bytes that Linux reads, and forgets, as one


class OpenFiles:
    """Descriptors for sending files. All are closed a second after the first was opened.

    So a file that is removed in the meantime holds its room for no longer.
    """

    def __init__(self) -> None:
        self.open: dict[tuple[str, str], int] = {}
        """The descriptors, by picture and format: valid until the caller awaits something."""
        self._closing: asyncio.TimerHandle | None = None
        self._probe = bytearray(2)

    def add(self, name: tuple[str, str], path: str, size: int) -> int | None:
        """Opens the file. None if it is not that long, or if to send it might be to wait for the disk."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # whoever reads the file will meet it again, and put it into words
            return None
        if not self._ready(descriptor, size):
            os.close(descriptor)
            return None
        if len(self.open) == _MOST:
            os.close(self.open.pop(next(iter(self.open))))
        self.open[name] = descriptor
        if self._closing is None:
            self._closing = asyncio.get_running_loop().call_later(_KEPT_S, self.close)
        return descriptor

    def close(self) -> None:
        """Closes all."""
        for descriptor in self.open.values():
            os.close(descriptor)
        self.open.clear()
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None

    def _ready(self, descriptor: int, size: int) -> bool:
        if IF_IN_MEMORY is None or size == 0:
            return False
        try:
            for place in range(0, size - _READ_AHEAD, _READ_AHEAD):
                os.preadv(descriptor, [self._probe], place, IF_IN_MEMORY)
            # At the last byte there is one byte to read, not two and not none.
            return os.preadv(descriptor, [self._probe], size - 1, IF_IN_MEMORY) == 1
        except OSError:  # it is on the disk, or its file system cannot tell
            return False

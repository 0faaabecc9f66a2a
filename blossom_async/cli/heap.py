"""Where the memory of this process comes from."""

from __future__ import annotations

import os
import platform

__all__ = ["use_one_heap"]

_M_ARENA_MAX = -8  # malloc.h


def use_one_heap() -> None:
    """Lets all threads to come share one heap. Without glibc, or if the user has tuned it, nothing changes.

    By default each thread has a heap of its own, which keeps the room of the pictures that it once held:
    memory grew by 4 MB with each picture of 4 MB, until every thread had had one.
    """
    if platform.libc_ver()[0] != "glibc" or "MALLOC_ARENA_MAX" in os.environ:
        return
    import ctypes

    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)

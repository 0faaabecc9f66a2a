"""Where the memory of this process comes from, and what the garbage collector looks through."""

from __future__ import annotations

import gc
import os
import platform

__all__ = ["keep_what_is_loaded", "use_one_heap"]

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


def keep_what_is_loaded() -> None:
    """Spares the garbage collector what exists now: modules, classes, routes, which stay until the end.

    It looks through everything that is left from time to time, and all threads wait meanwhile: a tenth of a
    second for the modules of the gateway, during which nobody is answered.
    """
    gc.collect()
    gc.freeze()

"""Resources that a machine may run out of."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

__all__ = ["descriptors", "no_files_left"]


def descriptors() -> set[tuple[str, str]]:
    """What this process has open, without what earlier tests left to the garbage collector."""
    gc.collect()
    held = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of this listing
            held.add((entry.name, str(entry.readlink())))
    return held


@contextlib.contextmanager
def no_files_left() -> Iterator[None]:
    """This process may open no file and no connection within the block."""
    gc.collect()  # what earlier tests left behind would be closed within the block
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (_most_open() + 8, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _most_open() -> int:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    os.close(descriptor)
    return descriptor

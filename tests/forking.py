"""Forked processes. Mark tests that fork with ``FORKS``: Python warns of forks in processes with threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["FORKS", "forked"]

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@contextmanager
def forked() -> Iterator[None]:
    """A forked process that does nothing lives while the block runs."""
    ready, begun = os.pipe()
    stay, leave = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(leave)
        os.write(begun, b".")
        os.read(stay, 1)  # ends when the parent closes its end
        os._exit(0)
    try:
        os.read(ready, 1)
        yield
    finally:
        for descriptor in (ready, begun, stay, leave):
            os.close(descriptor)
        assert os.waitpid(child, 0)[1] == 0

"""What only one process of the tests may do at a time."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["alone"]


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Waits until no other process is in such a block: programs of Ray connect to any cluster there is."""
    with (Path(tempfile.gettempdir()) / f"blossom-tests-{os.getuid()}-{what}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

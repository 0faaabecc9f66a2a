"""Ports of loopback at which nobody else listens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["reserved_port"]


@contextmanager
def reserved_port() -> Iterator[int]:
    """Connections to it are refused until somebody listens there who asks for this very port.

    The system gives a port that is merely free to the next program that asks for any: here it gives it to
    nobody, as it is bound. Whoever sets ``SO_REUSEADDR``, as servers do, may listen there all the same.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]

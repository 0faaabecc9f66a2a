"""How many files this process may open, connections included, and how many of those it keeps for its work."""

from __future__ import annotations

import resource
import sys

__all__ = ["allow_files", "last_for_connections", "most_refused"]

_MOST_REFUSED = 2000
_KEPT = 32  # at least: the database, pictures being written, requests to providers


def allow_files(count: int) -> None:
    """Raises the soft limit to the hard one, or to ``count`` if there is no hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def last_for_connections() -> int:
    """The highest descriptor that a new connection may have.

    The lowest free number is the next to be given, so this leaves a quarter of the allowed files for what a
    request needs once it is accepted.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return soft - max(_KEPT, soft // 4)


def most_refused() -> int:
    """How many connections beyond the limit may be open at once until their peers have read why."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_REFUSED
    return min(_MOST_REFUSED, max(_KEPT, soft // 4) // 2)

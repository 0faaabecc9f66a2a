"""Whose turn comes first."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Priority"]


class Priority(IntEnum):
    """How urgent a picture is: the lower value goes first, first come first served within each."""

    INTERACTIVE = 0
    BATCH = 1

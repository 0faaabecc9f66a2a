"""How much is tried in a quick run, and how much in a thorough one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

__all__ = ["examples", "thoroughly"]


def thoroughly(first: Any, *others: Any) -> list[Any]:
    """Values for ``parametrize`` where each takes seconds and one finds nearly what all find.

    The first runs always, the others in the campaigns. A tuple holds one for each argument.
    """
    late = (other if isinstance(other, tuple) else (other,) for other in others)
    return [first, *(pytest.param(*values, marks=pytest.mark.campaign) for values in late)]


def examples(number: int) -> int:
    """For ``max_examples``: so many with ``--hypothesis-profile=thorough``, and a quarter of them without."""
    return -(-number * settings().max_examples // 100)

"""Cases of one kind: the first runs always, the others in the campaigns."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["thoroughly"]


def thoroughly(first: Any, *others: Any) -> list[Any]:
    """Values for ``parametrize`` where each takes seconds and one finds nearly what all find."""
    return [first, *(pytest.param(other, marks=pytest.mark.campaign) for other in others)]

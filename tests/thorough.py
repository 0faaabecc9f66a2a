"""Cases of one kind: the first runs always, the others in the campaigns."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["thoroughly"]


def thoroughly(first: Any, *others: Any) -> list[Any]:
    """Values for ``parametrize`` where each takes seconds and one finds nearly what all find.

    A tuple holds one for each argument.
    """
    late = (other if isinstance(other, tuple) else (other,) for other in others)
    return [first, *(pytest.param(*values, marks=pytest.mark.campaign) for values in late)]

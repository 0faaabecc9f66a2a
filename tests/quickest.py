"""How long a call takes, for comparison with another call in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["quickest"]


def quickest(call: Callable[[], object]) -> float:
    """CPU seconds of ten calls, the fastest of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(10):
            call()
        rounds.append(time.process_time() - start)
    return min(rounds)

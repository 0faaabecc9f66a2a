"""The batch engine: many calls of one coroutine function, bounded, paced and kept in order."""

from blossom_async.batch.engine import run, stream
from blossom_async.batch.gate import Gate, RateLimit, rate_limits
from blossom_async.batch.outcome import BatchResult, Outcome, Progress
from blossom_async.batch.slots import Slots

__all__ = [
    "BatchResult",
    "Gate",
    "Outcome",
    "Progress",
    "RateLimit",
    "Slots",
    "rate_limits",
    "run",
    "stream",
]

"""The batch engine: many calls of one coroutine function, bounded, paced and in order."""

from blossom_async.batch.attempts import Attempt, current_attempt, run_one
from blossom_async.batch.engine import run, stream
from blossom_async.batch.gate import Gate, RateLimit, rate_limits
from blossom_async.batch.hints import pause_s, retry_after_s
from blossom_async.batch.journal import Journal, JournalFound
from blossom_async.batch.options import RunOptions
from blossom_async.batch.outcome import BatchResult, Done, Failed, Outcome
from blossom_async.batch.progress import Progress
from blossom_async.batch.retry import (
    Fail,
    Fatal,
    Retry,
    RetryAtOnce,
    RetryBudget,
    RetryPolicy,
    Throttle,
    Verdict,
    classify,
)
from blossom_async.batch.shared_gate import SharedGate
from blossom_async.batch.slots import Slots
from blossom_async.batch.start_times import GatePlace, GateQuestion, Gates, Grant

__all__ = [
    "Attempt",
    "BatchResult",
    "Done",
    "Fail",
    "Failed",
    "Fatal",
    "Gate",
    "GatePlace",
    "GateQuestion",
    "Gates",
    "Grant",
    "Journal",
    "JournalFound",
    "Outcome",
    "Progress",
    "RateLimit",
    "Retry",
    "RetryAtOnce",
    "RetryBudget",
    "RetryPolicy",
    "RunOptions",
    "SharedGate",
    "Slots",
    "Throttle",
    "Verdict",
    "classify",
    "current_attempt",
    "pause_s",
    "rate_limits",
    "retry_after_s",
    "run",
    "run_one",
    "stream",
]

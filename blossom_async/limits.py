"""The limits that all calls of a client share, whichever event loop they are made in."""

from __future__ import annotations

from blossom_async.batch import Gate, RateLimit, RetryBudget, RetryPolicy, Slots

__all__ = ["Limits"]


class Limits:
    """How many calls are under way, how fast they start and how often they are repeated.

    Raises ``ValueError`` for a limit that cannot be used.
    """

    slots: Slots
    gate: Gate
    budget: RetryBudget | None

    def __init__(
        self,
        max_concurrency: int,
        rates: tuple[RateLimit, ...],
        retry: RetryPolicy | None,
        timeout_s: float,
    ) -> None:
        if not (isinstance(timeout_s, int | float) and timeout_s > 0):
            raise ValueError(f"timeout_s: {timeout_s!r} cannot be used; allowed: seconds above 0")
        if not isinstance(retry, RetryPolicy | None):
            raise ValueError(
                f"retry: {retry!r} cannot be used; allowed: a RetryPolicy, or None for no retries"
            )
        self.max_concurrency = max_concurrency
        self.rates = rates
        self.retry = retry
        self.timeout_s = timeout_s
        self.renew()

    def renew(self) -> None:
        """Starts afresh, as in a forked process: what its parent holds is never released there."""
        self.slots = Slots(self.max_concurrency)
        self.gate = Gate(*self.rates)
        self.budget = None if self.retry is None else RetryBudget(self.retry.budget)

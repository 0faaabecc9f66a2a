"""The calls of one provider: counted for the metrics, and a line in the log for each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from blossom_async.gateway.http.metrics import Histogram
from blossom_async.gateway.providers.faults import ProviderFault
from blossom_async.gateway.storage.records import ProviderAttempt
from blossom_async.gateway.storage.records.calls import AttemptEnd

__all__ = ["ProviderCalls", "note_held", "note_unusable"]

_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
_OK = "ok"

_log = logging.getLogger("blossom_async.gateway.provider")


class ProviderCalls:
    """What came of the calls of a provider since the start of this process."""

    def __init__(self, provider: str, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.outcomes: Counter[str] = Counter()
        """Calls by outcome: ``ok``, or the kind of fault."""
        self.took: Histogram = Histogram(_BOUNDS_S)
        self.spent: int = 0
        """Millionths of a US dollar, as far as the cost is known."""
        self._provider = provider

    def drawn(self, began_at: float) -> None:
        """Notes a picture that cost nothing; its call began at ``began_at`` by ``clock``."""
        took_s = self._count(_OK, began_at, 0)
        _log.debug("provider call", extra={"provider": self._provider, "outcome": _OK, "ms": took_s * 1000})

    def ended(
        self,
        attempt: ProviderAttempt,
        began_at: float,
        outcome: str,
        end: AttemptEnd | None,
        *,
        held: bool = False,
    ) -> None:
        """Notes a call. ``end`` is how its attempt ended, None if the same request is sent again.

        ``held``: it may have been paid, so a person must decide.
        """
        took_s = self._count(outcome, began_at, (end and end.spent) or 0)
        told = {**_told(attempt, outcome, end), "held": held, "ms": round(took_s * 1000, 3)}
        _log.log(logging.INFO if outcome == _OK else logging.WARNING, "provider call", extra=told)

    def _count(self, outcome: str, began_at: float, spent: int) -> float:
        took_s = self.clock() - began_at
        self.outcomes[outcome] += 1
        self.took.observe(took_s)
        self.spent += spent
        return took_s


def note_held(attempt: ProviderAttempt) -> None:
    """Notes that the process that had sent the attempt died before the answer came."""
    _log.warning("provider call lost", extra={**_told(attempt, "lost", None), "held": True})


def note_unusable(attempt: ProviderAttempt, fault: ProviderFault, end: AttemptEnd | None) -> None:
    """Notes that the picture which an attempt brought cannot be stored."""
    _log.warning("provider's picture unusable", extra={**_told(attempt, fault.kind, end), "held": False})


def _told(attempt: ProviderAttempt, outcome: str, end: AttemptEnd | None) -> dict[str, object]:
    spent = None if end is None else end.spent
    return {
        "provider": attempt.provider,
        "outcome": outcome,
        "usd": None if spent is None else spent / 1_000_000,
        "picture": attempt.image_id,
        "tenant": attempt.tenant,
        "provider_request_id": None if end is None else end.request_id,
    }

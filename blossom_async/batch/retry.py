"""What to do about an error: whether to try again, when, and how often."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import attrs

from blossom_async.errors import (
    ConfigurationError,
    Conflict,
    Overloaded,
    PaymentRequired,
    PermissionDenied,
    RateLimited,
    ResponseError,
    StaleConnection,
    TimedOut,
    TransportError,
    Unauthenticated,
)

__all__ = [
    "Classify",
    "Fail",
    "Fatal",
    "Retry",
    "RetryAtOnce",
    "RetryBudget",
    "RetryPolicy",
    "Throttle",
    "Verdict",
    "classify",
]


@attrs.frozen
class Fail:
    """The item has failed; the others go on."""


@attrs.frozen
class Retry:
    """Another attempt may succeed, after a backoff. ``overloaded`` lowers the concurrency.

    ``away`` says that no server answered, or only a proxy in front of it: several in a row are an outage.
    """

    overloaded: bool = False
    away: bool = False


@attrs.frozen
class RetryAtOnce:
    """The attempt never reached the server. It is repeated at once; a second time counts as ``Retry``."""


@attrs.frozen
class Throttle:
    """The server is throttling. All attempts pause for ``pause_s`` if it said how long.

    Such an attempt counts neither towards ``max_attempts`` nor against the retry budget.
    """

    pause_s: float | None = None


@attrs.frozen
class Fatal:
    """Every further attempt would fail the same way, so nothing new is started. ``reason`` says why."""

    reason: str


Verdict = Fail | Retry | RetryAtOnce | Throttle | Fatal
Classify = Callable[[Exception], Verdict]

_FAIL = Fail()
_RETRY = Retry()
_AWAY = Retry(away=True)
_TOO_MUCH = Retry(overloaded=True, away=True)
_AT_ONCE = RetryAtOnce()

# 408 and 425: the request was not processed; 529: "overloaded" at some providers. 409 answers a repeated
# Idempotency-Key while its first request is still being processed (draft-ietf-httpapi-idempotency-key, 2.6).
_TRY_AGAIN = frozenset({408, 425, 500})
_PROXY_ONLY = frozenset({502, 504, 520, 522, 524})  # no answer from what is behind it
_OVERLOADED = frozenset({503, 529})
_NO_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_MAY_END = frozenset({"conflict", "error", "in_progress"})  # of a 409: the conflict may be over soon
# The gateway's own key or the address it has for a provider: no repetition mends them.
_SAME_FOR_ALL = frozenset({"provider_unauthorized", "provider_misconfigured"})


def classify(error: Exception) -> Verdict:
    """The verdict on errors of this package and on builtin errors for lost connections.

    ======================================================  ============================================
    401, 402, 403, out of credit, wrong configuration       ``Fatal``
    429, and 503 with ``Retry-After``                       ``Throttle`` with the wait that was asked for
    503, 529, ``TimedOut``, ``TimeoutError``                ``Retry(overloaded=True, away=True)``
    502, 504, ``TransportError``, ``ConnectionError``       ``Retry(away=True)``
    other temporary 5xx, 408, 425, 409 of a call under way  ``Retry``
    ``StaleConnection``                                     ``RetryAtOnce``
    everything else                                         ``Fail``
    ======================================================  ============================================
    """
    if isinstance(error, ResponseError):
        return _classify_response(error)
    if isinstance(error, StaleConnection):
        return _AT_ONCE
    if isinstance(error, TimedOut | TimeoutError):
        return _TOO_MUCH
    if isinstance(error, TransportError | ConnectionError):
        return _AWAY
    if isinstance(error, ConfigurationError):
        return Fatal(str(error))
    return _FAIL


def _classify_response(error: ResponseError) -> Verdict:
    fatal = isinstance(error, Unauthenticated | PaymentRequired | PermissionDenied)
    if fatal or error.code in _NO_MONEY | _SAME_FOR_ALL:
        return Fatal(str(error))
    if isinstance(error, RateLimited) or error.status == 429:
        return Throttle(error.retry_after_s)
    if isinstance(error, Overloaded) or error.status in _OVERLOADED:
        return _TOO_MUCH if error.retry_after_s is None else Throttle(error.retry_after_s)
    if isinstance(error, Conflict):
        return _RETRY if error.code in _MAY_END else _FAIL
    if error.status in _PROXY_ONLY:
        return _AWAY
    return _RETRY if error.status in _TRY_AGAIN else _FAIL


def _above_zero(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= 86_400:  # type: ignore[operator]
        raise ValueError(f"{attribute.name}: {value!r} cannot be used; allowed: seconds above 0, up to a day")


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often and when a failed item is tried again.

    ``max_attempts`` 1..100 attempts for each item, the first included · ``first_wait_s``, ``max_wait_s`` the
    wait before the n-th repetition is drawn evenly from 0 to ``first_wait_s * 2**(n - 1)``, at most
    ``max_wait_s`` ("full jitter": M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015) ·
    ``budget`` 0..10 repetitions for each first attempt, over the whole run and on top of a reserve of 100, so
    that an outage does not multiply the load · ``max_throttle_s`` how long a server may throttle one item; a
    server that asks for a longer pause stops the run · ``max_outage_s`` how long a batch waits for a server
    that has answered and no longer does, with one attempt at a time, before it stops.

    Raises ``ValueError`` for a value outside these ranges.
    """

    max_attempts: int = attrs.field(default=4)
    first_wait_s: float = attrs.field(default=0.5, validator=_above_zero)
    max_wait_s: float = attrs.field(default=30.0, validator=_above_zero)
    budget: float = attrs.field(default=0.5)
    max_throttle_s: float = attrs.field(default=600.0, validator=_above_zero)
    max_outage_s: float = attrs.field(default=600.0, validator=_above_zero)

    @max_attempts.validator
    def _check_max_attempts(self, _: object, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100:
            raise ValueError(f"max_attempts: {value!r} cannot be used; allowed: a whole number from 1 to 100")

    @budget.validator
    def _check_budget(self, _: object, value: object) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= 10:  # type: ignore[operator]
            raise ValueError(f"budget: {value!r} cannot be used; allowed: repetitions per item from 0 to 10")

    def longest_wait_s(self, repetition: int) -> float:
        """The longest wait before the n-th repetition, n from 1."""
        return min(self.max_wait_s, math.ldexp(self.first_wait_s, min(repetition - 1, 64)))

    def wait_s(self, repetition: int) -> float:
        """A random wait before the n-th repetition, n from 1."""
        return random.uniform(0.0, self.longest_wait_s(repetition))  # noqa: S311 - spreads load, hides nothing


NO_RETRY = RetryPolicy(max_attempts=1, budget=0.0)


class RetryBudget:
    """How many repetitions a run, or all runs of a client, may still make; first attempts add to it.

    After "retry budgets" of Finagle and Envoy: each first attempt adds ``share``, each repetition takes one.
    """

    RESERVE = 100.0

    def __init__(self, share: float) -> None:
        self._share = share
        self._left = self.RESERVE

    def first_attempt(self) -> None:
        """Counts the first attempt at an item."""
        self._left = min(self._left + self._share, 10 * self.RESERVE)

    def take(self) -> bool:
        """Takes one repetition from the budget; False when it is used up."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

"""What to do about an error: try again, when, and how often before it is too much."""

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
    """This item has failed for good; the others go on."""


@attrs.frozen
class Retry:
    """Another attempt may succeed, after a backoff. ``overloaded``: fewer at once would help."""

    overloaded: bool = False


@attrs.frozen
class RetryAtOnce:
    """The attempt never reached the server: repeat it now, once; a second time is as ``Retry``."""


@attrs.frozen
class Throttle:
    """The server asks for less: all attempts pause for ``pause_s`` when it said how long.

    Such an attempt counts neither against the attempts of its item nor against the retry budget.
    """

    pause_s: float | None = None


@attrs.frozen
class Fatal:
    """Every further attempt would end the same way: nothing new is started. ``reason`` says why."""

    reason: str


Verdict = Fail | Retry | RetryAtOnce | Throttle | Fatal
Classify = Callable[[Exception], Verdict]

_FAIL = Fail()
_RETRY = Retry()
_TOO_MUCH = Retry(overloaded=True)
_AT_ONCE = RetryAtOnce()

# 408 and 425: the request was not taken up; 529: "overloaded" at some providers. 409 is the answer to a
# repeated Idempotency-Key whose first request is still at work (draft-ietf-httpapi-idempotency-key, 2.6).
_TRY_AGAIN = frozenset({408, 425, 500, 502, 504, 520, 522, 524})
_OVERLOADED = frozenset({503, 529})
_NO_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_MAY_END = frozenset({"conflict", "error", "in_progress"})  # of a 409: what is in the way may be gone soon
# The gateway's own key or the address it has for a provider: no repetition mends them.
_SAME_FOR_ALL = frozenset({"provider_unauthorized", "provider_misconfigured"})


def classify(error: Exception) -> Verdict:
    """What the errors of this package, and the builtin ones for lost connections, mean for a batch.

    ======================================================  ============================================
    401, 402, 403, a quota that is money, set-up at fault   ``Fatal``
    429, and 503 that says when to come back                ``Throttle`` with the wait that was asked for
    503, 529, ``TimedOut``, ``TimeoutError``                ``Retry(overloaded=True)``
    other 5xx that pass, 408, 425, 409 of a call under way  ``Retry``
    ``StaleConnection``                                     ``RetryAtOnce``
    ``TransportError``, ``ConnectionError``                 ``Retry``
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
        return _RETRY
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
    that an outage is not answered with a multiple of the load · ``max_throttle_s`` how long an item may be
    held off by a server that asks for less; a server that asks for more than this ends the run.

    Raises ``ValueError`` for a value outside these ranges.
    """

    max_attempts: int = attrs.field(default=4)
    first_wait_s: float = attrs.field(default=0.5, validator=_above_zero)
    max_wait_s: float = attrs.field(default=30.0, validator=_above_zero)
    budget: float = attrs.field(default=0.5)
    max_throttle_s: float = attrs.field(default=600.0, validator=_above_zero)

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
        """The most that is waited before the n-th repetition, n from 1 up."""
        return min(self.max_wait_s, math.ldexp(self.first_wait_s, min(repetition - 1, 64)))

    def wait_s(self, repetition: int) -> float:
        """A wait drawn for the n-th repetition, n from 1 up."""
        return random.uniform(0.0, self.longest_wait_s(repetition))  # noqa: S311 - spreads load, hides nothing


NO_RETRY = RetryPolicy(max_attempts=1, budget=0.0)


class RetryBudget:
    """Repetitions a run, or all runs of a client, may still make: a reserve, refilled by first attempts.

    After "retry budgets" of Finagle and Envoy: each first attempt adds ``share``, each repetition takes one.
    """

    RESERVE = 100.0

    def __init__(self, share: float) -> None:
        self._share = share
        self._left = self.RESERVE

    def first_attempt(self) -> None:
        """An item is tried for the first time."""
        self._left = min(self._left + self._share, 10 * self.RESERVE)

    def take(self) -> bool:
        """Whether one more repetition may be made; if so it is taken."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

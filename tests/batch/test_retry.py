"""What errors mean, how long to wait, and when to give up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blossom_async import errors
from blossom_async.batch import (
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


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (errors.Unauthenticated("who?"), Fatal("who? (401 unauthenticated)")),
        (errors.PaymentRequired("no money"), Fatal("no money (402 payment_required)")),
        (errors.PermissionDenied("not you"), Fatal("not you (403 permission_denied)")),
        (errors.RateLimited("quota", code="insufficient_quota"), Fatal("quota (429 insufficient_quota)")),
        (errors.ConfigurationError("no gateway"), Fatal("no gateway")),
        (errors.RateLimited("slow"), Throttle()),
        (errors.RateLimited("slow", retry_after_s=3), Throttle(3)),
        (errors.Overloaded("busy"), Retry(overloaded=True, away=True)),
        (errors.Overloaded("busy", retry_after_s=3), Throttle(3)),
        (errors.ServerFailed("overloaded", status=529), Retry(overloaded=True, away=True)),
        (errors.ServerFailed("broken"), Retry()),
        (errors.ProviderFailed("broken"), Retry(away=True)),
        (errors.ServerFailed("slow", status=504), Retry(away=True)),
        (errors.ServerFailed("never", status=501), Fail()),
        (errors.ResponseError("early", status=425), Retry()),
        (errors.Conflict("at work"), Retry()),
        (errors.Conflict("at work", code="in_progress"), Retry()),
        (errors.Conflict("perhaps paid", code="outcome_unknown"), Fail()),
        (errors.NotFound("gone"), Fail()),
        (errors.Rejected("no"), Fail()),
        (errors.InvalidRequest("width", 0, "16 up"), Fail()),
        (errors.StaleConnection("closed"), RetryAtOnce()),
        (errors.TransportError("reset"), Retry(away=True)),
        (errors.TimedOut("slow"), Retry(overloaded=True, away=True)),
        (TimeoutError(), Retry(overloaded=True, away=True)),
        (ConnectionResetError(), Retry(away=True)),
        (OSError("disk full"), Fail()),
        (ZeroDivisionError(), Fail()),
    ],
)
def test_classify(error: Exception, verdict: Verdict) -> None:
    """One row each of the table in its docstring."""
    assert classify(error) == verdict


@given(st.floats(0.001, 86_400), st.floats(0.001, 86_400), st.integers(1, 100_000))
def test_waits_are_never_longer_than_stated(first_s: float, longest_s: float, repetition: int) -> None:
    """From 0 to twice as long each time, up to the longest."""
    policy = RetryPolicy(first_wait_s=first_s, max_wait_s=longest_s)
    assert 0 <= policy.wait_s(repetition) <= policy.longest_wait_s(repetition) <= longest_s
    assert policy.longest_wait_s(repetition) <= policy.longest_wait_s(repetition + 1)


@given(st.lists(st.booleans()), st.floats(0, 10))
def test_repetitions_stay_within_the_budget(asks: list[bool], share: float) -> None:
    """At most the reserve and the share of first attempts."""
    budget, first, repeated = RetryBudget(share), 0, 0
    for is_first in asks * 20:
        if is_first:
            budget.first_attempt()
            first += 1
        else:
            repeated += budget.take()
        assert repeated <= RetryBudget.RESERVE + share * first + 1e-6


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": True},
        {"max_attempts": 2.0},
        {"first_wait_s": 0},
        {"first_wait_s": float("nan")},
        {"max_wait_s": -1},
        {"max_throttle_s": "1"},
        {"budget": -0.1},
        {"budget": float("inf")},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    """With what is allowed."""
    with pytest.raises(ValueError, match="allowed"):
        RetryPolicy(**wrong)

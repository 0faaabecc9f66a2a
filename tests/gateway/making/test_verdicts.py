"""What a fault means for the money: decided from plain values."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

import pytest

from blossom_async.gateway.making.verdicts import (
    booked,
    in_doubt,
    micro_usd,
    refused,
    resend_pause_s,
    unknown,
)
from blossom_async.gateway.providers import Delivery
from blossom_async.gateway.providers.faults import Charged, Kind, ProviderFault
from blossom_async.gateway.storage.records import AttemptOutcome, ClaimState, ProviderAttempt

ATTEMPT = ProviderAttempt(
    image_id="a" * 22, n=3, tenant="main", payer="", provider="paid", provider_key="k", day=20_000,
    reserved=40_000, priced=True, sent_at=datetime(2026, 11, 27, tzinfo=UTC),
)  # fmt: skip


def fault(kind: Kind, charged: Charged, retry_after_s: float | None = None) -> ProviderFault:
    return ProviderFault("paid", kind, "as seen", charged=charged, retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("kind", "charged", "before", "doubt"),
    [
        (Kind.LOST, "unknown", False, True),
        (Kind.RATE_LIMITED, "no", False, False),
        (Kind.RATE_LIMITED, "no", True, True),  # of this send only; an earlier one may have been paid
        (Kind.MODERATION, "no", True, False),  # final: the key would have brought the picture
        (Kind.BAD_CONTENT, "yes", True, False),
    ],
)
def test_when_an_attempt_may_have_been_paid(kind: Kind, charged: Charged, before: bool, doubt: bool) -> None:
    """Not charged is said of one send; only a final refusal is said of those before it, too."""
    assert in_doubt(fault(kind, charged), before=before) is doubt


def test_pauses_between_sends() -> None:
    """Longer each time, as long as the provider asks for up to a limit, and never after the last send."""
    lost, slow, slower = (fault(Kind.LOST, "unknown", wait_s) for wait_s in (None, 30.0, 31.0))
    pause_s = partial(resend_pause_s, keyed=True, doubt=True)
    assert [pause_s(lost, sends) for sends in (1, 2, 3)] == [0.5, 1.0, None]
    assert (pause_s(slow, 1), pause_s(slower, 1)) == (30.0, None)


def test_an_outage_is_waited_for() -> None:
    """Its failures say nothing of the request, however many: four minutes are the limit."""
    lost, unsent = fault(Kind.LOST, "unknown"), fault(Kind.UNSENT, "no")
    pause_s = partial(resend_pause_s, keyed=True, doubt=True)
    assert pause_s(lost, 9, away=True, lasting_s=239) == 0.0  # the circuit breaker says when
    assert pause_s(lost, 9, away=True, lasting_s=240) is None
    assert [pause_s(unsent, sends) for sends in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert pause_s(unsent, 5, lasting_s=240) is None


def test_who_is_sent_a_request_again() -> None:
    """Where it may have been paid, a provider that knows it by its key; else whoever got nothing of it."""
    lost, busy = fault(Kind.LOST, "unknown"), fault(Kind.RATE_LIMITED, "no", 0.1)
    assert resend_pause_s(lost, 1, keyed=False, doubt=True) is None
    assert resend_pause_s(busy, 1, keyed=True, doubt=False) is None
    no_files = fault(Kind.OUT_OF_FILES, "no", 1.0)
    assert resend_pause_s(no_files, 59, keyed=False, doubt=False) == 1.0
    assert resend_pause_s(no_files, 60, keyed=False, doubt=False) is None


def test_what_follows_a_failure() -> None:
    """What was charged ends the claim; what cost nothing goes to the next provider, or frees the key."""
    charged = refused(fault(Kind.BAD_CONTENT, "yes"), ATTEMPT)
    assert charged.end is not None
    assert (charged.elsewhere, charged.state) == (False, ClaimState.FAILED)
    assert (charged.end.outcome, charged.end.spent) == (AttemptOutcome.CHARGED, 40_000)

    empty = refused(fault(Kind.OUT_OF_FUNDS, "no"), ATTEMPT)
    assert empty.end is not None
    assert (empty.elsewhere, empty.state, empty.end.spent) == (True, None, 0)

    final = refused(fault(Kind.MODERATION, "no"), ATTEMPT)
    assert (final.elsewhere, final.state) == (False, None)

    held = unknown(ATTEMPT, "a timeout")
    assert (held.elsewhere, held.state) == (False, ClaimState.UNKNOWN)
    assert held.error.code == "outcome_unknown"
    assert f"blossom spend release {ATTEMPT.image_id}" in str(held.error)


@pytest.mark.parametrize(
    ("usd", "cached", "spent"),
    [("0.01", False, 10_000), (None, False, 40_000), (None, True, 0), ("0", True, 0)],
)
def test_what_a_picture_is_booked_with(usd: str | None, cached: bool, spent: int) -> None:
    """The provider's own figure, else what was reserved; nothing for what it does not bill."""
    price = None if usd is None else Decimal(usd)
    given = Delivery(
        data=b"", format="png", width=1, height=1, model="m", request_id="r", usd=price, cached=cached,
        notes="",
    )  # fmt: skip
    end = booked(given, ATTEMPT)
    assert (end.n, end.outcome, end.spent, end.request_id) == (3, AttemptOutcome.OK, spent, "r")


def test_parts_of_a_micro_dollar_are_rounded_up() -> None:
    """A budget is never passed by rounding."""
    assert micro_usd(Decimal("0.0000001")) == 1

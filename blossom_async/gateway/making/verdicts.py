"""What a provider's answer or failure means for the picture, the cost and the claim. Decides only; no I/O."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Any

import attrs

from blossom_async.errors import (
    Conflict,
    Overloaded,
    ProviderFailed,
    Rejected,
    ResponseError,
    class_for_status,
)
from blossom_async.gateway.providers import Artwork, Delivery
from blossom_async.gateway.providers.faults import Kind, ProviderFault, to_error
from blossom_async.gateway.storage.records import AttemptOutcome, Claim, ClaimState, ProviderAttempt
from blossom_async.gateway.storage.records.calls import AttemptEnd

__all__ = [
    "Settled",
    "booked",
    "in_doubt",
    "key_reused",
    "micro_usd",
    "nobody_left",
    "problem_of",
    "refused",
    "resend_pause_s",
    "stored_problem",
    "unknown",
    "unsent",
]

_SENDS = 3  # how often one attempt is sent to a provider that recognises its key,
_LONGEST_OUTAGE_S = 240.0  # and for how long if that provider takes no call of anybody
_TRIES_TO_CONNECT = 60  # while this machine may open no more files
_PAUSE_S = (0.5, 4.0)  # before the second send; twice as long before each later one, up to this
_LONGEST_PAUSE_S = 30.0  # a longer wait would hold a slot for too long


@attrs.frozen(kw_only=True)
class Settled:
    """There is no picture, because of ``error``.

    ``end`` is how the attempt ended, None if none was sent. With ``elsewhere`` the next provider may be
    asked. Otherwise, or if there is none left, the claim ends in ``state``; None: it is given up, so that its
    key may be used again.
    """

    error: ResponseError
    end: AttemptEnd | None = None
    elsewhere: bool = False
    state: ClaimState | None = None


def in_doubt(fault: ProviderFault, *, before: bool) -> bool:
    """Whether the attempt may have been paid, now that it has failed.

    ``before``: an earlier send may already have been paid. "Not charged" applies to this send only. A final
    refusal applies to both: if the first had been paid, the key would have brought the picture.
    """
    return fault.charged == "unknown" or (before and fault.safe_to_repeat)


def resend_pause_s(
    fault: ProviderFault,
    sends: int,
    *,
    keyed: bool,
    doubt: bool,
    away: bool = False,
    lasting_s: float = 0.0,
) -> float | None:
    """Seconds until the same request is sent again; None if it is not.

    ``doubt``: it may have been paid, so it is repeated only at a ``keyed`` provider. ``away``: that provider
    answers nobody, and calls wait for it. ``lasting_s`` is the time since the first send.
    """
    if fault.kind is Kind.OUT_OF_FILES:
        return fault.retry_after_s if sends < _TRIES_TO_CONNECT else None
    if not (keyed and doubt):
        return None
    first_s, longest_s = _PAUSE_S
    pause_s = fault.retry_after_s or (0.0 if away else min(first_s * 2.0 ** (sends - 1), longest_s))
    outage = away or fault.charged == "no"  # then a failure says nothing of this request
    goes_on = lasting_s < _LONGEST_OUTAGE_S if outage else sends < _SENDS
    return pause_s if goes_on and pause_s <= _LONGEST_PAUSE_S else None


def refused(fault: ProviderFault, attempt: ProviderAttempt) -> Settled:
    """The end of an attempt that failed and is known to have been paid, or not."""
    error = to_error(fault)
    error.__cause__ = fault
    charged = fault.charged == "yes"
    end = AttemptEnd(
        n=attempt.n,
        outcome=AttemptOutcome.CHARGED if charged else AttemptOutcome.FAILED,
        spent=_reserved(attempt) if charged else 0,
        request_id=fault.request_id,
    )
    if charged:  # only the caller may decide to pay for it a second time
        return Settled(error=error, end=end, state=ClaimState.FAILED)
    return Settled(error=error, end=end, elsewhere=fault.another_may_help)


def unknown(attempt: ProviderAttempt, seen: str, cause: Exception | None = None) -> Settled:
    """The end of an attempt that may have been paid; ``seen`` says what happened."""
    error = Conflict(
        f"{attempt.provider} may have charged for this picture ({seen}), so it is not sent again "
        f"automatically; check the account there, then release it: blossom spend release {attempt.image_id}",
        code="outcome_unknown",
    )
    error.__cause__ = cause
    end = AttemptEnd(n=attempt.n, outcome=AttemptOutcome.UNKNOWN, spent=None)
    return Settled(error=error, end=end, state=ClaimState.UNKNOWN)


def unsent(attempt: ProviderAttempt, cause: Overloaded | None = None) -> Settled:
    """The end of an attempt that was not sent, because nobody knows whether it was recorded."""
    error = cause or Overloaded(
        "the request to the provider could not be recorded; send the request again", code="storage_failed"
    )
    end = AttemptEnd(n=attempt.n, outcome=AttemptOutcome.FAILED, spent=0)
    return Settled(error=error, end=end, elsewhere=True)


def nobody_left() -> Settled:
    """The end of a claim when no provider remains to be asked."""
    error = ProviderFailed("every provider of this gateway has been asked for this picture", status=502)
    return Settled(error=error)


def booked(given: Artwork | Delivery, attempt: ProviderAttempt) -> AttemptEnd:
    """The end of an attempt that brought a picture, at the cost that the provider says, else as reserved."""
    spent: int | None
    if isinstance(given, Artwork) or given.cached:
        spent = 0
    else:
        spent = _reserved(attempt) if given.usd is None else micro_usd(given.usd)
    request_id = None if isinstance(given, Artwork) else given.request_id
    return AttemptEnd(n=attempt.n, outcome=AttemptOutcome.OK, spent=spent, request_id=request_id)


def micro_usd(usd: Decimal) -> int:
    """Millionths of a US dollar, rounded up."""
    return int((usd * 1_000_000).to_integral_value(ROUND_CEILING))


def problem_of(error: ResponseError) -> dict[str, Any]:
    """An error in the form that a claim stores, for ``stored_problem``."""
    return {"status": error.status, "code": error.code, "detail": error.detail}


def stored_problem(claim: Claim) -> ResponseError:
    """The error that was answered when a claim got no picture."""
    told = claim.problem or {"status": 500, "detail": "the picture was not made", "code": "failed"}
    return class_for_status(told["status"])(told["detail"], status=told["status"], code=told["code"])


def key_reused() -> Rejected:
    """The error for an idempotency key that was used for another request before."""
    return Rejected(
        "this Idempotency-Key was used for another request; use a new key for each request",
        code="idempotency_key_reused",
    )


def _reserved(attempt: ProviderAttempt) -> int | None:
    return attempt.reserved if attempt.priced else None

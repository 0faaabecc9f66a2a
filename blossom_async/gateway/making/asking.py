"""One attempt at a provider: the same request, sent as often as it takes to learn what came of it."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from datetime import datetime

from blossom_async.errors import Overloaded
from blossom_async.gateway.making.failpoints import reached
from blossom_async.gateway.making.upstreams import Upstream
from blossom_async.gateway.making.verdicts import (
    Settled,
    booked,
    in_doubt,
    micro_usd,
    refused,
    resend_pause_s,
    unknown,
    unsent,
)
from blossom_async.gateway.providers import (
    NO_INPUTS,
    Artwork,
    Delivery,
    Editor,
    Inputs,
    Provider,
    Show,
    show_nobody,
)
from blossom_async.gateway.providers.faults import ProviderFault
from blossom_async.gateway.storage.records import Claim, ProviderAttempt
from blossom_async.models import ImageRequest, OpenAIRequest
from blossom_async.tracing import span

__all__ = ["ask", "day_of", "new_attempt"]


def day_of(now: datetime) -> int:
    """The day (UTC) whose budget pays for what is sent now, counted from 1970."""
    return int(now.timestamp()) // 86_400


def new_attempt(claim: Claim, upstream: Upstream, n: int, secret: bytes, now: datetime) -> ProviderAttempt:
    """The ``n``-th attempt at the claim's picture, from 0, with what it may cost and its idempotency key."""
    price = upstream.provider.price(claim.request)
    return ProviderAttempt(
        image_id=claim.image_id,
        n=n,
        tenant=claim.tenant,
        payer=claim.payer,
        provider=upstream.name,
        provider_key=hmac.digest(secret, f"{claim.image_id} {n}".encode(), "sha256").hex(),
        day=day_of(now),
        reserved=0 if price is None else micro_usd(price),
        priced=price is not None,
        sent_at=now,
    )


async def ask(
    upstream: Upstream,
    request: ImageRequest,
    attempt: ProviderAttempt,
    inputs: Inputs = NO_INPUTS,
    show: Show = show_nobody,
    *,
    begin: Callable[[], Awaitable[object]],
    maybe_paid: bool = False,
) -> Artwork | Delivery | Settled:
    """The provider's picture, or why there is none. Call it within ``upstream.turn``.

    ``inputs`` and ``show`` as for ``Editor``, ``begin`` as for ``Turn``.

    A request that may have been paid is repeated only at a keyed provider, under the same key. In an outage
    it waits for its turn to try, and ends as unknown only if that fails after four minutes.
    ``maybe_paid``: a process that died had sent it, and its answer was lost.
    """
    try:
        await begin()
    except Overloaded as exc:
        if maybe_paid:
            raise
        return unsent(attempt, exc)
    sends, first_at = 0, upstream.calls.clock()
    while True:
        sends += 1
        cuts = upstream.cuts
        try:
            async with upstream.again() if sends > 1 else nullcontext():
                began_at = upstream.calls.clock()
                with span("ask provider", "CLIENT", blossom_provider=upstream.name):
                    given = await _asked(upstream.provider, request, attempt.provider_key, inputs, show)
        except ProviderFault as fault:
            upstream.failed(fault, cuts, sent_at=began_at)
            maybe_paid = in_doubt(fault, before=maybe_paid)
            keyed = upstream.provider.keyed
            pause_s = resend_pause_s(
                fault,
                sends,
                keyed=keyed,
                doubt=maybe_paid,
                away=upstream.away,
                lasting_s=upstream.calls.clock() - first_at,
            )
            if pause_s is None:
                settled = unknown(attempt, fault.detail, fault) if maybe_paid else refused(fault, attempt)
                upstream.calls.ended(attempt, began_at, fault.kind, settled.end, held=maybe_paid)
                return settled
            upstream.calls.ended(attempt, began_at, fault.kind, None)
            await asyncio.sleep(pause_s)
        else:
            upstream.succeeded()
            upstream.calls.ended(attempt, began_at, "ok", booked(given, attempt))
            reached("answer")
            return given


async def _asked(
    provider: Provider, request: ImageRequest, key: str, inputs: Inputs, show: Show
) -> Artwork | Delivery:
    seed = request.seed or 0
    if isinstance(request, OpenAIRequest) and isinstance(provider, Editor):
        return await provider.draw(request, seed, key=key, inputs=inputs, show=show)
    return await provider.generate(request, seed, key=key)

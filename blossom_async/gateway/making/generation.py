"""From a valid request to a stored picture, paid at most once.

A picture that costs nothing is made at once, in ``free``. One that may cost money is first claimed in the
database and then made in ``paid``. ``recovery`` takes over the claims of dead processes, ``earlier`` finds
the picture of a repeated request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial

from blossom_async.errors import Conflict, InvalidRequest, Overloaded
from blossom_async.gateway.making.callers import Callers
from blossom_async.gateway.making.earlier import Earlier
from blossom_async.gateway.making.finishing import Finish, finished
from blossom_async.gateway.making.free import Free
from blossom_async.gateway.making.joining import Joining
from blossom_async.gateway.making.orders import Order, new_id
from blossom_async.gateway.making.paid import Paid
from blossom_async.gateway.making.previews import Previews
from blossom_async.gateway.making.priority import Priority
from blossom_async.gateway.making.recovery import Recovery
from blossom_async.gateway.making.staging import Staging
from blossom_async.gateway.making.storing import Storing
from blossom_async.gateway.making.upstreams import FULL_RETRY_S, Upstream, Upstreams, check_wait
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers import Inputs, Show
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.owners import Living
from blossom_async.gateway.storage.records import (
    Claim,
    ClaimState,
    IdempotencyEntry,
    ImageRecord,
    Records,
)
from blossom_async.gateway.storage.records import calls as call_records
from blossom_async.models import Estimate, ImageRequest

__all__ = ["Generation"]


class Generation:
    """Makes pictures and stores them."""

    def __init__(
        self,
        upstreams: Upstreams,
        records: Records,
        blobs: Blobs,
        staging: Staging,
        workers: Workers,
        owner: Living,
        *,
        secret: bytes,
        now: Callable[[], datetime],
        finish: Finish = finished,
        most: int = 1000,
        daily_budget: int | None = None,
    ) -> None:
        """At most ``most`` pictures are in progress or wait. ``secret``, ``daily_budget`` as for ``Paid``."""
        self._upstreams = upstreams
        self._records = records
        self._owner = owner
        self._now = now
        self._most = most
        self._storing = Storing(blobs, workers, now, finish)
        self._previews = Previews(records, blobs, workers)
        self._free = Free(records, self._storing)
        self._paid = Paid(
            upstreams, records, staging, self._storing, secret=secret, now=now, daily_budget=daily_budget
        )
        self._recovery = Recovery(upstreams, records, staging, self._paid, owner, now)
        self._earlier = Earlier(records, self._paid, self._recovery, now)
        self._joining: Joining[tuple[ImageRecord | Claim, bool]] = Joining()
        self._entered = 0

    @property
    def waiting(self) -> int:
        """Pictures being made, or waiting for it."""
        return self._entered + len(self._paid.under_way)

    @property
    def made(self) -> Counter[tuple[str, ...]]:
        """Pictures stored, by provider and format."""
        return self._storing.made

    async def create(
        self,
        request: ImageRequest,
        *,
        tenant: str,
        payer: str,
        key: str | None = None,
        priority: Priority = Priority.INTERACTIVE,
        preview: bool = True,
        inputs: Inputs | None = None,
        watch: Show | None = None,
    ) -> tuple[ImageRecord | Claim, bool]:
        """The stored picture, and whether it is a replay of one made earlier under the same key.

        ``payer`` is the name of the API key whose budget pays. The same ``tenant``, idempotency ``key`` and
        request never make a second picture, even if the first is still in progress, its caller has
        disconnected, or another process makes it. With ``defer`` the result is the stored claim.
        Without ``preview`` the picture may have none, until ``with_preview`` makes it. ``inputs`` are what
        an ``OpenAIRequest`` with ``pictures`` is drawn from. ``watch`` is shown the pictures on the way.

        Raises ``InvalidRequest``, ``Rejected`` when the key was used for another request, ``Gone`` when its
        picture was deleted or has expired, ``Overloaded`` when too many are queued, ``PaymentRequired``
        beyond the payer's budget, ``Conflict`` (``outcome_unknown``) when it may have been paid,
        ``Conflict`` (``in_progress``) when another process still makes it, and the error for the provider's
        failure.
        """
        if request.use_custom_cdn:
            raise InvalidRequest("use_custom_cdn", True, "False here: a client with a cdn_prefix sets it")
        order = Order(
            request=request,
            tenant=tenant,
            payer=payer,
            key=key,
            priority=priority,
            preview=preview,
            inputs=inputs,
            watch=watch,
        )
        able = self._upstreams.able(request)
        claims = able[0].provider.remote or request.defer
        if claims and key is None:  # a crowd is refused before anything is prepared
            self._check_turn(order, able)
        make = partial(self._claimed, order, able) if claims else partial(self._drawn, order, able[0])
        (made, replayed), joined = await self._joining.run(order, make, keep=claims)
        return made, replayed or joined

    async def with_preview(self, record: ImageRecord) -> ImageRecord:
        """The record with the picture's preview, unless its file is gone."""
        return await self._previews.completed(record)

    def estimate(self, request: ImageRequest) -> Estimate:
        """What it would cost. Raises ``InvalidRequest`` if no provider can make it."""
        provider = self._upstreams.able(request)[0].provider
        usd = provider.price(request)
        return Estimate(credits=request.cost, usd=None if usd is None else float(usd), provider=provider.name)

    def may_cost(self, request: ImageRequest) -> bool:
        """Whether its provider may charge for it. Raises ``InvalidRequest`` if none can make it."""
        return self._upstreams.able(request)[0].provider.remote

    def check_room(self, count: int = 1) -> None:
        """Raises ``Overloaded`` if there is no room for ``count`` more pictures."""
        if self.waiting + count > self._most:
            raise Overloaded(
                f"{self.waiting} pictures are waiting to be made; "
                f"send the request again in {FULL_RETRY_S:g} s",
                retry_after_s=FULL_RETRY_S,
            )

    async def claimed(self, tenant: str, key: str) -> Claim | None:
        """The claim under a key, None if there is none or its picture is stored."""
        return await self._records.read(partial(call_records.claim_by_key, tenant, key))

    async def pending(self, image_id: str) -> Claim | None:
        """The claim of a picture that is still being made, or that failed. None for any other id."""
        return await self._earlier.pending(image_id)

    async def forget(self, claim: Claim) -> None:
        """Removes a failed claim and its text.

        Raises ``Conflict`` if it is in progress, and if it may have been paid: then it stays until it is
        released.
        """
        forgotten = claim.state is ClaimState.FAILED and await self._records.write(
            partial(call_records.forget, claim.image_id), erases=True
        )
        if not forgotten:
            raise Conflict(
                "the picture is still being made, or may have been paid; delete it once that is known",
                code="in_progress",
                retry_after_s=FULL_RETRY_S,
            )

    async def wait(self, image_id: str, timeout_s: float) -> None:
        """Returns when the picture's claim has ended, or after this time."""
        await self._earlier.wait(image_id, timeout_s)

    async def recover(self) -> None:
        """Takes over the claims of dead processes, until it is cancelled."""
        await self._recovery.run()

    async def settle(self) -> None:
        """Waits for the pictures in progress whose callers have disconnected."""
        tasks = [*self._joining.tasks(), *self._paid.under_way.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin_nothing_more(self) -> None:
        """Leaves the claims that wait for a provider to another process, or to the next start."""
        self._paid.begin_nothing_more()

    def stop(self) -> None:
        """Cancels the claims in progress, as a kill would: they are resumed at the next start."""
        self._paid.stop()

    async def _drawn(self, order: Order, upstream: Upstream) -> tuple[ImageRecord | Claim, bool]:
        """Makes a picture that costs nothing, unless its key was used before."""
        standing = await self._earlier.standing(order)
        if standing is None:
            try:
                with self._room():
                    return await self._free.make(upstream, order), False
            except Conflict:  # another process was first
                standing = await self._earlier.standing(order)
                if standing is None:
                    raise
        return await self._earlier.replayed(order, standing), True

    async def _claimed(self, order: Order, able: Sequence[Upstream]) -> tuple[ImageRecord | Claim, bool]:
        """Claims a picture that may cost money and makes it, unless its key was used before."""
        try:
            self._check_turn(order, able)
        except Overloaded:  # a repeat needs no turn
            standing = await self._earlier.standing(order)
            if standing is None:
                raise
            return await self._earlier.replayed(order, standing), True
        new = Claim(
            image_id=new_id(),
            tenant=order.tenant,
            payer=order.payer,
            key=order.key,
            fingerprint=order.fingerprint,
            request=order.pinned(),
            owner=self._owner.name,
            created_at=self._now(),
        )
        with self._room():
            standing = await self._claim(new, order.inputs)
            if standing is new:
                callers = Callers(order.priority) if order.request.defer else order.callers
                task = self._paid.start(new, callers, new=True)
        if standing is not new:
            return await self._earlier.replayed(order, standing), True
        # A caller that disconnects must not cancel what may have been paid.
        return new if order.request.defer else await self._earlier.made(new, task), False

    async def _claim(self, new: Claim, inputs: Inputs | None) -> IdempotencyEntry | Claim:
        """The claim, once it is on the disk, or what stands under its key."""
        if inputs is not None:
            self._paid.given[new.image_id] = inputs
        try:
            standing = await self._records.write(partial(call_records.claim, new))
        except BaseException:
            self._paid.given.pop(new.image_id, None)
            raise
        if standing is not new:
            self._paid.given.pop(new.image_id, None)
        return standing

    def _check_turn(self, order: Order, able: Sequence[Upstream]) -> None:
        """Raises ``Overloaded`` if there is no room, or its turn would come too late."""
        self.check_room()
        check_wait(able, order.callers)

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        self.check_room()
        self._entered += 1
        try:
            yield
        finally:
            self._entered -= 1

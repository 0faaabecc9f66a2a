"""From a valid request to a stored picture, paid at most once.

What costs nothing is made at once: bytes first, then the row. What may cost money is claimed before: the
call is on the disk, then the attempt, and only then does a byte leave for the provider. What came back is
staged on the disk before anything else is done with it. So a process that ends at any moment leaves one of
four things behind, and ``recover`` knows what to do with each: a call not sent (it is sent), an attempt that
may have been sent (again under the same key where the provider takes one; otherwise nobody knows, and a
person decides), a staged answer (it is adopted), or a stored picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
import string
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from functools import partial
from typing import Any

import attrs

from blossom_async.errors import (
    Conflict,
    Gone,
    InvalidRequest,
    Overloaded,
    ProviderFailed,
    Rejected,
    ResponseError,
    class_for_status,
)
from blossom_async.gateway.making.failpoints import reached
from blossom_async.gateway.making.priority import Priority
from blossom_async.gateway.making.staging import Staging
from blossom_async.gateway.making.storing import Storing
from blossom_async.gateway.making.upstreams import Upstream, Upstreams
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers import Artwork, Delivery
from blossom_async.gateway.providers.faults import ProviderFault, to_error
from blossom_async.gateway.storage.blobs import LocalBlobs
from blossom_async.gateway.storage.owners import Owner
from blossom_async.gateway.storage.records import (
    AttemptOutcome,
    Claim,
    ClaimState,
    IdempotencyEntry,
    ImageRecord,
    ProviderAttempt,
    Records,
)
from blossom_async.gateway.storage.records import calls as call_records
from blossom_async.models import MAX_SEED, Estimate, ImageRequest, to_json

__all__ = ["Generation", "new_id", "stored_problem"]

_Making = asyncio.Task[tuple[ImageRecord | Claim, bool]]
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FULL_RETRY_S = 5.0  # by then some of those that wait have been made
_SENDS = 3  # of one attempt, to a provider that knows it by its key
_AGAIN_S = 0.5
_LONGEST_AGAIN_S = 30.0  # a provider that asks for more is not waited for with its slot in hand
_POLL_S = 0.1
_ELSEWHERE_S = 30.0  # how long a caller waits for a picture that another process makes
_RECOVER_S = 5.0

_log = logging.getLogger("blossom_async.gateway")


class Generation:
    """Makes pictures and stores them."""

    def __init__(
        self,
        upstreams: Upstreams,
        records: Records,
        blobs: LocalBlobs,
        staging: Staging,
        workers: Workers,
        owner: Owner,
        *,
        secret: bytes,
        now: Callable[[], datetime],
        most: int = 1000,
        daily_budget: int | None = None,
    ) -> None:
        """At most ``most`` pictures are under way or wait. Attempts have keys made of ``secret``.

        ``daily_budget`` is in millionths of a US dollar, for API keys without one of their own; None: no
        limit.
        """
        self._upstreams = upstreams
        self._records = records
        self._storing = Storing(blobs, workers, now)
        self._staging = staging
        self._owner = owner
        self._secret = secret
        self._now = now
        self._most = most
        self._daily_budget = daily_budget
        self._under_way: dict[tuple[str, str], tuple[str, _Making]] = {}
        self._calls: dict[str, asyncio.Task[ImageRecord]] = {}
        self.waiting = 0
        """Pictures being made, or waiting for it."""
        self.made: Counter[tuple[str, ...]] = Counter()
        """Pictures stored, by provider and format."""

    async def create(
        self,
        request: ImageRequest,
        *,
        tenant: str,
        payer: str,
        key: str | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> tuple[ImageRecord | Claim, bool]:
        """The stored picture, and whether it is a replay of one made earlier under the same key.

        ``payer`` is the name of the API key whose budget it is. The same ``tenant`` and idempotency ``key``
        with the same request never makes a second picture, also when the first is still under way, its
        caller has gone, or another process makes it. With ``defer`` it is the claim, which is on the disk.

        Raises ``InvalidRequest``, ``Rejected`` when the key was used for another request, ``Gone`` when its
        picture was deleted or has expired, ``Overloaded`` when too many are waiting, ``PaymentRequired``
        beyond the caller's budget, ``Conflict`` (``outcome_unknown``) when it may have been paid and nobody
        knows, ``Conflict`` (``in_progress``) when another process still makes it, and what the provider's
        failure becomes.
        """
        if request.use_custom_cdn:
            raise InvalidRequest("use_custom_cdn", True, "False here: a client with a cdn_prefix sets it")
        able = self._upstreams.able(request)
        free = not able[0].provider.remote and not request.defer
        if key is None:
            if free:
                return await self._make(able[0], request, tenant, None, priority), False
            return await self._claimed(request, tenant, payer, None, "", priority=priority), False
        fingerprint = hashlib.sha256(to_json(request)).hexdigest()
        joined = (tenant, key) in self._under_way
        if not joined:  # noted before anything is waited for: nobody may come in between
            making: Coroutine[Any, Any, tuple[ImageRecord | Claim, bool]]
            if free:
                making = self._make_once(able[0], request, tenant, key, fingerprint, priority)
            else:
                making = self._claimed_once(request, tenant, payer, key, fingerprint, priority=priority)
            task = asyncio.create_task(making)
            self._under_way[tenant, key] = fingerprint, task
            task.add_done_callback(lambda ended: self._ended((tenant, key), ended))
        started_as, task = self._under_way[tenant, key]
        if started_as != fingerprint:
            raise _key_reused()
        # Shielded: a caller that goes away must not cost the picture its key would bring back.
        record, replayed = await asyncio.shield(task)
        return record, replayed or joined

    def estimate(self, request: ImageRequest) -> Estimate:
        """What it would cost. Raises ``InvalidRequest`` when nobody can make it."""
        provider = self._upstreams.able(request)[0].provider
        usd = provider.price(request)
        return Estimate(credits=request.cost, usd=None if usd is None else float(usd), provider=provider.name)

    def may_cost(self, request: ImageRequest) -> bool:
        """Whether its provider may charge for it. Raises ``InvalidRequest`` if none can make it."""
        return self._upstreams.able(request)[0].provider.remote

    async def claimed(self, tenant: str, key: str) -> Claim | None:
        """The claim under a key: it is under way, or was paid, or may have been, without a picture so far."""
        return await self._records.read(partial(call_records.claim_by_key, tenant, key))

    async def pending(self, image_id: str) -> Claim | None:
        """The call of a picture that is not there yet, or never will be."""
        return await self._records.read(partial(call_records.claim_by_id, image_id))

    async def forget(self, call: Claim) -> None:
        """Takes a call without a picture away, with its words.

        Raises ``Conflict`` while it is under way, and for one that may have been paid: that stays until it
        is released.
        """
        if call.state is not ClaimState.FAILED:
            raise Conflict(
                "the picture is still being made, or may have been paid; delete it once that is known",
                code="in_progress",
                retry_after_s=_FULL_RETRY_S,
            )
        await self._records.write(partial(call_records.give_up, call.image_id), erases=True)

    async def wait(self, image_id: str, timeout_s: float) -> None:
        """Returns when the picture's call has ended, or after this time."""
        if (task := self._calls.get(image_id)) is not None:
            await asyncio.wait([task], timeout=timeout_s)
            return
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        while loop.time() < ends:  # another process makes it
            call = await self.pending(image_id)
            if call is None or call.state is not ClaimState.RUNNING:
                return
            await asyncio.sleep(_POLL_S)

    async def recover(self) -> None:
        """Takes over, for as long as it runs, what ended processes have left unfinished."""
        cleared = False
        while True:
            try:
                await self._adopt_orphans()
                if not cleared:
                    await self._clear_staging()
                    cleared = True
            except Overloaded as exc:  # the database; the next round may find it well again
                _log.warning("unfinished calls could not be looked at: %s", exc.code)
            except Exception:  # noqa: BLE001 - the task's border: what was left unfinished must not stay so
                _log.exception("unfinished calls could not be looked at; they are looked at again")
            await asyncio.sleep(_RECOVER_S)

    async def settle(self) -> None:
        """Waits for pictures whose callers have gone."""
        tasks = [*(task for _, task in self._under_way.values()), *self._calls.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Ends what is under way, as a kill would: what was claimed is taken up at the next start."""
        for task in self._calls.values():
            task.cancel()

    def _ended(self, key: tuple[str, str], task: _Making) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # seen, also when every caller has gone

    # What costs nothing

    async def _make_once(
        self,
        upstream: Upstream,
        request: ImageRequest,
        tenant: str,
        key: str,
        fingerprint: str,
        priority: Priority,
    ) -> tuple[ImageRecord | Claim, bool]:
        earlier = await self._records.find_idempotent(tenant, key)
        claimed = await self._records.read(partial(call_records.claim_by_key, tenant, key))
        if earlier is None and claimed is not None:  # a deferred one
            return await self._standing(claimed, fingerprint), True
        if earlier is None:
            entry = IdempotencyEntry(tenant=tenant, key=key, fingerprint=fingerprint, image_id=new_id())
            try:
                return await self._make(upstream, request, tenant, entry, priority), False
            except Conflict:  # another process of this gateway was first
                earlier = await self._records.find_idempotent(tenant, key)
                if earlier is None:
                    raise
        return await self._replay(earlier, fingerprint), True

    async def _make(
        self,
        upstream: Upstream,
        request: ImageRequest,
        tenant: str,
        entry: IdempotencyEntry | None,
        priority: Priority,
    ) -> ImageRecord:
        with self._room():
            seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
            pinned = attrs.evolve(request, seed=seed)
            async with upstream.turn(priority=priority):
                given = await upstream.provider.generate(pinned, seed, key="")
            image_id = entry.image_id if entry else new_id()
            record = await self._storing.store(image_id, tenant, pinned, upstream.name, given)
            try:
                await self._records.add(record, entry)
            except (Conflict, Overloaded) as exc:
                # After any other failure the row may be there all the same, and a row needs its bytes.
                if isinstance(exc, Conflict) or exc.code == "storage_full":
                    await self._storing.remove(record)
                raise
            self.made[record.provider, record.request.format] += 1
            return record

    # What may cost money

    async def _claimed_once(
        self,
        request: ImageRequest,
        tenant: str,
        payer: str,
        key: str,
        fingerprint: str,
        *,
        priority: Priority,
    ) -> tuple[ImageRecord | Claim, bool]:
        made = await self._claimed(request, tenant, payer, key, fingerprint, priority=priority)
        return made, False

    async def _claimed(
        self,
        request: ImageRequest,
        tenant: str,
        payer: str,
        key: str | None,
        fingerprint: str,
        *,
        priority: Priority,
    ) -> ImageRecord | Claim:
        seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        pinned = attrs.evolve(request, seed=seed)
        call = Claim(
            image_id=new_id(),
            tenant=tenant,
            payer=payer,
            key=key,
            fingerprint=fingerprint,
            request=pinned,
            owner=self._owner.name,
            created_at=self._now(),
        )
        with self._room():
            standing = await self._records.write(partial(call_records.claim, call))
            task = None if standing is not call else self._start(call, priority=priority)
        if isinstance(standing, IdempotencyEntry):
            return await self._replay(standing, fingerprint)
        if task is None:
            return await self._standing(standing, fingerprint)
        return call if request.defer else await asyncio.shield(task)

    async def _standing(self, call: Claim, fingerprint: str) -> ImageRecord | Claim:
        """What another call under the same key has come to."""
        if call.fingerprint != fingerprint:
            raise _key_reused()
        request = call.request
        if call.state is ClaimState.FAILED:
            if request.defer:
                return call
            raise stored_problem(call)
        if call.state is ClaimState.UNKNOWN:
            again = await self._again(call)
            if again is None:
                raise stored_problem(call)
            task = self._start(again, priority=Priority.INTERACTIVE)
            return again if request.defer else await asyncio.shield(task)
        if request.defer:
            return call
        if call.owner is not None and self._owner.has_ended(call.owner):
            await self._adopt(call.owner)
        if call.owner == self._owner.name and call.image_id not in self._calls:
            self._start(call, priority=Priority.INTERACTIVE)  # its task ended on an error of the disk
        if (mine := self._calls.get(call.image_id)) is not None:
            return await asyncio.shield(mine)
        await self.wait(call.image_id, _ELSEWHERE_S)
        record = await self._records.get(call.image_id)
        if record is not None:
            return record
        left = await self.pending(call.image_id)
        if left is not None and left.state is not ClaimState.RUNNING:
            raise stored_problem(left)
        raise Conflict(
            "the picture of this Idempotency-Key is still being made; ask again with the same key",
            code="in_progress",
            retry_after_s=_FULL_RETRY_S,
        )

    async def _again(self, call: Claim) -> Claim | None:
        """An unknown call that may be sent again because its provider knows it by its key."""
        tried = await self._records.read(partial(call_records.attempts_of, call.image_id))
        upstream = self._upstreams.named(tried[-1].provider)
        if upstream is None or not upstream.provider.keyed:
            return None
        reopen = partial(call_records.reopen, call.image_id, self._owner.name)
        return await self._records.write(reopen)

    async def _adopt_orphans(self) -> None:
        for name in await self._records.read(call_records.owners):
            # What is this process's own and not under way ended on an error of the disk.
            if name == self._owner.name or await asyncio.to_thread(self._owner.has_ended, name):
                await self._adopt(name)

    async def _clear_staging(self) -> None:
        """Removes staged answers of calls that have ended: their process died before it could."""
        async for image_id in self._staging.ids(before=self._now()):
            if await self.pending(image_id) is None:  # a call is claimed before anything of it is staged
                await self._staging.delete(image_id)

    async def _adopt(self, name: str) -> None:
        adopted = await self._records.write(partial(call_records.adopt, name, self._owner.name))
        for call in adopted:
            if call.image_id in self._calls:
                continue
            _log.info("a call that an ended process left behind is taken over")
            self._start(call, priority=Priority.BATCH)

    def _start(self, call: Claim, *, priority: Priority) -> asyncio.Task[ImageRecord]:
        task = asyncio.create_task(self._carried_out(call, priority=priority))
        self._calls[call.image_id] = task
        self.waiting += 1

        def ended(task: asyncio.Task[ImageRecord]) -> None:
            del self._calls[call.image_id]
            self.waiting -= 1
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, ResponseError):
                _log.error("a call failed, and is tried again: %s", type(error).__name__)

        task.add_done_callback(ended)
        return task

    async def _carried_out(self, call: Claim, *, priority: Priority) -> ImageRecord:
        request = call.request
        try:
            return await self._brought_home(call, request, priority=priority)
        except _Ended as ended:
            error = ended.error
            if ended.state is None and not request.defer:
                await self._records.write(partial(call_records.give_up, call.image_id))
            else:
                state = ended.state or ClaimState.FAILED
                problem = _problem(error)
                fail = partial(call_records.fail, call.image_id, state, problem, self._now())
                await self._records.write(fail)
            raise error from ended.__cause__

    async def _brought_home(self, call: Claim, request: ImageRequest, *, priority: Priority) -> ImageRecord:
        tried = await self._records.read(partial(call_records.attempts_of, call.image_id))
        refused: ResponseError | None = None
        if tried and tried[-1].outcome in call_records.OPEN:
            try:
                return await self._resumed(call, request, tried[-1], priority=priority)
            except _NextUpstream as exc:
                refused = exc.error
        asked = {attempt.provider for attempt in tried}
        try:
            able = self._upstreams.able(request)
        except InvalidRequest as exc:  # what could make it when it was claimed is no longer set up
            raise _Ended(None, Rejected(str(exc))) from exc
        for upstream in able:
            if upstream.name in asked:
                continue
            attempt = self._attempt(call, request, upstream, len(tried))
            try:
                async with upstream.turn(priority=priority):
                    begin = partial(call_records.begin_attempt, attempt, self._daily_budget)
                    await self._records.write(begin)  # on the disk before a byte leaves
                    reached("attempt")
                    tried.append(attempt)
                    given = await self._sent(upstream, call, request, attempt)
                return await self._stored(call, request, attempt, given)
            except _NextUpstream as exc:
                refused = exc.error
            except ResponseError as exc:
                if attempt in tried:  # it may be paid: the call stays as it is, to be taken up again
                    raise
                if not isinstance(exc, Overloaded):  # no budget
                    raise _Ended(None, exc) from exc
                refused = exc
        raise _Ended(None, refused or _nobody_left())

    async def _resumed(
        self, call: Claim, request: ImageRequest, last: ProviderAttempt, *, priority: Priority
    ) -> ImageRecord:
        """The picture of an attempt whose process has ended, or whose answer was lost."""
        staged = await self._staging.get(call.image_id)
        if staged is not None:
            return await self._stored(call, request, last, staged)
        upstream = self._upstreams.named(last.provider)
        if upstream is None or not upstream.provider.keyed:
            raise await self._unknown(call, last, f"{last.provider} was asked, and the answer is lost")
        async with upstream.turn(priority=priority):
            given = await self._sent(upstream, call, request, last, maybe_paid=True)
        return await self._stored(call, request, last, given)

    async def _sent(
        self,
        upstream: Upstream,
        call: Claim,
        request: ImageRequest,
        attempt: ProviderAttempt,
        *,
        maybe_paid: bool = False,
    ) -> Artwork | Delivery:
        """What the provider gave, on the disk. Raises ``_NextUpstream`` or ``_Ended``.

        ``maybe_paid``: it has been sent before, and nobody knows what came of it.
        """
        for send in range(_SENDS):
            cuts = upstream.cuts
            try:
                given = await upstream.provider.generate(request, request.seed or 0, key=attempt.provider_key)
            except ProviderFault as fault:
                upstream.failed(fault, cuts)
                # "Not charged" is said of this request, not of one before it; only a final refusal, where
                # the key would have brought a picture, is said of both.
                if fault.charged == "unknown" or (maybe_paid and fault.safe_to_repeat):
                    maybe_paid = True
                    wait_s = fault.retry_after_s or _AGAIN_S * 2**send
                    if upstream.provider.keyed and send + 1 < _SENDS and wait_s <= _LONGEST_AGAIN_S:
                        await asyncio.sleep(wait_s)
                        continue
                    raise await self._unknown(call, attempt, fault.detail) from fault
                raise await self._refused(call, attempt, fault) from fault
            upstream.succeeded()
            reached("answer")
            await self._staging.put(call.image_id, given)
            reached("staged")
            return given
        raise AssertionError  # the last send returns or raises

    async def _refused(self, call: Claim, attempt: ProviderAttempt, fault: ProviderFault) -> Exception:
        """What a failed attempt comes to, once the ledger has it."""
        if fault.charged == "unknown":
            return await self._unknown(call, attempt, fault.detail)
        charged = fault.charged == "yes"
        await self._records.write(
            partial(
                call_records.end_attempt,
                call.image_id,
                attempt.n,
                AttemptOutcome.CHARGED if charged else AttemptOutcome.FAILED,
                (attempt.reserved if attempt.priced else None) if charged else 0,
                fault.request_id,
                self._now(),
            )
        )
        error = to_error(fault)
        if charged:  # paid once is paid: neither this provider nor another is asked again by itself
            return _Ended(ClaimState.FAILED, error)
        return _NextUpstream(error) if fault.another_may_help else _Ended(None, error)

    async def _unknown(self, call: Claim, attempt: ProviderAttempt, what: str) -> Exception:
        await self._records.write(
            partial(
                call_records.end_attempt,
                call.image_id,
                attempt.n,
                AttemptOutcome.UNKNOWN,
                None,
                None,
                self._now(),
            )
        )
        error = Conflict(
            f"nobody knows whether this picture was paid ({what}), so it is not sent again by itself; look "
            f"at the account of {attempt.provider}, then release it: blossom spend release {call.image_id}",
            code="outcome_unknown",
        )
        return _Ended(ClaimState.UNKNOWN, error)

    async def _stored(
        self, call: Claim, request: ImageRequest, attempt: ProviderAttempt, given: Artwork | Delivery
    ) -> ImageRecord:
        try:
            record = await self._storing.store(call.image_id, call.tenant, request, attempt.provider, given)
        except ProviderFault as fault:
            await self._staging.delete(call.image_id)
            raise await self._refused(call, attempt, fault) from fault
        reached("stored")
        entry = None
        if call.key is not None:
            entry = IdempotencyEntry(
                tenant=call.tenant, key=call.key, fingerprint=call.fingerprint, image_id=call.image_id
            )
        spent, request_id = _spent(given, attempt)
        finish = partial(call_records.finish, record, entry, attempt.n, spent, request_id, self._now())
        try:
            await self._records.write(finish)
        except Conflict as exc:
            if exc.code != "idempotency_key_taken":
                raise  # another process has finished it: the files are of its picture
            await self._storing.remove(record)
            raise _Ended(ClaimState.FAILED, exc) from exc
        reached("committed")
        self.made[record.provider, record.request.format] += 1
        await self._staging.delete(call.image_id)
        return record

    def _attempt(self, call: Claim, request: ImageRequest, upstream: Upstream, n: int) -> ProviderAttempt:
        now = self._now()
        price = upstream.provider.price(request)
        name = f"{call.image_id} {n}".encode()
        return ProviderAttempt(
            image_id=call.image_id,
            n=n,
            tenant=call.tenant,
            payer=call.payer,
            provider=upstream.name,
            provider_key=hmac.digest(self._secret, name, "sha256").hex(),
            day=int(now.timestamp()) // 86_400,
            reserved=_micro(price),
            priced=price is not None,
            sent_at=now,
        )

    # Both

    async def _replay(self, entry: IdempotencyEntry, fingerprint: str) -> ImageRecord:
        if entry.fingerprint != fingerprint:
            raise _key_reused()
        record = await self._records.get(entry.image_id)
        if record is None or record.deleted_at is not None:
            raise Gone("the picture made under this Idempotency-Key was deleted; use a new key for a new one")
        if record.expires_at is not None and self._now() >= record.expires_at:
            raise Gone("the picture made under this Idempotency-Key has expired; use a new key for a new one")
        return record

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        self.check_room()
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def check_room(self, count: int = 1) -> None:
        """Raises ``Overloaded`` when so many more cannot be made now."""
        if self.waiting + count > self._most:
            raise Overloaded(
                f"{self.waiting} pictures are waiting to be made; "
                f"send the request again in {_FULL_RETRY_S:g} s",
                retry_after_s=_FULL_RETRY_S,
            )


class _Ended(Exception):
    """There is no picture: the claim stays in this state, or with None goes where nobody needs its words."""

    def __init__(self, state: ClaimState | None, error: ResponseError) -> None:
        super().__init__(error.code)
        self.state = state
        self.error = error


class _NextUpstream(Exception):
    """Nothing was paid here, and another provider may help."""

    def __init__(self, error: ResponseError) -> None:
        super().__init__(error.code)
        self.error = error


def new_id() -> str:
    """128 random bits in base62: 22 characters."""
    number = secrets.randbits(128)
    digits = []
    for _ in range(22):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def stored_problem(call: Claim) -> ResponseError:
    """Why a call has no picture, as it was answered then."""
    told = call.problem or {"status": 500, "detail": "the picture was not made", "code": "failed"}
    return class_for_status(told["status"])(told["detail"], status=told["status"], code=told["code"])


def _problem(error: ResponseError) -> dict[str, Any]:
    return {"status": error.status, "code": error.code, "detail": error.detail}


def _micro(usd: Decimal | None) -> int:
    return 0 if usd is None else int((usd * 1_000_000).to_integral_value(ROUND_CEILING))


def _spent(given: Artwork | Delivery, attempt: ProviderAttempt) -> tuple[int | None, str | None]:
    """What the provider says it cost, else what was reserved, None if nobody knows; and its request id."""
    if isinstance(given, Artwork):
        return 0, None
    if given.cached:
        return 0, given.request_id
    if given.usd is not None:
        return _micro(given.usd), given.request_id
    return (attempt.reserved if attempt.priced else None), given.request_id


def _nobody_left() -> ResponseError:
    return ProviderFailed("every provider of this gateway has been asked for this picture", status=502)


def _key_reused() -> Rejected:
    return Rejected(
        "this Idempotency-Key was used for another request; use a new key for each request",
        code="idempotency_key_reused",
    )

"""Pictures that may cost money, from a claim to a stored picture: each is paid at most once.

First the claim is written to disk, then the attempt, and only then is a byte sent to the provider. The answer
is staged on disk before it is processed. The process may die between any two of these steps; the process that
takes the claim over continues from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial

import attrs

from blossom_async.errors import (
    Conflict,
    InvalidRequest,
    Overloaded,
    PaymentRequired,
    Rejected,
    ResponseError,
)
from blossom_async.gateway.making.asking import ask, day_of, new_attempt
from blossom_async.gateway.making.callers import Callers
from blossom_async.gateway.making.failpoints import reached
from blossom_async.gateway.making.provider_calls import note_held, note_unusable
from blossom_async.gateway.making.results import Answer, Results, once_files_can_be_opened
from blossom_async.gateway.making.staging import Staging
from blossom_async.gateway.making.storing import Storing
from blossom_async.gateway.making.upstreams import Upstream, Upstreams
from blossom_async.gateway.making.verdicts import (
    Settled,
    booked,
    nobody_left,
    problem_of,
    refused,
    unknown,
)
from blossom_async.gateway.providers import Inputs
from blossom_async.gateway.providers.faults import ProviderFault
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
from blossom_async.models import draws_from_pictures
from blossom_async.tracing import span

__all__ = ["Paid"]

_ANSWERS_FIRST_S = 0.1  # a deferred picture takes seconds, its caller waits for an answer now

_log = logging.getLogger("blossom_async.gateway")


class Paid:
    """Makes the pictures of claims. Each has its own task, which goes on when the caller disconnects.

    ``secret`` makes the idempotency keys for providers. ``daily_budget``, in millionths of a US dollar, is
    for API keys without one of their own; None: no limit.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        records: Records,
        staging: Staging,
        storing: Storing,
        *,
        secret: bytes,
        now: Callable[[], datetime],
        daily_budget: int | None,
    ) -> None:
        self._upstreams = upstreams
        self._records = records
        self._staging = staging
        self._storing = storing
        self._secret = secret
        self._now = now
        self._daily_budget = daily_budget
        self.under_way: dict[str, asyncio.Task[ImageRecord]] = {}
        """The tasks, by the id of the picture."""
        self.given: dict[str, Inputs] = {}
        """What new claims are drawn from, by the id of the picture, until that is on the disk."""
        self._in_line: set[str] = set()
        self._exhausted: set[tuple[str, int]] = set()  # payers refused for their budget, with the day
        self._closing = False
        self._results = Results(records, staging, now)

    def start(self, claim: Claim, callers: Callers, *, new: bool = False) -> asyncio.Task[ImageRecord]:
        """The task that makes the claim's picture. It raises the error that ``POST /v1/images`` answers.

        A ``new`` claim has no attempts yet. Recovery may have found it before the one who made it is told.
        """
        if (started := self.under_way.get(claim.image_id)) is not None:
            return started
        task = asyncio.create_task(self._carry_out(claim, callers, new=new))
        self.under_way[claim.image_id] = task

        def ended(task: asyncio.Task[ImageRecord]) -> None:
            del self.under_way[claim.image_id]
            error = None if task.cancelled() else task.exception()
            if isinstance(error, Conflict):  # another process has it
                self._results.forget(claim)
            if error is not None and not isinstance(error, ResponseError):
                _log.error("a call failed, and is tried again: %s", type(error).__name__)

        task.add_done_callback(ended)
        return task

    def begin_nothing_more(self) -> None:
        """Cancels the tasks that wait for a provider: what would be sent now may be answered too late.

        Their claims are resumed by another process, or at the next start.
        """
        self._closing = True
        for image_id in self._in_line:
            self.under_way[image_id].cancel()

    def stop(self) -> None:
        """Cancels the tasks, as a kill would: the claims are resumed at the next start."""
        for task in self.under_way.values():
            task.cancel()

    async def _carry_out(self, claim: Claim, callers: Callers, *, new: bool) -> ImageRecord:
        if new and claim.request.defer:
            await asyncio.sleep(_ANSWERS_FIRST_S)
        # A turn lasts until the picture is stored: more cannot be begun than can be finished.
        async with AsyncExitStack() as turn:
            read = self._records.read
            tried = [] if new else await read(partial(call_records.attempts_of, claim.image_id))
            answer = await self._kept(claim) or await self._answer(claim, callers, tried, turn)
            made = (
                answer if isinstance(answer, Settled) else await self._store(claim, answer, callers.preview)
            )
        if isinstance(made, Settled):
            await self._end(claim, made)
            self._results.forget(claim)
        if isinstance(answer, Answer):
            with contextlib.suppress(Overloaded):  # recovery clears away what stays
                await self._staging.delete(claim.image_id)
        held = isinstance(made, Settled) and made.state is ClaimState.UNKNOWN
        if draws_from_pictures(claim.request) and not held:
            with contextlib.suppress(Overloaded):
                await self._staging.drop(claim.image_id)
        if isinstance(made, Settled):
            raise made.error
        return made

    async def _kept(self, claim: Claim) -> Settled | None:
        """None once what the picture is drawn from is on the disk, for whoever takes the claim over."""
        inputs = self.given.pop(claim.image_id, None)
        try:
            if inputs is not None:
                await self._staging.keep(claim.image_id, inputs)
                reached("given")
        except Overloaded as exc:
            return Settled(error=exc)
        return None

    async def _answer(
        self, claim: Claim, callers: Callers, tried: Sequence[ProviderAttempt], turn: AsyncExitStack
    ) -> Answer | Settled:
        """Asks one provider after another, starting with the one whose answer was lost, if any.

        ``turn`` then holds the turn of the provider that has answered.
        """
        result: Answer | Settled = nobody_left()
        if tried and tried[-1].outcome in call_records.OPEN:
            result = await self._resume(claim, tried[-1], callers, turn)
            if isinstance(result, Answer) or not result.elsewhere:
                return result
        try:
            able = self._upstreams.able(claim.request)
        except InvalidRequest as exc:  # the provider that could make it is no longer configured
            return Settled(error=Rejected(str(exc)))
        n = tried[-1].n + 1 if tried else 0
        for upstream in able:
            if upstream.name in {attempt.provider for attempt in tried}:
                continue
            result = await self._ask(upstream, claim, n, callers, turn)
            if isinstance(result, Answer) or not result.elsewhere:
                return result
            n += 0 if result.end is None else 1
        return result

    async def _resume(
        self, claim: Claim, last: ProviderAttempt, callers: Callers, turn: AsyncExitStack
    ) -> Answer | Settled:
        """The answer of an attempt whose process died, or whose answer was lost."""
        if (result := self._results.unrecorded(claim)) is not None:
            return await self._results.recorded(claim, last, result)
        staged = await self._staging.get(claim.image_id)
        if staged is not None:
            return Answer(attempt=last, given=staged)
        upstream = self._upstreams.named(last.provider)
        if upstream is None or not upstream.provider.keyed:
            note_held(last)
            return unknown(last, "it was asked, and the answer was lost")
        place = partial(self._staging.reserved, claim.image_id, claim.request)
        async with AsyncExitStack() as held:
            with self._waiting(claim):
                given_turn = await held.enter_async_context(upstream.turn(callers, taking=place))
            inputs = await self._staging.inputs(claim.image_id, claim.request)
            if inputs is None:
                note_held(last)
                return unknown(last, "it was asked, and the pictures to ask it with again are lost")
            begin = given_turn.begin
            given = await ask(
                upstream, claim.request, last, inputs, callers.show, begin=begin, maybe_paid=True
            )
            answer = await self._results.recorded(claim, last, given, given_turn.taken)
            if isinstance(answer, Answer):
                turn.push_async_exit(held.pop_all())
            return answer

    async def _ask(
        self, upstream: Upstream, claim: Claim, n: int, callers: Callers, turn: AsyncExitStack
    ) -> Answer | Settled:
        """One attempt. Before it is sent, it is recorded, and a file for its answer is reserved."""
        place = partial(self._staging.reserved, claim.image_id, claim.request)
        if (claim.payer, day_of(self._now())) in self._exhausted:  # it takes no turn from those who can pay
            attempt = new_attempt(claim, upstream, n, self._secret, self._now())
            try:
                await self._records.read(partial(call_records.check_budget, attempt, self._daily_budget))
            except PaymentRequired as exc:
                return Settled(error=exc)
        async with AsyncExitStack() as held:
            try:
                with self._waiting(claim):
                    given_turn = await held.enter_async_context(upstream.turn(callers, taking=place))
            except Overloaded as exc:  # no turn at this provider, or no file
                return Settled(error=exc, elsewhere=True)
            try:
                inputs = await self._staging.inputs(claim.image_id, claim.request)
            except Overloaded as exc:
                return Settled(error=exc)
            if inputs is None:
                return Settled(error=_inputs_lost())
            attempt = new_attempt(claim, upstream, n, self._secret, self._now())  # of the day it is sent
            try:
                refusal = await self._results.begun(claim, attempt, self._daily_budget)
            except PaymentRequired as exc:
                self._exhausted = {each for each in self._exhausted if each[1] == attempt.day}
                self._exhausted.add((attempt.payer, attempt.day))
                return Settled(error=exc)
            if refusal is not None:
                return refusal
            reached("attempt")
            begin = given_turn.begin
            result = await ask(upstream, claim.request, attempt, inputs, callers.show, begin=begin)
            answer = await self._results.recorded(claim, attempt, result, given_turn.taken)
            if isinstance(answer, Answer):
                turn.push_async_exit(held.pop_all())
            return answer

    @contextlib.contextmanager
    def _waiting(self, claim: Claim) -> Iterator[None]:
        """The block waits for a provider; not once the gateway ends."""
        if self._closing:
            raise asyncio.CancelledError
        self._in_line.add(claim.image_id)
        try:
            yield
        finally:
            self._in_line.discard(claim.image_id)

    async def _store(self, claim: Claim, answer: Answer, preview: bool) -> ImageRecord | Settled:
        attempt, given = answer.attempt, answer.given
        try:
            record = await once_files_can_be_opened(
                partial(
                    self._storing.store,
                    claim.image_id,
                    claim.tenant,
                    claim.request,
                    attempt.provider,
                    given,
                    preview=preview,
                )
            )
        except ProviderFault as fault:
            unusable = refused(fault, attempt)
            note_unusable(attempt, fault, unusable.end)
            return unusable
        reached("stored")
        end = booked(given, attempt)
        try:
            with span("store record"):
                await self._records.write(
                    partial(call_records.finish, claim, record, _entry(claim), end, self._now())
                )
        except Conflict as exc:
            if exc.code != "idempotency_key_taken":
                await self._withdraw(record)
                raise
            await self._storing.remove(record)
            charged = attrs.evolve(end, outcome=AttemptOutcome.CHARGED)
            return Settled(error=exc, end=charged, state=ClaimState.FAILED)
        except Overloaded:
            if await self._records.get(record.id) is None:
                raise
            await self._records.settled()  # only the acknowledgement was lost
        reached("committed")
        self._storing.made[record.provider, record.request.format] += 1
        return record

    async def _withdraw(self, record: ImageRecord) -> None:
        """Removes files stored after their picture was deleted or expired, made by another process."""
        theirs = await self._records.get(record.id)
        if theirs is not None and (theirs.deleted_at is not None or theirs.has_expired(self._now())):
            await self._storing.remove(record)

    async def _end(self, claim: Claim, settled: Settled) -> None:
        """Ends attempt and claim in one transaction: otherwise the picture might be paid again."""
        state, now = settled.state, self._now()
        if state is None and claim.request.defer:  # its URL was given out and must say why it failed
            state = ClaimState.FAILED
        if state is None:
            await self._records.write(partial(call_records.give_up, claim, settled.end, now))
        else:
            problem = problem_of(settled.error)
            await self._records.write(partial(call_records.fail, claim, state, problem, settled.end, now))


def _inputs_lost() -> Overloaded:
    return Overloaded(
        "the pictures to draw from were lost when a gateway died; nothing was paid; send the request again",
        code="pictures_lost",
        retry_after_s=1.0,
    )


def _entry(claim: Claim) -> IdempotencyEntry | None:
    if claim.key is None:
        return None
    return IdempotencyEntry(
        tenant=claim.tenant, key=claim.key, fingerprint=claim.fingerprint, image_id=claim.image_id
    )

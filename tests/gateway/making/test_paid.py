"""Pictures that cost money: paid at most once, whatever fails and whenever."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from blossom_async.batch import RateLimit
from blossom_async.errors import (
    Conflict,
    Overloaded,
    PaymentRequired,
    ProviderFailed,
    Rejected,
    ResponseError,
)
from blossom_async.gateway.making.finishing import Finished, finished
from blossom_async.gateway.making.generation import Generation
from blossom_async.gateway.making.priority import Priority
from blossom_async.gateway.making.staging import GIVEN, STAGED, Staging
from blossom_async.gateway.making.upstreams import Limits, Upstream, Upstreams
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers import Delivery
from blossom_async.gateway.providers.faults import Charged, Kind, ProviderFault
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.folder import LocalBlobs
from blossom_async.gateway.storage.owners import Owner
from blossom_async.gateway.storage.records import ApiKey, AttemptOutcome, Claim, ImageRecord, Records
from blossom_async.gateway.storage.records import calls as call_records
from blossom_async.gateway.storage.records import keys as key_records
from blossom_async.models import ImageRequest
from blossom_async.testing.pictures import draw
from tests.gateway.storage.test_records import a_record
from tests.waiting import LIMIT_S, until

NOW = datetime(2026, 11, 22, 14, tzinfo=UTC)
WISH = ImageRequest("a lake", width=32, height=32, seed=7)


class Paid:
    """A provider with a ledger: what it was paid for, by key."""

    remote = True

    def __init__(self, name: str = "paid", *, keyed: bool = False, usd: str = "0.04") -> None:
        self.name = name
        self.keyed = keyed
        self.usd = Decimal(usd)
        self.ledger: list[str] = []
        self.sent: list[str] = []
        self.script: list[ProviderFault | Callable[[], Awaitable[object]]] = []

    def fails(self, kind: Kind, charged: Charged, **more: Any) -> None:
        self.script.append(ProviderFault(self.name, kind, "as the test wants", charged=charged, **more))

    def check(self, request: ImageRequest) -> None:
        pass

    def price(self, _: ImageRequest) -> Decimal | None:
        return self.usd

    async def generate(self, request: ImageRequest, seed: int, *, key: str) -> Delivery:
        self.sent.append(key)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, ProviderFault):
            if step.charged != "no" and not (self.keyed and key in self.ledger):
                self.ledger.append(key)
            raise step
        if not (self.keyed and key in self.ledger):
            self.ledger.append(key)
        if step is not None:
            await step()
        return Delivery(
            data=draw(
                f"{request.prompt} {seed}",
                width=request.width,
                height=request.height,
                format="png",
                transparent=False,
            ).data,
            format="png",
            width=request.width,
            height=request.height,
            model="m",
            request_id="req-1",
            usd=self.usd,
            cached=False,
            notes="test",
        )


class Faltering(Records):
    """A database that fails once at the change ``at``: before it is made, or its acknowledgement is lost.

    While it ``hangs``, it does not tell whether what was read outlasts a crash.
    """

    at: Callable[..., Any] | None = None
    made = False
    hangs = False

    async def settled(self) -> None:
        if self.hangs:
            raise Overloaded("the database is away", code="storage_failed")
        await super().settled()

    async def write(self, change: Any, *, erases: bool = False) -> Any:
        fails = self.at is not None and getattr(change, "func", None) is self.at
        if fails:
            self.at = None
        given = None if fails and not self.made else await super().write(change, erases=erases)
        if fails:
            raise Overloaded(
                "The database could not be written; send the request again.", code="storage_failed"
            )
        return given


class LateToAnswer(Records):
    """A database that tells of a claim only once ``told`` has ended."""

    told: Callable[[], Awaitable[None]] | None = None

    async def write(self, change: Any, *, erases: bool = False) -> Any:
        given = await super().write(change, erases=erases)
        if self.told is not None and getattr(change, "func", None) is call_records.claim:
            await self.told()
        return given


class SlowDisk(Records):
    """A database that shows what another process has stored before that outlasts a crash."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.outlasts = asyncio.Event()
        self.read_of: list[object] = []
        self.asked = False

    async def read(self, question: Any) -> Any:
        self.read_of.append(getattr(question, "func", None))
        return await super().read(question)

    async def settled(self) -> None:
        self.asked = True
        await self.outlasts.wait()


@attrs.define
class House:
    """A gateway's back rooms on a data folder."""

    folder: Path
    upstreams: Upstreams
    generation: Generation
    records: Records
    blobs: Blobs
    staging: Blobs

    async def create(
        self, request: ImageRequest = WISH, key: str | None = "k", **more: Any
    ) -> ImageRecord | Claim:
        return (await self.generation.create(request, tenant="main", payer="", key=key, **more))[0]

    async def calls(self) -> list[Claim]:
        return [call for call, _ in await self.records.read(call_records.unknown_claims)]

    async def spent(self) -> list[dict[str, Any]]:
        rows = await self.records.read(partial(call_records.spent_by_day, 0, 10**6))
        return [dict(row) for row in rows]


@asynccontextmanager
async def house(folder: Path, *providers: Any, **options: Any) -> AsyncIterator[House]:
    limits = options.pop("limits", Limits())
    options.setdefault("now", lambda: NOW)
    workers = Workers(2)
    records = options.pop("database", Records)(folder / "records.sqlite")
    local = LocalBlobs(folder / "images"), LocalBlobs(folder / "staging", (STAGED, GIVEN))
    blobs, staging = options.pop("places", local)
    owner = Owner(folder / "owners")
    clock = asyncio.get_running_loop().time
    upstreams = Upstreams(*(Upstream(provider, limits, clock=clock) for provider in providers))
    generation = Generation(
        upstreams, records, blobs, Staging(staging), workers, owner, secret=b"s" * 32, **options
    )
    await records.open()
    await blobs.open()
    await staging.open()
    owner.open()
    try:
        yield House(folder, upstreams, generation, records, blobs, staging)
    finally:
        generation.stop()
        await generation.settle()
        owner.close()
        await records.close()
        await blobs.close()
        await staging.close()
        workers.close()


async def test_a_picture_is_paid_and_booked(tmp_path: Path) -> None:
    """One call, one charge, one row in the ledger with the provider's price and request id."""
    paid = Paid()
    async with house(tmp_path, paid) as rooms:
        record = await rooms.create()
        assert isinstance(record, ImageRecord)
        assert record.provider == "paid"
        assert await rooms.blobs.size(record.id, "png") == record.main_file.file_size
        assert [
            (row["attempts"], row["pictures"], row["spent"], row["reserved"]) for row in await rooms.spent()
        ] == [(1, 1, 40_000, 0)]
    assert len(paid.ledger) == 1


async def test_a_claim_that_recovery_finds_first_is_made_once(tmp_path: Path) -> None:
    """The database may have it before the one who wrote it hears of that."""
    paid, answered = Paid(), asyncio.Event()

    async def waits() -> None:
        await answered.wait()

    async def found() -> None:
        recovery.append(asyncio.create_task(rooms.generation.recover()))
        await until(lambda: paid.sent)
        asyncio.get_running_loop().call_soon(answered.set)

    recovery: list[asyncio.Task[None]] = []
    paid.script.append(waits)
    async with house(tmp_path, paid, database=LateToAnswer) as rooms:
        assert isinstance(rooms.records, LateToAnswer)
        rooms.records.told = found
        assert isinstance(await rooms.create(), ImageRecord)
        recovery[0].cancel()
    assert len(paid.sent) == 1


async def test_a_hundred_at_once_under_one_key_pay_once(tmp_path: Path) -> None:
    """Concurrent requests with one key share one provider call and one picture."""
    paid = Paid()
    async with house(tmp_path, paid) as rooms:
        made = await asyncio.gather(*(rooms.create() for _ in range(100)))
        assert len({record.id for record in made}) == 1
    assert len(paid.ledger) == 1


async def test_two_processes_race_and_pay_once(tmp_path: Path) -> None:
    """Another process's call under the same key is waited for."""
    paid, other = Paid(), Paid()
    async with house(tmp_path, paid) as first, house(tmp_path, other) as second:
        made = await asyncio.gather(*(rooms.create() for rooms in (first, second) for _ in range(50)))
        assert len({record.id for record in made}) == 1
    assert len(paid.ledger) + len(other.ledger) == 1


async def test_who_waits_for_another_process_is_answered_once_the_picture_outlasts_a_crash(
    tmp_path: Path,
) -> None:
    """It is seen before; the caller is not told of what a crash may still take away."""
    paid, drawn = Paid(), asyncio.Event()
    paid.script.append(drawn.wait)
    async with house(tmp_path, paid) as first, house(tmp_path, paid, database=SlowDisk) as second:
        disk = second.records
        assert isinstance(disk, SlowDisk)
        making = asyncio.create_task(first.create())
        await until(lambda: paid.sent)
        waiting = asyncio.create_task(second.create())
        await until(lambda: call_records.claim_by_id in disk.read_of)
        drawn.set()
        made = await making
        await until(lambda: disk.asked)
        assert not waiting.done()
        disk.outlasts.set()
        assert await waiting == made


async def test_another_request_under_the_key_is_refused(tmp_path: Path) -> None:
    """Also while the first is under way in another process."""
    paid = Paid()
    async with house(tmp_path, paid) as first, house(tmp_path, paid) as second:
        await first.create()
        with pytest.raises(Rejected, match="used for another request"):
            await second.create(attrs.evolve(WISH, prompt="another"))


async def test_a_replay_says_so(tmp_path: Path) -> None:
    """The first answer is no replay, the next under the same key is one, also in another process."""
    async with house(tmp_path, Paid()) as first, house(tmp_path, Paid()) as second:
        answers = [
            await rooms.generation.create(WISH, tenant="main", payer="", key="k")
            for rooms in (first, first, second)
        ]
    assert [replayed for _, replayed in answers] == [False, True, True]
    assert len({made.id for made, _ in answers}) == 1


class TestFailures:
    async def test_not_charged_frees_the_key(self, tmp_path: Path) -> None:
        """A refusal that cost nothing leaves the key as if it had not been used."""
        paid = Paid()
        paid.fails(Kind.RATE_LIMITED, "no", retry_after_s=0.01)
        async with house(tmp_path, paid) as rooms:
            with pytest.raises(Overloaded):
                await rooms.create()
            assert isinstance(await rooms.create(), ImageRecord)
            assert sum(row["spent"] for row in await rooms.spent()) == 40_000
        assert len(paid.ledger) == 1

    async def test_charged_and_no_picture_is_not_paid_again(self, tmp_path: Path) -> None:
        """The same key gives the same answer; nobody else is asked either."""
        paid, spare = Paid(), Paid("spare")
        paid.fails(Kind.BAD_CONTENT, "yes")
        async with house(tmp_path, paid, spare) as rooms:
            for _ in range(3):
                with pytest.raises(ProviderFailed):
                    await rooms.create()
            assert [row["spent"] for row in await rooms.spent()] == [40_000]
        assert (len(paid.ledger), len(spare.ledger)) == (1, 0)

    async def test_a_blind_providers_lost_answer_is_held(self, tmp_path: Path) -> None:
        """Nothing is repeated by itself; it is listed, and a person's release frees the key."""
        paid = Paid()
        paid.fails(Kind.LOST, "unknown")
        async with house(tmp_path, paid) as rooms:
            for _ in range(3):
                with pytest.raises(Conflict) as refused:
                    await rooms.create()
                assert refused.value.code == "outcome_unknown"
            (held,) = await rooms.calls()
            assert [row["reserved"] for row in await rooms.spent()] == [40_000]
            release = partial(call_records.release, held.image_id, paid=True, now=NOW)
            assert await rooms.records.write(release)
            assert [(row["spent"], row["reserved"]) for row in await rooms.spent()] == [(40_000, 0)]
            assert isinstance(await rooms.create(), ImageRecord)
        assert len(paid.ledger) == 2  # by decision of a person

    async def test_a_keyed_providers_lost_answer_is_asked_for_again(self, tmp_path: Path) -> None:
        """Under the same key, so that it is paid once."""
        paid = Paid(keyed=True)
        paid.fails(Kind.LOST, "unknown", retry_after_s=0.01)
        paid.fails(Kind.LOST, "unknown", retry_after_s=0.01)
        async with house(tmp_path, paid) as rooms:
            assert isinstance(await rooms.create(), ImageRecord)
            assert [row["spent"] for row in await rooms.spent()] == [40_000]
        assert len(paid.sent) == 3
        assert len(paid.ledger) == len(set(paid.sent)) == 1

    async def test_a_keyed_provider_that_stays_away_is_asked_by_the_next_caller(self, tmp_path: Path) -> None:
        """What is unknown there becomes known by the same key."""
        paid = Paid(keyed=True)
        for _ in range(3):
            paid.fails(Kind.LOST, "unknown", retry_after_s=0.01)
        async with house(tmp_path, paid) as rooms:
            with pytest.raises(Conflict):
                await rooms.create()
            assert isinstance(await rooms.create(), ImageRecord)
        assert len(paid.ledger) == 1

    async def test_the_next_provider_is_asked_where_it_may_help(self, tmp_path: Path) -> None:
        """An empty account fails over; the answer says who served."""
        empty, spare = Paid("empty"), Paid("spare")
        empty.fails(Kind.OUT_OF_FUNDS, "no")
        async with house(tmp_path, empty, spare) as rooms:
            record = await rooms.create()
            assert isinstance(record, ImageRecord)
            assert record.provider == "spare"
            assert len(empty.sent) == 1
            await rooms.create(key="k2")
            assert len(empty.sent) == 1  # it is left alone for a while

    async def test_a_refused_prompt_is_not_taken_elsewhere(self, tmp_path: Path) -> None:
        """Moderation is about the prompt, not the provider."""
        strict, spare = Paid("strict"), Paid("spare")
        strict.fails(Kind.MODERATION, "no")
        async with house(tmp_path, strict, spare) as rooms:
            with pytest.raises(Rejected):
                await rooms.create()
        assert spare.sent == []

    async def test_bytes_that_are_no_picture_are_booked_and_not_stored(self, tmp_path: Path) -> None:
        """Paid and failed: no row, no file, and the same answer under the same key."""

        class Liar(Paid):
            async def generate(self, request: ImageRequest, seed: int, *, key: str) -> Delivery:
                return attrs.evolve(await super().generate(request, seed, key=key), data=b"\x89PNG nonsense")

        liar = Liar()
        async with house(tmp_path, liar) as rooms:
            for _ in range(2):
                with pytest.raises(ResponseError):
                    await rooms.create()
            assert not list((tmp_path / "images").rglob("*.png"))
            assert not list((tmp_path / "staging").rglob("*.staged"))
        assert len(liar.ledger) == 1


class TestFalteringDatabase:
    """What was not sent is known not to have been paid, and what came of an attempt stays known."""

    @asynccontextmanager
    async def falters(
        self, folder: Path, at: Callable[..., Any], made: bool, *providers: Paid
    ) -> AsyncIterator[House]:
        async with house(folder, *providers, database=Faltering) as rooms:
            assert isinstance(rooms.records, Faltering)
            rooms.records.at, rooms.records.made = at, made
            yield rooms

    @pytest.mark.parametrize("made", [True, False])
    async def test_an_attempt_that_was_not_sent_costs_nothing(self, made: bool, tmp_path: Path) -> None:
        """The next provider is asked, under another number."""
        paid, spare = Paid(), Paid("spare")
        async with self.falters(tmp_path, call_records.begin_attempt, made, paid, spare) as rooms:
            record = await rooms.create()
            assert isinstance(record, ImageRecord)
            assert record.provider == "spare"
            spent = await rooms.spent()
            assert sum(row["reserved"] for row in spent) == 0
            assert sum(row["spent"] for row in spent) == 40_000
            tried = await rooms.records.read(partial(call_records.attempts_of, record.id))
            assert [attempt.outcome for attempt in tried] == [
                *([AttemptOutcome.FAILED] if made else []),
                AttemptOutcome.OK,
            ]
        assert (paid.ledger, len(spare.ledger)) == ([], 1)

    @pytest.mark.parametrize("made", [True, False])
    async def test_with_one_provider_the_caller_repeats(self, made: bool, tmp_path: Path) -> None:
        """Nothing is reserved for what was not sent."""
        paid = Paid()
        async with self.falters(tmp_path, call_records.begin_attempt, made, paid) as rooms:
            with pytest.raises(Overloaded):
                await rooms.create()
            assert isinstance(await rooms.create(), ImageRecord)
            assert sum(row["reserved"] for row in await rooms.spent()) == 0
        assert len(paid.ledger) == 1

    async def test_a_picture_that_a_crash_may_take_away_is_not_answered(self, tmp_path: Path) -> None:
        """Its row is there, but was not acknowledged: that it lasts has to be found out first."""
        paid = Paid()
        async with self.falters(tmp_path, call_records.finish, True, paid) as rooms:
            assert isinstance(rooms.records, Faltering)
            rooms.records.hangs = True
            with pytest.raises(Overloaded):
                await rooms.create()
            rooms.records.hangs = False
            assert isinstance(await rooms.create(), ImageRecord)
        assert len(paid.ledger) == 1

    @pytest.mark.parametrize("made", [True, False])
    async def test_a_refusal_stays_one(self, made: bool, tmp_path: Path) -> None:
        """What was known not to be paid when the database failed is not held as unknown."""
        paid = Paid()
        paid.fails(Kind.REJECTED, "no")
        async with self.falters(tmp_path, call_records.give_up, made, paid) as rooms:
            with pytest.raises(Overloaded):
                await rooms.create()
            assert isinstance(await self.repeated(rooms), ImageRecord)
            assert sum(row["reserved"] for row in await rooms.spent()) == 0
        assert len(paid.ledger) == 1

    async def repeated(self, rooms: House) -> ImageRecord | Claim:
        """Asked again until the claim of before has ended."""
        while True:
            try:
                return await rooms.create()
            except Rejected:
                continue

    @pytest.mark.parametrize("made", [True, False])
    async def test_what_was_charged_is_booked(self, made: bool, tmp_path: Path) -> None:
        """And the same key says so, instead of that nobody knows."""
        paid = Paid()
        paid.fails(Kind.BAD_CONTENT, "yes")
        async with self.falters(tmp_path, call_records.fail, made, paid) as rooms:
            with pytest.raises(Overloaded):
                await rooms.create()
            with pytest.raises(ProviderFailed):
                await rooms.create()
            assert [(row["spent"], row["reserved"]) for row in await rooms.spent()] == [(40_000, 0)]

    @pytest.mark.parametrize("made", [True, False])
    async def test_a_stored_picture_is_answered(self, made: bool, tmp_path: Path) -> None:
        """A caller without a key would otherwise pay for it again."""
        paid = Paid()
        async with self.falters(tmp_path, call_records.finish, made, paid) as rooms:
            if not made:
                with pytest.raises(Overloaded):
                    await rooms.create()
            assert isinstance(await rooms.create(), ImageRecord)
            assert [row["pictures"] for row in await rooms.spent()] == [1]
        assert len(paid.ledger) == 1


class TestBudgets:
    async def test_a_days_budget_is_reserved_before_it_is_spent(self, tmp_path: Path) -> None:
        """Twenty at once with money for five: five are paid, the others cost nothing."""
        paid = Paid()
        async with house(tmp_path, paid, daily_budget=200_000) as rooms:
            made = await asyncio.gather(
                *(rooms.create(attrs.evolve(WISH, seed=number), key=str(number)) for number in range(20)),
                return_exceptions=True,
            )
            assert sum(isinstance(each, ImageRecord) for each in made) == 5
            refused = [each for each in made if isinstance(each, PaymentRequired)]
            assert len(refused) == 15
            assert {each.code for each in refused} == {"budget_exhausted"}
        assert len(paid.ledger) == 5

    async def test_an_empty_budget_takes_no_turn_from_others(self, tmp_path: Path) -> None:
        """Once a key was refused, its next calls wait in no line, and use nothing of the provider's rate."""
        paid, key = Paid(), ApiKey(name="poor", tenant="main", digest=b"d", created_at=NOW, daily_budget=0)
        limits = Limits(rates=(RateLimit(2, per_s=86_400),), wait_s=5)
        async with house(tmp_path, paid, limits=limits) as rooms:
            await rooms.records.write(partial(key_records.add_api_key, key))
            for number in range(5):
                with pytest.raises(PaymentRequired):
                    await rooms.generation.create(WISH, tenant="main", payer="poor", key=str(number))
            assert isinstance(await rooms.create(), ImageRecord)
        assert len(paid.ledger) == 1

    async def test_the_day_is_that_of_sending(self, tmp_path: Path) -> None:
        """A call that waits until after midnight takes nothing from the day it came."""
        paid, go, time = Paid(), asyncio.Event(), [NOW]
        paid.script = [go.wait]
        async with house(tmp_path, paid, limits=Limits(at_once=1), now=lambda: time[0]) as rooms:
            both = [asyncio.create_task(rooms.create(key=key)) for key in ("first", "second")]
            (upstream,) = rooms.upstreams
            await until(lambda: len(paid.sent) == 1 and upstream.waiting == 1)
            time[0] += timedelta(days=1)
            go.set()
            await asyncio.gather(*both)
            day = int(NOW.timestamp()) // 86_400
            assert [(row["day"], row["spent"]) for row in await rooms.spent()] == [
                (day, 40_000),
                (day + 1, 40_000),
            ]

    @pytest.mark.parametrize("jump", [timedelta(hours=11), timedelta(days=1), timedelta(days=-1)])
    async def test_a_clock_that_jumps_and_comes_back_prolongs_no_budget(
        self, tmp_path: Path, jump: timedelta
    ) -> None:
        """Each day by the clock has its own, and what was spent stays spent; a repeat pays at no hour."""
        paid, time = Paid(), [NOW]
        async with house(tmp_path, paid, daily_budget=80_000, now=lambda: time[0]) as rooms:
            first = await rooms.create(key="0")
            for number, then in enumerate((NOW, NOW + jump, NOW + jump, NOW, NOW + jump)):
                time[0] = then
                with contextlib.suppress(PaymentRequired):
                    await rooms.create(key=str(1 + number))
                again = await rooms.create(key="0")
                assert isinstance(again, ImageRecord)
                assert isinstance(first, ImageRecord)
                assert again.id == first.id
            assert {row["spent"] for row in await rooms.spent()} == {80_000}
            assert {row["reserved"] for row in await rooms.spent()} == {0}
        assert len(paid.ledger) == 4  # two on each of two days

    async def test_a_price_below_the_reservation_gives_the_rest_back(self, tmp_path: Path) -> None:
        """What the provider says it cost is what counts."""
        paid = Paid()
        async with house(tmp_path, paid, daily_budget=50_000) as rooms:
            paid.usd = Decimal("0.01")
            await rooms.create()
            assert [row["spent"] for row in await rooms.spent()] == [10_000]


class TestLimits:
    async def test_no_more_at_once_than_the_account_allows(self, tmp_path: Path) -> None:
        """And who is no batch goes first."""
        running = most = 0
        order: list[str] = []
        open_ = asyncio.Event()

        class Slow(Paid):
            async def generate(self, request: ImageRequest, seed: int, *, key: str) -> Delivery:
                nonlocal running, most
                running += 1
                most = max(most, running)
                order.append(request.prompt)
                await open_.wait()
                running -= 1
                return await super().generate(request, seed, key=key)

        slow = Slow()
        async with house(tmp_path, slow, limits=Limits(at_once=2)) as rooms:
            tasks = []
            for number in range(6):
                wish = attrs.evolve(WISH, prompt=f"batch {number}")
                tasks.append(
                    asyncio.create_task(rooms.create(wish, key=f"b{number}", priority=Priority.BATCH))
                )
            await until(lambda: len(order) == 2)
            tasks.append(asyncio.create_task(rooms.create(attrs.evolve(WISH, prompt="now"), key="n")))
            (upstream,) = rooms.upstreams
            await until(lambda: upstream.waiting == 5)
            open_.set()
            await asyncio.gather(*tasks)
        assert most == 2
        assert "now" in order[2:4]  # two places came free at once, and their requests leave in either order

    async def test_no_more_are_begun_than_can_be_stored(self, tmp_path: Path) -> None:
        """A provider faster than this machine is not asked for more until what it gave is stored."""
        paid, finishing, go = Paid(), threading.Event(), threading.Event()

        def slowly(*given: Any) -> Finished:
            finishing.set()
            assert go.wait(LIMIT_S)
            return finished(*given)

        async with house(tmp_path, paid, limits=Limits(at_once=1), finish=slowly) as rooms:
            both = [asyncio.create_task(rooms.create(key=key)) for key in ("first", "second")]
            await until(finishing.is_set)
            (upstream,) = rooms.upstreams
            await until(lambda: upstream.waiting == 1)
            assert len(paid.sent) == 1
            go.set()
            await asyncio.gather(*both)
        assert len(paid.sent) == 2

    async def test_a_full_line_is_said_at_once(self, tmp_path: Path) -> None:
        """Beyond the line: 503 with a time, nothing claimed for good, nothing paid."""
        gate = asyncio.Event()
        paid = Paid()
        paid.script = [gate.wait] * 3
        async with house(tmp_path, paid, limits=Limits(at_once=1, line=1)) as rooms:
            tasks = [asyncio.create_task(rooms.create(key=str(number))) for number in range(3)]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            (refused,) = done
            assert isinstance(refused.exception(), Overloaded)
            gate.set()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert len(paid.ledger) == 2

    async def test_a_repeat_needs_no_turn(self, tmp_path: Path) -> None:
        """Its picture is there: it is answered while new ones are refused."""
        gate, paid = asyncio.Event(), Paid()
        async with house(tmp_path, paid, most=1) as rooms:
            first = await rooms.create(key="first")
            paid.script = [gate.wait]
            making = asyncio.create_task(rooms.create(key="second"))
            await until(lambda: len(paid.ledger) == 2)
            with pytest.raises(Overloaded):
                await rooms.create(key="third")
            assert await rooms.create(key="first") == first
            gate.set()
            await making


async def test_a_staged_answer_that_stays_takes_nothing_from_the_caller(tmp_path: Path) -> None:
    """The picture is stored; what was staged for it is cleared away at the next start."""

    class Stuck(LocalBlobs):
        async def delete(self, name: str, extension: str, *, lasting: bool = True) -> None:
            raise Overloaded("The file could not be removed.", code="storage_failed")

    places = LocalBlobs(tmp_path / "images"), Stuck(tmp_path / "staging", (STAGED,))
    async with house(tmp_path, Paid(), places=places) as rooms:
        assert isinstance(await rooms.create(), ImageRecord)
    assert list((tmp_path / "staging").rglob("*.staged"))


class TestDeferred:
    async def test_the_url_is_there_before_the_picture(self, tmp_path: Path) -> None:
        """`defer` answers with the call; later the picture has the same id."""
        gate = asyncio.Event()
        paid = Paid()
        paid.script = [gate.wait]
        async with house(tmp_path, paid) as rooms:
            call = await rooms.create(attrs.evolve(WISH, defer=True))
            assert isinstance(call, Claim)
            assert (await rooms.generation.pending(call.id)) is not None
            again = await rooms.create(attrs.evolve(WISH, defer=True))
            assert again.id == call.id
            gate.set()
            await rooms.generation.wait(call.id, LIMIT_S)
            assert await rooms.generation.pending(call.id) is None
            record = await rooms.records.get(call.id)
            assert record is not None
            assert (await rooms.create(attrs.evolve(WISH, defer=True))).id == call.id
        assert len(paid.ledger) == 1

    async def test_a_failure_stays_with_the_url(self, tmp_path: Path) -> None:
        """The call says what became of it."""
        paid = Paid()
        paid.fails(Kind.REJECTED, "no")
        async with house(tmp_path, paid) as rooms:
            call = await rooms.create(attrs.evolve(WISH, defer=True))
            await rooms.generation.wait(call.id, LIMIT_S)
            left = await rooms.generation.pending(call.id)
            assert left is not None
            assert left.state == "failed"
            assert left.problem is not None
            assert left.problem["status"] == 422


class TestTakingOver:
    async def test_an_answer_that_was_found_ends_the_doubt(self, tmp_path: Path) -> None:
        """It was staged by a process that died, or the bucket could not be reached: nobody pays again."""
        paid = Paid()
        paid.fails(Kind.LOST, "unknown")
        async with house(tmp_path, paid) as rooms:
            with pytest.raises(Conflict):
                await rooms.create()
            (held,) = await rooms.calls()
            given = await Paid().generate(WISH, 7, key="")
            await Staging(rooms.staging).put(held.id, given)
            assert isinstance(await rooms.create(), ImageRecord)
            assert [(row["spent"], row["reserved"]) for row in await rooms.spent()] == [(40_000, 0)]
        assert len(paid.sent) == 1

    async def test_what_waits_at_the_end_is_not_sent(self, tmp_path: Path) -> None:
        """Its answer might come too late. It is left to the next process."""
        paid, go = Paid(), asyncio.Event()
        paid.script = [go.wait]
        async with house(tmp_path, paid, limits=Limits(at_once=1)) as rooms:
            wish = attrs.evolve(WISH, defer=True)
            first, second = [(await rooms.create(wish, key=key)).id for key in ("first", "second")]
            (upstream,) = rooms.upstreams
            await until(lambda: len(paid.sent) == 1 and upstream.waiting == 1)
            rooms.generation.begin_nothing_more()
            go.set()
            await rooms.generation.settle()
            assert await rooms.records.get(first) is not None
            left = await rooms.generation.pending(second)
            assert left is not None
            assert left.state == "running"
        assert len(paid.sent) == 1

    async def test_what_a_failed_picture_left_behind_is_removed(self, tmp_path: Path) -> None:
        """Its process was killed after the claim had failed and before the delivery was deleted."""
        paid = Paid()
        paid.fails(Kind.BAD_CONTENT, "yes")
        async with house(tmp_path, paid, now=lambda: datetime.now(UTC)) as rooms:
            with pytest.raises(ProviderFailed):
                await rooms.create()
            claim = await rooms.generation.claimed("main", "k")
            assert claim is not None
            await rooms.staging.put(claim.id, STAGED, b"{}")
            recovering = asyncio.create_task(rooms.generation.recover())
            await until(lambda: not list((tmp_path / "staging").rglob("*.staged")))
            recovering.cancel()

    async def test_the_inputs_of_a_released_call_are_removed_within_the_hour(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pictures to draw from are kept while it is held, and no start of a gateway is needed."""
        monkeypatch.setattr("blossom_async.gateway.making.recovery._EVERY_S", 0.001)
        paid, clock = Paid(), [datetime.now(UTC)]
        rounds = 0

        def now() -> datetime:
            nonlocal rounds
            rounds += 1
            return clock[-1]

        async def cleared() -> None:
            after = rounds + 2
            await until(lambda: rounds >= after)

        async with house(tmp_path, paid, now=now) as rooms:
            for key in ("released", "held"):
                paid.fails(Kind.LOST, "unknown")
                with pytest.raises(Conflict):
                    await rooms.create(key=key)
            released, held = [call.id for call in await rooms.calls()]
            for image_id in (released, held):
                await rooms.staging.put(image_id, GIVEN, b"")
            clock.append(datetime.now(UTC) + timedelta(minutes=1))
            recovering = asyncio.create_task(rooms.generation.recover())
            await cleared()
            release = partial(call_records.release, released, paid=False, now=clock[-1])
            assert await rooms.records.write(release)
            clock.append(clock[-1] + timedelta(hours=1))
            await until(lambda: not list((tmp_path / "staging").rglob(f"{released}.*")))
            await cleared()
            assert list((tmp_path / "staging").rglob(f"{held}.*"))
            recovering.cancel()

    async def test_a_call_that_was_not_sent_is_sent(self, tmp_path: Path) -> None:
        """An ended process's call is carried out by the next one."""
        paid = Paid()
        gate = asyncio.Event()
        paid.script = [gate.wait]
        async with house(tmp_path, paid) as rooms:
            call = await rooms.create(attrs.evolve(WISH, defer=True))
            assert isinstance(call, Claim)
        async with house(tmp_path, Paid("paid", keyed=True)) as rooms:
            recovering = asyncio.create_task(rooms.generation.recover())

            async def settled() -> bool:
                return await rooms.generation.pending(call.id) is None

            await until(settled)
            recovering.cancel()
            assert await rooms.records.get(call.id) is not None


@pytest.mark.parametrize("deleted", [True, False])
async def test_who_was_taken_for_dead_leaves_no_bytes_of_a_deleted_picture(
    tmp_path: Path, deleted: bool
) -> None:
    """A picture that another process made keeps its files, unless it is deleted by then."""
    provider = Paid()

    async def overtaken() -> None:
        (name,) = await gateway.records.read(call_records.owners)
        (theirs,) = await gateway.records.write(partial(call_records.adopt, name, "another"))
        end = call_records.AttemptEnd(n=0, outcome=AttemptOutcome.OK, spent=0)
        made = a_record(id=theirs.image_id, expires_at=None)
        await gateway.records.write(partial(call_records.finish, theirs, made, None, end, NOW))
        if deleted:
            await gateway.records.delete(theirs.image_id, NOW)

    async with house(tmp_path, provider) as gateway:
        provider.script.append(overtaken)
        await gateway.create()
        later = NOW + timedelta(days=36500)
        files = [
            file
            for folder in await gateway.blobs.folders()
            for file in await gateway.blobs.files_before(folder, later)
        ]
        assert len(files) == (0 if deleted else 1)

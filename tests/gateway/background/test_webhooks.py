"""Webhooks: one is sent for every deferred picture that ends, signed, at least once, under one id."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import orjson
import pytest
import sqlalchemy as sa
from aiohttp import web

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.app import create_app
from blossom_async.gateway.background.webhooks import (
    DELAYS_S,
    Webhooks,
    next_delay_s,
    receiver,
    webhook_session,
)
from blossom_async.gateway.providers.faults import Kind
from blossom_async.gateway.settings import Settings
from blossom_async.gateway.storage.records import Claim, ImageRecord, Records, Webhook
from blossom_async.gateway.storage.records import calls as call_records
from blossom_async.gateway.storage.records import webhooks as statements
from blossom_async.gateway.storage.records.tables import webhooks as table
from blossom_async.models import ImageInfo
from blossom_async.testing import FakeOpenAI
from tests.cli.test_cli import running
from tests.conftest import KEY, running_gateway
from tests.gateway.making.test_end_to_end import openai_settings
from tests.gateway.making.test_paid import WISH, Paid, house
from tests.gateway.storage.test_records import a_record
from tests.ports import reserved_port
from tests.waiting import LIMIT_S

SECRET = "whsec_Opol528XKC2nViv4o/mU8XRSu7x/NPE3oj8JcCTbTw4="
NOW = datetime(2026, 11, 22, 14, 30, 0, 250_000, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DEFERRED: dict[str, Any] = {
    "prompt": "a lake that nobody is told of",
    "width": 32,
    "height": 32,
    "defer": True,
    "tracking_id": "spring",
    "metadata": {"variant": "b"},
}
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}

Answer = Callable[[web.Request], web.StreamResponse]


def signed(secret: str, webhook_id: str, timestamp: str, body: bytes) -> str:
    """The signature as RFC 2104 writes HMAC, with nothing of the gateway's."""
    key = base64.b64decode(secret.split("_")[1]).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
    inner.update(webhook_id.encode() + b"." + timestamp.encode() + b"." + body)
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner.digest())
    return "v1," + base64.b64encode(outer.digest()).decode()


@attrs.frozen
class Heard:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = orjson.loads(self.body)
        return told

    @property
    def verified(self) -> bool:
        expected = signed(SECRET, self.id, self.headers["webhook-timestamp"], self.body)
        return self.headers["webhook-signature"] == expected


@attrs.define(eq=False)
class Listener:
    """A receiver on loopback. It answers 204, or what stands in ``answers`` first; ``open`` holds it up."""

    url: str = ""
    heard: list[Heard] = attrs.Factory(list)
    answers: list[Answer | int] = attrs.Factory(list)
    open: asyncio.Event = attrs.Factory(asyncio.Event)
    _came: asyncio.Condition = attrs.Factory(asyncio.Condition)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        async with self._came:
            self.heard.append(Heard(request.path, headers, await request.read()))
            self._came.notify_all()
        await self.open.wait()
        answer = self.answers.pop(0) if self.answers else 204
        return web.Response(status=answer) if isinstance(answer, int) else answer(request)

    async def after(self, number: int) -> list[Heard]:
        """All that was heard, once it is so many."""
        async with self._came, asyncio.timeout(LIMIT_S):
            await self._came.wait_for(lambda: len(self.heard) >= number)
        return self.heard


@asynccontextmanager
async def listening(*answers: Answer | int) -> AsyncIterator[Listener]:
    listener = Listener(answers=list(answers))
    listener.open.set()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", listener.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        listener.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
        yield listener
    finally:
        listener.open.set()
        await runner.cleanup()


def plain_info(made: ImageRecord | Claim) -> ImageInfo:
    """As much of a picture as these tests look at."""
    return ImageInfo(
        url=f"http://127.0.0.1/image/{made.id}", id=made.id, width=32, height=32, format="png", file_size=0,
        quality="standard", cost=1, created_at=NOW, expires_at=None, time_remaining=None, tracking_id=None,
        metadata={}, sha256="", provider="", model="", seed=7,
    )  # fmt: skip


@attrs.define(eq=False)
class Outbox:
    """An outbox with a clock of its own, and who delivers it."""

    records: Records
    session: aiohttp.ClientSession
    webhooks: Webhooks
    now: datetime = NOW

    async def picture(self) -> ImageRecord:
        """A deferred picture that has just been stored."""
        record = a_record()
        await self.records.add(record)
        await self.records.write(partial(statements.enqueue, record.id, "main", "image.completed", self.now))
        return record

    async def deliver(self, session: aiohttp.ClientSession | None = None) -> None:
        await self.webhooks.deliver_due(session or self.session)

    async def rows(self) -> list[Webhook]:
        def all_rows(connection: sa.Connection) -> list[Webhook]:
            return [Webhook(**row) for row in connection.execute(sa.select(table)).mappings()]

        return await self.records.read(all_rows)

    async def row(self) -> Webhook:
        (row,) = await self.rows()
        return row


@asynccontextmanager
async def outbox(folder: Path, url: str | None, database: str | None = None) -> AsyncIterator[Outbox]:
    records = Records(database or folder / "records.sqlite")
    there = receiver(url, SECRET if url else None)
    await records.open()
    async with webhook_session() as session:
        box = Outbox(records, session, Webhooks(records, there, info=plain_info, now=lambda: box.now))
        yield box
    await records.close()


async def created(base_url: str, **options: Any) -> dict[str, Any]:
    async with aiohttp.ClientSession(base_url, headers=AUTHORIZED) as session:
        async with session.post("/v1/images", json={**DEFERRED, **options}) as answer:
            assert answer.status == 202
            info: dict[str, Any] = await answer.json()
            return info


async def looked_up(base_url: str, image_id: str) -> dict[str, Any]:
    async with aiohttp.ClientSession(base_url, headers=AUTHORIZED) as session:
        async with session.get(f"/v1/images/{image_id}") as answer:
            info: dict[str, Any] = await answer.json()
            return info


class TestWhatIsTold:
    """By a whole gateway to a real receiver."""

    async def test_a_picture_that_is_there(self, tmp_path: Path) -> None:
        """Its owner's view of it, metadata and tracking id included, in a body that is signed."""
        async with listening() as listener:
            settings = {"webhook_url": listener.url, "webhook_secret": SECRET}
            async with running_gateway(tmp_path, **settings) as gateway:
                info = await created(gateway.base_url)
                (heard,) = await listener.after(1)
                known = await looked_up(gateway.base_url, info["id"])
        assert heard.verified
        assert re.fullmatch("msg_[0-9a-f]{32}", heard.id)
        assert abs(int(heard.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60
        assert heard.headers["content-type"] == "application/json"
        assert set(heard.told) == {"type", "timestamp", "data"}
        assert heard.told["type"] == "image.completed"
        assert datetime.fromisoformat(heard.told["timestamp"]).utcoffset() == timedelta(0)
        assert heard.told["data"] == known
        assert (known["state"], known["tracking_id"], known["metadata"]) == (
            "ready",
            "spring",
            {"variant": "b"},
        )
        assert DEFERRED["prompt"].encode() not in heard.body

    async def test_a_picture_that_will_never_be(self, tmp_path: Path) -> None:
        """The reason, as the owner is told it."""
        async with listening() as listener, FakeOpenAI(api_key="sk-of-the-tests-0123456789") as service:
            settings = openai_settings(service, webhook_url=listener.url, webhook_secret=SECRET)
            async with running_gateway(tmp_path, **settings) as gateway:
                service.fail_next("content_policy_violation")
                info = await created(gateway.base_url, width=256, height=256)
                (heard,) = await listener.after(1)
                known = await looked_up(gateway.base_url, info["id"])
        assert heard.verified
        assert heard.told["type"] == "image.failed"
        assert heard.told["data"] == known
        assert known["state"] == "failed"
        assert "change the prompt" in known["problem"]
        assert DEFERRED["prompt"].encode() not in heard.body

    async def test_one_that_nobody_knows_of(self, tmp_path: Path) -> None:
        """May have been paid: ``image.failed`` too, and its state says which."""
        paid = Paid()
        paid.fails(Kind.LOST, "unknown")
        async with house(tmp_path, paid) as rooms:
            call = await rooms.create(attrs.evolve(WISH, defer=True))
            await rooms.generation.wait(call.id, 20)
            (row,) = await rooms.records.write(partial(statements.claim, NOW, NOW, 9))
            assert (row.kind, row.image_id) == ("image.failed", call.id)
            left = await rooms.generation.pending(call.id)
            assert left is not None
            assert left.state == "unknown"

    async def test_only_deferred_pictures_are_told_of(self, tmp_path: Path) -> None:
        """Whoever waits for an answer has it: nothing is put into the outbox."""
        paid = Paid()
        async with house(tmp_path, paid) as rooms:
            await rooms.create(WISH)
            paid.fails(Kind.BAD_CONTENT, "yes")
            with pytest.raises(Exception, match="as the test wants"):
                await rooms.create(WISH, key="another")
            assert not await rooms.records.read(partial(statements.any_due, NOW))
            await rooms.create(attrs.evolve(WISH, defer=True), key="deferred")
            async with asyncio.timeout(LIMIT_S):
                await rooms.generation.settle()
            assert await rooms.records.read(partial(statements.any_due, NOW))

    async def test_killed_between_the_picture_and_its_webhook(self, tmp_path: Path) -> None:
        """It stands in the database with the picture: the next process delivers it."""
        async with listening() as listener:
            environment = {
                **os.environ,
                "BLOSSOM_API_KEYS": KEY,
                "BLOSSOM_WEBHOOK_URL": listener.url,
                "BLOSSOM_WEBHOOK_SECRET": SECRET,
                "BLOSSOM_TEST_DIES_AT": "committed",
            }
            with running("serve", "--data-dir", tmp_path / "data", env=environment) as there:
                assert there.stdout is not None
                banner = await asyncio.to_thread(there.stdout.readline)
                info = await created(banner.split()[-1])
                await asyncio.to_thread(there.communicate, timeout=LIMIT_S)
                assert there.returncode == -signal.SIGKILL
            assert not listener.heard
            settings = {"webhook_url": listener.url, "webhook_secret": SECRET}
            async with running_gateway(tmp_path / "data", **settings):
                (heard,) = await listener.after(1)
        assert (heard.verified, heard.told["data"]["id"]) == (True, info["id"])


class TestRedelivery:
    """Until it is answered with success."""

    async def test_success_is_the_end(self, tmp_path: Path) -> None:
        """Any 2xx: it is sent once, and the outbox says when."""
        async with listening(299) as listener, outbox(tmp_path, listener.url) as box:
            await box.picture()
            await box.deliver()
            row = await box.row()
            assert (row.next_at, row.delivered_at, row.last_status) == (None, NOW, 299)
            box.now += timedelta(days=3)
            await box.deliver()
        assert len(listener.heard) == 1
        assert box.webhooks.attempts == {("delivered",): 1}

    @pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(days=1)])
    async def test_a_clock_set_back_delays_no_attempt(self, tmp_path: Path, jump: timedelta) -> None:
        """The next one is as many seconds away as it was before."""
        async with listening(500) as listener, outbox(tmp_path, listener.url) as box:
            await box.picture()
            await box.deliver()
            box.now -= jump
            await box.deliver()
            assert len(listener.heard) == 1
            box.now += timedelta(seconds=5)
            await box.deliver()
            row = await box.row()
        assert (len(listener.heard), row.delivered_at) == (2, box.now)

    @pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(days=1)])
    async def test_a_clock_that_was_ahead_for_a_while_loses_none(
        self, tmp_path: Path, jump: timedelta
    ) -> None:
        """What failed meanwhile is tried again when the schedule says."""
        async with listening(500, 500) as listener, outbox(tmp_path, listener.url) as box:
            await box.picture()
            await box.deliver()
            box.now += jump
            await box.deliver()
            assert len(listener.heard) == 2
            box.now -= jump
            await box.deliver()
            box.now += timedelta(seconds=300)
            await box.deliver()
            row = await box.row()
        assert (len(listener.heard), row.delivered_at) == (3, box.now)

    async def test_the_schedule(self, tmp_path: Path) -> None:
        """To the microsecond, under one id, each signed with the time it is sent; then it is given up."""
        async with listening(*[500] * 20) as listener, outbox(tmp_path, listener.url) as box:
            await box.picture()
            await box.deliver()
            sent_at = [box.now]
            for delay_s in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400):
                due = box.now + timedelta(seconds=delay_s)
                box.now = due - MICROSECOND
                await box.deliver()
                assert len(listener.heard) == len(sent_at)
                box.now = due
                await box.deliver()
                sent_at.append(due)
                assert len(listener.heard) == len(sent_at)
            box.now += timedelta(days=10)
            await box.deliver()
            row = await box.row()
        assert len(listener.heard) == 10
        assert all(heard.verified for heard in listener.heard)
        assert {heard.id for heard in listener.heard} == {row.id}
        assert {heard.body for heard in listener.heard} == {listener.heard[0].body}
        times = [heard.headers["webhook-timestamp"] for heard in listener.heard]
        assert times == [str(int(moment.timestamp())) for moment in sent_at]
        assert (row.attempts, row.next_at, row.delivered_at, row.last_status) == (10, None, None, 500)
        assert box.webhooks.attempts == {("put_off",): 9, ("given_up",): 1}

    async def test_failed_first_and_heard_later(self, tmp_path: Path) -> None:
        """The second attempt is the last when it succeeds."""
        async with listening(503) as listener, outbox(tmp_path, listener.url) as box:
            await box.picture()
            await box.deliver()
            box.now += timedelta(seconds=5)
            await box.deliver()
            box.now += timedelta(days=3)
            await box.deliver()
            row = await box.row()
        assert [heard.id for heard in listener.heard] == [row.id] * 2
        assert (row.attempts, row.last_status) == (2, 204)

    async def test_gone_is_not_asked_again(self, tmp_path: Path) -> None:
        """410 says so for good."""
        async with listening(410) as listener, outbox(tmp_path, listener.url) as box:
            await box.picture()
            await box.deliver()
            row = await box.row()
        assert (row.next_at, row.delivered_at, row.last_status) == (None, None, 410)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_redirect_is_not_followed(self, status: int, tmp_path: Path) -> None:
        """It is a failure: nobody but the operator says where webhooks go."""

        def elsewhere(_: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": "/elsewhere"})

        async with listening(elsewhere) as listener, outbox(tmp_path, listener.url) as box:
            await box.picture()
            await box.deliver()
            row = await box.row()
        assert [heard.path for heard in listener.heard] == ["/hooks"]
        assert (row.next_at, row.last_status) == (NOW + timedelta(seconds=5), status)

    async def test_nobody_listens(self, tmp_path: Path) -> None:
        """A refused connection is a failure as any other."""
        with reserved_port() as port:
            async with outbox(tmp_path, f"http://127.0.0.1:{port}/hooks") as box:
                await box.picture()
                await box.deliver()
                row = await box.row()
        assert (row.next_at, row.last_status) == (NOW + timedelta(seconds=5), None)

    async def test_a_receiver_that_does_not_answer(self, tmp_path: Path) -> None:
        """It has 15 s; here less, by the session alone."""
        async with listening() as listener, outbox(tmp_path, listener.url) as box:
            assert box.session.timeout.total == 15
            listener.open.clear()
            await box.picture()
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.2)) as hasty:
                await box.deliver(hasty)
            row = await box.row()
            assert (row.next_at, row.last_status) == (NOW + timedelta(seconds=5), None)

    @pytest.mark.parametrize(
        ("wish", "wait_s"),
        [("7200", 7200), ("1", 5), ("200000", 86_400), (format_datetime(NOW + timedelta(hours=1)), 3600)],
    )
    async def test_retry_after(self, wish: str, wait_s: int, tmp_path: Path) -> None:
        """Seconds or a date: longer than the schedule at will, up to a day, and never shorter."""

        def later(_: web.Request) -> web.Response:
            return web.Response(status=429, headers={"Retry-After": wish, "Date": format_datetime(NOW)})

        async with listening(later) as listener, outbox(tmp_path, listener.url) as box:
            await box.picture()
            await box.deliver()
            row = await box.row()
        assert row.next_at is not None
        assert row.next_at - NOW == timedelta(seconds=wait_s)

    def test_a_wish_is_none_after_the_last_attempt(self) -> None:
        """Ten attempts are all there are."""
        assert [next_delay_s(attempts, None) for attempts in range(1, 10)] == list(DELAYS_S)
        assert next_delay_s(10, 60.0) is None


class TestSeveralProcesses:
    """On one data folder."""

    async def test_each_webhook_is_sent_once(self, tmp_path: Path) -> None:
        """Whoever claims it sends it."""
        async with listening() as listener:
            async with outbox(tmp_path, listener.url) as one, outbox(tmp_path, listener.url) as other:
                for _ in range(100):
                    await one.picture()
                await asyncio.gather(one.deliver(), other.deliver())
                rows = await one.rows()
        assert sorted(heard.id for heard in listener.heard) == sorted(row.id for row in rows)
        assert {row.attempts for row in rows} == {1}

    async def test_one_on_its_way_is_left_alone(self, tmp_path: Path) -> None:
        """Until a minute has passed: then whoever sent it has ended, and it is sent under the same id."""
        async with listening() as listener:
            async with outbox(tmp_path, listener.url) as one, outbox(tmp_path, listener.url) as other:
                await one.picture()
                listener.open.clear()
                sending = asyncio.create_task(one.deliver())
                await listener.after(1)
                other.now += timedelta(seconds=60) - MICROSECOND
                await other.deliver()
                assert len(listener.heard) == 1
                sending.cancel()
                await asyncio.wait([sending])
                listener.open.set()
                other.now += MICROSECOND
                await other.deliver()
                row = await other.row()
        assert [heard.id for heard in listener.heard] == [row.id] * 2
        assert row.delivered_at == other.now

    async def test_those_that_another_is_claiming_are_left_to_it(
        self, tmp_path: Path, postgres_url: str
    ) -> None:
        """Also if it has stopped in the middle of that: nobody asks again and again until it goes on."""
        async with (
            listening() as listener,
            outbox(tmp_path, listener.url, postgres_url) as one,
            outbox(tmp_path, listener.url, postgres_url) as other,
        ):
            await one.picture()
            with one.records._database.writing.begin() as claiming:
                statements.claim(NOW, NOW, 1, claiming)
                await other.deliver()
                assert not listener.heard
            await other.deliver()
            assert len(listener.heard) == 1

    async def test_a_late_failure_changes_nothing(self, tmp_path: Path) -> None:
        """What a later attempt has come to, or will, holds; a late success ends it all the same."""
        async with outbox(tmp_path, None) as box:
            await box.picture()
            (first,) = await box.records.write(partial(statements.claim, NOW, NOW, 1))
            (second,) = await box.records.write(partial(statements.claim, NOW, NOW + MICROSECOND, 1))
            await box.records.write(partial(statements.put_off, first, 500, None))
            assert (await box.row()).next_at == NOW + MICROSECOND
            await box.records.write(partial(statements.delivered, first, 200, NOW))
            await box.records.write(partial(statements.put_off, second, 500, NOW))
            row = await box.row()
        assert (row.next_at, row.last_status) == (None, 200)


class TestWhatIsNotTold:
    """Because it is no longer so."""

    async def test_a_deleted_picture(self, tmp_path: Path) -> None:
        """Its words are gone from everywhere, and so is its webhook."""
        async with listening() as listener, outbox(tmp_path, listener.url) as box:
            record = await box.picture()
            await box.records.delete(record.id, NOW)
            await box.deliver()
            assert (await box.row()).next_at is None
        assert not listener.heard

    async def test_a_failure_that_is_being_mended(self, tmp_path: Path) -> None:
        """A call that runs again is told of when it ends."""
        paid = Paid()
        paid.fails(Kind.LOST, "unknown")
        async with listening() as listener, house(tmp_path, paid) as rooms:
            async with outbox(tmp_path, listener.url) as box:
                call = await rooms.create(attrs.evolve(WISH, defer=True))
                await rooms.generation.wait(call.id, 20)
                reopen = partial(call_records.reopen, call.id, "another")
                assert await rooms.records.write(reopen) is not None
                await box.deliver()
                assert (await box.row()).next_at is None
        assert not listener.heard

    async def test_one_that_cannot_be_told_holds_up_no_other(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is said, and tried again when its claim ends."""
        async with listening() as listener, outbox(tmp_path, listener.url) as box:
            bad, good = await box.picture(), await box.picture()

            def info(made: ImageRecord | Claim) -> ImageInfo:
                if made.id == bad.id:
                    raise ValueError(made.id)
                return plain_info(made)

            box.webhooks = Webhooks(
                box.records, receiver(listener.url, SECRET), info=info, now=lambda: box.now
            )
            await box.deliver()
            rows = {row.image_id: row for row in await box.rows()}
        assert [heard.told["data"]["id"] for heard in listener.heard] == [good.id]
        assert rows[bad.id].next_at == NOW + timedelta(seconds=60)
        assert f"webhook {rows[bad.id].id} could not be sent" in caplog.text

    async def test_without_an_address_nothing_is_sent(self, tmp_path: Path) -> None:
        """What waits is forgotten after a day, so that an address set later hears of no old pictures."""
        async with outbox(tmp_path, None) as box:
            await box.picture()
            await box.deliver()
            box.now += timedelta(days=1)
            await box.webhooks.forget()
            assert (await box.row()).attempts == 0
            box.now += MICROSECOND
            await box.webhooks.forget()
            assert await box.rows() == []

    async def test_what_was_told_is_kept_for_two_weeks(self, tmp_path: Path) -> None:
        """Delivered or given up, with the last status."""
        async with listening() as listener, outbox(tmp_path, listener.url) as box:
            await box.picture()
            await box.deliver()
            box.now += timedelta(days=14)
            await box.webhooks.forget()
            assert (await box.row()).last_status == 204
            box.now += MICROSECOND
            await box.webhooks.forget()
            assert await box.rows() == []


class TestOnTheWire:
    """Nothing but the webhook."""

    def test_the_vector_of_the_standard(self) -> None:
        """The signature that the Standard Webhooks libraries are tested with."""
        there = receiver("https://example.com", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        assert there is not None
        body = b'{"test": 2432232314}'
        signature = there.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
        assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    async def test_no_cookie_comes_back(self, tmp_path: Path) -> None:
        """What a receiver sets is forgotten."""

        def with_cookie(_: web.Request) -> web.Response:
            return web.Response(status=500, headers={"Set-Cookie": "session=1"})

        async with listening(with_cookie) as listener:
            # By a name: aiohttp's own jar keeps no cookies of addresses.
            by_name = listener.url.replace("127.0.0.1", "localhost")
            async with outbox(tmp_path, by_name) as box:
                await box.picture()
                await box.deliver()
                box.now += timedelta(seconds=5)
                await box.deliver()
        assert [set(heard.headers) & {"cookie", "authorization"} for heard in listener.heard] == [set()] * 2

    async def test_no_proxy_is_asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever the environment says of one."""
        async with listening() as proxy, listening() as listener, outbox(tmp_path, listener.url) as box:
            for name in ("no_proxy", "NO_PROXY"):
                monkeypatch.delenv(name, raising=False)
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy.url)
            await box.picture()
            await box.deliver()
        assert (len(listener.heard), len(proxy.heard)) == (1, 0)

    async def test_figures(self, tmp_path: Path) -> None:
        """``/metrics`` counts what the attempts came to."""
        async with listening() as listener:
            settings = {"webhook_url": listener.url, "webhook_secret": SECRET}
            async with running_gateway(tmp_path, **settings) as gateway:
                await created(gateway.base_url)
                await listener.after(1)
                async with aiohttp.ClientSession() as session, asyncio.timeout(LIMIT_S):
                    text = ""
                    while 'blossom_webhooks_total{outcome="delivered"} 1.0' not in text:
                        async with session.get(f"{gateway.base_url}/metrics") as answer:
                            text = await answer.text()


class TestSettings:
    """Refused at the start, in words that give nothing away."""

    @pytest.mark.parametrize(
        "url",
        ["http://example.com/hooks", "http://192.0.2.1/", "ftp://127.0.0.1/", "https://", "hooks", "",
         "https://user@example.com/", "https://user:pass@example.com/", "https://:pass@example.com/",
         "https://[::1/", "http://localhost.example.com/", "https://example.com:99999/"],
    )  # fmt: skip
    def test_where_webhooks_may_not_go(self, url: str) -> None:
        """Plain http only to this machine; no user, no password."""
        with pytest.raises(ConfigurationError, match="allowed: an https URL without user and password"):
            receiver(url, SECRET)

    @pytest.mark.parametrize(
        "url",
        ["https://example.com", "https://example.com:8443/a?b=c", "http://127.0.0.1:8000/", "http://[::1]/",
         "http://localhost/hooks", "http://hooks.localhost/"],
    )  # fmt: skip
    def test_where_they_may(self, url: str) -> None:
        """As it is written."""
        there = receiver(url, SECRET)
        assert there is not None
        assert str(there.url).rstrip("/") == url.rstrip("/")

    @pytest.mark.parametrize(
        "secret",
        ["", "whsec_", SECRET.removeprefix("whsec_"), "whsec_" + "!" * 40, "whsec_" + "ü" * 40,
         f"{SECRET[:20]} {SECRET[20:]}",
         "whsec_" + base64.b64encode(os.urandom(23)).decode(),
         "whsec_" + base64.b64encode(os.urandom(65)).decode(),
         "whsec_" + base64.b64encode(b"k" * 32).decode()],
        ids=["empty", "nothing", "no prefix", "no base64", "no ascii", "a space", "short", "long",
             "guessable"],
    )  # fmt: skip
    def test_weak_secrets(self, secret: str) -> None:
        """Whoever can guess it can tell the receiver anything. How to make one is said, it is not."""
        with pytest.raises(ConfigurationError, match=r"secrets\.token_bytes") as refused:
            receiver("https://example.com", secret)
        assert len(secret) < 10 or secret not in str(refused.value)

    @pytest.mark.parametrize(
        ("url", "secret", "missing"),
        [("https://example.com", None, "WEBHOOK_SECRET"), (None, SECRET, "WEBHOOK_URL")],
    )
    def test_one_needs_the_other(self, url: str | None, secret: str | None, missing: str) -> None:
        """Neither does anything alone."""
        with pytest.raises(ConfigurationError, match=f"set BLOSSOM_{missing}"):
            receiver(url, secret)
        assert receiver(None, None) is None

    async def test_the_gateway_does_not_start_with_them(self, tmp_path: Path) -> None:
        """A bad address is no surprise of the first picture."""
        settings = Settings(data_dir=tmp_path, webhook_url="http://example.com/", webhook_secret=SECRET)
        with pytest.raises(ConfigurationError, match=r"webhook_url: http://example\.com cannot"):
            create_app(settings, public_url="http://127.0.0.1")

    def test_secrets_have_no_repr(self) -> None:
        """Neither the key nor the address, whose path may be one."""
        address = "https://example.com/t0ken"
        there = receiver(address, SECRET)
        settings = Settings(webhook_url=address, webhook_secret=SECRET)
        assert not [text for text in ("t0ken", SECRET[6:]) if text in f"{there!r}{settings!r}"]

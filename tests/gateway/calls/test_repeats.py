"""Clients of OpenAI that repeat a call pay at most once: the real package, with default settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import openai
import pytest

from blossom_async.gateway.calls.repeats import Repeats
from blossom_async.gateway.storage.records import Caller, IdempotencyEntry, Records
from blossom_async.testing import FakeOpenAI
from tests.conftest import KEY, RunningGateway, running_gateway
from tests.gateway.storage.test_records import a_record

MODEL = "gpt-image-2"
BODY = {"model": MODEL, "prompt": "a fox", "size": "1024x1024"}
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@asynccontextmanager
async def paid_gateway(folder: Path) -> AsyncIterator[tuple[RunningGateway, FakeOpenAI]]:
    async with (
        FakeOpenAI() as service,
        running_gateway(
            folder,
            providers=("openai",),
            openai_url=service.base_url,
            openai_model=MODEL,
            openai_key="sk-of-a-test",
        ) as running,
    ):
        yield running, service


def client_of(running: RunningGateway, **options: float) -> openai.AsyncOpenAI:
    """With default settings, its two retries included."""
    return openai.AsyncOpenAI(base_url=f"{running.base_url}/v1", api_key=KEY, **options)  # type: ignore[arg-type]


async def posted(running: RunningGateway, retry: int | None = None) -> tuple[int, str | None, str]:
    """Status, ``x-should-retry`` and the error's code, as a client gets them that retries nothing."""
    headers = {"Authorization": f"Bearer {KEY}"}
    if retry is not None:
        headers["x-stainless-retry-count"] = str(retry)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{running.base_url}/v1/images/generations", json=BODY, headers=headers) as answer,
    ):
        told = await answer.json()
        return answer.status, answer.headers.get("x-should-retry"), told.get("error", {}).get("code", "")


@pytest.mark.parametrize("fault", ["charge_then_reset", "charge_then_500", "truncated", "data_missing"])
async def test_openai_with_default_settings_pays_once(tmp_path: Path, fault: str) -> None:
    """A paid picture that is lost, or no picture: the client raises, and there is one charge."""
    async with paid_gateway(tmp_path) as (running, service), client_of(running) as client:
        service.fail_next(fault, times=3)
        with pytest.raises(openai.APIStatusError) as caught:
            await client.images.generate(prompt="a fox", model=MODEL, size="1024x1024")
        assert caught.value.status_code == 424
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert len(service.ledger.charges) == 1


async def test_what_cost_nothing_is_still_repeated(tmp_path: Path) -> None:
    """A provider that accepted no work: the client's retry gets the picture."""
    async with paid_gateway(tmp_path) as (running, service), client_of(running) as client:
        service.fail_next("rate_limited")
        answer = await client.images.generate(prompt="a fox", model=MODEL, size="1024x1024")
        assert answer.data
        assert len(service.ledger.charges) == 1


async def test_a_client_that_reads_only_the_status_does_not_repeat(tmp_path: Path) -> None:
    """The Vercel AI SDK repeats 408, 409, 429 and 5xx: the status is none of them."""
    async with paid_gateway(tmp_path) as (running, service):
        service.fail_next("charge_then_reset")
        assert await posted(running) == (424, "false", "outcome_unknown")


async def test_a_retry_joins_the_call_that_is_running(tmp_path: Path) -> None:
    """A client that gave up waiting gets the picture of its first try."""
    async with paid_gateway(tmp_path) as (running, service):
        with service.held():
            first = asyncio.create_task(posted(running, 0))
            await service.wait_for_requests(2)  # the gateway asks for the models, too
            first.cancel()
            await asyncio.wait([first])
            again = asyncio.create_task(posted(running, 1))
        assert (await again)[0] == 200
        assert len(service.ledger.charges) == 1


async def test_a_retry_joins_the_call_that_is_held(tmp_path: Path) -> None:
    """Also after a restart of the gateway: the answer is the same, and nothing is paid."""
    async with paid_gateway(tmp_path) as (running, service):
        service.fail_next("charge_then_reset")
        assert (await posted(running, 0))[0] == 424
    async with paid_gateway(tmp_path) as (running, service):
        assert await posted(running, 1) == (424, "false", "outcome_unknown")
        assert not service.ledger.charges


async def test_equal_first_tries_stay_apart(tmp_path: Path) -> None:
    """Without the header, or at a first try, equal requests are two pictures."""
    async with paid_gateway(tmp_path) as (running, service):
        assert [(await posted(running, retry))[0] for retry in (None, None, 0)] == [200, 200, 200]
        assert len(service.ledger.charges) == 3


class TestKeys:
    """Which call a retry repeats."""

    now = NOON

    @pytest.fixture
    async def records(self, tmp_path: Path) -> AsyncIterator[Records]:
        records = Records(tmp_path / "records.sqlite")
        await records.open()
        yield records
        await records.close()

    async def stored(self, records: Records, keys: Iterable[str]) -> None:
        for key in keys:
            record = a_record(tenant="main")
            entry = IdempotencyEntry(tenant="main", key=f"{key} 0", fingerprint="f", image_id=record.id)
            await records.add(record, entry)

    async def test_two_equal_calls_each_get_their_own_retry(self, records: Records) -> None:
        """The retries of two equal calls join one each; a second retry joins the same."""
        repeats = Repeats(records, now=lambda: self.now)
        caller = Caller("main", "")
        tries = [await repeats.key(caller, BODY, 0) for _ in range(2)]
        await self.stored(records, tries)
        for retry in (1, 2):
            assert {await repeats.key(caller, BODY, retry) for _ in range(2)} == set(tries)

    @pytest.mark.parametrize(
        ("caller", "body"), [(Caller("main", "other"), BODY), (Caller("main", ""), {**BODY, "n": 2})]
    )
    async def test_others_are_not_joined(
        self, records: Records, caller: Caller, body: dict[str, object]
    ) -> None:
        """Another API key, or another body, is another call."""
        repeats = Repeats(records, now=lambda: self.now)
        first = await repeats.key(Caller("main", ""), BODY, 0)
        await self.stored(records, [first])
        assert await repeats.key(caller, body, 1) != first

    async def test_after_an_hour_nothing_is_joined(self, records: Records) -> None:
        """By then no client waits any more."""
        repeats = Repeats(records, now=lambda: self.now, clock=lambda: self.now.timestamp())
        caller = Caller("main", "")
        first = await repeats.key(caller, BODY, 0)
        await self.stored(records, [first])
        self.now = NOON + timedelta(minutes=59)
        assert await repeats.key(caller, BODY, 1) == first
        self.now = NOON + timedelta(minutes=61)
        assert await repeats.key(caller, BODY, 2) != first

    @pytest.mark.parametrize("hours", [1, 24, -1, -24])
    async def test_a_clock_that_jumps_and_comes_back_makes_no_retry_pay(
        self, records: Records, hours: int
    ) -> None:
        """The retry finds its call, during the jump and after it; a new call gets a key of its own."""
        repeats = Repeats(records, now=lambda: self.now, clock=lambda: 0.0)
        caller = Caller("main", "")
        before = await repeats.key(caller, BODY, 0)
        await self.stored(records, [before])
        self.now = NOON + timedelta(hours=hours, minutes=1)
        assert await repeats.key(caller, BODY, 1) == before
        during = await repeats.key(caller, {**BODY, "n": 2}, 0)
        await self.stored(records, [during])
        self.now = NOON + timedelta(minutes=2)
        assert await repeats.key(caller, {**BODY, "n": 2}, 1) == during
        assert await repeats.key(caller, BODY, 2) == before
        assert await repeats.key(caller, BODY, 0) not in {before, during}

"""The metrics: what a provider did and cost, what is held, kept and refused. And a log line of each call."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from blossom_async import BlossomClient, BlossomError
from blossom_async.gateway.figures import watch_records
from blossom_async.gateway.http.metrics import Metrics
from blossom_async.gateway.storage.records import Records
from blossom_async.testing import FakeOpenAI, FakePollinations
from tests.cli.test_doctor import SECRET
from tests.conftest import KEY, RunningGateway, running_gateway
from tests.gateway.http.test_logs import logged, parsed
from tests.gateway.making.test_end_to_end import ACCOUNT, SMALL, drawing, openai_settings
from tests.waiting import LIMIT_S

Figures = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database of a busy machine is no database that is away."""
    monkeypatch.setattr("blossom_async.gateway.figures._READ_S", LIMIT_S)


async def text(there: RunningGateway, key: str = KEY) -> str:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
        async with http.get(f"{there.base_url}/metrics") as answer:
            return await answer.text()


async def figures(there: RunningGateway) -> Figures:
    """By name and the values of its labels, in the order of their names."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(await text(there))
        for sample in family.samples
    }


@asynccontextmanager
async def paying(folder: Path, **more: Any) -> AsyncIterator[tuple[RunningGateway, BlossomClient]]:
    """A gateway whose provider says what a picture costs."""
    async with FakePollinations(api_key=ACCOUNT) as service:
        settings = {
            "providers": ("pollinations",),
            "pollinations_url": service.base_url,
            "pollinations_key": ACCOUNT,
            **more,
        }
        async with running_gateway(folder, **settings) as running, running.client(retry=None) as client:
            yield running, client


async def _fail_twice(service: FakeOpenAI, client: BlossomClient) -> None:
    """A call whose answer is lost, and one that is refused."""
    for fault in ("charge_then_500", "rate_limited"):
        service.fail_next(fault)
        with pytest.raises(BlossomError):
            await client.image.generate_url("a sea", **SMALL)


async def test_what_calls_of_a_provider_came_to(tmp_path: Path) -> None:
    """Calls by outcome, and their time; what is held."""
    async with drawing(tmp_path) as (service, running, client):
        await client.image.generate_url("a lake", **SMALL)
        await _fail_twice(service, client)
        found = await figures(running)
    calls = {key[1][0]: n for key, n in found.items() if key[0] == "blossom_provider_calls_total"}
    assert calls == {"ok": 1, "rate_limited": 1, "lost": 1}
    assert found["blossom_provider_call_seconds_count", ("openai",)] == 3
    assert found["blossom_provider_call_seconds_bucket", ("+Inf", "openai")] == 3
    assert found["blossom_calls_held", ("openai",)] == 1
    assert found["blossom_provider_waiting", ("openai",)] == 0
    assert found["blossom_provider_in_progress", ("openai",)] == 0


async def test_what_calls_cost(tmp_path: Path) -> None:
    """As the provider says it; and what the key has spent of its budget."""
    async with paying(tmp_path, daily_budget=5.0) as (running, client):
        for prompt in ("a lake", "a sea"):
            await client.image.generate_url(prompt, **SMALL)
        found = await figures(running)
    spent = found["blossom_provider_spent_usd_total", ("pollinations",)]
    assert 0 < spent < 0.1
    assert found["blossom_spent_today_usd", ("",)] == pytest.approx(spent)
    assert found["blossom_budget_usd", ("",)] == 5


async def test_a_provider_that_rests(tmp_path: Path) -> None:
    """Without money it is not called for a minute."""
    async with drawing(tmp_path) as (service, running, client):
        service.fail_next("insufficient_quota")
        with pytest.raises(BlossomError):
            await client.image.generate_url("a lake", **SMALL)
        found = await figures(running)
    assert 0 < found["blossom_provider_resting_seconds", ("openai",)] <= 60


async def test_calls_in_progress(tmp_path: Path) -> None:
    """One draws, and one waits for its turn."""
    async with drawing(tmp_path, provider_at_once=1) as (service, running, client):
        with service.held():
            first = asyncio.create_task(client.image.generate_url("a lake", **SMALL))
            await service.wait_for_requests(1)
            second = asyncio.create_task(client.image.generate_url("a sea", **SMALL))
            while (found := await figures(running))["blossom_provider_waiting", ("openai",)] < 1:
                pass
            assert found["blossom_provider_in_progress", ("openai",)] == 1
        await asyncio.gather(first, second)


async def test_what_is_kept(tmp_path: Path) -> None:
    """Files and bytes by format, and what is free on the disk."""
    async with running_gateway(tmp_path) as running, running.client() as client:
        info = await client.image.generate_url_with_info("a lake", width=32, height=32, format="webp")
        found = await figures(running)
    assert found["blossom_stored_files", ("webp",)] == 1
    assert found["blossom_stored_bytes", ("webp",)] == info.file_size
    assert found["blossom_records_up", ()] == 1
    assert found["blossom_webhooks_waiting", ()] == 0
    assert found["blossom_provider_calls_total", ("ok", "offline")] == 1
    assert found["blossom_disk_free_bytes", ()] > 0


async def test_what_is_kept_on_a_server(tmp_path: Path, postgres_url: str) -> None:
    """The same, read from PostgreSQL."""
    server = {"database_url": postgres_url, "signing_secrets": (SECRET,)}
    async with paying(tmp_path, daily_budget=5.0, **server) as (running, client):
        info = await client.image.generate_url_with_info("a lake", **SMALL)
        found = await figures(running)
        page = await client.image.list("LAKE")
    assert page[0].id == info.id
    assert found["blossom_records_up", ()] == 1
    assert found["blossom_stored_bytes", ("png",)] == info.file_size
    assert found["blossom_spent_today_usd", ("",)] > 0


async def test_what_is_refused(tmp_path: Path) -> None:
    """Calls beyond the key's rate, wrong keys, and keys that are not even looked at."""
    limits = {"key_rate_limit": "1/min", "failed_key_limit": "1/min", "trusted_proxies": ()}
    async with running_gateway(tmp_path, **limits) as running:
        for key in (KEY, KEY, "wrong-key-0123456789", "other-key-0123456789"):
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
                await http.get(f"{running.base_url}/v1/models")
        found = await figures(running)
    assert found["blossom_key_calls_refused_total", ()] == 1
    assert found["blossom_wrong_keys_total", ()] == 1
    assert found["blossom_wrong_keys_refused_total", ()] == 1


async def test_the_process_and_its_version(tmp_path: Path) -> None:
    """Under the names that every exporter uses."""
    async with running_gateway(tmp_path) as running:
        found = await figures(running)
    assert found["process_resident_memory_bytes", ()] > 1_000_000
    assert ("process_start_time_seconds", ()) in found
    assert [value for (name, _), value in found.items() if name == "blossom_build_info"] == [1]


async def test_a_database_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other figures are told, and that the database cannot be read."""
    monkeypatch.setattr("blossom_async.gateway.figures._READ_S", 0.0)
    async with running_gateway(tmp_path) as running:
        found = await figures(running)
    assert found["blossom_records_up", ()] == 0
    assert ("process_start_time_seconds", ()) in found
    assert ("blossom_webhooks_waiting", ()) not in found


async def test_a_line_for_each_call_of_a_provider(tmp_path: Path) -> None:
    """Outcome, cost and whether it is held, under the id of the request that caused it."""
    with logged() as said:
        async with paying(tmp_path / "a") as (running, client):
            info = await client.image.generate_url_with_info("a lake", **SMALL)
            found = await figures(running)
        async with drawing(tmp_path / "b") as (service, _, client):
            await _fail_twice(service, client)
    lines = parsed(said)
    calls = [line for line in lines if line["event"] == "provider call"]
    asked = [line["request_id"] for line in lines if line["event"] == "request"]
    assert [line["request_id"] for line in calls] == asked
    assert calls[0]["picture"] == info.id
    usd = found["blossom_provider_spent_usd_total", ("pollinations",)]
    assert [[line[name] for name in ("level", "outcome", "usd", "held")] for line in calls] == [
        ["info", "ok", usd, False],
        ["warning", "lost", None, True],
        ["warning", "rate_limited", 0.0, False],
    ]


async def test_nothing_that_was_sent_is_logged_or_counted(tmp_path: Path) -> None:
    """Prompts, keys, signatures, metadata and paths, whatever fails: not a letter, even at ``debug``."""
    canary = "canary-0123456789-abcdefgh"
    account = f"sk-{canary}-account"
    faults = ["unauthorized", "content_policy_violation", "truncated", "charge_then_reset", "rate_limited"]
    async with FakeOpenAI(api_key=account) as service:
        settings = openai_settings(
            service,
            openai_key=account,
            providers=("openai", "offline"),
            api_keys=(KEY, f"{canary}-api-key"),
            access_log="all",
        )
        async with running_gateway(tmp_path, **settings) as running:
            headers = {"Authorization": f"Bearer {canary}-api-key", "Idempotency-Key": f"{canary}-key"}
            with logged() as said:
                logging.getLogger("blossom_async").setLevel(logging.DEBUG)
                async with aiohttp.ClientSession(headers=headers) as http:
                    for number, fault in enumerate([None, *faults]):
                        if fault is not None:
                            service.fail_next(fault)
                        body = {
                            "prompt": f"{canary} {number}",
                            "metadata": {canary: canary},
                            "tracking_id": canary,
                            **SMALL,
                        }
                        key = {"Idempotency-Key": f"{canary}-{number}"}
                        await http.post(f"{running.base_url}/v1/images", json=body, headers=key)
                        call = {"prompt": canary, "n": 99, "model": canary}
                        await http.post(f"{running.base_url}/v1/images/generations", json=call, headers=key)
                    await http.get(f"{running.base_url}/image/{canary[:22]}?exp=1&sig={canary}")
                    await http.get(f"{running.base_url}/{canary}?{canary}")
                    await http.get(f"{running.base_url}/v1/models", headers={"Authorization": canary})
                    wrong = {"Authorization": f"Bearer {canary}-wrong"}
                    await http.request(canary.upper(), f"{running.base_url}/healthz", headers=wrong)
            figures = await text(running)
    assert len(parsed(said)) > 15
    assert "canary" not in (said.getvalue() + figures).lower().replace(f'"method":"{canary}"', "")


@pytest.mark.campaign
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_promtool_finds_nothing_wrong(tmp_path: Path) -> None:
    """Neither in the format nor in the names."""
    async with drawing(tmp_path) as (_, running, client):
        await client.image.generate_url("a lake", **SMALL)
        found = await text(running)
    checking = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await checking.communicate(found.encode())
    assert (checking.returncode, said) == (0, b"")


async def test_two_scrapes_at_once_both_tell_all(tmp_path: Path) -> None:
    """Two Prometheus servers scrape each gateway; one that has only begun takes nothing from the other."""
    metrics, records = Metrics(), Records(tmp_path / "records.sqlite")
    await records.open()
    read = records.read
    scrapes: list[asyncio.Task[tuple[bytes, str]]] = []

    async def answered(question: Any) -> Any:
        if len(scrapes) == 2:
            await asyncio.wait(scrapes[:1])
            return await read(question)
        answer = await read(question)
        scrapes.append(asyncio.create_task(metrics.text()))
        return answer

    records.read = answered  # type: ignore[method-assign]
    watch_records(metrics, records, tmp_path, daily_budget=None)
    scrapes.append(asyncio.create_task(metrics.text()))
    for text, _ in [await scrapes[0], await scrapes[1]]:
        assert b"blossom_records_up 1.0" in text
    await records.close()

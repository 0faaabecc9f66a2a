"""Limits that hold for all gateways on one database together."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from blossom_async.errors import Overloaded
from blossom_async.testing import FakeOpenAI
from tests.conftest import KEY, RunningGateway, running_gateway
from tests.gateway.test_fleet import SECRETS
from tests.postgres import missing, running_server
from tests.waiting import until


@asynccontextmanager
async def fleet(
    folder: Path, url: str, provider: FakeOpenAI, **settings: Any
) -> AsyncIterator[tuple[RunningGateway, RunningGateway]]:
    """Two gateways on one database, with one account at one provider."""
    shared = {
        **SECRETS,
        "database_url": url,
        "providers": ("openai",),
        "openai_url": provider.base_url,
        "openai_key": "sk-of-the-tests",
        "openai_model": "flux.1-schnell",
        **settings,
    }
    async with running_gateway(folder / "data", **shared) as one:
        async with running_gateway(folder / "data", **shared) as other:
            yield one, other


async def batches(gateways: Sequence[RunningGateway], number: int) -> None:
    """As many pictures of each gateway, at the same time."""

    async def batch(gateway: RunningGateway) -> None:
        async with gateway.client() as client:
            prompts = [f"a fox of {gateway.base_url}, number {n}" for n in range(number)]
            made = await client.image.generate_urls_batch(prompts, width=32, height=32)
            made.raise_for_failures()

    await asyncio.gather(*map(batch, gateways))


async def someone_waits(gateway: RunningGateway) -> bool:
    """Whether it has a call in line for the provider."""
    headers = {"Authorization": f"Bearer {gateway.api_key}"}
    async with aiohttp.request("GET", f"{gateway.base_url}/metrics", headers=headers) as answer:
        return 'blossom_provider_waiting{provider="openai"} 0' not in await answer.text()


async def statuses(gateway: RunningGateway, addresses: Iterable[str]) -> list[int]:
    """What its owner is answered."""
    found = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {gateway.api_key}"}) as session:
        for address in addresses:
            async with session.get(address) as answer:
                await answer.read()
                found.append(answer.status)
    return found


def asked(provider: FakeOpenAI) -> list[datetime]:
    """When it was asked for pictures."""
    return sorted(seen.at for seen in provider.requests if seen.method == "POST")


async def test_a_providers_rate_holds_for_all_gateways(tmp_path: Path, postgres_url: str) -> None:
    """At the provider, where each alone would use all of it."""
    async with FakeOpenAI() as provider:
        async with fleet(tmp_path, postgres_url, provider, openai_rate_limit="20/2s") as gateways:
            began = datetime.now(UTC)
            await batches(gateways, 20)
    # However late requests leave on a busy machine, the last is 39 steps of 0.1 s behind the first.
    assert asked(provider)[-1] - began >= timedelta(seconds=3.8)


async def test_slots_at_a_provider_are_shared(tmp_path: Path, postgres_url: str) -> None:
    """Of three, those that one gateway does not need are the other's; no more are in use at once."""
    async with (
        FakeOpenAI() as provider,
        fleet(tmp_path, postgres_url, provider, provider_at_once=3) as gateways,
    ):
        with provider.held():
            first = asyncio.create_task(batches(gateways[:1], 4))
            await until(lambda: len(asked(provider)) >= 2)  # the other keeps one for a call that comes
            then = asyncio.create_task(batches(gateways, 4))
            await until(lambda: len(asked(provider)) == 3)
            for gateway in gateways:
                await until(partial(someone_waits, gateway))
            assert len(asked(provider)) == 3
        await asyncio.gather(first, then)
        assert len(asked(provider)) == 12


async def test_the_calls_of_a_key_count_at_all_gateways(tmp_path: Path, postgres_url: str) -> None:
    """Of 30 a day, as many are answered, whoever is asked; each says what is left."""
    shared = {**SECRETS, "database_url": postgres_url, "key_rate_limit": "30/day"}
    async with (
        running_gateway(tmp_path / "data", **shared) as one,
        running_gateway(tmp_path / "data", **shared) as other,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
    ):

        async def call(gateway: RunningGateway) -> tuple[int, str]:
            async with session.get(f"{gateway.base_url}/v1/stats?tracking_id=x") as answer:
                return answer.status, answer.headers["RateLimit"]

        for gateway, left in ((one, 29), (other, 28)):
            status, told = await call(gateway)
            assert status == 404
            assert re.fullmatch(rf'"default";r={left};t=2[0-9]{{3}}', told)  # of 2880 s, some have passed
        answers = await asyncio.gather(*(call(gateway) for _ in range(20) for gateway in (one, other)))
    assert sorted(status for status, _ in answers) == [404] * 28 + [429] * 12


@pytest.mark.campaign
@pytest.mark.skipif(missing("18") is not None, reason=missing("18") or "")
async def test_nothing_is_sent_while_the_database_is_away(tmp_path: Path) -> None:
    """The caller is told so, pictures that everyone may see are served, and all goes on afterwards."""
    with ExitStack() as held:
        server = held.enter_context(running_server("18"))
        server.create("limits")
        async with (
            FakeOpenAI() as provider,
            fleet(tmp_path, server.url("limits"), provider, openai_rate_limit="100/s") as (one, _),
            one.client(retry=None) as client,
        ):

            async def drawn() -> bool:
                try:
                    await client.image.generate_url("a fox", width=32, height=32)
                except Overloaded:
                    return False
                return True

            made = await client.image.generate_url("an owl", width=32, height=32)
            locked = await client.image.generate_url("a safe", width=32, height=32, require_auth=True)
            addresses = (made, locked, f"{one.base_url}/readyz")
            assert await statuses(one, addresses) == [200, 200, 200]
            await asyncio.to_thread(server.stop, "immediate")

            async def known_to_be_away() -> bool:
                return await statuses(one, addresses) == [200, 503, 503]

            await until(known_to_be_away)
            assert not await drawn()
            assert len(asked(provider)) == 2
            await asyncio.to_thread(server.start)
            await until(drawn)
            assert len(asked(provider)) == 3

            async def known_to_be_back() -> bool:
                return await statuses(one, addresses) == [200, 200, 200]

            await until(known_to_be_back)

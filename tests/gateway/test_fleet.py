"""Gateways that share a PostgreSQL database and the files: what one does holds at the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import attrs

from blossom_async.gateway.callers.keys import digest
from blossom_async.gateway.storage.records import ApiKey, Records
from blossom_async.gateway.storage.records import keys as key_records
from tests.conftest import RunningGateway, running_gateway
from tests.gateway.dashboard.test_dashboard import PAGES, visiting
from tests.waiting import until

SECRETS = {"signing_secrets": ("a-secret-that-both-gateways-know",)}
OTHER_KEY = "another-key-of-the-tests-0123456789"


@asynccontextmanager
async def fleet(folder: Path, url: str) -> AsyncIterator[tuple[RunningGateway, RunningGateway]]:
    """Two gateways on one database and one folder of files."""
    shared = {**SECRETS, "database_url": url}
    async with running_gateway(folder / "data", **shared) as one:
        async with running_gateway(folder / "data", **shared) as other:
            yield one, other


async def status(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as answer:
        await answer.read()
        return answer.status


async def created(
    session: aiohttp.ClientSession, gateway: RunningGateway, wish: dict[str, Any]
) -> dict[str, Any]:
    """What the gateway says of the picture made under the key."""
    head = {"Authorization": f"Bearer {gateway.api_key}", "Idempotency-Key": "k"}
    async with session.post(f"{gateway.base_url}/v1/images", json=wish, headers=head) as answer:
        assert answer.status in (200, 201), await answer.text()
        told: dict[str, Any] = await answer.json()
        return told


async def test_what_one_gateway_makes_the_other_serves_and_shows(tmp_path: Path, postgres_url: str) -> None:
    """Its picture, the replay of its key, its views, and every page of the dashboard."""
    async with fleet(tmp_path, postgres_url) as (one, other), aiohttp.ClientSession() as session:
        wish = {"prompt": "a lake", "tracking_id": "spring", "metadata": {"variant": "A"}}
        made = await created(session, one, wish)
        assert (await created(session, other, wish))["id"] == made["id"]
        async with other.client() as client:
            for _ in range(2):
                assert await status(session, made["url"].replace(one.base_url, other.base_url)) == 200

            async def counted() -> bool:
                stats = await client.image.get_url_stats("spring")
                return stats.total_views == 2 and stats.by_metadata["variant"]["A"].views == 2

            await until(counted)
        async with visiting(other) as visitor:
            for path in (*PAGES, f"/pictures/{made['id']}"):
                answer, _ = await visitor.get(path)
                assert answer.status == (404 if "0000" in path else 200), path
            assert "a lake" in await visitor.page("/?q=LAKE&state=live")


async def test_what_is_no_text_is_not_found(tmp_path: Path, postgres_url: str) -> None:
    """A NUL, which PostgreSQL has in no text."""
    async with fleet(tmp_path, postgres_url) as (one, _), visiting(one) as visitor:
        for path in ("/pictures/%00", "/campaigns/%00", "/v1/images/%00", "/image/%00"):
            answer, _ = await visitor.get(path)
            assert answer.status in (401, 404), path


async def test_who_logs_in_at_one_gateway_is_logged_in_at_the_other(
    tmp_path: Path, postgres_url: str
) -> None:
    """Until the visitor logs out, at whichever."""
    async with fleet(tmp_path, postgres_url) as (one, other), visiting(one) as visitor:
        elsewhere = attrs.evolve(visitor, base_url=other.base_url)  # cookies know no ports
        await elsewhere.page("/storage")
        await elsewhere.post("/logout")
        answer, _ = await visitor.get("/storage")
        assert answer.status == 303


async def test_a_delete_at_one_is_seen_at_the_other(tmp_path: Path, postgres_url: str) -> None:
    """Within a second; the words of the picture are erased from its row."""
    async with fleet(tmp_path, postgres_url) as (one, other), aiohttp.ClientSession() as session:
        async with one.client() as client:
            made = await client.image.generate_url_with_info("xylophone")
            there = made.url.replace(one.base_url, other.base_url)
            assert await status(session, there) == 200
            await client.image.delete(made.url)

            async def gone() -> bool:
                return await status(session, there) == 410

            await until(gone)
        async with visiting(other) as visitor:
            assert "xylophone" not in await visitor.page("/")


async def test_a_key_holds_at_both_until_it_is_revoked(tmp_path: Path, postgres_url: str) -> None:
    """As the CLI makes and revokes it, on the database."""
    records = Records(postgres_url)
    await records.open()
    key = ApiKey(name="shop", tenant="shop", digest=digest(OTHER_KEY), created_at=datetime.now(UTC))
    await records.write(partial(key_records.add_api_key, key))
    async with fleet(tmp_path, postgres_url) as gateways, aiohttp.ClientSession() as session:

        async def statuses() -> set[int]:
            found = set()
            for gateway in gateways:
                head = {"Authorization": f"Bearer {OTHER_KEY}"}
                async with session.get(f"{gateway.base_url}/v1/stats?tracking_id=x", headers=head) as answer:
                    found.add(answer.status)
            return found

        assert await statuses() == {404}
        await records.write(partial(key_records.revoke_api_key, "shop", datetime.now(UTC)))

        async def refused() -> bool:
            return await statuses() == {401}

        await until(refused)
    await records.close()

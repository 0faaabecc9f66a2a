"""From a request to a stored picture: paid for once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from PIL import features

from blossom_async.errors import Gone, InvalidRequest
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers import Artwork
from blossom_async.gateway.providers.offline import Offline
from blossom_async.models import ImageRequest
from tests.conftest import running_gateway
from tests.gateway.making.test_paid import house

REQUEST = ImageRequest("a lake", width=16, height=16, expires_in=60)


class Counting(Offline):
    """The offline renderer, with a ledger of its calls."""

    calls = 0

    async def generate(self, request: ImageRequest, seed: int, *, key: str) -> Artwork:
        self.calls += 1
        return await super().generate(request, seed, key=key)


async def test_whenever_callers_come_one_key_calls_the_provider_once(tmp_path: Path) -> None:
    """Before, while and after the first is made: one call for each key, one picture for all."""
    workers = Workers(2)
    provider = Counting(workers.run)
    async with house(tmp_path / "data", provider) as rooms:

        async def caller(key: str, late: int) -> tuple[str, bool]:
            for _ in range(late):
                await asyncio.sleep(0)
            record, replayed = await rooms.generation.create(REQUEST, tenant="main", payer="", key=key)
            return record.id, replayed

        for round_ in range(20):
            answers = await asyncio.gather(*(caller(f"k{round_}", late * 3) for late in range(60)))
            assert len({image_id for image_id, _ in answers}) == 1
            assert [replayed for _, replayed in answers].count(False) == 1
    assert provider.calls == 20
    workers.close()


@pytest.mark.campaign
async def test_an_urgent_picture_overtakes_a_batch(tmp_path: Path) -> None:
    """Also at a provider that costs nothing: it does not wait for the twelve that came before it."""
    order: list[str] = []
    async with running_gateway(tmp_path, render_threads=1) as gateway, gateway.client() as client:

        async def batch() -> None:
            async with client.image.stream_urls(["a lake"] * 12, quality="hd") as outcomes:
                async for _ in outcomes:
                    order.append("batch")  # noqa: PERF401 - as they come

        running = asyncio.create_task(batch())
        while await pictures_waiting(gateway.base_url) < 8:
            pass
        await client.image.generate_url("a lake", width=64, height=64)
        order.append("urgent")
        await running
    assert order.index("urgent") < 9  # in its turn it would be the last of all


async def pictures_waiting(base_url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{base_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    (line,) = (line for line in lines if line.startswith("blossom_pictures_waiting "))
    return int(float(line.split()[1]))


async def test_a_key_does_not_bring_back_what_has_expired(tmp_path: Path) -> None:
    """A replay gives a URL that works, or says that it cannot."""
    clock = [datetime.now(UTC)]
    workers = Workers(2)
    async with house(tmp_path / "data", Offline(workers.run), now=lambda: clock[0]) as rooms:
        await rooms.create(REQUEST)
        clock[0] += timedelta(seconds=60)
        with pytest.raises(Gone, match="expired"):
            await rooms.create(REQUEST)
    workers.close()


async def test_avif_is_refused_where_pillow_lacks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is drawn or paid, and when only the price is asked for."""
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    workers = Workers(1)
    provider = Counting(workers.run)
    request = ImageRequest("a lake", width=16, height=16, format="avif")
    async with house(tmp_path / "data", provider) as rooms:
        with pytest.raises(InvalidRequest, match="Pillow was built without avif"):
            await rooms.generation.create(request, tenant="main", payer="")
        with pytest.raises(InvalidRequest, match="allowed: jpg, png, webp or auto"):
            rooms.generation.estimate(request)
    assert provider.calls == 0
    workers.close()

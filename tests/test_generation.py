"""From a request to a stored picture: paid for once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from blossom_async.errors import Gone
from blossom_async.gateway.blobs import LocalBlobs
from blossom_async.gateway.generation import Generation
from blossom_async.gateway.providers import Artwork
from blossom_async.gateway.providers.offline import Offline
from blossom_async.gateway.records import Records
from blossom_async.gateway.workers import Workers
from blossom_async.models import ImageRequest

REQUEST = ImageRequest("a lake", width=16, height=16, expires_in=60)


class Counting(Offline):
    """The offline renderer, with a ledger of its calls."""

    calls = 0

    async def generate(self, request: ImageRequest, seed: int) -> Artwork:
        self.calls += 1
        return await super().generate(request, seed)


@asynccontextmanager
async def generation(folder: Path, clock: list[datetime]) -> AsyncIterator[tuple[Generation, Counting]]:
    workers, records, blobs = Workers(2), Records(folder / "records.sqlite"), LocalBlobs(folder / "images")
    await blobs.open()
    await records.open()
    provider = Counting(workers.run)
    yield Generation(provider, records, blobs, workers, now=lambda: clock[0]), provider
    await records.close()
    await blobs.close()
    workers.close()


async def test_whenever_callers_come_one_key_calls_the_provider_once(tmp_path: Path) -> None:
    """Before, while and after the first is made: one call for each key, one picture for all."""
    async with generation(tmp_path / "data", [datetime.now(UTC)]) as (made, provider):

        async def caller(key: str, late: int) -> tuple[str, bool]:
            for _ in range(late):
                await asyncio.sleep(0)
            record, replayed = await made.create(REQUEST, tenant="t", key=key)
            return record.id, replayed

        for round_ in range(20):
            answers = await asyncio.gather(*(caller(f"k{round_}", late * 3) for late in range(60)))
            assert len({image_id for image_id, _ in answers}) == 1
            assert [replayed for _, replayed in answers].count(False) == 1
    assert provider.calls == 20


async def test_a_key_does_not_bring_back_what_has_expired(tmp_path: Path) -> None:
    """A replay gives a URL that works, or says that it cannot."""
    clock = [datetime.now(UTC)]
    async with generation(tmp_path / "data", clock) as (made, _):
        await made.create(REQUEST, tenant="t", key="k")
        clock[0] += timedelta(seconds=60)
        with pytest.raises(Gone, match="expired"):
            await made.create(REQUEST, tenant="t", key="k")

"""A bucket becomes unreachable: nothing is paid for in vain, and no paid picture is lost."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from blossom_async.errors import Overloaded
from blossom_async.gateway.making.staging import STAGED
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.bucket import BucketBlobs
from blossom_async.gateway.storage.records import ImageRecord
from tests import stores
from tests.conftest import running_gateway
from tests.gateway.making.test_paid import Paid, house
from tests.waiting import until

KILLS = int(os.environ.get("BLOSSOM_TEST_KILLS", "3"))
PICTURES = 60 * KILLS
URL = f"s3://{stores.BUCKET}/pictures"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[stores.Moto]:
    with stores.moto() as store:
        for name, value in stores.environment(store.endpoint).items():
            monkeypatch.setenv(name, value)
        yield store


def places(clock: Callable[[], float]) -> tuple[Blobs, Blobs]:
    """Where pictures are, and what was paid for."""
    return (
        BucketBlobs(URL, "images", clock=clock),
        BucketBlobs(URL, "staging", (STAGED,), listed=True, clock=clock),
    )


async def test_nothing_is_sent_while_the_store_is_away(tmp_path: Path, store: stores.Moto) -> None:
    """The call is answered 503, and the same call again makes the picture once the store is back."""
    provider, now = Paid(), [0.0]
    async with house(tmp_path, provider, places=places(lambda: now[0])) as gateway:
        store.stop()
        now[0] += 11
        for _ in range(2):
            with pytest.raises(Overloaded, match=r"could not be stored in its bucket \(no answer\)"):
                await gateway.create()
        store.start()
        assert isinstance(await gateway.create(), ImageRecord)
    assert len(provider.sent) == 1


async def test_a_paid_answer_waits_for_the_store(tmp_path: Path, store: stores.Moto) -> None:
    """It is kept, and stored when the call comes again; the provider is asked once."""
    provider = Paid()

    async def goes_away() -> None:
        await asyncio.to_thread(store.stop)

    provider.script.append(goes_away)
    async with house(tmp_path, provider, places=places(lambda: 0.0)) as gateway:
        with pytest.raises(Overloaded):
            await gateway.create()
        await until(lambda: not gateway.generation.waiting)
        with pytest.raises(Overloaded):
            await gateway.create()
        store.start()
        assert isinstance(await gateway.create(), ImageRecord)
        left = datetime.now(UTC) + timedelta(days=1)
        assert await gateway.staging.files_before("staging", left) == []
    assert len(provider.sent) == len(provider.ledger) == 1


async def test_pictures_in_memory_are_served_on(tmp_path: Path, store: stores.Moto) -> None:
    """Others are answered 503, and `/readyz` says why."""
    async with (
        running_gateway(tmp_path, blobs=URL) as running,
        running.client() as client,
        aiohttp.ClientSession() as http,
    ):
        seen, unseen = [
            await client.image.generate_url(prompt, width=64, height=64) for prompt in ("a pond", "a lake")
        ]
        async with http.get(seen) as before:
            body, etag = await before.read(), before.headers["ETag"]
        store.stop()
        async with http.get(seen) as again:
            assert (again.status, await again.read()) == (200, body)
        async with http.get(seen, headers={"If-None-Match": etag}) as unchanged:
            assert unchanged.status == 304
        async with http.get(unseen) as lost:
            assert (lost.status, (await lost.json())["code"]) == (503, "storage_failed")
        async with http.get(f"{running.base_url}/readyz") as ready:
            assert ready.status == 503
            assert "in its bucket (no answer)" in (await ready.json())["reasons"]["pictures"]
        store.start()

        async def served() -> bool:
            async with http.get(unseen) as found, http.get(f"{running.base_url}/readyz") as ready:
                return (found.status, ready.status) == (200, 200)

        await until(served)


async def test_nothing_is_sent_while_the_store_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers nothing is away, too. Once it answers, the same call makes the picture."""
    provider, now = Paid(), [0.0]
    with stores.seaweedfs(tmp_path / "weed") as store:
        for name, value in stores.environment(store.endpoint).items():
            monkeypatch.setenv(name, value)
        async with house(tmp_path, provider, places=places(lambda: now[0])) as gateway:
            with store.stopped():
                now[0] += 11
                with pytest.raises(Overloaded, match="could not be stored in its bucket"):
                    await gateway.create()
                assert not provider.sent
            assert isinstance(await gateway.create(), ImageRecord)
    assert len(provider.sent) == 1


@pytest.mark.campaign
async def test_a_store_killed_under_load_leaves_no_row_without_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed again and again; each picture is paid once, and has its bytes in the end."""
    provider, waiting = Paid(), asyncio.Semaphore(16)
    with stores.seaweedfs(tmp_path / "weed") as store:
        for name, value in stores.environment(store.endpoint).items():
            monkeypatch.setenv(name, value)
        async with house(tmp_path, provider, places=places(time.monotonic)) as gateway:

            async def made(key: str) -> ImageRecord:
                async with waiting:
                    while True:
                        with contextlib.suppress(Overloaded):
                            record = await gateway.create(key=key)
                            assert isinstance(record, ImageRecord)
                            return record
                        await asyncio.sleep(0.05)

            def has_paid(count: int) -> bool:
                return len(provider.ledger) >= count

            calls = [asyncio.create_task(made(f"key-{n}")) for n in range(PICTURES)]
            for nth in range(1, KILLS + 1):
                await until(partial(has_paid, nth * PICTURES // (KILLS + 1)))
                store.kill()
                await asyncio.to_thread(store.start)
            records = await asyncio.gather(*calls)
            assert len(provider.ledger) == len(provider.sent) == PICTURES
            for record in records:
                data = await gateway.blobs.read(record.id, "png")
                assert hashlib.sha256(data).hexdigest() == record.main_file.sha256

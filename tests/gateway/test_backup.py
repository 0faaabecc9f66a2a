"""A fleet is restored from a dump of its database and a copy of its bucket, which is younger."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa

from blossom_async import BlossomClient
from blossom_async.gateway.storage.records import Records
from blossom_async.gateway.storage.records.tables import images
from tests import stores
from tests.conftest import running_gateway
from tests.postgres import missing, running_server
from tests.waiting import until

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(missing("18") is not None, reason=missing("18") or ""),
]

BUCKET = "versioned"
SECRETS: Any = {"signing_secrets": ("a-secret-that-both-gateways-know",)}


class Seller:
    """Makes pictures, and deletes the oldest one after every third."""

    def __init__(self, client: BlossomClient) -> None:
        self.made: list[str] = []
        self.deleted: set[str] = set()
        self.ending = False
        self._client = client

    async def sell(self) -> None:
        while not self.ending:
            info = await self._client.image.generate_url_with_info("a lake", width=32, height=32)
            self.made.append(info.id)
            if len(self.made) % 3 == 0 and len(self.made) > 10:
                gone = self.made[len(self.deleted)]
                await self._client.image.delete(gone)
                self.deleted.add(gone)


async def live(url: str) -> set[str]:
    """The pictures that the database says are there."""
    records = Records(url)
    await records.open()
    found = await records.read(
        lambda c: set(c.scalars(sa.select(images.c.id).where(images.c.deleted_at.is_(None))))
    )
    await records.close()
    return found


async def test_each_row_of_a_restored_gateway_has_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures are made and deleted meanwhile. The bucket keeps versions: the copy has those deleted too."""
    with running_server("18") as server, stores.moto() as store:
        for name, value in stores.environment(store.endpoint).items():
            monkeypatch.setenv(name, value)
        stores.keep_versions(store.endpoint, BUCKET)
        server.create("original")
        dump, where = str(server.folder / "dump"), ("-h", str(server.folder), "-U", "postgres")
        first: Any = {"database_url": server.url("original"), "blobs": f"s3://{BUCKET}/original", **SECRETS}
        async with running_gateway(tmp_path / "one", **first) as gateway, gateway.client() as client:
            seller = Seller(client)
            selling = asyncio.create_task(seller.sell())
            await until(lambda: len(seller.made) > 30)
            before = set(seller.made) - seller.deleted
            await asyncio.to_thread(server.run, "pg_dump", "-Fc", "-f", dump, *where, "original")
            since = len(seller.made)
            await until(lambda: len(before & seller.deleted) > 3 and len(seller.made) > since + 10)
            stores.copy_with_deleted(store.endpoint, BUCKET, "original/", "restored/")
            seller.ending = True
            await selling
        server.create("restored")
        server.run("pg_restore", "-d", "restored", *where, dump)
        again: Any = {"database_url": server.url("restored"), "blobs": f"s3://{BUCKET}/restored", **SECRETS}
        async with running_gateway(tmp_path / "two", **again) as gateway, gateway.client() as client:
            found = await live(server.url("restored"))
            async with aiohttp.ClientSession() as session:
                for image_id in found:
                    info = await client.image.get(image_id)
                    async with session.get(info.url) as answer:
                        assert hashlib.sha256(await answer.read()).hexdigest() == info.sha256
        assert found >= before
        assert before & seller.deleted  # they are there again

"""``blossom migrate``: a gateway's data folder moves to PostgreSQL and a bucket, and nothing is lost."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from blossom_async import Gone
from blossom_async.gateway.callers.keys import digest
from blossom_async.gateway.making.places import places
from blossom_async.gateway.making.staging import STAGED
from blossom_async.gateway.storage.records import ApiKey, Claim, Records
from blossom_async.gateway.storage.records import calls as call_records
from blossom_async.gateway.storage.records import keys as key_records
from blossom_async.models import ImageRequest
from tests import stores
from tests.cli.test_cli import ended, running
from tests.conftest import running_gateway

PICTURES = 5
STAGED_ID = "S" * 22
SMALL: Any = {"width": 64, "height": 48}


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    with stores.moto() as moto:
        yield stores.environment(moto.endpoint)


async def filled(data_dir: Path) -> list[str]:
    """A data folder with pictures, one of them deleted and one in a width of its own; their paths."""
    async with running_gateway(data_dir) as gateway, gateway.client() as client:
        made = [
            await client.image.generate_url_with_info(f"lake {n}", tracking_id="spring", widths=[32], **SMALL)
            for n in range(PICTURES)
        ]
        async with aiohttp.ClientSession() as session:
            await (await session.get(made[0].variant_url(32))).read()
        await client.image.delete(made[-1].url)
    records = Records(data_dir / "records.sqlite")
    await records.open()
    now = datetime.now(UTC)
    key = ApiKey(name="shop", tenant="shop", digest=digest("k" * 32), created_at=now, daily_budget=7)
    await records.write(partial(key_records.add_api_key, key))
    left = Claim(
        image_id=STAGED_ID,
        tenant="main",
        payer="",
        key="left",
        fingerprint="f",
        request=ImageRequest("a café", seed=1),
        owner="gone",
        created_at=now,
    )
    await records.write(partial(call_records.claim, left))
    await records.close()
    _, staging = places(None, data_dir)
    await staging.open()
    await staging.put(STAGED_ID, STAGED, b"{}\nan answer that was paid for")
    await staging.close()
    return [f"/image/{info.id}" for info in made]


def contents(folder: Path) -> dict[str, str]:
    """What the files of a folder are; without those that SQLite makes while it is open."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.name.endswith(("-wal", "-shm"))
    }


def migrated(data_dir: Path, url: str, *more: str, **env: str) -> tuple[int, str]:
    """The command's exit status, and what it said."""
    arguments = ("migrate", "--to", url, "--data-dir", data_dir, *more)
    with running(*arguments, env={**os.environ, **env}) as process:
        said = ended(process)
        return process.returncode, said


async def pictures_in(url: str) -> int:
    records = Records(url)
    await records.open()
    found: int = await records.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM images").scalar_one())
    await records.close()
    return found


@pytest.mark.campaign
async def test_a_gateway_moves_though_it_is_killed_on_the_way(
    tmp_path: Path, postgres_url: str, store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed over the files, then over the rows: the third run ends it, and the fourth finds all done."""
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    data_dir, bucket = tmp_path / "data", f"s3://{stores.BUCKET}/{postgres_url[-40:].rpartition('/')[2][:17]}"
    urls = await filled(data_dir)
    before = contents(data_dir)
    for place in ("file", "rows"):
        status, _ = migrated(data_dir, postgres_url, "--blobs", bucket, BLOSSOM_TEST_DIES_AT=place)
        assert status == -9
        assert await pictures_in(postgres_url) == 0
    for _ in range(2):
        status, said = migrated(data_dir, postgres_url, "--blobs", bucket)
        assert status == 0, said
        assert f"0 files copied, {PICTURES} were there already" in said
        assert f"{PICTURES} of pictures: number and digest of every table agree" in said
        assert "start the gateways with BLOSSOM_DATABASE_URL and BLOSSOM_BLOBS" in said
    assert contents(data_dir) == before

    secrets = tuple((data_dir / "signing_secrets").read_text().split())
    new: Any = {"database_url": postgres_url, "blobs": bucket, "signing_secrets": secrets}
    async with running_gateway(tmp_path / "new", **new) as gateway, gateway.client() as client:
        for path in urls[:-1]:
            info = await client.image.get(f"{gateway.base_url}{path}")
            await client.image.download(info.url, tmp_path / "file.png")
            assert hashlib.sha256((tmp_path / "file.png").read_bytes()).hexdigest() == info.sha256
        with pytest.raises(Gone):
            await client.image.get(f"{gateway.base_url}{urls[-1]}")
    _, staging = places(bucket, data_dir)
    await staging.open()
    assert (await staging.read(STAGED_ID, STAGED)).endswith(b"paid for")
    await staging.close()


@pytest.mark.campaign
async def test_what_would_lose_something_is_refused(tmp_path: Path, postgres_url: str) -> None:
    """A gateway that runs, another gateway's rows, no database at all."""
    data_dir, other = tmp_path / "data", tmp_path / "other"
    async with running_gateway(data_dir) as gateway, gateway.client() as client:
        await client.image.generate_url("a lake", **SMALL)
        status, said = migrated(data_dir, postgres_url)
        assert (status, f"A gateway runs on {data_dir}" in said) == (2, True), said
    status, said = migrated(data_dir, postgres_url)
    assert (status, "start the gateways with BLOSSOM_DATABASE_URL set" in said) == (0, True), said
    async with running_gateway(other) as gateway, gateway.client() as client:
        await client.image.generate_url("a fox", **SMALL)
    status, said = migrated(other, postgres_url)
    assert (status, "It holds other rows already: name an empty one" in said) == (2, True), said
    status, said = migrated(tmp_path / "nothing", postgres_url)
    assert (status, "There is no database in" in said) == (2, True), said
    assert not (tmp_path / "nothing").exists()


async def test_a_lost_file_is_told(
    tmp_path: Path, postgres_url: str, store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are moved; the exit status says that something is missing."""
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    data_dir = tmp_path / "data"
    lost, *_ = await filled(data_dir)
    (path,) = (data_dir / "images").rglob(f"{lost.rpartition('/')[2]}.png")
    path.unlink()
    bucket = f"s3://{stores.BUCKET}/lost-{postgres_url[-40:].rpartition('/')[2][:17]}"
    status, said = migrated(data_dir, postgres_url, "--blobs", bucket)
    assert (status, "1 file lost before the move" in said) == (1, True), said

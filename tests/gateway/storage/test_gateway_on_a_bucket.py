"""A gateway whose pictures are in a bucket answers as one with a folder does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from blossom_async.gateway.making.finishing import finished
from blossom_async.gateway.making.storing import Storing
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers.offline import Offline
from blossom_async.gateway.storage.bucket import BucketBlobs
from blossom_async.models import ImageRequest
from tests import stores
from tests.conftest import KEY, running_gateway

AUTH = {"Authorization": f"Bearer {KEY}"}
URL = f"s3://{stores.BUCKET}/pictures"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with stores.moto() as store:
        yield store.endpoint


@pytest.fixture(autouse=True)
def credentials(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stores.environment(moto).items():
        monkeypatch.setenv(name, value)


async def answers(base: str, seed: int) -> list[tuple[int, dict[str, str], bytes]]:
    """What viewers of one picture are answered, from the first byte to its deletion."""
    told = []
    async with aiohttp.ClientSession(base) as http:
        wish = {"prompt": "a pond", "width": 640, "height": 640, "seed": seed, "format": "webp"}
        async with http.post("/v1/images", json=wish, headers=AUTH) as made:
            assert made.status == 201, await made.text()
            image_id = (await made.json())["id"]
        path = f"/image/{image_id}"
        async with http.get(path) as whole:
            etag = whole.headers["ETag"]
        asked: list[tuple[str, str, dict[str, str]]] = [
            ("GET", path, {}),
            ("HEAD", path, {}),
            ("GET", f"/generated/{image_id}.webp", {}),
            ("GET", path, {"Range": "bytes=100-199"}),
            ("GET", path, {"Range": "bytes=-7"}),
            ("GET", path, {"Range": "bytes=999999999-"}),
            ("GET", path, {"If-None-Match": etag}),
            ("HEAD", path, {"If-None-Match": etag}),
            ("GET", path, {"If-Match": '"other"'}),
            ("GET", path, {"If-Range": etag, "Range": "bytes=0-9"}),
            ("DELETE", f"/v1/images/{image_id}", AUTH),
            ("GET", path, {}),
        ]
        for method, target, headers in asked:
            async with http.request(method, target, headers=headers) as answer:
                kept = {
                    name.lower(): value.replace(image_id, "ID")
                    for name, value in answer.headers.items()
                    if name.lower() not in {"date", "last-modified", "x-request-id"}
                }
                body = await answer.read()
                told.append((answer.status, kept, body if answer.status < 400 else b""))
    return told


async def test_viewers_cannot_tell_where_pictures_are_kept(tmp_path: Path) -> None:
    """Ranges, HEAD, conditions and a deleted picture: the same status, headers and bytes."""
    async with (
        running_gateway(tmp_path / "folder") as local,
        running_gateway(tmp_path / "b", blobs=URL) as far,
    ):
        expected, found = await answers(local.base_url, 7), await answers(far.base_url, 7)
    assert [status for status, _, _ in found] == [200, 200, 200, 206, 206, 416, 304, 304, 412, 206, 204, 410]
    assert found == expected


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({}, "public, max-age=31536000, immutable"),
        ({"cache_control": "public, max-age=60"}, "public, max-age=60"),
        ({"require_signature": True}, "private, no-store"),
        ({"ip_whitelist": ["10.0.0.0/8"]}, "private, no-store"),
        ({"expires_in": 3600}, "private, no-store"),
    ],
)
async def test_an_object_says_what_it_is(tmp_path: Path, wish: dict[str, Any], told: str) -> None:
    """Its type, and whether a CDN may serve it from the bucket, where nobody judges the viewer."""
    import obstore
    from obstore.store import from_url

    async with running_gateway(tmp_path, blobs=URL) as running, running.client() as client:
        info = await client.image.generate_url_with_info("a pond", width=64, height=64, format="png", **wish)
    store = from_url(URL, client_options={"allow_http": True})
    key = f"images/{info.id[:2].lower()}/{info.id}.png"
    found = await asyncio.to_thread(obstore.get, store, key)
    assert found.attributes == {"Content-Type": "image/png", "Cache-Control": told}


async def test_the_record_describes_the_bytes_that_stand() -> None:
    """A process whose claim was taken over may have stored them, in an encoding of its own."""
    first, image_id = b"as another version encodes it", "Ab3" + "x" * 19
    blobs, workers = BucketBlobs(URL, "images"), Workers(1)
    await blobs.open()
    await blobs.put(image_id, "png", first)
    storing = Storing(blobs, workers, lambda: datetime(2026, 11, 28, tzinfo=UTC), finished)
    request = ImageRequest(prompt="a pond", width=64, height=64, seed=1)
    given = await Offline(workers.run).generate(request, 1, key="")
    record = await storing.store(image_id, "tenant", request, "offline", given)
    assert record.main_file.sha256 == hashlib.sha256(first).hexdigest()
    assert record.main_file.file_size == len(first)
    workers.close()
    await blobs.close()


async def test_a_folder_moves_into_a_bucket(tmp_path: Path) -> None:
    """Names are the same in both: once its files are copied, the gateway serves them from there."""
    import obstore
    from obstore.store import from_url

    async with running_gateway(tmp_path) as running, running.client() as client:
        info = await client.image.generate_url_with_info("a pond", width=64, height=64)
    store, images = from_url(URL, client_options={"allow_http": True}), tmp_path / "images"
    (file,) = [path for path in images.rglob("*") if path.is_file()]
    await asyncio.to_thread(obstore.put, store, f"images/{file.relative_to(images)}", file.read_bytes())
    file.unlink()
    async with (
        running_gateway(tmp_path, blobs=URL) as running,
        aiohttp.ClientSession(running.base_url) as http,
    ):
        async with http.get(f"/image/{info.id}") as served:
            assert hashlib.sha256(await served.read()).hexdigest() == info.sha256

"""A gateway whose pictures are in a bucket answers as one with a folder does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests import stores
from tests.conftest import KEY, running_gateway

AUTH = {"Authorization": f"Bearer {KEY}"}
URL = f"s3://{stores.BUCKET}/pictures"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with stores.moto() as endpoint:
        yield endpoint


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

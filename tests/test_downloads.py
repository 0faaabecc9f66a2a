"""Pictures as files: ``client.image.download()`` and ``save()``."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from blossom_async import BlossomClient, Gone, ImageInfo, InvalidRequest, TransportError
from tests.conftest import RunningGateway

Gateway = AbstractAsyncContextManager[RunningGateway]
TINY: dict[str, Any] = {"width": 32, "height": 32}


def is_of(path: Path, info: ImageInfo) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == info.sha256


async def test_a_picture_is_downloaded_to_a_path_or_into_a_folder(gateway: Gateway, tmp_path: Path) -> None:
    """Also one that viewers may not see. A file with other bytes is replaced."""
    async with gateway as running, running.client() as client:
        info = await client.image.generate_url_with_info("a lake", ip_whitelist=["192.0.2.1"], **TINY)
        (target := tmp_path / "lake.png").write_bytes(b"something else")
        assert await client.image.download(info.url, target) == target
        assert is_of(target, info)
        assert await client.image.download(info.id, str(tmp_path)) == tmp_path / f"{info.id}.png"
        with pytest.raises(FileNotFoundError):
            await client.image.download(info.url, tmp_path / "missing" / "lake.png")
        with pytest.raises(InvalidRequest):
            await client.image.download("https://example.com/cat.png", target)
        await client.image.delete(info.url)
        with pytest.raises(Gone):
            await client.image.download(info.url, target)
    left = {entry.name for entry in os.scandir(tmp_path)}
    assert left == {"data", "lake.png", f"{info.id}.png"}


@pytest.mark.parametrize("file_format", ["auto", "jpg"])
async def test_a_batch_is_saved_and_resumed(gateway: Gateway, tmp_path: Path, file_format: str) -> None:
    """In input order; what failed has no file, and what is there and sound is not fetched again."""
    folder = tmp_path / "some" / "pictures"
    async with gateway as running, running.client() as client:
        prompts = ["a lake", "", "a hill", "a town"]
        batch = await client.image.generate_urls_batch(prompts, format=file_format, **TINY)
        saved = await client.image.save(batch, folder)
        infos = [info for info in batch.infos if info is not None]
        assert len(saved) == len(infos) == 3
        for path, info in zip(saved, infos, strict=True):
            assert path is not None
            assert path.stem == info.id
            assert is_of(path, info)
        sound, broken, missing = map(Path.stat, filter(None, saved))
        first, second, third = filter(None, saved)
        second.write_bytes(b"x" * broken.st_size)
        third.unlink()
        assert list(await client.image.save(infos, folder)) == list(saved)
        assert first.stat().st_ino == sound.st_ino
        assert all(is_of(path, info) for path, info in zip((first, second, third), infos, strict=True))
        await client.image.delete(infos[1].url)
        second.unlink()
        again = await client.image.save(batch, folder)
    assert [path is not None for path in again] == [True, False, True]
    assert isinstance(again.failures[0].error, Gone)
    assert missing.st_size == third.stat().st_size


async def test_urls_and_ids_are_saved(gateway: Gateway, tmp_path: Path) -> None:
    """As a batch gives them, with None for what failed; one that is no picture affects no other."""
    async with gateway as running, running.client() as client:
        batch = await client.image.generate_urls_batch(["a lake", "", "a hill"], **TINY)
        made = [info for info in batch.infos if info is not None]
        saved = await client.image.save([*batch, made[0].id, "https://example.org/"], tmp_path)
        with pytest.raises(InvalidRequest, match=r"download\(\) takes one"):
            await client.image.save(made[0].url, tmp_path)
    assert [path and path.stem for path in saved] == [made[0].id, made[1].id, made[0].id, None]
    assert isinstance(saved.failures[0].error, InvalidRequest)


async def test_a_deferred_batch_is_saved_once_it_is_there(gateway: Gateway, tmp_path: Path) -> None:
    """Its infos were told before the pictures were made."""
    async with gateway as running, running.client() as client:
        batch = await client.image.generate_urls_batch(["a lake", "a hill"], defer=True, **TINY)
        for info in filter(None, batch.infos):
            await client.image.wait(info.id)
        saved = await client.image.save(batch, tmp_path)
    assert [path is not None and path.stat().st_size > 0 for path in saved] == [True, True]


async def test_what_is_no_file_is_not_replaced(gateway: Gateway, tmp_path: Path) -> None:
    """Such as a pipe, or a device."""
    os.mkfifo(pipe := tmp_path / "pipe")
    async with gateway as running, running.client() as client:
        url = await client.image.generate_url("a lake", **TINY)
        with pytest.raises(FileExistsError, match="is not a file"):
            await client.image.download(url, pipe)
        with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*none'"):
            await client.image.download(url, tmp_path / "none" / "lake.png")
    assert pipe.is_fifo()


async def test_bytes_that_changed_on_their_way_are_not_written(gateway: Gateway, tmp_path: Path) -> None:
    """A proxy that breaks a file is told from the gateway that has it."""
    async with gateway as running, running.client() as client:
        info = await client.image.generate_url_with_info("a lake", **TINY)

    async def answer(http: web.Request) -> web.Response:
        if http.path == "/healthz":
            return web.json_response({"service": "blossom"})
        if http.path.endswith("/file"):
            return web.Response(body=b"x" * info.file_size, content_type="image/png")
        return web.Response(body=info.to_json(), content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with (
        TestServer(app) as server,
        BlossomClient(str(server.make_url("")), api_key="k", retry=None) as client,
    ):
        with pytest.raises(TransportError, match="changed on their way; nothing was written"):
            await client.image.download(info.url, tmp_path / "lake.png")
    assert not (tmp_path / "lake.png").exists()

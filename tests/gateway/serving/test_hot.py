"""Which pictures stay in memory."""

from __future__ import annotations

from pathlib import Path

from blossom_async.gateway.serving.hot import HotBytes
from blossom_async.gateway.storage.folder import LocalBlobs
from blossom_async.gateway.storage.records import StoredFile

IDS = [f"{letter}{'0' * 21}" for letter in "abcdefghijk"]


def a_file(size: int) -> StoredFile:
    return StoredFile(format="png", sha256="", file_size=size)


async def test_a_large_picture_pushes_no_others_out(tmp_path: Path) -> None:
    """One of more than an eighth of the memory is always read from its file."""
    blobs = LocalBlobs(tmp_path)
    await blobs.open()
    hot = HotBytes(blobs, capacity=800)
    for image_id, size in zip(IDS, [*[100] * 8, 101], strict=False):
        await blobs.put(image_id, "png", bytes(size))
        kept = await hot.whole(image_id, a_file(size), wanted=True)
        assert kept == (bytes(size) if size == 100 else None)
    hot.hits = 0
    for image_id in IDS[:8]:
        assert await hot.whole(image_id, a_file(100), wanted=True) == bytes(100)
    assert hot.hits == 8
    await blobs.close()

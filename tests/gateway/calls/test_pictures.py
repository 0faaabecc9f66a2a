"""Stored pictures, as their owner reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from blossom_async.errors import Gone, ServerFailed
from blossom_async.gateway.calls.pictures import Pictures
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.records import ImageRecord
from tests.gateway.making.test_paid import NOW, Paid, house


async def test_a_lost_file_is_said_to_be_lost(tmp_path: Path) -> None:
    """It is no picture that was deleted, unless it was."""
    async with house(tmp_path, Paid()) as rooms:
        record = await rooms.create()
        assert isinstance(record, ImageRecord)
        pictures = Pictures(rooms.records, Lookups(rooms.records), rooms.blobs, now=lambda: NOW)
        assert len(await pictures.read(record)) == record.main_file.file_size
        await rooms.blobs.delete(record.id, record.main_file.format)
        with pytest.raises(ServerFailed, match="are missing"):
            await pictures.read(record)
        await rooms.records.delete(record.id, NOW)
        with pytest.raises(Gone):
            await pictures.read(record)

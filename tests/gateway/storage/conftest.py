"""What the tests of the storage share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blossom_async.gateway.storage.records import Records


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    """An empty database."""
    records = Records(tmp_path / "records.sqlite")
    await records.open()
    yield records
    await records.close()

"""Sessions that several gateways share."""

from __future__ import annotations

from pathlib import Path

from blossom_async.gateway.dashboard.sessions import SharedSessions
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.records import Records
from tests.conftest import KEY


async def test_a_key_that_was_taken_out_of_the_settings_ends_its_sessions(tmp_path: Path) -> None:
    """They are in the database, and outlive the gateway that had the key."""
    records = Records(tmp_path / "records.sqlite")
    await records.open()
    with_key, without = (SharedSessions(Lookups(records), records, keys) for keys in ([KEY], []))
    token = await with_key.begin("main", KEY)
    assert await with_key.tenant(token) == "main"
    assert await without.tenant(token) is None
    assert await with_key.tenant(token) is None  # for good
    await records.close()

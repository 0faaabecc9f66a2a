"""A database on a server that cannot be used is refused in words, before anything is stored."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.storage.records import Records


def said(url: str, statement: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


async def test_a_read_only_server_is_refused(postgres_url: str) -> None:
    """As a replica is; the primary has another address."""
    name = postgres_url.partition("?")[0].rpartition("/")[2]
    said(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(ConfigurationError, match=r"is read-only\. Name the primary server"):
        await Records(postgres_url).open()


async def test_a_newer_versions_database_is_refused(postgres_url: str) -> None:
    """Those that are running go on with it; an older version does not start on it."""
    said(postgres_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match=r"has schema '9999'.*Update blossom-async"):
        await Records(postgres_url).open()

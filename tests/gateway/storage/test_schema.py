"""The schema: a new database is the one that all steps together build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from blossom_async.gateway.storage.records.schema import create, upgrade
from tests.postgres import VERSIONS, Servers
from tests.thorough import thoroughly

_UNCOMPRESSED = sa.text("SELECT attrelid::regclass::text, attname FROM pg_attribute WHERE attstorage = 'e' "
                        "AND attrelid::regclass::text IN (SELECT tablename FROM pg_tables)")  # fmt: skip
_TRIGGERS = {
    "sqlite": sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"),
    "postgresql": sa.text("SELECT pg_get_triggerdef(pg_trigger.oid), prosrc FROM pg_trigger "
                          "JOIN pg_proc ON tgfoid = pg_proc.oid WHERE NOT tgisinternal ORDER BY tgname"),
}  # fmt: skip


def plain(value: Any) -> Any:
    """What an inspector found, so that it can be compared."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return str(value)


def built(url: str, how: Callable[[sa.Connection], None]) -> dict[str, Any]:
    """What a database has in its tables, and of them, once they were built this way."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        how(connection)
        seen, tables = sa.inspect(connection), sa.MetaData()
        tables.reflect(connection)
        found: dict[str, Any] = {
            name: {
                "columns": {column["name"]: plain(column) for column in seen.get_columns(name)},
                "key": seen.get_pk_constraint(name)["constrained_columns"],
                "indexes": {index["name"]: plain(index) for index in seen.get_indexes(name)},
                "unique": seen.get_unique_constraints(name),
                "checks": seen.get_check_constraints(name),
                "references": seen.get_foreign_keys(name),
                "rows": connection.execute(sa.select(table)).all(),
            }
            for name, table in tables.tables.items()
        }
        triggers = connection.execute(_TRIGGERS[connection.dialect.name]).all()
        found["triggers"] = {"all": [tuple(trigger) for trigger in triggers]}
        if connection.dialect.name == "postgresql":
            found["storage"] = {"uncompressed": connection.execute(_UNCOMPRESSED).all()}
    engine.dispose()
    return found


@pytest.mark.parametrize("kind", ["sqlite", *thoroughly(*VERSIONS)])
def test_a_new_database_is_as_all_steps_build_it(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Tables, columns, keys, indexes, constraints and first rows."""
    if kind == "sqlite":
        urls = [f"sqlite:///{tmp_path / name}" for name in ("steps", "at_once")]
    else:
        servers: Servers = request.getfixturevalue("postgres_servers")
        urls = [servers.empty(kind), servers.empty(kind)]
    by_steps, at_once = built(urls[0], upgrade), built(urls[1], create)
    assert {"images", "alembic_version", "revision"} <= at_once.keys()
    assert at_once == by_steps
    assert len(at_once["triggers"]["all"]) == 2
    if kind != "sqlite":
        assert at_once["storage"] == {"uncompressed": [("texts", "lines")]}

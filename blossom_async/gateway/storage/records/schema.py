"""Which schema a database has, and the steps to this program's."""

from __future__ import annotations

import sqlalchemy as sa

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.migrations import REVISIONS

__all__ = ["upgrade", "version"]


def version(name: str, connection: sa.Connection) -> str | None:
    """The revision of the database that has this name; None if it is empty.

    Raises ``ConfigurationError`` if a newer version or another program wrote it.
    """
    tables = sa.inspect(connection).get_table_names()
    if not tables:
        return None
    found = None
    if "alembic_version" in tables:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if found not in REVISIONS:
        raise ConfigurationError(
            f"The {name} has schema {found!r}, this program knows {', '.join(REVISIONS)}: a newer version or "
            "another program wrote it. Update blossom-async, or choose another place."
        )
    return str(found)


def upgrade(connection: sa.Connection) -> None:
    """Runs the steps that are missing, in the transaction of the connection."""
    # Imported here: it takes 100 ms, and an up-to-date database does not need it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "blossom_async.gateway:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")

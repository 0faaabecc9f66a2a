"""Access to a gateway's settings and database, whether or not the gateway runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from blossom_async.errors import ConfigurationError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from blossom_async.gateway.settings import Settings
    from blossom_async.gateway.storage.records import Records

__all__ = ["asked", "changed", "folder_options", "folder_settings"]

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


def folder_options(command: Command) -> Command:
    """Adds the options that name the data folder."""
    config = click.option(
        "--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings as TOML, section blossom."
    )
    folder = click.option(
        "--data-dir", type=click.Path(path_type=Path), metavar="FOLDER", help="The gateway's data folder."
    )
    return folder(config(command))


def folder_settings(data_dir: Path | None, config: Path | None) -> Settings:
    """The gateway's settings. Raises ``ConfigurationError``."""
    try:
        from blossom_async.gateway.settings import load
    except ImportError as exc:
        raise ConfigurationError(
            "the gateway is not installed; pip install '.[gateway]' in the checkout"
        ) from exc
    return load(config, data_dir=data_dir)


def changed(settings: Settings, change: Callable[[sa.Connection], T]) -> T:
    """Runs a change of the database and returns its result. Raises as ``Records``."""
    return asyncio.run(_opened(settings, lambda records: records.write(change)))


def asked(settings: Settings, question: Callable[[sa.Connection], T]) -> T:
    """Runs a query and returns its result. Raises as ``Records``."""
    return asyncio.run(_opened(settings, lambda records: records.study(question)))


async def _opened(settings: Settings, use: Callable[[Records], Awaitable[T]]) -> T:
    from blossom_async.gateway.storage.records import Records

    records = Records(settings.database)
    await records.open()
    try:
        return await use(records)
    finally:
        await records.close()

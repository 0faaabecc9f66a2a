"""``blossom migrate``: moves a gateway from its data folder to PostgreSQL and a bucket."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from blossom_async.cli.folder import folder_options, folder_settings
from blossom_async.cli.options import help_settings
from blossom_async.cli.words import CannotStart, duration, plural, say

if TYPE_CHECKING:
    import sqlalchemy as sa

    from blossom_async.gateway.moving import Copied
    from blossom_async.gateway.settings import Settings

__all__ = ["migrate"]

_SHOWN = 5  # ids in a line


@click.command("migrate", cls=click.RichCommand, context_settings=help_settings)
@click.option(
    "--to",
    "database_url",
    required=True,
    metavar="URL",
    help="An empty database: postgresql+psycopg://user@host/name. A password in PGPASSWORD or ~/.pgpass "
    "is not seen by other users of the machine.",
)
@click.option(
    "--blobs",
    metavar="URL",
    help="Where the pictures go: s3://bucket/prefix, gs:// or az://; by default they stay where they are.",
)
@folder_options
def migrate(database_url: str, blobs: str | None, data_dir: Path | None, config: Path | None) -> int:
    """Move a gateway from its data folder to PostgreSQL, and its pictures to a bucket.

    Stop the gateway first. Nothing changes in the data folder. If the command is interrupted, run it again:
    it copies what is missing. At the end it compares both databases and says what to do next.
    """
    import attrs

    from blossom_async.cli.loop import run

    source = folder_settings(data_dir, config)
    if source.database_url is not None:
        raise CannotStart("database_url is set, and a data folder can be moved; unset BLOSSOM_DATABASE_URL")
    from blossom_async.gateway.moving import copy_rows, held_source
    from blossom_async.gateway.storage.records.store import postgres

    stand_in = source.signing_secrets or ("-",)  # the gateway will need its own; here nothing is signed
    target = attrs.evolve(
        source, database_url=database_url, blobs=blobs or source.blobs, signing_secrets=stand_in
    )
    began = time.monotonic()
    with held_source(source.data_dir) as connection:
        missing = _told(run(_copied(connection, source, target))) if target.blobs != source.blobs else 0
        counts = copy_rows(connection, postgres(database_url))
    took = duration(time.monotonic() - began)
    rows = f"{plural(sum(counts.values()), 'row')}, {counts['images']:,} of pictures"
    say(f"{rows}: number and digest of every table agree ({took})")
    _say_next(source, moved_blobs=target.blobs != source.blobs)
    return 1 if missing else 0


async def _copied(connection: sa.Connection, source: Settings, target: Settings) -> Copied:
    from blossom_async.gateway.making.places import places
    from blossom_async.gateway.moving import copy_files, copy_staged

    async with AsyncExitStack() as opened:
        old, new = (places(settings.blobs, settings.data_dir) for settings in (source, target))
        for place in (*old, *new):
            opened.push_async_callback(place.close)
            await place.open()
        told = await copy_files(connection, old[0], new[0])
        staged = await copy_staged(old[1], new[1])
        if staged:
            say(f"{plural(staged, 'answer')} of providers that are no pictures yet")
        return told


def _told(files: Copied) -> int:
    """Says what became of the files; returns how many pictures lack one."""
    say(f"{plural(files.copied, 'file')} copied, {files.there:,} were there already")
    for ids, what in (
        (files.missing, "lost before the move, whose URLs answer 500 as they did"),
        (files.damaged, "damaged before the move, copied all the same"),
    ):
        if ids:
            more = "" if len(ids) <= _SHOWN else f" and {len(ids) - _SHOWN:,} more"
            say(f"{plural(len(ids), 'file')} {what}: {', '.join(ids[:_SHOWN])}{more}")
    return len(files.missing)


def _say_next(source: Settings, *, moved_blobs: bool) -> None:
    if source.signing_secrets:
        secrets = "the BLOSSOM_SIGNING_SECRETS of before"
    else:
        secrets = (
            f"the lines of {source.data_dir / 'signing_secrets'} as BLOSSOM_SIGNING_SECRETS, "
            "separated by commas"
        )
    where = "BLOSSOM_DATABASE_URL and BLOSSOM_BLOBS" if moved_blobs else "BLOSSOM_DATABASE_URL"
    say(f"next: start the gateways with {where} set to the new places, and {secrets}")
    say(
        f"do not start a gateway on {source.data_dir} without them: it would not know what the new ones do. "
        "Keep the folder as a backup until you trust them"
    )

"""Moves a gateway from its data folder to PostgreSQL, and its pictures to another place if that is wanted.

Nothing changes at the source. Its database is locked meanwhile, so that no gateway writes there. Files come
first and rows after them, all in one transaction: whenever this is interrupted, the new database is as empty
as before, and the next run finds the files that are there already.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import sqlalchemy as sa

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.making.failpoints import reached
from blossom_async.gateway.making.storing import headers_of
from blossom_async.gateway.migrations import HEAD
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.owners import anyone_lives
from blossom_async.gateway.storage.records import METADATA, StoredFile
from blossom_async.gateway.storage.records.images import record
from blossom_async.gateway.storage.records.schema import version
from blossom_async.gateway.storage.records.sqlite import Sqlite
from blossom_async.gateway.storage.records.tables import images, owners, revision, variants
from blossom_async.models import CONTENT_TYPES

if TYPE_CHECKING:
    from blossom_async.gateway.storage.records.postgres import Postgres

__all__ = ["Copied", "copy_files", "copy_rows", "copy_staged", "held_source"]

_AT_ONCE = 16  # files
_BATCH = 1000  # rows
_TABLES = [table for table in METADATA.sorted_tables if table is not owners]
_BITS = 128


@attrs.define
class Copied:
    """What became of the files."""

    copied: int = 0
    there: int = 0
    """Copied by an earlier run."""
    missing: list[str] = attrs.field(factory=list)
    """Pictures with a file that the source has lost."""
    damaged: list[str] = attrs.field(factory=list)
    """Pictures with a file that is not the one that was stored; it was copied as it is."""


@contextmanager
def held_source(data_dir: Path) -> Iterator[sa.Connection]:
    """The database of a data folder, in a transaction in which nobody else writes to it.

    Raises ``ConfigurationError`` if a gateway runs on it, and if it is not of this program's version.
    """
    path = data_dir / "records.sqlite"
    if not path.exists():
        raise ConfigurationError(f"There is no database in {data_dir}. Name the data folder of a gateway.")
    database = Sqlite(path)
    try:
        with database.writing.begin() as connection:
            found = version(f"database {path}", connection)
            if found != HEAD:
                raise ConfigurationError(
                    f"The database {path} has schema {found}, and {HEAD} can be moved. Start a gateway of "
                    "this version on the data folder and stop it, then try again."
                )
            _check_alone(data_dir)
            yield connection
            _check_alone(data_dir)
    except sa.exc.DBAPIError as exc:
        raise ConfigurationError(
            f"The database {path} cannot be read ({exc.orig}). Stop what uses it, then try again."
        ) from exc
    finally:
        database.writing.dispose()
        database.reading.dispose()


def _check_alone(data_dir: Path) -> None:
    if anyone_lives(data_dir / "owners"):
        raise ConfigurationError(
            f"A gateway runs on {data_dir}: what it makes now would be left behind. Stop it, then try again."
        )


async def copy_files(source: sa.Connection, blobs: Blobs, target: Blobs) -> Copied:
    """Copies the files of all pictures, except those that are there. Raises as ``Blobs``."""
    told = Copied()
    files = _files(source)

    async def work() -> None:
        for image_id, file, headers in files:
            if await _size(target, image_id, file.format) == file.file_size:
                told.there += 1
                continue
            try:
                data = await blobs.read(image_id, file.format)
            except FileNotFoundError:
                told.missing.append(image_id)
                continue
            if hashlib.sha256(data).hexdigest() != file.sha256:
                told.damaged.append(image_id)
            await _put(target, image_id, file.format, data, headers)
            told.copied += 1
            reached("file")

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())
    return told


async def copy_staged(staging: Blobs, target: Blobs) -> int:
    """Copies answers that were paid for and are no pictures yet; returns how many there are."""
    count = 0
    for folder in await staging.folders():
        for image_id, extension in await staging.files_before(folder, datetime.max.replace(tzinfo=UTC)):
            await _put(target, image_id, extension, await staging.read(image_id, extension), {})
            count += 1
    return count


def copy_rows(source: sa.Connection, database: Postgres) -> dict[str, int]:
    """Copies all rows in one transaction and compares what arrived; returns their number by table.

    Does nothing if exactly these rows are there. Raises ``ConfigurationError`` if other rows are there, or a
    gateway runs on the database.
    """
    database.prepare()
    with database.alone() as target:
        wanted = {table.name: _digest(table, source) for table in _TABLES}
        if any(target.scalar(sa.select(sa.exists().select_from(t))) for t in _TABLES if t is not revision):
            _check_same(wanted, target, "It holds other rows already: name an empty one")
        else:
            target.execute(revision.delete())
            for table in _TABLES:
                for rows in _rows(table, source):
                    target.execute(table.insert(), rows)
            reached("rows")
            _check_same(wanted, target, "Not all rows arrived as they were: this is a fault of the program")
    return {name: count for name, (count, _) in wanted.items()}


def _check_same(wanted: Mapping[str, tuple[int, int]], target: sa.Connection, otherwise: str) -> None:
    for table in _TABLES:
        expected, found = wanted[table.name], _digest(table, target)
        if found != expected:
            counts = f"{expected[0]:,} and {found[0]:,} rows"
            raise ConfigurationError(
                f"The tables {table.name} of the two databases differ ({counts}). {otherwise}."
            )


def _digest(table: sa.Table, connection: sa.Connection) -> tuple[int, int]:
    """The number of rows, and the sum of their hashes: databases sort text in different ways."""
    count = total = 0
    for rows in _rows(table, connection):
        for row in rows:
            # PostgreSQL holds no NUL; see its dumper of text.
            values = [
                v.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(v, str) else v
                for v in row.values()
            ]
            told = orjson.dumps(values, default=bytes.hex)
            total += int.from_bytes(hashlib.blake2b(told, digest_size=_BITS // 8).digest())
            count += 1
    return count, total % 2**_BITS


def _rows(table: sa.Table, connection: sa.Connection) -> Iterator[list[dict[str, Any]]]:
    found = connection.execution_options(yield_per=_BATCH).execute(sa.select(table)).mappings()
    for some in found.partitions():
        yield [dict(row) for row in some]


def _files(source: sa.Connection) -> Iterator[tuple[str, StoredFile, Mapping[str, str]]]:
    """Id, description and headers of every file that a picture has."""
    live = images.c.deleted_at.is_(None) & images.c.swept_at.is_(None)
    for row in source.execution_options(yield_per=_BATCH).execute(sa.select(images).where(live)):
        picture = record(row)
        for file in picture.files:
            yield picture.id, file, headers_of(picture, file)
    smaller = sa.select(variants).join(images, images.c.id == variants.c.image_id).where(live)
    for row in source.execution_options(yield_per=_BATCH).execute(smaller):
        file = StoredFile(format=row.format, sha256=row.sha256, file_size=row.file_size)
        yield row.id, file, {"Content-Type": CONTENT_TYPES[file.format]}


async def _size(blobs: Blobs, image_id: str, extension: str) -> int | None:
    try:
        return await blobs.size(image_id, extension)
    except FileNotFoundError:
        return None


async def _put(target: Blobs, image_id: str, extension: str, data: bytes, headers: Mapping[str, str]) -> None:
    if await target.put(image_id, extension, data, headers=headers) != data:
        raise ConfigurationError(
            f"The new place holds other bytes under the name of {image_id}.{extension}. Name an empty place."
        )

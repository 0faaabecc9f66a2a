"""Upkeep: the files of expired pictures are deleted, their URLs still answer 410, orphans go after a day."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import aiohttp
import attrs
import pytest
import sqlalchemy as sa

from blossom_async.gateway.background.supervisor import Supervisor
from blossom_async.gateway.background.upkeep import ORPHAN_AGE, Upkeep
from blossom_async.gateway.storage.folder import LocalBlobs
from blossom_async.gateway.storage.records import ImageRecord, Records, StoredFile, Variant, variants
from blossom_async.gateway.storage.records.upkeep import expired_unswept, having_files, mark_swept
from tests.conftest import running_gateway
from tests.gateway.storage.test_records import a_record
from tests.waiting import LIMIT_S

HOUR = timedelta(hours=1)


@attrs.define(eq=False)
class House:
    """A data folder with a clock of its own, which begins now: files get the time of the disk."""

    records: Records
    blobs: LocalBlobs
    now: datetime = attrs.Factory(lambda: datetime.now(UTC))

    def upkeep(self) -> Upkeep:
        return Upkeep(self.records, self.blobs, every_s=3600, now=lambda: self.now)

    async def picture(self, *formats: str, **changes: object) -> ImageRecord:
        files = [StoredFile(format=name, sha256="ab" * 32, file_size=5) for name in formats or ("png",)]
        record = a_record(**{"files": tuple(files), "expires_at": self.now + HOUR, **changes})
        for file in files:
            await self.blobs.put(record.id, file.format, b"12345")
        await self.records.add(record)
        return record

    def files(self, record: ImageRecord) -> list[str]:
        there = [file.format for file in record.files if self.blobs.path(record.id, file.format).exists()]
        return sorted(there)

    async def swept_at(self, record: ImageRecord) -> datetime | None:
        known = await self.records.get(record.id)
        assert known is not None
        return known.swept_at


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(Records(tmp_path / "records.sqlite"), LocalBlobs(tmp_path / "images"))
    await house.records.open()
    await house.blobs.open()
    yield house
    await house.records.close()
    await house.blobs.close()


class TestSweep:
    """Files of expired pictures."""

    async def test_every_file_of_an_expired_picture_goes(self, house: House) -> None:
        """And the row says when; the rest of the row stays as it was."""
        record = await house.picture("webp", "png")
        house.now += HOUR
        assert await house.upkeep().sweep() == 1
        assert house.files(record) == []
        assert await house.records.get(record.id) == attrs.evolve(record, swept_at=house.now)

    async def test_its_variants_go_with_it(self, house: House) -> None:
        """Their files and their rows; until then they are no orphans."""
        record = await house.picture()
        file = StoredFile(format="png", sha256="cd" * 32, file_size=3)
        variant = Variant(id=a_record().id, image_id=record.id, width=64, file=file)
        await house.blobs.put(variant.id, "png", b"123")
        await house.records.write(partial(variants.add, variant, house.now))
        assert await house.records.read(partial(having_files, [variant.id, "0" * 22])) == {variant.id}
        house.now += HOUR
        assert await house.upkeep().sweep() == 1
        assert not house.blobs.path(variant.id, "png").exists()
        assert await house.records.read(partial(variants.find, record.id, 64, "png")) is None

    async def test_what_has_not_expired_stays(self, house: House) -> None:
        """To the microsecond; and what never expires, for good."""
        soon = await house.picture()
        never = await house.picture(expires_at=None)
        house.now += HOUR - timedelta(microseconds=1)
        assert await house.upkeep().sweep() == 0
        assert house.files(soon) == house.files(never) == ["png"]

    async def test_each_is_swept_once(self, house: House) -> None:
        """A second sweep has nothing to do and changes nothing."""
        record = await house.picture()
        first = house.now = house.now + HOUR
        upkeep = house.upkeep()
        await upkeep.sweep()
        house.now += HOUR
        assert await upkeep.sweep() == 0
        assert await house.swept_at(record) == first

    async def test_more_than_one_step(self, house: House) -> None:
        """All of them, however many expired at the same moment."""
        records = [await house.picture() for _ in range(3)]
        house.now += HOUR
        parts = []
        last = None
        while part := await house.records.read(partial(expired_unswept, house.now, last, 2)):
            parts.append({record.id for record in part})
            last = part[-1]
        assert [len(part) for part in parts] == [2, 1]
        assert set.union(*parts) == {record.id for record in records}

    async def test_killed_between_file_and_row(self, house: House) -> None:
        """The file goes first: the next sweep finds none, and marks the row."""
        record = await house.picture()
        house.now += HOUR
        await house.blobs.delete(record.id, "png")
        assert await house.upkeep().sweep() == 1
        assert await house.swept_at(record) == house.now

    async def test_a_file_that_cannot_be_removed_holds_up_no_other(
        self, house: House, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is tried again the next time, and said."""
        stuck, other = await house.picture(), await house.picture()
        path = house.blobs.path(stuck.id, "png")
        path.unlink()
        path.mkdir()  # even root cannot unlink a folder
        house.now += HOUR
        upkeep = house.upkeep()
        assert await upkeep.sweep() == 1
        assert "the files of an expired picture cannot be removed yet" in caplog.text
        assert stuck.id not in caplog.text
        assert (await house.swept_at(stuck), house.files(other)) == (None, [])
        path.rmdir()
        assert await upkeep.sweep() == 1

    async def test_a_deleted_one_is_left_alone(self, house: House) -> None:
        """Its files went with it."""
        record = await house.picture()
        await house.records.delete(record.id, house.now)
        house.now += HOUR
        assert await house.upkeep().sweep() == 0
        assert await house.swept_at(record) is None

    async def test_the_database_finds_them_by_an_index(self, house: House) -> None:
        """What was swept long ago costs nothing."""

        def plan(connection: sa.Connection) -> str:
            asked: list[str] = []

            def listen(_c: object, _cursor: object, statement: str, *_: object) -> None:
                asked.append(statement)

            sa.event.listen(connection, "before_cursor_execute", listen)
            expired_unswept(house.now, None, 10, connection)
            sa.event.remove(connection, "before_cursor_execute", listen)
            explained = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[0]}", (0, 10, 0))
            return str(explained.all())

        assert "images_by_expiry" in await house.records.read(plan)


class TestOrphans:
    """Files that no picture has."""

    async def orphan(self, house: House) -> Path:
        record = a_record()
        await house.blobs.put(record.id, "png", b"12345")
        return house.blobs.path(record.id, "png")

    async def test_an_old_one_goes(self, house: House) -> None:
        """Once it is older than a day."""
        path = await self.orphan(house)
        house.now = datetime.fromtimestamp(path.stat().st_ctime, UTC) + ORPHAN_AGE - timedelta(milliseconds=1)
        assert await house.upkeep().clear_orphans() == 0
        house.now += timedelta(milliseconds=2)
        assert await house.upkeep().clear_orphans() == 1
        assert not path.exists()

    async def test_one_that_was_put_back_is_not_old(self, house: House) -> None:
        """A file from a backup has its old time; what counts is when it came here."""
        path = await self.orphan(house)
        os.utime(path, (0, 0))
        assert await house.upkeep().clear_orphans() == 0
        assert path.exists()

    @pytest.mark.parametrize("ahead", [timedelta(hours=1), 2 * ORPHAN_AGE])
    async def test_a_clock_set_ahead_makes_no_file_old(self, house: House, ahead: timedelta) -> None:
        """A picture that is being stored would lose its file."""
        seconds = 0.0
        upkeep = Upkeep(
            house.records, house.blobs, every_s=3600, now=lambda: house.now, clock=lambda: seconds
        )
        await upkeep.clear_orphans()
        path = await self.orphan(house)
        house.now += ahead
        assert await upkeep.clear_orphans() == 0
        house.now -= ahead
        assert await upkeep.clear_orphans() == 0
        house.now += 2 * ORPHAN_AGE
        seconds += 2 * ORPHAN_AGE.total_seconds()
        assert await upkeep.clear_orphans() == 1
        assert not path.exists()

    async def test_pictures_keep_their_files(self, house: House) -> None:
        """However old they are."""
        record = await house.picture(expires_at=None)
        house.now += 1000 * ORPHAN_AGE
        assert await house.upkeep().clear_orphans() == 0
        assert house.files(record) == ["png"]

    async def test_what_a_killed_delete_left_goes(self, house: House) -> None:
        """A deleted picture has no files: the row went first."""
        record = await house.picture()
        await house.records.delete(record.id, house.now)
        house.now += 2 * ORPHAN_AGE
        assert await house.upkeep().clear_orphans() == 1
        assert house.files(record) == []

    async def test_what_came_back_after_a_sweep_goes(self, house: House) -> None:
        """A swept picture has none either."""
        record = await house.picture()
        await house.records.write(partial(mark_swept, [record.id], house.now))
        house.now += 2 * ORPHAN_AGE
        assert await house.upkeep().clear_orphans() == 1

    async def test_other_files_are_not_ours_to_remove(self, house: House, tmp_path: Path) -> None:
        """Only what has the name of a picture."""
        path = await self.orphan(house)
        strangers = [path.with_name(name) for name in ("notes.txt", f"{path.stem}.gif", f".{path.name}.part")]
        for stranger in strangers:
            stranger.touch()
        house.now += 2 * ORPHAN_AGE
        assert await house.upkeep().clear_orphans() == 1
        assert all(stranger.exists() for stranger in strangers)

    async def test_every_folder_has_its_turn(self, house: House) -> None:
        """In steps, of which sixty are a round."""
        paths = [await self.orphan(house) for _ in range(100)]
        house.now += 2 * ORPHAN_AGE
        upkeep = house.upkeep()
        removed = [await upkeep.clear_orphans() for _ in range(60)]
        assert max(removed) < 50
        assert not [path for path in paths if path.exists()]
        assert upkeep.orphans == sum(removed) == 100


class TestTask:
    """The task that does it."""

    async def test_it_goes_on_after_a_failure(self, house: House, caplog: pytest.LogCaptureFixture) -> None:
        """A database that cannot be read is said, and tried again."""
        caplog.set_level(logging.WARNING)
        turns = asyncio.Queue[int]()
        numbers = itertools.count()

        def now() -> datetime:
            turns.put_nowait(number := next(numbers))
            if number == 0:
                raise LookupError("a bug")
            return house.now

        upkeep = Upkeep(house.records, house.blobs, every_s=0.001, now=now)
        async with asyncio.timeout(LIMIT_S), Supervisor(restart_s=0.001) as jobs:
            jobs.start("clearing away", upkeep.run)
            while await turns.get() < 3:
                pass
        assert "the job 'clearing away' failed; it starts again in 0.001 s" in caplog.text

    async def test_in_a_gateway_the_url_goes_on_answering_410(self, tmp_path: Path) -> None:
        """A running gateway sweeps by itself; the picture can be made again from its row."""
        async with running_gateway(tmp_path / "data") as there, there.client() as client:
            info = await client.image.generate_url_with_info("a lake", width=32, height=32, seed=7)
            records = Records(there.data_dir / "records.sqlite")
            await records.open()
            expire = sa.text("UPDATE images SET expires_at = created_at + 1")
            await records.write(lambda connection: connection.execute(expire).close())
        async with running_gateway(tmp_path / "data") as there, there.client() as client:
            async with asyncio.timeout(LIMIT_S):
                while (await records.get(info.id)).swept_at is None:  # type: ignore[union-attr]
                    pass
            assert list(there.data_dir.rglob("*.png")) == []
            async with aiohttp.ClientSession() as http:
                for method in ("GET", "HEAD"):
                    async with http.request(method, f"{there.base_url}/image/{info.id}") as answer:
                        assert answer.status == 410
            again = await client.image.regenerate_from_url(f"{there.base_url}/image/{info.id}")
            async with aiohttp.ClientSession() as http, http.get(again) as answer:
                assert answer.status == 200
        await records.close()

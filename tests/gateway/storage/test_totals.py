"""Totals that are kept as pictures and views change: always what counting everything would give."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from blossom_async.gateway.storage.records import (
    IdempotencyEntry,
    ImageRecord,
    Records,
    StoredFile,
    overview,
    statistics,
    tables,
)
from blossom_async.gateway.storage.records.tables import campaigns, images, labels, views
from blossom_async.gateway.storage.records.upkeep import mark_swept
from blossom_async.gateway.storage.records.views import campaign_views, counted_anew, store
from blossom_async.models import ImageRequest
from tests.gateway.storage.earlier import taken_back
from tests.gateway.storage.test_records import NOW, a_record
from tests.thorough import thoroughly

SECOND = timedelta(seconds=1)
TENANTS = ("main", "other")


def picture(
    number: int, campaign: str | None, tenant: str = "main", formats: str = "png", **metadata: str
) -> ImageRecord:
    files = [
        StoredFile(format=name, sha256="ab" * 32, file_size=100 + number + at)
        for at, name in enumerate(formats.split())
    ]
    return a_record(
        tenant=tenant,
        request=ImageRequest("a lake", tracking_id=campaign, metadata=metadata),
        created_at=NOW + number * SECOND,
        files=tuple(files),
    )


async def view(records: Records, made: ImageRecord, number: int, day: int = 20_000, who: int = 0) -> None:
    where = (made.tenant, str(made.request.tracking_id), day, made.id)
    seen = {(where, bytes([one] * 32)) for one in (who, who + 1)}
    await records.write(partial(store, {where: (number, 1, 7 * number)}, seen, NOW))


def counted(tenant: str, connection: sa.Connection) -> tuple[object, object]:
    """What the totals must be, from every picture and view there is."""
    live = connection.execute(
        sa.select(images.c.tracking_id, images.c.created_at).where(
            images.c.tenant == tenant, images.c.deleted_at.is_(None)
        )
    ).all()
    files = connection.execute(
        sa.text(
            "SELECT json_extract(value, '$.format'), COUNT(*), SUM(json_extract(value, '$.file_size')) "
            "FROM images, json_each(images.files) "
            "WHERE tenant = :tenant AND deleted_at IS NULL AND swept_at IS NULL GROUP BY 1"
        ),
        {"tenant": tenant},
    ).all()
    found = []
    for name in {row.tracking_id for row in live} - {None}:
        times = [row.created_at for row in live if row.tracking_id == name]
        own = (views.c.tenant == tenant) & (views.c.tracking_id == name)
        seen = connection.scalar(sa.select(sa.func.sum(views.c.views)).where(own)) or 0
        found.append(overview.Campaign(tracking_id=name, pictures=len(times), newest=max(times), views=seen))
    found.sort(key=lambda campaign: campaign.newest, reverse=True)
    return found, {name: (number, size) for name, number, size in files}


async def check(records: Records) -> None:
    for tenant in TENANTS:
        campaigns, files = await records.read(partial(counted, tenant))
        assert await records.read(partial(overview.campaigns, tenant)) == campaigns
        assert await records.read(partial(overview.stored, tenant)) == files
    await check_statistics(records)


async def check_statistics(records: Records) -> None:
    """They are what counting everything gives, on all days and on some."""
    for tenant in TENANTS:
        for campaign in ("spring", "summer"):
            for first, last in ((0, 99_999), (20_001, 20_001), (20_001, 99_999), (3, 4)):
                asked = tenant, campaign, first, last
                told = await records.read(partial(campaign_views, *asked))
                if told is not None:
                    anew = await records.read(partial(counted_anew, *asked))
                    assert (told.days, told.groups) == (anew.days, anew.groups)


async def complete(records: Records) -> None:
    while await records.write(statistics.recount):
        pass
    left = sa.select(campaigns).where(campaigns.c.uncounted_from.is_not(None))
    assert await records.read(lambda connection: connection.execute(left).all()) == []


async def words_in(records: Records) -> set[tuple[str, str]]:
    """The metadata that the totals of campaigns hold."""
    rows = sa.select(labels.c.key, labels.c.value)
    return {(key, value) for key, value in await records.read(lambda one: one.execute(rows).all())}


@pytest.mark.parametrize("seed", thoroughly(0, 1, 2, 3))
async def test_totals_are_what_counting_everything_gives(records: Records, seed: int) -> None:
    """After any order of adding, viewing, sweeping and deleting, one by one and many at once."""
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    made: list[ImageRecord] = []
    for number in range(60):
        step = rng.choice(["add", "add", "view", "view", "sweep", "delete", "many"])
        if step in ("add", "many"):
            some = [
                picture(
                    1000 * number + at,
                    rng.choice([None, "spring", "summer"]),
                    rng.choice(TENANTS),
                    rng.choice(["png", "webp jpg"]),
                    **{key: rng.choice("AB") for key in rng.sample(["variant", "season"], rng.randrange(3))},
                )
                for at in range(5 if step == "many" else 1)
            ]
            await asyncio.gather(*map(records.add, some))
            made += some
        elif made and step == "view":
            one = rng.choice(made)
            if one.request.tracking_id is not None:
                await view(records, one, rng.randrange(1, 9), rng.randrange(20_000, 20_003), rng.randrange(4))
        elif made and step == "sweep":
            some = rng.sample(made, min(3, len(made)))
            await records.write(partial(mark_swept, [one.id for one in some], NOW))
        elif made:
            await records.delete(rng.choice(made).id, NOW)
        if number % 6 == 0:
            await check(records)
    await check(records)
    for one in made:
        await records.delete(one.id, NOW)
    await check(records)
    assert await words_in(records) == set()


async def test_a_picture_that_is_refused_is_not_counted(records: Records) -> None:
    """Two of a group of changes fail: the third counts, and they do not."""
    first, second = picture(1, "spring"), picture(2, "spring")
    await records.add(first, IdempotencyEntry(tenant="main", key="k", fingerprint="f", image_id=first.id))
    again = IdempotencyEntry(tenant="main", key="k", fingerprint="f", image_id=second.id)
    done = await asyncio.gather(
        records.add(first),
        records.add(second, again),
        records.add(picture(3, "summer", formats="webp")),
        return_exceptions=True,
    )
    assert [type(outcome).__name__ for outcome in done] == ["Conflict", "Conflict", "NoneType"]
    await check(records)


async def test_a_campaign_stays_known_without_pictures(records: Records) -> None:
    """It is in no list, and its statistics are still there."""
    one = picture(1, "spring")
    await records.add(one)
    await view(records, one, 3)
    assert await records.delete(one.id, NOW)
    assert await records.read(partial(overview.campaigns, "main")) == []
    known = await records.read(partial(campaign_views, "main", "spring", 0, 99_999))
    assert known is not None
    assert [day[1] for day in known.days] == [3]
    assert await records.read(partial(campaign_views, "main", "autumn", 0, 99_999)) is None


@pytest.mark.parametrize("revision", ["0004", "0016"])
async def test_a_database_of_before_gets_its_totals(tmp_path: Path, revision: str) -> None:
    """The migration and upkeep count once what has gathered; until then answers are right, too."""
    path = tmp_path / "records.sqlite"
    records = Records(path)
    await records.open()
    for number in range(20):
        one = picture(
            number,
            [None, "spring", "summer"][number % 3],
            TENANTS[number % 2],
            "webp jpg",
            variant="AB"[number % 2],
        )
        await records.add(one)
        if number % 3:
            await view(records, one, number, 20_000 + number % 4)
        if number % 5 == 0:
            await records.delete(one.id, NOW)
        if number % 7 == 0:
            await records.write(partial(mark_swept, [one.id], NOW))
    await records.close()
    taken_back(path, revision)
    records = Records(path)
    await records.open()
    await check(records)
    await complete(records)
    await check(records)
    await records.close()


KEPT = (tables.campaign_days, labels, tables.label_days)


async def by_an_earlier_version(records: Records, change: Callable[[], Awaitable[object]]) -> None:
    """Makes a change whose version knows only ``pictures``, ``newest`` and ``views`` of campaigns."""

    def rows(table: sa.Table) -> Callable[[sa.Connection], Sequence[sa.RowMapping]]:
        return lambda connection: connection.execute(sa.select(table)).mappings().all()

    before = {table: await records.read(rows(table)) for table in (*KEPT, campaigns)}
    await change()

    def forget(connection: sa.Connection) -> None:
        changed = campaigns.c.changes != sa.bindparam("before")
        this = (campaigns.c.tenant == sa.bindparam("of")) & (campaigns.c.tracking_id == sa.bindparam("name"))
        for table in KEPT:
            connection.execute(table.delete())
            if before[table]:
                connection.execute(table.insert(), [dict(row) for row in before[table]])
        touched = campaigns.update().where(this, changed)
        for row in before[campaigns]:
            known = {"of": row["tenant"], "name": row["tracking_id"], "before": row["changes"]}
            connection.execute(touched.values(views=campaigns.c.views), known)

    await records.write(forget)


@pytest.mark.parametrize("seed", thoroughly(0, 1))
async def test_what_an_earlier_version_changes_is_counted_anew(
    place: Path | str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on beside this one after the migration: totals are right again once upkeep has passed."""
    records = Records(place)
    await records.open()
    monkeypatch.setattr(statistics, "_ROWS_AT_ONCE", 1)
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    made = [picture(number, "spring", variant="AB"[number % 2], sku=str(number)) for number in range(30)]
    for number, one in enumerate(made):
        earlier = rng.choice(made[: number + 1])
        changes: list[Callable[[], Awaitable[object]]] = [
            partial(records.add, one),
            partial(records.delete, earlier.id, NOW),
            partial(view, records, earlier, 2, 20_000 + number % 3, who=number % 4),
        ]
        change = rng.choice(changes)
        if rng.random() < 0.3:
            await by_an_earlier_version(records, change)
        else:
            await change()
        if rng.random() < 0.5:
            await records.write(statistics.recount)
        await check_statistics(records)
    await complete(records)
    await check_statistics(records)
    await records.close()

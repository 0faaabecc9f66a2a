"""Totals that are kept as pictures and views change: always what counting everything would give."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from blossom_async.gateway.storage.records import IdempotencyEntry, ImageRecord, Records, StoredFile, overview
from blossom_async.gateway.storage.records.tables import images, views
from blossom_async.gateway.storage.records.upkeep import mark_swept
from blossom_async.gateway.storage.records.views import campaign_views, store
from blossom_async.models import ImageRequest
from tests.gateway.storage.earlier import taken_back
from tests.gateway.storage.test_records import NOW, a_record

SECOND = timedelta(seconds=1)
TENANTS = ("main", "other")


def picture(number: int, campaign: str | None, tenant: str = "main", formats: str = "png") -> ImageRecord:
    files = [
        StoredFile(format=name, sha256="ab" * 32, file_size=100 + number + at)
        for at, name in enumerate(formats.split())
    ]
    return a_record(
        tenant=tenant,
        request=ImageRequest("a lake", tracking_id=campaign),
        created_at=NOW + number * SECOND,
        files=tuple(files),
    )


async def view(records: Records, made: ImageRecord, number: int) -> None:
    where = (made.tenant, str(made.request.tracking_id), 20_000, made.id)
    await records.write(partial(store, {where: (number, 0, 0)}, {(where, bytes(32))}, NOW))


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


@pytest.mark.parametrize("seed", range(4))
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
                )
                for at in range(5 if step == "many" else 1)
            ]
            await asyncio.gather(*map(records.add, some))
            made += some
        elif made and step == "view":
            one = rng.choice(made)
            if one.request.tracking_id is not None:
                await view(records, one, rng.randrange(1, 9))
        elif made and step == "sweep":
            some = rng.sample(made, min(3, len(made)))
            await records.write(partial(mark_swept, [one.id for one in some], NOW))
        elif made:
            await records.delete(rng.choice(made).id, NOW)
        if number % 6 == 0:
            await check(records)
    await check(records)


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


async def test_a_database_of_before_gets_its_totals(tmp_path: Path) -> None:
    """The migration counts once what has gathered."""
    path = tmp_path / "records.sqlite"
    records = Records(path)
    await records.open()
    for number in range(20):
        one = picture(number, [None, "spring", "summer"][number % 3], TENANTS[number % 2], "webp jpg")
        await records.add(one)
        if number % 3:
            await view(records, one, number)
        if number % 5 == 0:
            await records.delete(one.id, NOW)
        if number % 7 == 0:
            await records.write(partial(mark_swept, [one.id], NOW))
    await records.close()
    taken_back(path, "0004")
    records = Records(path)
    await records.open()
    await check(records)
    await records.close()

"""What searches look through: packed or not, and in whatever order pictures came, they find the same."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from blossom_async.gateway.storage.records import ImageRecord, Records, overview, tables, texts
from blossom_async.models import ImageRequest
from tests.gateway.storage.earlier import taken_back
from tests.gateway.storage.test_records import NOW, a_record


def picture(number: int, prompt: str, tracking_id: str | None = None, tenant: str = "main") -> ImageRecord:
    return a_record(
        tenant=tenant,
        request=ImageRequest(prompt, tracking_id=tracking_id),
        created_at=NOW + timedelta(seconds=number),
    )


async def found(records: Records, words: str, *, limit: int = 3, oldest: bool = False) -> list[str]:
    """The ids of all pages, in order."""
    ids: list[str] = []
    past = None
    while True:
        page = await records.read(partial(overview.page, "main", words, "", past, limit, NOW, oldest=oldest))
        ids += [known.id for known in page.pictures]
        if page.next is None:
            return ids
        past = page.next


def left_in(folder: Path, word: bytes) -> list[str]:
    return [file.name for file in folder.iterdir() if word in file.read_bytes()]


async def tend(records: Records) -> None:
    while await records.write(texts.add_missing):
        pass
    while await records.read(texts.any_outlived):
        assert await records.write(texts.erase_outlived)


async def lines_in(records: Records) -> list[str]:
    lines = sa.select(tables.texts.c.lines).order_by(tables.texts.c.lines)
    return list(await records.read(lambda connection: connection.scalars(lines).all()))


@pytest.fixture
def packs_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four pictures to a packed row, two rows to a question, and three that are looked at first."""
    monkeypatch.setattr(texts, "_PACKED", 4)
    monkeypatch.setattr(texts, "_LOOKED_AT_FIRST", 3)
    monkeypatch.setattr(texts, "_ROWS_AT_ONCE", 2)


@pytest.mark.usefixtures("packs_of_four")
@pytest.mark.parametrize("seed", range(3))
async def test_a_search_finds_what_reading_everything_finds(records: Records, seed: int) -> None:
    """Pictures come late, are packed and deleted; the newest is first on every page, or the oldest."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    live: list[ImageRecord] = []
    for number in rng.sample(range(40), 40):
        tenant = rng.choice(["main", "main", "other"])
        live.append(
            picture(number // 2, rng.choice(["a Lake", "a hill"]), rng.choice([None, "lake"]), tenant)
        )
        await records.add(live[-1])
        if rng.random() < 0.3:
            await records.write(texts.pack)
        if rng.random() < 0.2:
            gone = live.pop(rng.randrange(len(live)))
            assert await records.delete(gone.id, NOW)
    wanted = [
        known
        for known in live
        if known.tenant == "main" and ("Lake" in known.request.prompt or known.request.tracking_id)
    ]
    wanted.sort(key=lambda known: (known.created_at, known.id), reverse=True)
    ids = [known.id for known in wanted]
    assert await found(records, "LAKE") == ids
    assert await found(records, "LAKE", oldest=True) == ids[::-1]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("Straße am See", "STRASSE"),
        ("100 % cotton_shirt", "% cotton_"),
        ("a lake\nat night", "lake at"),
        ("a lake", "ak"),
    ],
)
async def test_words_are_searched_for_as_they_are(records: Records, prompt: str, words: str) -> None:
    """Case does not count, a line break is a space, and no character is special."""
    await records.add(picture(1, prompt))
    await records.add(picture(2, "something else"))
    assert len(await found(records, words)) == 1


async def test_no_word_reaches_from_a_prompt_into_a_tracking_id(records: Records) -> None:
    """Nor from one picture into the next, nor does a number find ids or times."""
    await records.add(picture(1, "a lake", "spring"))
    for words in ("lake spring", "lakespring", str(NOW.year), "-"):
        assert await found(records, words) == []


@pytest.mark.usefixtures("packs_of_four")
async def test_a_picture_is_erased_from_what_is_packed(records: Records, tmp_path: Path) -> None:
    """Its words are in no file afterwards, and those beside it are still found."""
    made = [picture(number, "a xylophone" if number == 2 else "a lake") for number in range(8)]
    for known in made:
        await records.add(known)
    assert await records.write(texts.pack) == 4
    assert await records.delete(made[2].id, NOW)
    assert len(await found(records, "lake")) == 7
    assert left_in(tmp_path, b"xylophone") == []


async def test_few_or_long_texts(records: Records) -> None:
    """Few are not packed, and a packed row stays short enough to be written anew."""
    for number in range(8):
        await records.add(picture(number, "long " * 6000))
    assert await records.write(texts.pack) == 0
    await asyncio.gather(*(records.add(picture(number, "a lake")) for number in range(8, 2 * 256)))
    assert await records.write(texts.pack) == 3


async def test_a_database_of_before_is_searched(tmp_path: Path) -> None:
    """Upkeep makes what has gathered found, but nothing deleted."""
    path = tmp_path / "records.sqlite"
    records = Records(path)
    await records.open()
    for number in range(5):
        await records.add(picture(number, f"lake {number}"))
    await records.delete((await found(records, "lake 3"))[0], NOW)
    await records.close()
    taken_back(path, "0013")
    records = Records(path)
    await records.open()
    await tend(records)
    assert len(await found(records, "lake")) == 4
    assert len(await lines_in(records)) == 1  # packed
    await records.close()


async def test_what_an_earlier_version_does_beside_this_one_is_made_up_for(place: Path | str) -> None:
    """It goes on after the migration: what it stores is found, and what it deletes is erased."""
    records = Records(place)
    await records.open()
    made = [picture(number, f"lake {number}", tenant="main" if number else "other") for number in range(3)]
    for known in made:
        await records.add(known)
    row, text = tables.images.c, tables.texts.c
    for change in (
        tables.images.update().where(row.id == made[1].id).values(in_texts=False),
        tables.texts.delete().where(text.last_id == made[1].id),
        tables.images.update().where(row.id == made[2].id).values(deleted_at=NOW),
    ):
        await records.write(partial(lambda one, connection: connection.execute(one).rowcount, change))
    for _ in range(2):
        await tend(records)
        assert await lines_in(records) == ["lake 0", "lake 1"]
    await records.close()

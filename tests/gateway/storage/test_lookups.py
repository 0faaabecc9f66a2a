"""What the gateway caches from its database, and for how long."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import Any

import attrs
import pytest

from blossom_async.errors import Overloaded
from blossom_async.gateway.callers.keys import ApiKeys, digest, new_access_id, new_api_key
from blossom_async.gateway.storage.lookups import AWAY_S, RECHECK_S, Lookups
from blossom_async.gateway.storage.records import ApiKey, Caller, ImageRecord, Records
from blossom_async.gateway.storage.records import keys as key_records
from tests.gateway.storage.test_records import NOW, a_record

LATER = datetime(2026, 11, 22, 15, tzinfo=UTC)


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def test_a_picture_is_remembered_for_a_while(records: Records) -> None:
    """Within `RECHECK_S` the database is not asked again."""
    clock = Clock()
    lookups = Lookups(records, clock=clock)
    record = a_record()
    await records.add(record)
    assert lookups.remembered(record.id) is None
    assert await lookups.image(record.id) == record
    assert lookups.remembered(record.id) == record
    clock.seconds += RECHECK_S
    assert lookups.remembered(record.id) is None


async def test_another_process_delete_is_seen_at_the_next_look(records: Records) -> None:
    """A delete this process did not make shows after `RECHECK_S`, which is below the second promised."""
    assert RECHECK_S < 1
    clock = Clock()
    lookups = Lookups(records, clock=clock)
    record = a_record()
    await records.add(record)
    await lookups.image(record.id)
    await records.delete(record.id, LATER)
    clock.seconds += RECHECK_S
    seen = await lookups.image(record.id)
    assert seen is not None
    assert seen.deleted_at == LATER


async def test_a_new_picture_empties_no_memory(records: Records) -> None:
    """Only what takes something away makes the gateway forget."""
    clock = Clock()
    lookups = Lookups(records, clock=clock)
    record = a_record()
    await records.add(record)
    known = await lookups.image(record.id)
    await records.add(a_record())
    clock.seconds += RECHECK_S
    assert await lookups.image(record.id) is known


@pytest.mark.campaign
async def test_a_delete_elsewhere_forgets_that_picture_only(records: Records) -> None:
    """Others stay in memory, however many deletes there are; beyond a thousand all are forgotten."""
    clock = Clock()
    lookups = Lookups(records, clock=clock)
    kept, *gone = (a_record() for _ in range(1100))
    await asyncio.gather(*(records.add(record) for record in (kept, *gone)))
    known = await lookups.image(kept.id)
    await lookups.image(gone[0].id)
    await records.delete(gone[0].id, LATER)
    clock.seconds += RECHECK_S
    assert await lookups.image(kept.id) is known
    seen = await lookups.image(gone[0].id)
    assert seen is not None
    assert seen.deleted_at == LATER
    await asyncio.gather(*(records.delete(record.id, LATER) for record in gone[1:]))
    clock.seconds += RECHECK_S
    again = await lookups.image(kept.id)
    assert again == known
    assert again is not known


async def test_what_was_asked_before_a_delete_is_not_kept_after_it(records: Records) -> None:
    """A look-up under way while `forget` is called answers, and is not remembered."""
    lookups = Lookups(records, clock=Clock())
    record = a_record()
    await records.add(record)
    await lookups.image("first look, for the revision")
    asked = asyncio.create_task(lookups.image(record.id))
    await asyncio.sleep(0)
    lookups.forget()
    assert await asked == record
    assert lookups.remembered(record.id) is None


async def test_many_that_wait_share_one_look(records: Records) -> None:
    """A hundred requests at once read the revision once, and all are answered."""
    clock = Clock()
    lookups = Lookups(records, clock=clock)
    record = a_record()
    await records.add(record)
    reads = 0
    read = records.read

    async def counted(question: object) -> object:
        nonlocal reads
        reads += question is key_records.current_revision
        return await read(question)  # type: ignore[arg-type]

    records.read = counted  # type: ignore[method-assign, assignment]
    found = await asyncio.gather(*(lookups.image(record.id) for _ in range(100)))
    assert found == [record] * 100
    assert reads == 1


async def test_a_caller_that_goes_does_not_take_the_look_with_it(records: Records) -> None:
    """Cancelling the request that caused the look leaves the others their answer."""
    lookups = Lookups(records, clock=Clock())
    record = a_record()
    await records.add(record)
    first = asyncio.create_task(lookups.image(record.id))
    second = asyncio.create_task(lookups.image(record.id))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == record


async def test_no_more_pictures_are_remembered_than_there_is_room_for(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one not used for longest is forgotten first."""
    monkeypatch.setattr("blossom_async.gateway.storage.lookups._PICTURES", 2)
    lookups = Lookups(records, clock=Clock())
    kept: list[ImageRecord] = [a_record() for _ in range(3)]
    for record in kept:
        await records.add(record)
        await lookups.image(record.id)
    assert [lookups.remembered(record.id) is not None for record in kept] == [False, True, True]


async def test_a_revoked_api_key_opens_nothing_after_the_next_look(records: Records) -> None:
    """A key of the database opens its tenant's pictures until it is revoked, in whichever process."""
    clock = Clock()
    keys = ApiKeys(["a-key-of-the-settings"], Lookups(records, clock=clock))
    key = new_api_key()
    shop = ApiKey(name="shop", tenant="shop", digest=digest(key), created_at=NOW)
    await records.write(partial(key_records.add_api_key, shop))
    assert await keys.holder(key) == Caller("shop", "shop")
    assert await keys.holder("a-key-of-the-settings") == Caller("main", "")
    assert await keys.holder(f"{key}x") is None
    assert await records.write(partial(key_records.revoke_api_key, "shop", LATER))
    clock.seconds += RECHECK_S
    assert await keys.holder(key) is None


async def test_an_access_key_keeps_its_id_and_its_end(records: Records) -> None:
    """The same name has the same id for ever; revoked once, it stays revoked with the first time."""

    async def asked() -> tuple[str, datetime | None]:
        question = partial(key_records.access_key, "main", "reader", new_access_id(), NOW)
        known = await records.write(question)
        return known.access_id, known.revoked_at

    (first, live) = await asked()
    assert live is None
    assert await asked() == (first, None)
    for moment in (LATER, datetime(2027, 1, 1, tzinfo=UTC)):
        await records.write(partial(key_records.revoke_access_key, "main", "reader", "x" * 12, moment))
        assert await asked() == (first, LATER)


async def test_a_name_nobody_signed_with_can_be_revoked(records: Records) -> None:
    """Revoking comes first if it must: nothing can be signed under the name later."""
    await records.write(partial(key_records.revoke_access_key, "main", "gone", "g" * 12, LATER))
    known = await records.write(partial(key_records.access_key, "main", "gone", "n" * 12, NOW))
    assert (known.access_id, known.revoked_at) == ("g" * 12, LATER)


async def test_open_pictures_outlast_the_database(records: Records) -> None:
    """For ten minutes; one with rules does not, as nobody can tell whether its keys still hold."""
    clock = Clock()
    lookups = Lookups(records, clock=clock)
    everyones = a_record()
    restricted = attrs.evolve(
        everyones, id="r" * 22, request=attrs.evolve(everyones.request, require_auth=True)
    )
    for record in (everyones, restricted):
        await records.add(record)
        await lookups.image(record.id)

    async def away(_: object) -> object:
        raise Overloaded("the database could not be read")

    records.read = away  # type: ignore[method-assign, assignment]
    clock.seconds += AWAY_S - 1
    assert await lookups.image(everyones.id) == everyones
    assert lookups.remembered(everyones.id) is None
    with pytest.raises(Overloaded):
        await lookups.image(restricted.id)
    lookups.look_again()
    with pytest.raises(Overloaded):
        await lookups.image(everyones.id)


async def test_open_pictures_do_not_outlast_the_database_for_ever(records: Records) -> None:
    """After that time the answer is that of the database, which is none."""
    clock = Clock()
    lookups = Lookups(records, clock=clock)
    record = a_record()
    await records.add(record)
    await lookups.image(record.id)

    async def away(_: object) -> object:
        raise Overloaded("the database could not be read")

    records.read = away  # type: ignore[method-assign, assignment]
    clock.seconds += AWAY_S + 1
    with pytest.raises(Overloaded):
        await lookups.image(record.id)


async def test_a_look_that_was_under_way_when_something_was_deleted_does_not_count(records: Records) -> None:
    """It may have been answered before the delete; if the database then goes away, nobody looks again."""
    lookups = Lookups(records, clock=Clock())
    record = a_record()
    await records.add(record)
    read = records.read

    async def overtaken(question: Any) -> Any:
        answer = await read(question)
        lookups.look_again()
        return answer

    records.read = overtaken  # type: ignore[method-assign]
    await lookups.image(record.id)
    assert lookups.remembered(record.id) is None
    records.read = read  # type: ignore[method-assign]
    await lookups.image(record.id)
    assert lookups.remembered(record.id) == record

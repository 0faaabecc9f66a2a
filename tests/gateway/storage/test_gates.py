"""Start times of shared limits, on each database: none is given out twice, whoever asks."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from blossom_async.batch import GateQuestion, Grant, RateLimit
from blossom_async.batch.start_times import Used
from blossom_async.errors import Rejected
from blossom_async.gateway.storage.records import Records, gates
from blossom_async.gateway.storage.records.tables import gates as rows

LIMIT = RateLimit(1000)


async def taken(records: Records, want: int, *, tenant: str = "a", name: str = "paint") -> Grant:
    return await records.write_apart(partial(gates.take, tenant, GateQuestion(name, LIMIT, want, 0.02)))


async def told(records: Records, limit: RateLimit, *used: Used, want: int = 7) -> Grant:
    question = GateQuestion("paint", limit, want, 0.02, used=used)
    return await records.write_apart(partial(gates.take_and_tell, "", question))


def times(granted: Grant) -> list[float]:
    return [granted.first + number * granted.step for number in range(granted.number)]


async def test_askers_at_the_same_time_share_one_row(place: Path | str) -> None:
    """Two processes' worth of connections; each start time is a step after the one before."""
    one, other = Records(place), Records(place)
    await one.open()
    await other.open()
    granted = await asyncio.gather(*(taken(records, 7) for _ in range(40) for records in (one, other)))
    given = sorted(itertools.chain.from_iterable(map(times, granted)))
    assert len(given) == 7 * 80
    assert all(b - a >= 1.02 / 1000 - 1e-6 for a, b in itertools.pairwise(given))
    await other.close()
    await one.close()


async def test_askers_who_tell_share_one_row(place: Path | str) -> None:
    """Each start time is for one of them."""
    one, other = Records(place), Records(place)
    await one.open()
    await other.open()
    granted = await asyncio.gather(*(told(records, LIMIT) for _ in range(10) for records in (one, other)))
    given = sorted(itertools.chain.from_iterable(grant.starts for grant in granted))
    assert len(given) == 7 * 20
    assert all(b - a >= 0.5 / 1000 - 1e-6 for a, b in itertools.pairwise(given))
    await other.close()
    await one.close()


async def test_a_start_that_is_told_counts_from_then_and_not_from_the_latest_time(place: Path | str) -> None:
    """Whichever process asks next, also after the one that was told has ended."""
    limit = RateLimit(1, per_s=60)
    records = Records(place)
    await records.open()
    (start,) = (await told(records, limit)).starts
    unknown = await told(records, limit)
    assert unknown.number == 0
    assert unknown.first > start + 61
    await told(records, limit, (start, 0.25))
    await records.close()
    records = Records(place)
    await records.open()
    assert (await told(records, limit)).first == pytest.approx(start + 60.6 + 0.25, abs=1e-5)
    await records.close()


async def test_who_tells_and_who_does_not_keep_one_limit(place: Path | str) -> None:
    """As gateways of two versions during an upgrade: neither starts before the other's starts are over."""
    limit = RateLimit(10, per_s=60)
    records = Records(place)
    await records.open()
    taking = partial(gates.take, "", GateQuestion("paint", limit, 1, 0.02))
    first = await records.write_apart(taking)
    later = await told(records, limit)
    assert (first.number, later.number) == (1, 0)
    assert later.first > first.first + 6
    assert (await records.write_apart(taking)).first > later.now + 60
    await records.close()


async def test_a_limit_is_its_tenants_own_and_outlives_the_process(place: Path | str) -> None:
    """Another tenant has one of the same name; a new process goes on where the one before ended."""
    records = Records(place)
    await records.open()
    ours = await taken(records, 800)
    theirs = await taken(records, 1, tenant="b")
    assert theirs.first < ours.first + 0.5
    await records.close()
    records = Records(place)
    await records.open()
    more = await taken(records, 1)
    assert more.first >= times(ours)[-1] + ours.step - 1e-6
    await records.close()


async def test_a_pause_holds_for_all_who_ask(place: Path | str) -> None:
    """Whoever asks next is told when it ends."""
    records = Records(place)
    await records.open()
    pausing = partial(gates.take, "a", GateQuestion("paint", LIMIT, 0, 0.02, pause_s=30.0))
    paused = await records.write_apart(pausing)
    found = await taken(records, 5)
    assert found.number == 0
    assert found.first == pytest.approx(paused.now + 30, abs=1e-6)
    await records.close()


async def test_a_tenant_has_a_bounded_number_of_limits_in_use(
    place: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says nothing any more makes room."""
    monkeypatch.setattr(gates, "MOST_GATES", 3)
    records = Records(place)
    await records.open()
    for name in "abc":
        await taken(records, 1, name=name)
    with pytest.raises(Rejected, match="too_many_gates"):
        await taken(records, 1, name="d")
    await taken(records, 1, name="d", tenant="other")
    await records.write(lambda connection: connection.execute(sa.update(rows).values(idle_at=1.0)))
    assert (await taken(records, 1, name="d")).number == 1
    await records.close()

"""What each API key has spent a day: always what counting its attempts would give."""

from __future__ import annotations

import operator
import random
from functools import partial
from pathlib import Path

import attrs
import pytest
import sqlalchemy as sa

from blossom_async.errors import PaymentRequired
from blossom_async.gateway.storage.records import AttemptOutcome, Records
from blossom_async.gateway.storage.records import calls as statements
from blossom_async.gateway.storage.records.tables import attempts, spending, spending_by_provider
from tests.gateway.storage.earlier import taken_back
from tests.gateway.storage.test_claims import ATTEMPT, CLAIM, NOW

Kept = dict[tuple[str, int], tuple[int, int]]


def kept(connection: sa.Connection) -> Kept:
    return {
        (row.payer, row.day): (row.reserved, row.spent) for row in connection.execute(sa.select(spending))
    }


def counted(connection: sa.Connection) -> Kept:
    """What the rows must be, from every attempt there is."""
    days: Kept = {}
    for row in connection.execute(sa.select(attempts)):
        reserved, spent = days.get((row.payer, row.day), (0, 0))
        if row.outcome in statements.OPEN:
            reserved += row.reserved
        else:
            spent += row.spent
        days[row.payer, row.day] = reserved, spent
    return days


def by_provider(connection: sa.Connection) -> set[tuple[object, ...]]:
    return {tuple(row) for row in connection.execute(sa.select(spending_by_provider))}


def counted_by_provider(connection: sa.Connection) -> set[tuple[object, ...]]:
    sums: dict[tuple[int, str, str], list[int]] = {}
    for row in connection.execute(sa.select(attempts).where(attempts.c.outcome.not_in(statements.OPEN))):
        found = sums.setdefault((row.day, row.payer, row.provider), [0, 0, 0, 0])
        new = 1, row.outcome == AttemptOutcome.OK, row.spent, not row.priced
        found[:] = map(operator.add, found, new)
    return {(*key, *values) for key, values in sums.items()}


async def paying(records: Records) -> None:
    """Sixty attempts of two payers on three days, most of them ended, some of those twice."""
    chance = random.Random(1)  # noqa: S311 - reproducible
    for number in range(60):
        image_id = f"{number:022}"
        claim = attrs.evolve(CLAIM, image_id=image_id, key=None)
        await records.write(partial(statements.claim, claim))
        of_one = attrs.evolve(
            ATTEMPT, image_id=image_id, payer=chance.choice("ab"), day=20_000 + number % 3,
            reserved=chance.randrange(90), provider=chance.choice(["openai", "other"]),
            priced=chance.random() < 0.5,
        )  # fmt: skip
        await records.write(partial(statements.begin_attempt, claim, of_one, None))
        for _ in range(chance.randrange(3)):
            outcome, spent = chance.choice(list(AttemptOutcome)), chance.choice([None, 0, 7, 200])
            end = statements.AttemptEnd(n=0, outcome=outcome, spent=spent)
            await records.write(partial(statements.end_attempt, claim, end, NOW))
    await records.write(partial(statements.give_up, claim, end, NOW))


async def test_what_is_kept_is_what_counting_gives(tmp_path: Path) -> None:
    """For attempts that end in any way, and for those of a database that kept no rows before."""
    records = Records(tmp_path / "records.sqlite")
    await records.open()
    await paying(records)
    before, providers = await records.read(kept), await records.read(by_provider)
    assert before == await records.read(counted)
    assert providers == await records.read(counted_by_provider)
    await records.close()
    taken_back(tmp_path / "records.sqlite", "0006")
    await records.open()
    assert await records.read(kept) == before
    assert await records.read(by_provider) == providers
    await records.close()


async def test_attempts_that_an_earlier_version_settles_are_counted_by_provider(place: Path | str) -> None:
    """It changes the ledger, and knows no other totals."""
    records = Records(place)
    await records.open()
    await paying(records)

    def settle(connection: sa.Connection) -> int:
        open_ = attempts.c.outcome == AttemptOutcome.SENT
        return connection.execute(
            attempts.update().where(open_).values(outcome=AttemptOutcome.OK, spent=3)
        ).rowcount

    assert await records.write(settle) > 5
    assert await records.read(by_provider) == await records.read(counted_by_provider)
    await records.close()


async def test_a_refused_attempt_reserves_nothing(tmp_path: Path) -> None:
    """Beyond the budget, to the last millionth."""
    records = Records(tmp_path / "records.sqlite")
    await records.open()
    await records.write(partial(statements.claim, CLAIM))
    for number, budget in enumerate([40_000, 79_999, 80_000]):
        attempt = attrs.evolve(ATTEMPT, n=number)
        begin = partial(statements.begin_attempt, CLAIM, attempt, budget)
        if budget == 79_999:
            with pytest.raises(PaymentRequired, match=r"has 0\.0400 left"):
                await records.write(begin)
        else:
            await records.write(begin)
    assert await records.read(kept) == {("", 20_000): (80_000, 0)}
    await records.close()

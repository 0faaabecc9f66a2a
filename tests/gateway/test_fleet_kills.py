"""Two gateways on one PostgreSQL database: nothing is paid twice, whichever part of it dies or is stopped.

Real processes, and a provider whose ledger is the truth about money. Every order is sent to both gateways at
once under the same key. ``BLOSSOM_TEST_KILLS=120`` makes it 3,000 orders for each scenario.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
import sqlalchemy as sa

from tests import stores
from tests.gateway.making.test_paying_kills import (
    AT_ONCE,
    KILLS,
    Process,
    Shop,
    body_of,
    client,
    order,
    shop,
)
from tests.postgres import PostgresServer, missing, running_server
from tests.waiting import until

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(missing("18") is not None, reason=missing("18") or ""),
]

ORDERS = 25 * KILLS
# One request in five: no answer, before or after it was paid, or an error.
FAULTS = ("charge_then_reset=.055", "reset=.055", "server_error=.055", "bad_gateway=.055", "slow_first_byte")


@attrs.define
class Fleet:
    """Two gateways, their database, and what their customers were told."""

    at: Shop
    server: PostgresServer
    store: stores.SeaweedFS | None
    session: aiohttp.ClientSession
    keyed: bool
    held_open: AsyncExitStack
    gateways: list[Process] = attrs.field(factory=list)
    told: dict[str, set[str]] = attrs.field(factory=dict)
    """For each order the ids and codes that were answered."""
    half: asyncio.Event = attrs.field(factory=asyncio.Event)
    """Half of the orders have ended."""

    async def start(self) -> Process:
        return await self.held_open.enter_async_context(self.at.gateway())

    async def sell(self) -> None:
        """Sells all orders to eight customers, each of whom asks both gateways until both say the end."""
        numbers = iter(range(ORDERS))

        async def customer() -> None:
            for number in numbers:
                key = f"order-{number}"
                self.told[key] = set(await asyncio.gather(*(self._end(place, key) for place in range(2))))
                if len(self.told) > ORDERS // 2:
                    self.half.set()

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(customer())

    async def _end(self, place: int, key: str) -> str:
        while True:
            try:
                async with asyncio.timeout(40):
                    status, told = await order(self.session, self.gateways[place].base_url, key)
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                await asyncio.sleep(0.1)
                continue
            if status in (200, 201):
                return str(told["id"])
            if told.get("code") == "outcome_unknown" and not self.keyed:
                return "outcome_unknown"
            await asyncio.sleep(0.1)  # it is still being made, has failed, or the database is away

    def rows(self, statement: str) -> list[Any]:
        engine = sa.create_engine(self.server.url("fleet"))
        with engine.connect() as connection:
            found = list(connection.exec_driver_sql(statement).all())
        engine.dispose()
        return found

    def owners(self) -> set[str]:
        """The gateways that are not taken for dead."""
        return {name for (name,) in self.rows("SELECT name FROM owners")}


@asynccontextmanager
async def fleet(folder: Path, *, keyed: bool, in_bucket: bool) -> AsyncIterator[Fleet]:
    with running_server("18") as server, ExitStack() as held:
        server.create("fleet")
        store = held.enter_context(stores.seaweedfs(folder / "weed")) if in_bucket else None
        async with AsyncExitStack() as opened:
            faults = [word for fault in FAULTS for word in ("--fail", fault)]
            at = await opened.enter_async_context(shop(folder, *faults, keyed=keyed))
            if store is not None:
                at.env.update(stores.environment(store.endpoint), BLOSSOM_BLOBS=f"s3://{stores.BUCKET}/fleet")
            at.env.update(
                BLOSSOM_DATABASE_URL=server.url("fleet"),
                BLOSSOM_LOG_LEVEL="error",
                BLOSSOM_SIGNING_SECRETS="a-secret-that-both-gateways-know",
            )
            session = await opened.enter_async_context(client())
            fleet = Fleet(at, server, store, session, keyed, opened)
            fleet.gateways += [await fleet.start(), await fleet.start()]
            yield fleet


async def _kill(fleet: Fleet) -> None:
    """Each gateway dies in its turn, is taken for dead, and another takes its place."""
    for place in [0, 1] * max(1, KILLS // 40):
        alive, died = fleet.owners(), time.monotonic()
        await fleet.gateways[place].killed()
        await until(lambda alive=alive: bool(alive - fleet.owners()))  # type: ignore[misc]
        print(f"\ntaken over after {time.monotonic() - died:.1f} s")  # noqa: T201
        fleet.gateways[place] = await fleet.start()


async def _stop_and_wake(fleet: Fleet) -> None:
    """One gateway is stopped for ten seconds, is taken for dead, and wakes."""
    fleet.gateways[0].running.send_signal(signal.SIGSTOP)
    await asyncio.sleep(10)
    fleet.gateways[0].running.send_signal(signal.SIGCONT)


async def _restart_database(fleet: Fleet) -> None:
    """The database crashes, and comes back."""
    await asyncio.to_thread(fleet.server.stop, "immediate")
    await asyncio.sleep(1)
    await asyncio.to_thread(fleet.server.start)


async def _restart_store(fleet: Fleet) -> None:
    """The bucket's server is killed, and comes back."""
    assert fleet.store is not None
    await asyncio.to_thread(fleet.store.kill)
    await asyncio.sleep(1)
    await asyncio.to_thread(fleet.store.start)


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "blind"])
@pytest.mark.parametrize("disaster", [_kill, _stop_and_wake, _restart_database, _restart_store])
async def test_nothing_is_paid_twice(
    disaster: Callable[[Fleet], Awaitable[None]], keyed: bool, tmp_path: Path
) -> None:
    """Each order has one end, the same at both gateways; ledger, records and files agree."""
    async with fleet(tmp_path, keyed=keyed, in_bucket=disaster is _restart_store) as at:
        async with asyncio.TaskGroup() as group:
            group.create_task(at.sell())
            await at.half.wait()
            await disaster(at)
        await until(lambda: not at.rows("SELECT 1 FROM calls WHERE state = 'running'"))
        assert {len(ends) for ends in at.told.values()} == {1}
        ends = [end for told in at.told.values() for end in told]
        held = ends.count("outcome_unknown")
        kind, charges = "keyed" if keyed else "blind", len(at.at.ledger.charges)
        print(  # noqa: T201 - the figures, with -s
            f"\n{disaster.__name__}, {kind}: {len(ends)} orders, {held} held, {charges} charges"
        )
        assert len(ends) == ORDERS
        assert at.at.ledger.double_charges() == []
        assert at.at.ledger.double_charges(by=lambda charge: charge.prompt_sha256) == []
        spent = at.rows("SELECT sum(reserved), sum(spent) FROM spending")
        counted = at.rows(
            "SELECT sum(CASE WHEN outcome IN ('sent', 'unknown') THEN reserved ELSE 0 END), "
            "sum(CASE WHEN outcome IN ('sent', 'unknown') THEN 0 ELSE spent END) FROM attempts"
        )
        assert spent == counted
        for end in set(ends) - {"outcome_unknown"}:
            await body_of(at.session, at.gateways[1].base_url, end)

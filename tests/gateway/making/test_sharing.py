"""Slots that several gateways share, while their database is slow or away."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from blossom_async.errors import Overloaded
from blossom_async.gateway.making.sharing import Sharing
from blossom_async.gateway.making.upstreams import Limits, Upstream, Upstreams
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers.offline import Offline
from blossom_async.gateway.storage.owners import Living
from blossom_async.gateway.storage.records import Records
from tests.virtual_clock import on_virtual_clock


class Database:
    """Grants three slots, until it fails or no longer answers."""

    name = "this process"
    failing = False

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()

    async def write_apart(self, _: object) -> int:
        await self.answers.wait()
        if self.failing:
            raise Overloaded("away")
        return 3


@pytest.mark.parametrize("silent", [True, False])
def test_slots_end_before_others_have_them(silent: bool) -> None:
    """Five seconds after they were asked for, whether the database fails or says nothing; and come back."""

    async def run() -> list[int]:
        database: Any = Database()
        clock = asyncio.get_running_loop().time
        upstream = Upstream(Offline(Workers(1).run), Limits(), clock=clock, shared=True)
        sharing = Sharing(Upstreams(upstream), cast("Records", database), cast("Living", database))
        job = asyncio.create_task(sharing.run())
        granted = []
        for at_s in (0.5, 4.5, 7, 9):
            await asyncio.sleep(at_s - clock())
            granted.append(upstream.granted)
            database.failing = at_s < 7 and not silent
            if silent and at_s < 7:
                database.answers.clear()
            else:
                database.answers.set()
        job.cancel()
        await asyncio.sleep(60)
        return [*granted, upstream.granted]

    assert on_virtual_clock(run()) == [3, 3, 0, 3, 3]

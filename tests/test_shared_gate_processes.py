"""One limit for processes of their own, and a real server that they tell when they called it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import pytest

from blossom_async.batch import RateLimit
from tests.gateway.making.test_paying_kills import KEY, Process, process
from tests.gateway.test_fleet import SECRETS
from tests.ports import reserved_port
from tests.postgres import Servers
from tests.waiting import until

LIMIT = RateLimit(200)

# A program with calls to make, each a connection to the server.
PROGRAM = """
import asyncio, sys, time
from blossom_async import BlossomClient
from blossom_async.batch import SharedGate, run

gateway, key, port, calls, limit = sys.argv[1:]

async def main():
    async def call(item):
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(b"%r\\n" % began)
        await reader.read()
        writer.close()

    async with BlossomClient(gateway, api_key=key) as client:
        gate = SharedGate("paint", limit, slots=client.gates)
        result = await run(call, range(int(calls)), max_concurrency=32, gates=[gate])
        result.raise_for_failures()

asyncio.run(main())
"""


@attrs.define
class Counter:
    """A server that is told when each call began, by the clock that all processes of a machine share.

    When a call arrives it cannot say: a busy machine lets it look late, at many at once.
    """

    calls: list[float] = attrs.field(factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls.append(float(await reader.readline()))
        writer.close()

    def worst(self, length_s: float) -> int:
        calls, most, first = sorted(self.calls), 0, 0
        for last, call in enumerate(calls):
            while call - calls[first] >= length_s:
                first += 1
            most = max(most, last - first + 1)
        return most


async def counted(
    gateways: list[str], calls: int, limit: str, midway: Callable[[], Awaitable[None]] | None = None
) -> Counter:
    """What a server sees of one program for each gateway. ``midway`` is done after half of the calls."""
    counter = Counter()
    async with await asyncio.start_server(counter.answer, "127.0.0.1", 0, backlog=1000) as server:
        port = str(server.sockets[0].getsockname()[1])
        programs = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, gateway, KEY, port, str(calls // len(gateways)), limit
            )
            for gateway in gateways
        ]
        if midway is not None:
            await until(lambda: len(counter.calls) >= calls // 2)
            await midway()
        assert [await program.wait() for program in programs] == [0] * len(gateways)
    assert len(counter.calls) == calls
    return counter


@pytest.fixture
def database_url(postgres_servers: Servers) -> str:
    """A fresh database of the newest PostgreSQL."""
    return postgres_servers.fresh("18")


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {"BLOSSOM_API_KEYS": KEY, "BLOSSOM_DATA_DIR": str(folder), "BLOSSOM_PORT": "0", **more}


def check(counter: Counter) -> None:
    # The machine may stop a program between the limit and the call, for some milliseconds.
    assert counter.worst(0.95 * LIMIT.per_s) <= LIMIT.amount


@pytest.mark.campaign
async def test_programs_that_ask_one_gateway(tmp_path: Path) -> None:
    """On SQLite."""
    async with process("-m", "blossom_async.cli", "serve", **environment(tmp_path)) as gateway:
        check(await counted([gateway.base_url] * 2, 1200, "200/s"))


@pytest.mark.campaign
async def test_programs_that_ask_gateways_on_one_database(tmp_path: Path, database_url: str) -> None:
    """Each asks another."""
    shared = {
        "BLOSSOM_DATABASE_URL": database_url,
        "BLOSSOM_SIGNING_SECRETS": SECRETS["signing_secrets"][0],
    }
    command = ("-m", "blossom_async.cli", "serve")
    async with (
        process(*command, **environment(tmp_path / "one", **shared)) as one,
        process(*command, **environment(tmp_path / "other", **shared)) as other,
    ):
        check(await counted([one.base_url, other.base_url], 1200, "200/s"))


@pytest.mark.campaign
async def test_a_gateway_that_is_killed_and_started_again(tmp_path: Path) -> None:
    """Its database knows what it gave out: no call is lost, and no window holds more."""
    with reserved_port() as port:
        env = {**environment(tmp_path), "BLOSSOM_PORT": str(port)}
        async with AsyncExitStack() as held:

            async def serve() -> Process:
                return await held.enter_async_context(process("-m", "blossom_async.cli", "serve", **env))

            gateway = await serve()

            async def restart() -> None:
                await gateway.killed()
                await serve()

            check(await counted([gateway.base_url] * 2, 1200, "200/s", midway=restart))

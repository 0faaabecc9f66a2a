"""Nothing is paid twice and nothing acknowledged is lost, whenever the gateway is killed.

Real processes: ``blossom serve``, and a provider whose ledger is the truth about money. The suite kills a
few times; ``BLOSSOM_TEST_KILLS=200`` makes it two hundred for each kind of provider.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from PIL import Image

from blossom_async.errors import Overloaded, Rejected
from blossom_async.gateway.making.upstreams import Limits, Upstream
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.gateway.storage.records import ImageRecord, Records
from blossom_async.gateway.storage.records import calls as call_records
from blossom_async.testing import Ledger
from blossom_async.testing.pictures import draw
from tests.gateway.making.test_paid import WISH, Paid, house
from tests.thorough import thoroughly
from tests.waiting import LIMIT_S, until

KILLS = int(os.environ.get("BLOSSOM_TEST_KILLS", "8"))
MEAN_LIFE_S = 0.4  # of a gateway, from when it answers
AT_ONCE = 8
ELSEWHERE = ("attempt", "staged", "stored", "committed")
KEY = "a-key-of-the-tests-0123456789"
ACCOUNT = "sk-of-the-tests-0123456789"

_SERVE = ("-m", "blossom_async.cli", "serve")
# `blossom serve` refuses to be the second one on a data folder; who mounts the application need not.
_SERVE_BESIDE = (
    "-c",
    """
import asyncio
from blossom_async.gateway.server import listen, serving
from blossom_async.gateway.settings import load

async def main():
    async with serving(load(), listen("127.0.0.1", 0)) as base_url:
        print(f"Blossom gateway on {base_url}", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
""",
)


@attrs.frozen
class Process:
    """A server that has said where it listens."""

    base_url: str
    running: asyncio.subprocess.Process

    async def killed(self) -> None:
        """As by a power cut of the process: nothing of it runs any more."""
        with contextlib.suppress(ProcessLookupError):
            self.running.kill()
        await self.running.wait()


@asynccontextmanager
async def process(*command: str, **env: str) -> AsyncIterator[Process]:
    running = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, **env}
    )
    assert running.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            first = (await running.stdout.readline()).decode()
        yield Process(first.split()[-1], running)
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.communicate()


@attrs.frozen
class Shop:
    """A data folder, the provider its gateways draw with, and what both have written down."""

    folder: Path
    env: dict[str, str]

    def gateway(
        self, *command: str, dies_at: str | None = None
    ) -> contextlib.AbstractAsyncContextManager[Process]:
        more = {} if dies_at is None else {"BLOSSOM_TEST_DIES_AT": dies_at}
        return process(*(command or _SERVE), **self.env, **more)

    @property
    def ledger(self) -> Ledger:
        return Ledger.read(self.folder / "charges.jsonl")

    def rows(self, statement: str) -> list[Any]:
        with closing(sqlite3.connect(self.folder / "data" / "records.sqlite", timeout=20)) as connection:
            return connection.execute(statement).fetchall()

    def staged(self) -> list[Path]:
        return list((self.folder / "data" / "staging").rglob("*.staged"))

    async def held_keys(self) -> set[str | None]:
        """The keys of the calls that wait for a person's decision."""
        records = Records(self.folder / "data" / "records.sqlite")
        await records.open()
        listed = await records.read(call_records.unknown_claims)
        await records.close()
        return {call.key for call, _ in listed}


@asynccontextmanager
async def shop(folder: Path, *options: str, keyed: bool) -> AsyncIterator[Shop]:
    ledger = folder / "charges.jsonl"
    command = ["-m", "blossom_async.testing", "openai", "--api-key", ACCOUNT, "--ledger", str(ledger)]
    async with process(*command, *(["--keyed"] if keyed else []), *options) as provider:
        env = {
            "BLOSSOM_API_KEYS": KEY,
            "BLOSSOM_DATA_DIR": str(folder / "data"),
            "BLOSSOM_PORT": "0",
            "BLOSSOM_PROVIDERS": "openai",
            "BLOSSOM_OPENAI_URL": provider.base_url,
            "BLOSSOM_OPENAI_KEY": ACCOUNT,
            "BLOSSOM_OPENAI_MODEL": "flux.1-schnell",
            "BLOSSOM_OPENAI_KEYED": str(keyed),
        }
        yield Shop(folder, env)


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(
        connector=connector, headers={"Authorization": f"Bearer {KEY}"}, raise_for_status=False
    ) as session:
        yield session


async def order(session: aiohttp.ClientSession, base_url: str, key: str) -> tuple[int, dict[str, Any]]:
    """One request for a picture: the status and the answer. Raises when the gateway dies over it."""
    wish = {"prompt": f"picture {key}", "width": 32, "height": 32}
    async with session.post(f"{base_url}/v1/images", json=wish, headers={"Idempotency-Key": key}) as response:
        return response.status, await response.json(content_type=None)


async def settled(session: aiohttp.ClientSession, base_url: str, key: str) -> tuple[int, dict[str, Any]]:
    """The same, asked for until it is a picture or a final refusal."""
    status, told = 0, dict[str, Any]()

    async def final() -> bool:
        nonlocal status, told
        status, told = await order(session, base_url, key)
        return status != 503 and told.get("code") != "in_progress"

    await until(final)
    return status, told


async def body_of(session: aiohttp.ClientSession, base_url: str, image_id: str) -> bytes:
    async with session.get(f"{base_url}/image/{image_id}") as response:
        assert response.status == 200
        return await response.read()


@pytest.mark.parametrize("keyed", thoroughly(True, False), ids=["keyed", "blind"])
@pytest.mark.parametrize(
    "place",
    thoroughly("answer", *ELSEWHERE),
)
async def test_a_gateway_that_dies_at_any_step_pays_once(place: str, keyed: bool, tmp_path: Path) -> None:
    """The next one adopts what is on the disk, asks again under the provider's key, or holds the call."""
    async with shop(tmp_path, keyed=keyed) as at, client() as session:
        async with at.gateway(dies_at=place) as dying:
            with pytest.raises(aiohttp.ClientError):
                await order(session, dying.base_url, "one")
            assert await dying.running.wait() == -9
        async with at.gateway() as gateway:
            for _ in range(2):
                status, told = await settled(session, gateway.base_url, "one")
                if keyed or place in {"staged", "stored", "committed"}:
                    assert status == 201
                    body = await body_of(session, gateway.base_url, told["id"])
                    assert hashlib.sha256(body).hexdigest() == told["sha256"]
                    assert Image.open(io.BytesIO(body)).size == (32, 32)
                    assert await at.held_keys() == set()
                    assert len(at.ledger.charges) == 1
                else:
                    assert (status, told["code"]) == (409, "outcome_unknown")
                    assert await at.held_keys() == {"one"}
                    assert len(at.ledger.charges) == (0 if place == "attempt" else 1)
            await until(lambda: not at.staged())
        pictures = [path for path in (tmp_path / "data" / "images").rglob("*") if path.is_file()]
        assert len(pictures) == (1 if status == 201 else 0)


@pytest.mark.campaign
@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "blind"])
@pytest.mark.parametrize("place", ["given", "attempt", "answer"])
async def test_an_edit_that_dies_at_any_step_pays_once(place: str, keyed: bool, tmp_path: Path) -> None:
    """What it is drawn from was on the disk before anything was sent, so it is sent again as it was."""
    photo = draw("a lake", width=64, height=64, format="png", transparent=False).data

    async def edit(session: aiohttp.ClientSession, base_url: str) -> tuple[int, dict[str, Any]]:
        form = aiohttp.FormData({"prompt": "a lake"})
        form.add_field("image", photo, filename="x.png")
        url, key = f"{base_url}/v1/images/edits", {"Idempotency-Key": "one"}
        async with session.post(url, data=form, headers=key) as response:
            return response.status, await response.json(content_type=None)

    async with shop(tmp_path, keyed=keyed) as at, client() as session:
        async with at.gateway(dies_at=place) as dying:
            with pytest.raises(aiohttp.ClientError):
                await edit(session, dying.base_url)
            assert await dying.running.wait() == -9
        async with at.gateway() as gateway:
            for _ in range(2):
                status, told = await edit(session, gateway.base_url)
                if keyed or place == "given":
                    assert (status, len(at.ledger.charges)) == (200, 1), told
                else:
                    assert (status, told["error"]["code"]) == (424, "outcome_unknown")
                    assert len(at.ledger.charges) == (0 if place == "attempt" else 1)
            if status == 200:
                await until(lambda: not list((tmp_path / "data" / "staging").rglob("*.*")))


@attrs.define
class Customers:
    """Eight at once who each order one picture after another, and never give a key up."""

    session: aiohttp.ClientSession
    base_url: str = ""
    open: asyncio.Event = attrs.field(factory=asyncio.Event)
    closing: bool = False
    numbers: Iterator[int] = attrs.field(factory=lambda: iter(range(10**9)))
    made: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    held: set[str] = attrs.field(factory=set)
    resent: int = 0

    async def one(self) -> None:
        while not self.closing:
            await self._buy(f"order-{next(self.numbers)}")

    async def _buy(self, key: str) -> None:
        while True:
            await self.open.wait()
            try:
                status, told = await settled(self.session, self.base_url, key)
            except (aiohttp.ClientError, ConnectionError):
                self.resent += 1
                continue
            if status == 201:
                self.made[key] = told
            else:
                assert (status, told["code"]) == (409, "outcome_unknown"), told
                self.held.add(key)
            return


@pytest.mark.campaign
@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "blind"])
async def test_kills_at_any_moment_lose_nothing_and_pay_nothing_twice(keyed: bool, tmp_path: Path) -> None:
    """After SIGKILLs at random moments each order has one end, and ledger, records and bytes agree."""
    async with shop(tmp_path, "--fail", "slow_first_byte", keyed=keyed) as at, client() as session:
        customers = Customers(session)
        async with asyncio.TaskGroup() as group:
            buying = [group.create_task(customers.one()) for _ in range(AT_ONCE)]
            for _ in range(KILLS):
                async with at.gateway() as gateway:
                    customers.base_url = gateway.base_url
                    customers.open.set()
                    await asyncio.sleep(random.expovariate(1 / MEAN_LIFE_S))
                    customers.open.clear()
                    await gateway.killed()
            customers.closing = True
            last = await group.create_task(_last(at, customers, buying))
        print(  # noqa: T201 - the figures, with -s
            f"\n{'keyed' if keyed else 'blind'}: {KILLS} kills, {len(customers.made)} pictures, "
            f"{len(customers.held)} held, {customers.resent} requests broken off, "
            f"{len(at.ledger.charges)} charges"
        )
        assert last == len(customers.made) > 0
        _check_books(at, customers, await at.held_keys(), keyed=keyed)
        _check_disk(at)


async def _last(at: Shop, customers: Customers, buying: Iterable[asyncio.Task[None]]) -> int:
    """How many acknowledged pictures a last gateway still has, once every customer has an answer."""
    async with at.gateway() as gateway:
        customers.base_url = gateway.base_url
        customers.open.set()
        await asyncio.wait(buying)
        await until(lambda: not at.rows("SELECT 1 FROM calls WHERE state = 'running'"))
        await until(lambda: not at.staged())
        found = 0
        for told in customers.made.values():
            body = await body_of(customers.session, gateway.base_url, told["id"])
            found += hashlib.sha256(body).hexdigest() == told["sha256"]
        return found


def _check_books(at: Shop, customers: Customers, listed: set[str | None], *, keyed: bool) -> None:
    charges = at.ledger.charges
    assert at.ledger.double_charges() == []
    assert at.ledger.double_charges(by=lambda charge: charge.prompt_sha256) == []
    attempts = dict(at.rows("SELECT provider_key, outcome FROM attempts"))
    charged = {str(charge.idempotency_key) for charge in charges}
    may_cost = {key for key, outcome in attempts.items() if outcome in {"ok", "unknown"}}
    assert {key for key, outcome in attempts.items() if outcome == "ok"} <= charged <= may_cost
    assert set(attempts.values()) <= {"ok", "unknown"}  # this provider refuses nothing
    assert listed == customers.held
    if keyed:
        assert not customers.held


def _check_disk(at: Shop) -> None:
    assert at.rows("PRAGMA integrity_check") == [("ok",)]
    assert at.rows("PRAGMA foreign_key_check") == []
    for image_id, extension, sha256 in at.rows(
        "SELECT id, json_extract(files, '$[0].format'), json_extract(files, '$[0].sha256') FROM images"
    ):
        path = at.folder / "data" / "images" / image_id[:2].lower() / f"{image_id}.{extension}"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256


@pytest.mark.campaign
async def test_a_hundred_at_two_gateways_under_one_key_pay_once(tmp_path: Path) -> None:
    """Two processes on one data folder share the claim: one provider call, one picture for all."""
    async with shop(tmp_path, "--fail", "slow_first_byte", keyed=False) as at, client() as session:
        async with at.gateway() as first, at.gateway(*_SERVE_BESIDE) as second:
            answers = await asyncio.gather(
                *(order(session, [first, second][number % 2].base_url, "one") for number in range(100))
            )
        assert {status for status, _ in answers} == {201}
        assert len({told["id"] for _, told in answers}) == 1
        assert len(at.ledger.charges) == 1


class TestAnUnknownSendBefore:
    async def test_a_later_rate_limit_does_not_free_the_key(self, tmp_path: Path) -> None:
        """ "Not charged" is said of the second send only; the first may have been paid, and is asked for."""
        paid, spare = Paid(keyed=True), Paid("spare")
        paid.fails(Kind.LOST, "unknown", retry_after_s=0.01)
        for _ in range(2):
            paid.fails(Kind.RATE_LIMITED, "no", retry_after_s=0.01)
        async with house(tmp_path, paid, spare) as rooms:
            assert isinstance(await rooms.create(), ImageRecord)
            assert [row["spent"] for row in await rooms.spent()] == [40_000]
        assert (len(paid.ledger), spare.ledger) == (1, [])

    async def test_a_final_refusal_under_the_key_ends_the_call(self, tmp_path: Path) -> None:
        """Had the first been drawn, the key would have brought it: so nothing was paid."""
        paid = Paid(keyed=True)
        paid.fails(Kind.LOST, "unknown", retry_after_s=0.01)
        paid.fails(Kind.MODERATION, "no")
        async with house(tmp_path, paid) as rooms:
            with pytest.raises(Rejected):
                await rooms.create()
            assert await rooms.calls() == []


class TestManyAtOnce:
    async def test_some_that_fail_first_do_not_shut_the_provider(self, tmp_path: Path) -> None:
        """Failures are quick: six of thirty back before any picture are no outage."""
        paid, all_sent = Paid(), asyncio.Barrier(30)

        async def fails() -> None:
            await all_sent.wait()
            raise ProviderFault("paid", Kind.UNAVAILABLE, "as the test wants", charged="no")

        paid.script = [*[fails] * 6, *[all_sent.wait] * 24]
        async with house(tmp_path, paid, limits=Limits(at_once=30)) as rooms:
            wishes = (attrs.evolve(WISH, seed=number) for number in range(30))
            made = await asyncio.gather(
                *(rooms.create(wish, key=str(wish.seed)) for wish in wishes), return_exceptions=True
            )
            assert sum(isinstance(each, ImageRecord) for each in made) == 24
            assert isinstance(await rooms.create(key="later"), ImageRecord)

    async def test_an_outage_shuts_the_provider(self, tmp_path: Path) -> None:
        """After as many failures in a row as calls are under way, nobody is sent there for a while."""
        paid = Paid()
        for _ in range(30):
            paid.fails(Kind.UNAVAILABLE, "no")
        async with house(tmp_path, paid, limits=Limits(at_once=30)) as rooms:
            wishes = (attrs.evolve(WISH, seed=number) for number in range(30))
            await asyncio.gather(
                *(rooms.create(wish, key=str(wish.seed)) for wish in wishes), return_exceptions=True
            )
            with pytest.raises(Overloaded) as refused:
                await rooms.create(key="later")
            assert refused.value.code == "provider_resting"

    async def test_rate_limits_of_one_round_cut_once(self) -> None:
        """Ten refusals of calls that were under way together say the same thing."""
        paid: Any = Paid()
        upstream = Upstream(paid, Limits(at_once=30), clock=asyncio.get_running_loop().time)
        fault = ProviderFault("paid", Kind.RATE_LIMITED, "too fast", charged="no")
        cuts = upstream.cuts
        for _ in range(10):
            upstream.failed(fault, cuts)
        assert upstream.cuts == 1


class TestADiskThatFailsAfterThePayment:
    async def test_a_picture_that_cannot_be_stored_is_stored_later(self, tmp_path: Path) -> None:
        """503 now; under the same key the staged answer becomes the picture, and nobody is paid again."""
        paid, spare = Paid(), Paid("spare")
        async with house(tmp_path, paid, spare) as rooms:
            with _unusable(tmp_path / "images"), pytest.raises(Overloaded) as refused:
                await rooms.create()
            assert refused.value.code == "storage_failed"
            assert isinstance(await rooms.create(), ImageRecord)
            assert [row["spent"] for row in await rooms.spent()] == [40_000]
        assert (len(paid.ledger), spare.ledger) == (1, [])

    async def test_nothing_is_sent_while_the_answer_could_not_be_kept(self, tmp_path: Path) -> None:
        """Its place on the disk comes first: without one nothing is paid, and the key is free."""
        paid, spare = Paid(), Paid("spare")
        async with house(tmp_path, paid, spare) as rooms:
            with _unusable(tmp_path / "staging"), pytest.raises(Overloaded):
                await rooms.create()
            assert (paid.ledger, spare.ledger) == ([], [])
            assert isinstance(await rooms.create(), ImageRecord)

    async def test_an_answer_that_cannot_be_staged_is_kept(self, tmp_path: Path) -> None:
        """503 now; the process stages it once that is possible, and nobody is paid again."""
        paid, spare = Paid(), Paid("spare")
        async with house(tmp_path, paid, spare) as rooms, contextlib.AsyncExitStack() as broken:

            async def break_the_disk() -> None:
                broken.enter_context(_unusable(tmp_path / "staging"))

            paid.script = [break_the_disk]
            for _ in range(2):
                with pytest.raises(Overloaded):
                    await rooms.create()
            await broken.aclose()
            assert isinstance(await rooms.create(), ImageRecord)
            assert [row["spent"] for row in await rooms.spent()] == [40_000]
        assert (len(paid.ledger), spare.ledger) == (1, [])


@contextlib.contextmanager
def _unusable(folder: Path) -> Iterator[None]:
    """A file stands where the folder was: whatever is written below it fails, also for root."""
    shutil.rmtree(folder)
    folder.write_bytes(b"")
    try:
        yield
    finally:
        folder.unlink()
        folder.mkdir(mode=0o700)

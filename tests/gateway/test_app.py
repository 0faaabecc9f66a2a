"""The wiring: whatever a start opens is closed again, even if the start fails half-way."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.server import listen, serving
from blossom_async.gateway.settings import Settings
from tests.conftest import running_gateway
from tests.forking import FORKS, forked
from tests.scarcity import descriptors
from tests.waiting import wait_until


def spoil_the_database(folder: Path) -> None:
    (folder / "records.sqlite").write_bytes(b"this is no database" * 100)


def spoil_the_staging_folder(folder: Path) -> None:
    (folder / "staging").write_bytes(b"")


def spoil_the_owners(folder: Path) -> None:
    (folder / "owners").write_bytes(b"")


@pytest.mark.parametrize("spoil", [spoil_the_database, spoil_the_staging_folder, spoil_the_owners])
def test_a_failed_start_leaves_nothing_open(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """Five starts that fail leave no thread and no descriptor."""
    spoil(tmp_path)

    async def start() -> None:
        async with serving(Settings(data_dir=tmp_path), listen("127.0.0.1", 0)):
            raise AssertionError("it started")

    def fail() -> None:
        with pytest.raises((ConfigurationError, OSError)):
            asyncio.run(start())

    fail()  # the first imports modules, which may keep files open
    before = descriptors(), set(threading.enumerate())
    for _ in range(5):
        fail()
    wait_until(lambda: descriptors() <= before[0])
    wait_until(lambda: set(threading.enumerate()) <= before[1])  # they end without being waited for


def applications() -> list[web.Application]:
    """All that are in the memory of this process."""
    return [each for each in gc.get_objects() if type(each) is web.Application]


async def test_a_gateway_that_has_ended_frees_its_memory(tmp_path: Path) -> None:
    """A program may start one after another."""
    before = applications()  # held, so that no new one takes the place of one
    known = set(map(id, before))
    async with running_gateway(tmp_path / "data") as running, aiohttp.ClientSession() as session:
        async with session.get(f"{running.base_url}/healthz") as answer:
            assert answer.status == 200
        started = [weakref.ref(each) for each in applications() if id(each) not in known]
        assert started
    gc.collect()
    assert [app() for app in started] == [None] * len(started)


@pytest.mark.parametrize("host", ["192.0.2.1", "..", "x" * 70])
def test_an_address_of_no_use_is_not_laid_to_the_port(host: str) -> None:
    """Neither one that is none, nor one of another machine."""
    with pytest.raises(ConfigurationError, match="set --host or BLOSSOM_HOST"):
        listen(host, 0)


@FORKS
def test_a_forked_process_does_not_keep_the_port() -> None:
    """The next gateway listens there while the fork lives on."""
    sock = listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    with forked():
        sock.close()
        listen("127.0.0.1", port).close()

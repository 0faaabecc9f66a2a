"""One client in several event loops, threads and processes."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import textwrap
from contextlib import AbstractAsyncContextManager
from typing import cast

import aiohttp
import pytest

from blossom_async import BlossomClient, ConfigurationError, ImageInfo, ImageOptions, Outcome
from blossom_async.blocking import BlockingImages
from blossom_async.url_batch import Request
from tests.conftest import RunningGateway
from tests.thorough import thoroughly
from tests.waiting import LIMIT_S

Gateway = AbstractAsyncContextManager[RunningGateway]
TINY: ImageOptions = {"width": 16, "height": 16}


def script_output(script: str, *options: str) -> str:
    """What a script prints; it may print nothing on stderr."""
    forks = "ignore:This process:DeprecationWarning"  # Python 3.12's own, of forks beside threads
    ended = subprocess.run(
        [sys.executable, "-W", forks, *options, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.returncode == 0
    return ended.stdout


SET_UP = """
import asyncio, gc, warnings
from blossom_async import BlossomClient

TINY = {"width": 16, "height": 16}
gateway = BlossomClient("embedded").__enter__()
client = BlossomClient(gateway.base_url, api_key=gateway.api_key)

async def draw():
    print(await client.image.generate_url("a lake", **TINY))
"""


@pytest.mark.parametrize("closed", thoroughly(False, True))
def test_a_loop_of_ones_own_may_end_before_the_client(closed: bool) -> None:
    """The next loop opens the client anew, and what the first one left behind prints nothing at exit."""
    urls = script_output(
        SET_UP
        + f"""
for _ in range(2):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(draw())
    if {closed}:
        loop.close()
"""
    )
    assert len(set(urls.split())) == 2


async def test_a_method_taken_in_a_loop_blocks_in_a_thread(gateway: Gateway) -> None:
    """``asyncio.to_thread()`` gets the URL, not a coroutine that nobody runs."""
    async with gateway as running, running.client() as client:
        url = await asyncio.to_thread(blocking(client).generate_url, "a lake", **TINY)
        assert await client.image.validate_url(url)
        outcomes = await asyncio.to_thread(stream_in_a_thread, client)
        await asyncio.to_thread(client.close)
    assert [outcome.ok for outcome in outcomes] == [True, True]


def blocking(client: BlossomClient) -> BlockingImages:
    """What ``client.image`` is at run time."""
    return cast(BlockingImages, client.image)


def stream_in_a_thread(client: BlossomClient) -> list[Outcome[Request, ImageInfo]]:
    with blocking(client).stream_urls(["a lake", "a forest"], **TINY) as outcomes:
        return list(outcomes)


def test_a_client_blocks_first_and_is_awaited_later() -> None:
    """Where a call is made decides, not how the client was used before."""
    with BlossomClient("embedded") as client:
        images = client.image
        info = images.generate_url_with_info("a lake", **TINY)

        async def later() -> str:
            async with client.image.stream_urls(["a lake"], **TINY) as outcomes:
                assert [outcome.ok async for outcome in outcomes] == [True]
            return str(await images.regenerate_from_url(info.url))  # type: ignore[misc]

        assert asyncio.run(later()) != info.url
        assert images.validate_url(info.url)


def test_a_call_made_before_its_loop_runs_gives_the_url_all_the_same() -> None:
    """``asyncio.run(client.image.generate_url(...))`` makes the call outside of any loop."""
    with BlossomClient("embedded") as client:
        loop = asyncio.new_event_loop()
        urls: list[str] = [
            asyncio.run(client.image.generate_url("a lake", **TINY)),  # type: ignore[arg-type]
            loop.run_until_complete(client.image.generate_url("a lake", **TINY)),  # type: ignore[arg-type]
        ]
        loop.close()
        assert [type(url) for url in urls] == [str, str]
        url = client.image.generate_url("a lake", **TINY)
        assert type(pickle.loads(pickle.dumps(url))) is str  # noqa: S301 - our own bytes
        assert client.image.validate_url(url)


def test_under_trio_it_says_that_it_runs_on_asyncio() -> None:
    """Before a picture is made, and also where a call would block; in trio's threads it works."""
    import trio  # here, as every process that collects the tests would load it

    with BlossomClient("embedded") as running:
        client = BlossomClient(running.base_url, api_key=running.api_key)

        async def main() -> str:
            with pytest.raises(ConfigurationError, match="runs on asyncio"):
                await client.image.generate_url("a lake", **TINY)
            with pytest.raises(ConfigurationError, match="runs on asyncio"):
                async with client:
                    pass
            return await trio.to_thread.run_sync(lambda: blocking(client).generate_url("a lake", **TINY))

        assert trio.run(main).startswith("http://127.0.0.1")
        client.close()


@pytest.mark.parametrize("used", thoroughly(True, False))
def test_at_exit_it_says_that_the_program_ends(used: bool) -> None:
    """An embedded gateway, which can draw no more, prints no traceback."""
    said = script_output(
        f"""
import atexit
from blossom_async import BlossomClient, BlossomError

def report():
    try:
        client.image.generate_url("a lake", width=16, height=16)
    except BlossomError as exc:
        print(exc)

atexit.register(report)
client = BlossomClient("embedded")
if {used}:
    client.image.generate_url("a lake", width=16, height=16)
"""
    )
    assert "the program is ending" in said


def test_a_given_session_stays_in_its_loop() -> None:
    """A client with a session of another loop refuses the call and says why."""

    async def client_with_a_session() -> BlossomClient:
        async with aiohttp.ClientSession() as session:
            return BlossomClient("embedded", session=session)

    client = asyncio.run(client_with_a_session())
    with pytest.raises(ConfigurationError, match="belongs to another event loop"):
        asyncio.run(client._images.generate_url("a lake"))


@pytest.mark.campaign
def test_a_dropped_client_is_closed_by_its_loop_with_a_warning() -> None:
    """Nobody closed it: a ``ResourceWarning`` says so, and its loop closes the session."""
    said = script_output(
        SET_UP
        + """
async def main():
    global client
    await draw()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = None
        gc.collect()
        await asyncio.sleep(0)
        gc.collect()
    print(*(f"{warning.category.__name__}: {warning.message}" for warning in caught), sep="\\n")

asyncio.run(main())
"""
    )
    assert len(said.splitlines()) == 2
    assert "ResourceWarning: unclosed BlossomClient of http://127.0.0.1" in said


FORKING = """
import multiprocessing, os, sys, time

def in_child(work, leave=sys.exit):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        work()
        sys.stdout.flush()
        leave(0)
    assert os.waitpid(child, 0)[1] == 0

def draw_blocking(client):
    print(client.image.generate_url("a lake", **TINY))
"""


@pytest.mark.parametrize("kind", thoroughly("remote", "embedded"))
def test_a_client_used_before_a_fork_works_in_the_child(kind: str) -> None:
    """The child opens it anew; the parent's connections stay as they are."""
    urls = script_output(
        SET_UP
        + FORKING
        + f"""
client = {{"remote": client, "embedded": gateway}}[{kind!r}]
draw_blocking(client)
in_child(lambda: draw_blocking(client))
in_child(lambda: asyncio.run(draw()))
draw_blocking(client)
"""
    )
    assert len(set(urls.split())) == 4


@pytest.mark.campaign
def test_a_client_of_a_running_loop_works_in_a_forked_child() -> None:
    """Under a running loop too: its sockets go on working in the parent."""
    urls = script_output(
        SET_UP
        + FORKING
        + """
async def main():
    async with client:
        await draw()
        in_child(lambda: draw_blocking(client), os._exit)
        in_child(lambda: asyncio.run(draw()), os._exit)
        await asyncio.gather(draw(), draw())

asyncio.run(main())
"""
    )
    assert len(set(urls.split())) == 5


@pytest.mark.campaign
def test_a_pool_of_forked_workers_shares_a_client() -> None:
    """As Celery and gunicorn do it: the module's client was used before the workers were forked."""
    urls = script_output(
        SET_UP
        + FORKING
        + """
draw_blocking(client)

def work(prompt):
    return client.image.generate_url(prompt, **TINY)

with multiprocessing.get_context("fork").Pool(3) as pool:
    print(*pool.map(work, [f"lake {n}" for n in range(9)]), sep="\\n")
"""
    )
    assert len(set(urls.split())) == 10


@pytest.mark.campaign
def test_limits_start_afresh_in_a_forked_child() -> None:
    """A slot that the parent holds at the fork is nobody's in the child."""
    urls = script_output(
        SET_UP
        + FORKING
        + """
client = BlossomClient(gateway.base_url, api_key=gateway.api_key, max_concurrency=1)

async def main():
    held = asyncio.ensure_future(draw())
    while not client._limits.slots.in_use:
        await asyncio.sleep(0)
    in_child(lambda: draw_blocking(client), os._exit)
    await held

asyncio.run(main())
"""
    )
    assert len(set(urls.split())) == 2

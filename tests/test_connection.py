"""One client in several event loops, threads and processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import aiohttp
import pytest

from blossom_async import BlossomClient, ConfigurationError


def script_output(script: str, *options: str) -> str:
    """What a script prints; it may print nothing on stderr."""
    ended = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
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


@pytest.mark.parametrize("closed", [True, False])
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


def test_a_given_session_stays_in_its_loop() -> None:
    """A client with a session of another loop refuses the call and says why."""

    async def client_with_a_session() -> BlossomClient:
        async with aiohttp.ClientSession() as session:
            return BlossomClient("embedded", session=session)

    client = asyncio.run(client_with_a_session())
    with pytest.raises(ConfigurationError, match="belongs to another event loop"):
        asyncio.run(client._images.generate_url("a lake"))


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

"""The sockets of a gateway: how a crowd is let in, and who comes while it ends."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import yarl

from blossom_async.gateway.server import accepting, listen
from blossom_async.testing import FakeOpenAI
from tests.conftest import running_gateway


async def test_a_crowd_is_let_in_a_few_at_a_time() -> None:
    """Of 300 callers at once no pass of the event loop accepts more than 16: what is under way goes on."""
    loop = asyncio.get_running_loop()
    passes, accepted = [0], list[int]()
    done = asyncio.Event()

    def count_passes() -> None:
        passes[0] += 1
        if not done.is_set():
            loop.call_soon(count_passes)

    class Caller(asyncio.Protocol):
        def connection_made(self, _: asyncio.BaseTransport) -> None:
            accepted.append(passes[0])
            if len(accepted) == 300:
                done.set()

    sock = listen("127.0.0.1", 0)
    callers = [socket.create_connection(sock.getsockname()) for _ in range(300)]
    server = await accepting(sock, Caller)
    count_passes()
    await done.wait()
    assert max(map(accepted.count, accepted)) <= 16
    for caller in callers:
        caller.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("provider", [True, False])
def test_a_connection_made_while_a_server_ends_is_closed(provider: bool, turns: int, tmp_path: Path) -> None:
    """At whichever turn of the event loop: one left open would warn once its loop is closed."""
    server: AbstractAsyncContextManager[Any] = FakeOpenAI() if provider else running_gateway(tmp_path)

    async def connected() -> socket.socket:
        async with server as running:
            address = yarl.URL(running.base_url)
            caller = socket.create_connection((address.host, address.port))
            for _ in range(turns):
                await asyncio.sleep(0)
        return caller

    with asyncio.run(connected()):
        gc.collect()

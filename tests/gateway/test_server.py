"""The socket of a gateway: how a crowd is let in."""

from __future__ import annotations

import asyncio
import socket

from blossom_async.gateway.server import accepting, listen


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

"""A server that answers every request at once with a constant body, so that only the client is measured.

Speaks just enough HTTP/1.1 for that: keep-alive, Content-Length, no chunked request bodies. It runs in a
process of its own, prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

INFO = (
    b'{"url":"http://127.0.0.1/image/AAAAAAAAAAAAAAAAAAAAAA","id":"AAAAAAAAAAAAAAAAAAAAAA","width":256,"height":256,'
    b'"format":"png","file_size":60000,"quality":"standard","cost":1,"created_at":"2026-11-22T10:00:00+00:00",'
    b'"expires_at":null,"time_remaining":null,"tracking_id":null,"metadata":{},"sha256":"'
    + b"0" * 64
    + b'","provider":"offline","model":"scenery-1","seed":7}'
)
OPENAI = b'{"created":1700000000,"data":[{"url":"http://127.0.0.1/image/AAAAAAAAAAAAAAAAAAAAAA"}]}'
HEALTH = b'{"service":"blossom","status":"ok","instance":"constant"}'


def _response(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


ANSWERS = {
    b"POST /v1/images HTTP": _response(INFO),
    b"POST /v1/images/generations HTTP": _response(OPENAI),
    b"GET /healthz HTTP": _response(HEALTH),
}


class Constant(asyncio.Protocol):
    """One connection."""

    arrivals: list[float] = []  # noqa: RUF012 - of all connections
    """When each request for a picture came."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            lowered = head.lower()
            at = lowered.find(b"content-length:")
            length = int(lowered[at + 15 :].split(b"\r", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            if head.startswith(b"GET /calls"):
                self.transport.write(_response(str(len(Constant.arrivals)).encode()))
                continue
            if head.startswith(b"GET /arrivals"):
                self.transport.write(_response(json.dumps(Constant.arrivals).encode()))
                continue
            if head.startswith(b"POST"):
                Constant.arrivals.append(time.monotonic())
            self.transport.write(ANSWERS[head[: head.index(b" HTTP") + 5]])


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Constant, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def running() -> Iterator[str]:
    """Its address, while it runs in a process of its own."""
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.communicate()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())

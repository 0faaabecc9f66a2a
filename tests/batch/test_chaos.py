"""The engine with aiohttp against a server that does everything wrong, over real sockets."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from blossom_async.batch import (
    Gate,
    RetryPolicy,
    Slots,
    current_attempt,
    pause_s,
    retry_after_s,
    run,
    stream,
)
from blossom_async.errors import StaleConnection, TimedOut, TransportError, class_for_status

MISDEEDS = [
    "429 with a wait",
    "429 with a date that has passed",
    "429 without a word",
    "429 with nonsense",
    "503",
    "500",
    "quota used up",
    "reset before the answer",
    "reset within the body",
    "closed before the answer",
    "half closed",
    "content length too long",
    "slow body",
    "closed after the answer",
]


class Server:
    """Answers each Idempotency-Key with the same made-up picture, when it answers as it should."""

    def __init__(self, misdeeds: list[str], share: float, seed: int) -> None:
        self._misdeeds = misdeeds
        self._share = share
        self._random = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self.requests = 0
        self.made: Counter[str] = Counter()
        self.bodies: dict[str, set[bytes]] = {}
        self.misdeeds_done: Counter[str] = Counter()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        try:
            yield f"http://{host}:{port}/"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serves one request; whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
        }
        body = await reader.readexactly(int(fields["content-length"]))
        key = fields["idempotency-key"]
        self.requests += 1
        self.bodies.setdefault(key, set()).add(body)
        misdeed = self._random.choice(self._misdeeds) if self._random.random() < self._share else "none"
        self.misdeeds_done[misdeed] += 1
        refused = misdeed[:3] in {"429", "503", "500"}
        if not refused and "before" not in misdeed and misdeed != "half closed":
            self.made[key] = 1  # as a gateway does: made once for a key, whatever becomes of the answer
        answer = b"made of " + body
        length, extra, status = len(answer), "", "200 OK"
        if refused:
            status = f"{misdeed[:3]} No"
            extra = {
                "429 with a wait": "Retry-After: 0.05\r\n",
                "429 with a date that has passed": "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
                "429 with nonsense": "Retry-After: -1e18\r\nRetry-After: nan\r\n",
            }.get(misdeed, "")
        if misdeed == "quota used up":
            extra = "RateLimit-Remaining: 0\r\nRateLimit-Reset: 0.05\r\n"
        if misdeed == "reset before the answer":
            writer.transport.abort()
            return False
        if misdeed == "half closed":
            writer.write_eof()
            return False
        if misdeed == "closed before the answer":
            return False
        if misdeed == "content length too long":
            length += 10
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{extra}\r\n".encode())
        if misdeed == "reset within the body":
            writer.write(answer[:4])
            await writer.drain()
            writer.transport.abort()
            return False
        if misdeed == "slow body":
            for byte in answer:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)
            return True
        writer.write(answer)
        await writer.drain()
        return misdeed not in {"content length too long", "closed after the answer"}


class Client:
    """What a transport does: one exchange, its errors translated, its hints passed on to the gate."""

    def __init__(self, url: str, session: aiohttp.ClientSession, gate: Gate) -> None:
        self._url = url
        self._session = session
        self._gate = gate

    async def post(self, item: str) -> str:
        headers = {"Idempotency-Key": current_attempt().key}
        try:
            async with self._session.post(self._url, data=item.encode(), headers=headers) as response:
                body = await response.read()
        except TimeoutError as exc:
            raise TimedOut("no complete answer in time") from exc
        except aiohttp.ServerDisconnectedError as exc:
            raise StaleConnection("closed before the answer") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise TransportError(str(exc)) from exc
        if response.status >= 400:
            wait_s = retry_after_s(response.headers)
            raise class_for_status(response.status)("no", status=response.status, retry_after_s=wait_s)
        self._gate.pause(pause_s(response.headers) or 0)
        return body.decode()


@asynccontextmanager
async def client_of(server: Server, gate: Gate) -> AsyncIterator[Client]:
    async with (
        server.serving() as url,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=0.3)
        ) as session,
    ):
        yield Client(url, session, gate)


PATIENT = RetryPolicy(max_attempts=20, first_wait_s=0.01, max_wait_s=0.05, budget=10)


@pytest.mark.parametrize("misdeed", MISDEEDS)
async def test_each_misdeed_is_survived(misdeed: str) -> None:
    """Every third request goes wrong in the same way; every item gets its own answer."""
    server, gate = Server([misdeed], 0.33, seed=1), Gate()
    items = [f"item {n}" for n in range(60)]
    async with client_of(server, gate) as client:
        slots = Slots(8)
        result = await run(client.post, items, slots=slots, gates=[gate], max_concurrency=8, retry=PATIENT)
    assert list(result) == [f"made of {item}" for item in items]
    assert server.misdeeds_done[misdeed] > 0
    assert slots.in_use == 0


@pytest.mark.parametrize("seed", range(3))
async def test_all_misdeeds_together_cost_no_item_and_no_double(tmp_path: Path, seed: int) -> None:
    """Streamed, journalled and deduplicated; one picture for each distinct item, one key for each body."""
    server, gate = Server(MISDEEDS, 0.4, seed), Gate()
    items = [f"item {n % 150}" for n in range(200)]
    seen: dict[int, str | None] = {}
    async with client_of(server, gate) as client:
        options = {"journal": tmp_path / "run.jsonl", "dedup": True, "retry": PATIENT, "gates": [gate]}
        async with stream(client.post, items, max_concurrency=16, **options) as outcomes:  # type: ignore[arg-type]
            async for outcome in outcomes:
                seen[outcome.index] = outcome.value
                if len(seen) == 90:
                    break
        requests = server.requests
        result = await run(client.post, items, max_concurrency=16, **options)  # type: ignore[arg-type]
        assert list(result) == [f"made of {item}" for item in items]
        assert all(result[index] == value for index, value in seen.items())
        assert server.requests > requests
    assert len(server.made) == 150
    assert all(len(bodies) == 1 for bodies in server.bodies.values())


async def test_a_server_that_is_gone_fails_items_without_hanging() -> None:
    """Connection refused is tried again, then it is each item's error."""
    server, gate = Server([], 0, seed=0), Gate()
    async with client_of(server, gate) as client:
        client._url = "http://127.0.0.1:9/"
        retry = RetryPolicy(max_attempts=3, first_wait_s=0.01)
        result = await run(client.post, ["a", "b", "c"], retry=retry)
    assert {type(o.error) for o in result.failures} == {TransportError}
    assert [o.attempts for o in result.failures] == [3, 3, 3]

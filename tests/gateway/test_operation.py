"""Running a gateway: limits, readiness, metrics, and a shutdown that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import sqlite3
import tracemalloc
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from blossom_async.batch.hints import pause_s, retry_after_s
from blossom_async.errors import Overloaded
from blossom_async.gateway.callers.limits import Meter
from blossom_async.gateway.http.addresses import network
from blossom_async.gateway.http.connection import Room
from blossom_async.gateway.http.metrics import Metrics
from blossom_async.gateway.http.open_files import most_refused
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers import Artwork
from blossom_async.gateway.providers.offline import Offline
from blossom_async.gateway.server import listen, serving
from blossom_async.gateway.settings import Settings
from blossom_async.models import ImageRequest
from blossom_async.testing import FakeOpenAI
from tests.cli.test_cli import running
from tests.conftest import KEY, RunningGateway, running_gateway
from tests.effort import effort
from tests.gateway.making.test_paid import house
from tests.waiting import LIMIT_S, until

TINY: dict[str, Any] = {"prompt": "a lake", "width": 32, "height": 32}
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


@attrs.define
class Clock:
    """A clock that a test moves."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


class TestMeter:
    """A rate for each name, kept in one number."""

    def test_so_many_at_once_and_then_evenly(self) -> None:
        """Of 6 a minute six pass at once, and then one every ten seconds."""
        clock = Clock()
        meter = Meter(6, 60, clock=clock)
        assert [meter.take("a").admitted for _ in range(7)] == [True] * 6 + [False]
        clock.seconds = 9.99
        assert not meter.take("a").admitted
        clock.seconds = 10
        assert [meter.take("a").admitted for _ in range(2)] == [True, False]

    def test_what_is_left_and_when_there_is_more(self) -> None:
        """``remaining`` counts down; ``more_in_s`` is when it is one more."""
        clock = Clock()
        meter = Meter(3, 60, clock=clock)
        quotas = [meter.take("a") for _ in range(4)]
        assert [quota.remaining for quota in quotas] == [2, 1, 0, 0]
        assert [quota.more_in_s for quota in quotas] == pytest.approx([20, 20, 20, 20])
        clock.seconds = 5
        assert meter.look("a").more_in_s == pytest.approx(15)
        assert meter.look("b").remaining == 3

    def test_names_do_not_share(self) -> None:
        """Each has its own."""
        meter = Meter(1, 60, clock=Clock())
        assert [meter.take(name).admitted for name in "aab"] == [True, False, True]

    def test_looking_costs_nothing(self) -> None:
        """Only what is taken counts."""
        meter = Meter(1, 60, clock=Clock())
        assert [meter.look("a").admitted for _ in range(3)] == [True] * 3
        meter.take("a")
        assert not meter.look("a").admitted

    @pytest.mark.campaign
    def test_a_million_names_take_little_memory(self) -> None:
        """Row by row they push out those not heard of for the longest time."""
        meter = Meter(1, 60, clock=Clock(), names=1000)
        tracemalloc.start()
        for name in range(100_000):
            meter.take(name)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 1_000_000
        assert not meter.take(99_999).admitted
        assert meter.take(0).admitted

    @given(
        st.integers(1, 50),
        st.floats(0.1, 1000),
        st.floats(0, 1e9),
        st.lists(st.floats(0, 0.5), min_size=1, max_size=200),
    )
    def test_who_keeps_the_rate_is_never_refused(
        self, amount: int, per_s: float, start: float, gaps: list[float]
    ) -> None:
        """Whatever the pace: no more than ``amount`` calls in any window of ``per_s`` all pass."""
        clock = Clock(start)
        meter = Meter(amount, per_s, clock=clock)
        calls: list[float] = []
        for gap in gaps:
            clock.seconds += gap * per_s
            if len(calls) >= amount and clock.seconds - calls[-amount] < per_s:
                clock.seconds = calls[-amount] + per_s * (1 + 1e-6) + 1e-5
            calls.append(clock.seconds)
            assert meter.take("a").admitted

    @given(st.integers(1, 20), st.floats(1, 100), st.lists(st.floats(0, 0.2), max_size=300))
    def test_in_the_long_run_the_rate_holds(self, amount: int, per_s: float, gaps: list[float]) -> None:
        """Never more than ``amount`` at once and as many again for each window that has passed."""
        clock = Clock()
        meter = Meter(amount, per_s, clock=clock)
        passed = 0
        for gap in gaps:
            clock.seconds += gap * per_s
            passed += meter.take("a").admitted
            assert passed <= amount * (1 + clock.seconds / per_s) + 1e-6


def test_a_room_holds_so_many() -> None:
    """Who leaves makes room for another."""
    room = Room(2)
    assert [room.enter() for _ in range(3)] == [True, True, False]
    room.leave()
    assert room.enter()
    assert (room.held, room.refused) == (2, 1)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
    ],
)
def test_an_ipv6_network_is_one_caller(address: str, name: str) -> None:
    """A subscriber has the whole /64: to hop inside of it is no way round a limit."""
    assert network(ip_address(address)) == name


async def asked(
    running: RunningGateway, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case and body of one exchange."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession() as http:
        async with http.request(method, running.base_url + path, headers=headers) as answer:
            found = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, found, await answer.read()


class TestKeyRate:
    """``key_rate_limit``: how many calls an API key may make."""

    async def test_over_it_a_call_is_429(self, tmp_path: Path) -> None:
        """With when to come back, and in the words of the RateLimit draft; nothing is done for it."""
        async with running_gateway(tmp_path / "data", key_rate_limit="2/day") as there:
            answers = [await asked(there, "/v1/images/x", **AUTHORIZED) for _ in range(3)]
        assert [status for status, _, _ in answers] == [404, 404, 429]
        assert [headers["ratelimit-policy"] for _, headers, _ in answers] == ['"default";q=2;w=86400'] * 3
        left = [re.fullmatch(r'"default";r=(\d);t=(\d+)', headers["ratelimit"]) for _, headers, _ in answers]
        assert [found and found[1] for found in left] == ["1", "0", "0"]
        _, headers, body = answers[2]
        problem = orjson.loads(body)
        assert problem["code"] == "rate_limited"
        assert "no calls left" in problem["detail"]
        assert 43_000 < int(headers["retry-after"]) <= 43_200

    async def test_our_client_reads_it(self, tmp_path: Path) -> None:
        """Also from the last call that passed, so that the next one waits by itself."""
        async with running_gateway(tmp_path / "data", key_rate_limit="1/day") as there:
            _, passed, _ = await asked(there, "/v1/images/x", **AUTHORIZED)
            _, refused, _ = await asked(there, "/v1/images/x", **AUTHORIZED)
        assert pause_s(passed) == pytest.approx(86_400, abs=60)
        assert retry_after_s(refused) == pytest.approx(86_400, abs=60)

    async def test_each_key_has_its_own(self, tmp_path: Path) -> None:
        """A busy program takes nothing from another."""
        other = "another-key-of-the-tests"
        async with running_gateway(tmp_path / "data", key_rate_limit="1/day", api_keys=(KEY, other)) as there:
            for key, status in ((KEY, 404), (KEY, 429), (other, 404)):
                assert (await asked(there, "/v1/images/x", Authorization=f"Bearer {key}"))[0] == status

    async def test_only_good_keys_are_counted(self, tmp_path: Path) -> None:
        """Strangers cannot use up what they guess, nor see how much is left."""
        async with running_gateway(tmp_path / "data", key_rate_limit="1/day") as there:
            status, headers, _ = await asked(there, "/v1/images/x", Authorization="Bearer wrong")
            assert (status, "ratelimit" in headers) == (401, False)
            assert (await asked(there, "/v1/images/x", **AUTHORIZED))[0] == 404

    async def test_pictures_are_not_counted(self, tmp_path: Path) -> None:
        """The rate is of calls; viewers have none."""
        async with running_gateway(tmp_path / "data", key_rate_limit="1/day") as there:
            for _ in range(3):
                status, headers, _ = await asked(there, "/image/0000000000000000000000", **AUTHORIZED)
                assert (status, "ratelimit" in headers) == (404, False)

    async def test_without_a_limit_nothing_is_said(self, tmp_path: Path) -> None:
        """No header promises what does not hold."""
        async with running_gateway(tmp_path / "data") as there:
            _, headers, _ = await asked(there, "/v1/images/x", **AUTHORIZED)
        assert not [name for name in headers if name.startswith("ratelimit")]


class TestWrongKeys:
    """``failed_key_limit``: how many wrong keys an address may send."""

    async def test_then_they_are_429(self, tmp_path: Path) -> None:
        """On calls and on pictures alike; a key that works goes on working."""
        async with running_gateway(tmp_path / "data", failed_key_limit="3/day") as there:
            assert (await asked(there, "/v1/images/x", **AUTHORIZED))[0] == 404
            for number in range(3):
                assert (await asked(there, "/v1/images/x", Authorization=f"Bearer {number}"))[0] == 401
            status, headers, body = await asked(there, "/v1/images/x", Authorization="Bearer 4")
            assert (status, orjson.loads(body)["code"]) == (429, "too_many_wrong_keys")
            assert int(headers["retry-after"]) > 0
            assert (await asked(there, "/v1/images/x", **AUTHORIZED))[0] == 404
            assert (await asked(there, "/v1/images/x"))[0] == 401

    async def test_hopping_inside_a_network_is_no_way_round(self, tmp_path: Path) -> None:
        """Behind a proxy the viewer's address counts, and of IPv6 the /64."""
        settings = {"failed_key_limit": "2/day", "trusted_proxies": ("127.0.0.1",)}
        async with running_gateway(tmp_path / "data", **settings) as there:

            async def guess(address: str) -> int:
                headers = {"Authorization": "Bearer wrong", "X_Forwarded_For": address}
                return (await asked(there, "/v1/images/x", **headers))[0]

            addresses = ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1", "192.0.2.1")
            assert [await guess(address) for address in addresses] == [401, 401, 429, 401, 401]


class TestQueue:
    """``max_queue``: how many pictures may be under way."""

    async def test_one_too_many_is_refused_at_once(self, tmp_path: Path) -> None:
        """503 with when to come back, before anything is done for it; the others are made."""
        begun, go = asyncio.Semaphore(0), asyncio.Event()

        class Slow(Offline):
            """Draws when it is told to."""

            async def generate(self, request: ImageRequest, seed: int, *, key: str) -> Artwork:
                begun.release()
                await go.wait()
                return await super().generate(request, seed, key=key)

        workers = Workers(1)
        request = ImageRequest("a lake", width=32, height=32)
        async with house(tmp_path, Slow(workers.run), most=2) as rooms:
            making = [asyncio.create_task(rooms.create(request, key=None)) for _ in range(2)]
            for _ in making:
                await begun.acquire()
            with pytest.raises(Overloaded, match="2 pictures are waiting") as caught:
                await rooms.create(request)
            assert caught.value.retry_after_s == 5
            go.set()
            await asyncio.gather(*making)
            made = rooms.generation
            assert (made.waiting, made.made) == (0, {("offline", "png"): 2})
            await rooms.create(request)  # the same key, once there is room
        workers.close()

    async def test_it_is_a_503_with_retry_after(self, tmp_path: Path) -> None:
        """As a caller of a gateway sees it."""
        async with running_gateway(tmp_path / "data", max_queue=1, render_threads=1) as there:
            async with aiohttp.ClientSession(headers=AUTHORIZED) as http:

                async def create() -> tuple[int, str | None]:
                    async with http.post(f"{there.base_url}/v1/images", json={"prompt": "a lake"}) as answer:
                        return answer.status, answer.headers.get("Retry-After")

                answers = await asyncio.gather(*(create() for _ in range(8)))
            assert set(answers) == {(201, None), (503, "5")}
            made = sum(status == 201 for status, _ in answers)
            assert len(list(there.data_dir.glob("images/*/*.png"))) == made


class TestConnections:
    """``max_connections``: how many there may be."""

    async def test_one_too_many_is_told_and_closed(self, tmp_path: Path) -> None:
        """503 before it has sent anything; the others are served, and who leaves makes room."""
        async with running_gateway(tmp_path / "data", max_connections=2) as there:
            port = int(there.base_url.rpartition(":")[2])
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = orjson.loads(await reader.readexactly(int(re.search(r"Content-Length: (\d+)", head)[1])))  # type: ignore[index]
            writer.close()
            assert head.startswith("HTTP/1.1 503 ")
            assert "Content-Type: application/problem+json\r\n" in head
            assert "Retry-After: 2\r\n" in head
            assert "Connection: close\r\n" in head
            assert (body["status"], body["code"]) == (503, "overloaded")
            held[0][1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await held[0][0].readline()).startswith(b"HTTP/1.1 200")
            held[1][1].close()
            await held[1][1].wait_closed()
            async with asyncio.timeout(LIMIT_S):
                while (await self._status(port)) != 200:
                    pass
            held[0][1].close()

    async def test_calls_that_make_pictures_leave_a_connection_to_viewers(self, tmp_path: Path) -> None:
        """While they wait, the next is refused and its connection closed; a health check is answered."""
        async with (
            FakeOpenAI() as service,
            running_gateway(
                tmp_path / "data",
                max_connections=3,
                reserved_connections=1,
                providers=("openai",),
                openai_url=service.base_url,
                openai_model="gpt-image-2",
                openai_key="sk-of-a-test",
            ) as there,
            aiohttp.ClientSession(headers=AUTHORIZED) as http,
        ):

            async def create() -> tuple[int, str | None]:
                async with http.post(f"{there.base_url}/v1/images", json={"prompt": "a lake"}) as answer:
                    return answer.status, answer.headers.get("Connection")

            with service.held():
                waiting = [asyncio.create_task(create()) for _ in range(2)]
                await service.wait_for_requests(3)  # one asks for the models
                assert await create() == (503, "close")
                assert await self._status(int(there.base_url.rpartition(":")[2])) == 200
            assert [status for status, _ in await asyncio.gather(*waiting)] == [201, 201]

    async def test_while_draining_a_kept_connection_is_answered_and_closed(self, tmp_path: Path) -> None:
        """Also a request that was sent when the gateway had just stopped listening."""
        settings = Settings(data_dir=tmp_path / "data", api_keys=(KEY,))
        asked = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        async with serving(settings, listen("127.0.0.1", 0)) as base_url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(base_url.rpartition(":")[2]))
            writer.write(asked)
            assert b"Connection: close" not in await reader.readuntil(b"\r\n\r\n")
            writer.write(asked)
        answers = (await reader.read()).decode()  # to the end of the connection
        writer.close()
        assert answers.count("HTTP/1.1 200 OK") == 1
        assert "Connection: close" in answers

    async def test_while_draining_a_viewer_is_told_to_go_elsewhere(self, tmp_path: Path) -> None:
        """Also with a picture whose answer is ready."""
        settings = Settings(data_dir=tmp_path / "data", api_keys=(KEY,), drain_delay_s=0.5)
        async with contextlib.AsyncExitStack() as opened:
            base_url = await opened.enter_async_context(serving(settings, listen("127.0.0.1", 0)))
            made = {"prompt": "a lake", "width": 64, "height": 64}
            async with (
                aiohttp.ClientSession(headers=AUTHORIZED) as http,
                http.post(f"{base_url}/v1/images", json=made) as answer,
            ):
                path = (await answer.json())["url"].removeprefix(base_url)
            reader, writer = await asyncio.open_connection("127.0.0.1", int(base_url.rpartition(":")[2]))
            asked = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            heads = []
            for last in (False, False, True):
                if last:
                    ending = asyncio.create_task(opened.aclose())
                    await asyncio.sleep(0)
                writer.write(asked)
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await reader.readexactly(int(re.search(r"Content-Length: (\d+)", head)[1]))  # type: ignore[index]
                heads.append("Connection: close\r\n" in head)
            writer.close()
            await ending
        assert heads == [False, False, True]

    async def test_while_draining_a_slow_viewer_gets_the_whole_picture(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also of an answer that was ready: the gateway ends only once the system has all of it."""
        monkeypatch.setattr("blossom_async.gateway.server._LAST_S", 0.01)
        listening = listen("127.0.0.1", 0)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        settings = Settings(data_dir=tmp_path / "data", api_keys=(KEY,))
        with socket.socket() as viewer:
            gateway = serving(settings, listening)
            base_url = await gateway.__aenter__()
            made = {"prompt": "a lake", "width": 440, "height": 440, "format": "png"}
            async with aiohttp.ClientSession(headers=AUTHORIZED) as http:
                async with http.post(f"{base_url}/v1/images", json=made) as answer:
                    picture = await answer.json()
                async with http.get(picture["url"]) as answer:
                    await answer.read()
            viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            viewer.settimeout(LIMIT_S)
            viewer.connect(("127.0.0.1", int(base_url.rpartition(":")[2])))
            path = picture["url"].removeprefix(base_url)
            viewer.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            received = await asyncio.to_thread(viewer.recv, 1024)
            ending = asyncio.create_task(gateway.__aexit__(None, None, None))
            await asyncio.wait((ending,), timeout=0.5)
            assert not ending.done()
            while piece := await asyncio.to_thread(viewer.recv, 1 << 16):
                received += piece
            await ending
        assert len(received.partition(b"\r\n\r\n")[2]) == picture["file_size"]

    async def _status(self, port: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            status = (await reader.readline()).split()[1]
            writer.close()
            return int(status)
        return 0

    async def test_many_too_many_are_told(self, tmp_path: Path) -> None:
        """Of hundreds at once, every one reads why it is refused; none is reset."""
        async with running_gateway(tmp_path / "data", max_connections=2) as there:
            port = int(there.base_url.rpartition(":")[2])
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]

            async def refused() -> bytes:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n")
                head = await reader.readuntil(b"\r\n")
                writer.write(bytes(2000))
                await writer.drain()
                writer.close()
                return head

            heads = await asyncio.gather(*(refused() for _ in range(min(300, most_refused()))))
            for _, writer in held:
                writer.close()
        assert set(heads) == {b"HTTP/1.1 503 Service Unavailable\r\n"}

    async def test_a_flood_leaves_the_others_served(self, tmp_path: Path) -> None:
        """Hundreds of idle connections are turned away; one that is there goes on."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        flood = min(500, soft // 3)
        async with running_gateway(tmp_path / "data", max_connections=20) as there:
            async with aiohttp.ClientSession() as http:
                async with http.get(f"{there.base_url}/healthz") as answer:
                    await answer.read()
                port = int(there.base_url.rpartition(":")[2])
                socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(flood)]

                async def turned_away() -> bool:
                    async with http.get(f"{there.base_url}/metrics", headers=AUTHORIZED) as answer:
                        figures = figures_of(await answer.text())
                    assert figures["blossom_connections", ()] <= 20
                    return figures["blossom_connections_refused_total", ()] >= flood - 20

                await until(turned_away)
                for sock in socks:
                    sock.close()

    async def test_a_caller_that_never_asks_is_let_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Half a request line does not hold a connection for long."""
        monkeypatch.setattr("blossom_async.gateway.http.connection._FIRST_REQUEST_S", 0.05)  # not 30 s
        async with running_gateway(tmp_path / "data") as there:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(there.base_url[-5:].strip(":")))
            writer.write(b"GET /hea")
            async with asyncio.timeout(LIMIT_S):
                assert await reader.read() == b""
            writer.close()

    async def test_a_viewer_that_asked_is_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also if its answers were ready: its connection stays."""
        monkeypatch.setattr("blossom_async.gateway.http.connection._FIRST_REQUEST_S", 0.5)  # not 30 s
        async with running_gateway(tmp_path / "data") as there:
            async with aiohttp.ClientSession(headers=AUTHORIZED) as http:
                async with http.post(f"{there.base_url}/v1/images", json=TINY) as answer:
                    url = (await answer.json())["url"]
                async with http.get(url) as answer:
                    await answer.read()
            port = int(there.base_url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            silent, opened_later = await asyncio.open_connection("127.0.0.1", port)
            asked = f"GET {url.removeprefix(there.base_url)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            async with asyncio.timeout(LIMIT_S):
                for _ in range(2):
                    writer.write(asked)
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    await reader.readexactly(int(re.search(r"Content-Length: (\d+)", head)[1]))  # type: ignore[index]
                    assert await silent.read() == b""
            for opened in (writer, opened_later):
                opened.close()


def figures_of(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Samples by name and the values of their labels, which are in the order of their names."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class TestReadiness:
    """``/readyz``: may requests be sent here?"""

    async def test_ready(self, tmp_path: Path) -> None:
        """200 once it has warmed up."""
        async with running_gateway(tmp_path / "data") as there:
            async with asyncio.timeout(LIMIT_S):
                while (answer := await asked(there, "/readyz"))[0] != 200:
                    assert orjson.loads(answer[2])["reasons"] == {"stage": "starting"}
        assert orjson.loads(answer[2]) == {"status": "ready"}
        assert answer[1]["cache-control"] == "no-store"

    async def test_not_without_a_folder_to_write_to(self, tmp_path: Path) -> None:
        """503 names what cannot be written; a liveness probe must not restart it for that."""
        async with running_gateway(tmp_path / "data") as there:
            (there.data_dir / "images").rename(there.data_dir / "gone")
            async with asyncio.timeout(LIMIT_S):
                while (answer := await asked(there, "/readyz"))[0] == 200 or b"stage" in answer[2]:
                    pass
            reasons = orjson.loads(answer[2])["reasons"]
            assert (answer[0], list(reasons)) == (503, ["pictures"])
            assert str(tmp_path) not in reasons["pictures"]
            assert (await asked(there, "/healthz"))[0] == 200
            (there.data_dir / "gone").rename(there.data_dir / "images")

    async def test_not_with_a_locked_database(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """And ready again once it can be written."""
        monkeypatch.setattr("blossom_async.gateway.storage.records.sqlite._BUSY_TIMEOUT_S", 0.05)  # not 10 s
        async with running_gateway(tmp_path / "data") as there:
            other = sqlite3.connect(there.data_dir / "records.sqlite", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            async with asyncio.timeout(LIMIT_S):
                while b"database" not in (answer := await asked(there, "/readyz"))[2]:
                    pass
            assert answer[0] == 503
            other.close()
            async with asyncio.timeout(LIMIT_S):
                while (await asked(there, "/readyz"))[0] != 200:
                    pass


class TestMetrics:
    """``/metrics``: figures without names."""

    async def test_requests_are_counted_by_pattern(self, tmp_path: Path) -> None:
        """Route, method and class of status, and how long they took."""
        async with running_gateway(tmp_path / "data") as there:
            for _ in range(3):
                await asked(there, "/v1/images/0000000000000000000000", **AUTHORIZED)
            await asked(there, "/nothing-of-ours")
            figures = figures_of((await asked(there, "/metrics"))[2].decode())
        assert figures["blossom_request_seconds_count", ("GET", "/v1/images/{id}", "4xx")] == 3
        assert figures["blossom_request_seconds_bucket", ("+Inf", "GET", "/v1/images/{id}", "4xx")] == 3
        assert figures["blossom_request_seconds_count", ("GET", "none", "4xx")] == 1
        assert 0 < figures["blossom_request_seconds_sum", ("GET", "/v1/images/{id}", "4xx")] < LIMIT_S

    async def test_what_was_made_and_sent(self, tmp_path: Path) -> None:
        """Pictures by provider and format; bytes; what memory answered."""
        async with running_gateway(tmp_path / "data") as there, there.client() as client:
            info = await client.image.generate_url_with_info("a lake", width=32, height=32, format="webp")
            before = figures_of((await asked(there, "/metrics"))[2].decode())
            for _ in range(2):
                await asked(there, f"/image/{info.id}")
            after = figures_of((await asked(there, "/metrics"))[2].decode())
        assert after["blossom_pictures_made_total", ("webp", "offline")] == 1
        assert after["blossom_pictures_waiting", ()] == 0
        assert (after["blossom_hot_misses_total", ()], after["blossom_hot_hits_total", ()]) == (1, 1)
        sent = after["blossom_sent_bytes_total", ()] - before["blossom_sent_bytes_total", ()]
        assert sent > 2 * info.file_size

    async def test_no_prompt_key_or_id_is_in_them(self, tmp_path: Path) -> None:
        """Whoever reads the figures learns nothing of anybody; nor does a caller make new labels."""
        prompt = "xylophone-4711"
        async with running_gateway(tmp_path / "data") as there, there.client() as client:
            info = await client.image.generate_url_with_info(prompt, width=32, height=32)
            await asked(there, f"/image/{info.id}?{prompt}", **AUTHORIZED)
            await asked(there, f"/{prompt}", method=prompt.upper())
            text = (await asked(there, "/metrics"))[2].decode()
        for secret in (prompt, prompt.upper(), KEY, info.id):
            assert secret not in text
        assert '"other"' in text

    @pytest.mark.parametrize("changes", [{"public_url": "http://x"}, {"trusted_proxies": ("127.0.0.1",)}])
    async def test_strangers_need_a_key(self, tmp_path: Path, changes: dict[str, object]) -> None:
        """Where a proxy may hand on what the world asks, the figures are for holders of an API key."""
        sock = listen("127.0.0.1", 0)
        port = sock.getsockname()[1]
        settings = Settings(data_dir=tmp_path / "data", api_keys=(KEY,), **changes)  # type: ignore[arg-type]
        async with serving(settings, sock):
            there = RunningGateway(f"http://127.0.0.1:{port}", tmp_path / "data")
            assert (await asked(there, "/metrics"))[0] == 401
            assert (await asked(there, "/metrics", **AUTHORIZED))[0] == 200

    async def test_two_keys_are_none(self, tmp_path: Path) -> None:
        """A header sent twice is refused here as everywhere, and lets nobody in."""
        settings = {"trusted_proxies": ("127.0.0.1",)}
        async with running_gateway(tmp_path / "data", **settings) as there, aiohttp.ClientSession() as http:
            twice = [("Authorization", "Bearer a"), ("Authorization", "Bearer b")]
            async with http.get(f"{there.base_url}/metrics", headers=twice) as answer:
                assert (answer.status, (await answer.json(content_type=None))["code"]) == (
                    400,
                    "repeated_header",
                )

    def test_counting_is_quick(self) -> None:
        """A request is counted in a handful of calls, so that the picture path does not feel it."""
        metrics = Metrics()
        metrics.count("/image/{_}", "GET", 200, 0.001, 1000)
        with effort() as spent:
            for _ in range(1000):
                metrics.count("/image/{_}", "GET", 200, 0.001, 1000)
        assert spent.calls < 5 * 1000


@pytest.mark.campaign
def test_sigterm_loses_no_request(tmp_path: Path) -> None:
    """Not ready first, then no new connection, and the picture under way is answered before it ends."""
    environment = {**os.environ, "BLOSSOM_DRAIN_DELAY_S": "1.5", "BLOSSOM_RENDER_THREADS": "1"}
    with running("serve", "--data-dir", tmp_path / "data", env=environment) as there:
        assert there.stdout is not None
        address = re.search(r"http://\S+", "".join(there.stdout.readline() for _ in range(4)))
        assert address
        key = (tmp_path / "data" / "api_key").read_text()
        status, ready = asyncio.run(_terminated(there.pid, address[0], key))
        assert there.wait(LIMIT_S) == 0
    assert (status, ready["reasons"]) == (201, {"stage": "draining"})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(address[0].rpartition(":")[2])))


async def _terminated(pid: int, base_url: str, key: str) -> tuple[int, dict[str, object]]:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as http:

        async def create() -> int:
            slow = {"prompt": "a city at night", "width": 3000, "height": 3000, "quality": "ultra"}
            async with http.post(f"{base_url}/v1/images", json=slow) as answer:
                info = await answer.json()
                assert info["width"] == 3000
                return answer.status

        creating = asyncio.create_task(create())
        while figures_of(await _text(http, f"{base_url}/metrics"))["blossom_pictures_waiting", ()] < 1:
            pass
        os.kill(pid, signal.SIGTERM)
        while "draining" not in (ready := await _text(http, f"{base_url}/readyz")):
            pass
        return await creating, orjson.loads(ready)


async def _text(http: aiohttp.ClientSession, url: str) -> str:
    async with http.get(url) as answer:
        return await answer.text()


@pytest.mark.campaign
def test_serve_allows_itself_all_files_it_may_open(tmp_path: Path) -> None:
    """A thousand connections do not end at the usual limit of open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

    with running("serve", "--data-dir", tmp_path / "data", preexec_fn=few) as there:
        assert there.stdout is not None
        there.stdout.readline()
        soft, _ = resource.prlimit(there.pid, resource.RLIMIT_NOFILE)
    assert soft == (1500 if hard == resource.RLIM_INFINITY else hard)


@pytest.mark.campaign
async def test_connections_leave_files_for_the_work(tmp_path: Path) -> None:
    """Where no more may be opened, connections are refused before the gateway runs out."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    with running("serve", "--data-dir", tmp_path / "data", preexec_fn=few) as there:
        assert there.stdout is not None
        base_url = there.stdout.readline().split()[-1]
        port = int(base_url.rpartition(":")[2])
        refused = b"HTTP/1.1 503"
        writers, told = list[asyncio.StreamWriter](), list[asyncio.Task[bytes]]()

        async def comes() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            told.append(asyncio.create_task(reader.read(12)))

        for _ in range(200):
            await comes()
        # Any of them may have been let in, and is told nothing: whenever a descriptor was free.
        await until(lambda: sum(each.done() for each in told) >= 100)
        seen = {each.result() for each in told if each.done()}
        assert refused in seen <= {refused, b""}  # told why, or cut off

        async def one_more_is_told() -> bool:
            await comes()
            return any(each.done() and each.result() == refused for each in told[200:])

        await until(one_more_is_told)  # as soon as those who were told have gone
        for writer in writers:
            writer.close()
        await asyncio.gather(*told)
        key = (tmp_path / "data" / "api_key").read_text().strip()
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
            async with asyncio.timeout(LIMIT_S):
                while (status := await _created(http, base_url)) == 503:
                    pass
    assert status == 201


async def _created(http: aiohttp.ClientSession, base_url: str) -> int:
    small = {"prompt": "a lake", "width": 16, "height": 16}
    try:
        async with http.post(f"{base_url}/v1/images", json=small) as answer:
            return answer.status
    except aiohttp.ClientConnectionError:
        return 503  # the gateway has not yet seen the others leave

"""What a hostile or broken caller may send, over raw sockets: a problem each time, and nothing leaks."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import sqlite3
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs
import orjson
import pytest

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.settings import Settings, load
from tests.conftest import KEY, RunningGateway, running_gateway
from tests.waiting import LIMIT_S

Gateway = AbstractAsyncContextManager[RunningGateway]
SECRET = "xylophone-4711"
BODY = b'{"prompt": "a lake", "width": 32, "height": 32}'


@attrs.frozen
class Answer:
    """The first response on a connection; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, object]:
        """The body, of which it is certain that it is a problem no cache keeps."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["cache-control"] == "no-store"
        assert self.headers["server"] == "blossom"
        problem: dict[str, object] = orjson.loads(self.body)
        assert problem["status"] == self.status
        assert problem["request_id"] == self.headers["x-request-id"]
        return problem


async def connected(running: RunningGateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(running.base_url.rpartition(":")[2]))


async def exchange(running: RunningGateway, sent: bytes) -> Answer:
    """What comes back until the gateway closes the connection; this side leaves it open."""
    reader, writer = await connected(running)
    writer.write(sent)
    async with asyncio.timeout(LIMIT_S):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return parsed(answer)


def parsed(answer: bytes) -> Answer:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
    return Answer(int(status.split()[1]), headers, body[: int(headers.get("content-length", 0))])


def post(*headers: str, body: bytes = BODY, length: int | None = None) -> bytes:
    """A creating call; ``Connection: close`` makes the gateway end it."""
    lines = [
        "POST /v1/images HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        *headers,
    ]
    if not any(line.startswith("Transfer-Encoding") for line in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def said(caplog: pytest.LogCaptureFixture) -> str:
    """The log of the gateway and of aiohttp, tracebacks included."""
    formatter = logging.Formatter()
    ours = [record for record in caplog.records if record.name.startswith(("aiohttp", "blossom"))]
    return "\n".join(formatter.format(record) for record in ours)


class TestWhatIsNoHttp:
    """aiohttp's parser refuses it; its own words, which quote the request, reach nobody."""

    @pytest.mark.parametrize(
        "sent",
        [
            f"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {SECRET}\r\n\r\n",
            f"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\x00\r\n\r\n",
            f"GET /healthz HTTP/1.1\r\nHost: x\r\nX: {SECRET}{'x' * 9000}\r\n\r\n",
            f"GET /{SECRET} {SECRET}\r\n\r\n",
            f"{SECRET}\r\n\r\n",
            f"GET http://[{SECRET}/ HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET /{SECRET}{'x' * 9000} HTTP/1.1\r\nHost: x\r\n\r\n",
            f"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: {SECRET}\r\n\r\n",
            f"GET /healthz HTTP/1.1\r\nHost: x\r\n{SECRET} : x\r\n\r\n",
        ],
    )
    async def test_it_is_a_fixed_problem(
        self, gateway: Gateway, caplog: pytest.LogCaptureFixture, sent: str
    ) -> None:
        """400 as problem+json; the log has one quiet line with the class, and nothing of the request."""
        caplog.set_level(logging.DEBUG)
        async with gateway as running:
            answer = await exchange(running, sent.encode("latin-1"))
        assert (answer.status, answer.problem["code"]) == (400, "malformed_request")
        assert ("8,190 bytes" in str(answer.problem["detail"])) == (len(sent) > 9000)
        assert SECRET.encode() not in answer.body
        assert SECRET not in said(caplog)
        assert "Traceback" not in said(caplog)
        (record,) = [record for record in caplog.records if "outside the handlers" in record.message]
        assert record.levelno == logging.INFO
        assert str(answer.problem["request_id"]) in record.message

    async def test_after_a_good_request_too(self, gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
        """What follows on a connection in use is treated the same."""
        caplog.set_level(logging.DEBUG)
        async with gateway as running:
            reader, writer = await connected(running)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
            writer.write(f"{SECRET}\r\n\r\n".encode())
            answer = parsed(await reader.read())
            writer.close()
            await writer.wait_closed()
        assert (answer.status, answer.problem["code"]) == (400, "malformed_request")
        assert SECRET not in said(caplog)

    @pytest.mark.parametrize("path", ["/healthz", "/v1/images", "/image/x", "/nothing"])
    async def test_an_expectation_nobody_can_meet(self, gateway: Gateway, path: str) -> None:
        """417 is a problem like any other, on every path."""
        sent = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: {SECRET}\r\n\r\n"
        async with gateway as running:
            answer = await exchange(running, sent.encode())
        assert (answer.status, answer.problem["code"]) == (417, "expectation_failed")
        assert SECRET.encode() not in answer.body

    def test_without_the_c_parser_it_does_not_start(self) -> None:
        """aiohttp's pure Python parser is refused, with the way out."""
        script = (
            "from blossom_async.gateway.app import create_app\n"
            "from blossom_async.gateway.settings import Settings\n"
            "create_app(Settings(), public_url='http://x')\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"},
        )
        assert ended.returncode == 1
        assert "ConfigurationError: aiohttp would parse HTTP in pure Python" in ended.stderr
        assert "unset AIOHTTP_NO_EXTENSIONS" in ended.stderr


class TestBodies:
    """A body that is not what was announced is the caller's fault, and is said to the caller."""

    @pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "nonsense", ""])
    @pytest.mark.parametrize(
        "body", [BODY, gzip.compress(BODY), b"\x1f\x8b"], ids=["plain", "packed", "broken"]
    )
    async def test_no_content_encoding(
        self, gateway: Gateway, caplog: pytest.LogCaptureFixture, coding: str, body: bytes
    ) -> None:
        """Compressed bodies are refused unread, whether or not they could be unpacked."""
        async with gateway as running:
            answer = await exchange(running, post(f"Content-Encoding: {coding}", body=body))
        assert (answer.status, answer.problem["code"]) == (415, "unsupported_content_encoding")
        assert said(caplog) == ""

    @pytest.mark.parametrize(
        ("header", "sent"),
        [
            ("Content-Length: 1000", BODY),
            ("Transfer-Encoding: chunked", b"5\r\nhello\r\n"),
            ("Transfer-Encoding: chunked", b"5\r\nhel"),
        ],
    )
    async def test_a_caller_that_goes_away_is_no_failure(
        self, gateway: Gateway, caplog: pytest.LogCaptureFixture, header: str, sent: bytes
    ) -> None:
        """A cut upload leaves nothing in the log of what went wrong here, for nothing did."""
        async with gateway as running:
            reader, writer = await self._awaited(running, header)
            writer.write(sent)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        assert said(caplog) == ""

    async def test_malformed_chunks(
        self, gateway: Gateway, hasty: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A body that stops making sense has not arrived: 408, and the connection ends."""
        caplog.set_level(logging.DEBUG)
        async with gateway as running:
            reader, writer = await self._awaited(running, "Transfer-Encoding: chunked")
            writer.write(f"5\r\nhello\r\n{SECRET}\r\n".encode())
            answer = parsed(await reader.read())
            writer.close()
            await writer.wait_closed()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert answer.problem["code"] == "request_timeout"
        assert SECRET not in said(caplog)
        assert "Traceback" not in said(caplog)

    async def _awaited(
        self, running: RunningGateway, header: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection over which the gateway waits for a body."""
        reader, writer = await connected(running)
        head = post("Expect: 100-continue", "Transfer-Encoding: chunked", body=b"")
        head = head.replace(b"Connection: close\r\n", b"")
        writer.write(head.replace(b"Transfer-Encoding: chunked", header.encode()))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        return reader, writer

    @pytest.fixture
    def hasty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Deadlines that a test can wait for, in place of 30 s and 10 s."""
        monkeypatch.setattr("blossom_async.gateway.calls.incoming.BODY_DEADLINE_S", 0.05)
        monkeypatch.setattr("blossom_async.gateway.server._LINGER_S", 0.0)

    async def test_a_body_that_does_not_arrive(
        self, gateway: Gateway, hasty: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        """408 after the deadline, and the connection is closed though the caller holds it open."""
        async with gateway as running:
            sent = post(length=1000).replace(b"Connection: close\r\n", b"")
            answer = await exchange(running, sent)
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert answer.problem["code"] == "request_timeout"
        assert said(caplog) == ""

    @pytest.mark.parametrize(
        "body",
        [
            orjson.dumps({"prompt": "x", "a" * 900_000: 1}),
            orjson.dumps({"prompt": "x", "metadata": {"a" * 900_000: {}}}),
            orjson.dumps({"prompt": "x", "model": "a" * 900_000}),
        ],
        ids=["option", "metadata", "value"],
    )
    async def test_a_megabyte_of_a_name_is_not_said_back(self, gateway: Gateway, body: bytes) -> None:
        """Whatever a caller named, the answer to it is short."""
        async with gateway as running:
            answer = await exchange(running, post(body=body))
        assert answer.status == 422
        assert len(str(answer.problem["detail"])) <= 500
        assert len(answer.body) < 2000

    async def test_a_long_detail_is_cut(self, gateway: Gateway) -> None:
        """To 500 characters, the last three of them dots."""
        async with gateway as running:
            answer = await exchange(running, post().replace(b"application/json", b"text/" + b"a" * 8000))
        detail = str(answer.problem["detail"])
        assert (answer.status, len(detail), detail[-4:]) == (415, 500, "a...")


class TestHeaders:
    """Who asks, and for what, is said once."""

    @pytest.mark.parametrize("name", ["Authorization", "Idempotency-Key"])
    async def test_a_repeated_header_is_refused(self, gateway: Gateway, name: str) -> None:
        """Two lines are 400, also when both say the same."""
        value = f"Bearer {KEY}" if name == "Authorization" else "k1"
        lines = [f"{name}: {value}"] * (1 if name == "Authorization" else 2)  # `post` has one of the former
        async with gateway as running:
            answer = await exchange(running, post(*lines))
            assert not list(running.data_dir.glob("images/*/*"))
        assert (answer.status, answer.problem["code"]) == (400, "repeated_header")
        assert name in str(answer.problem["detail"])
        assert KEY.encode() not in answer.body

    @pytest.mark.parametrize("line", ["", "Authorization: Bearer not-a-key-of-this-gateway\r\n"])
    async def test_without_a_key_the_client_user_learns_where_it_is_set(
        self, gateway: Gateway, line: str
    ) -> None:
        """401 names the argument and the environment variable of the client."""
        sent = post().replace(f"Authorization: Bearer {KEY}\r\n".encode(), line.encode())
        async with gateway as running:
            answer = await exchange(running, sent)
        assert answer.status == 401
        assert "clients take it from api_key= or BLOSSOM_API_KEY" in str(answer.problem["detail"])


def call(method: str, path: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", f"Authorization: Bearer {KEY}"]
    return "\r\n".join([*lines, "", ""]).encode()


class TestErasure:
    """After 204 the picture and its prompt are on no file; until then, DELETE may be repeated."""

    async def test_the_prompt_is_in_no_file_while_the_gateway_runs(self, gateway: Gateway) -> None:
        """Not in the database, nor in its write-ahead log, nor in a picture."""
        async with gateway as running:
            created = await exchange(running, post(body=BODY.replace(b"a lake", SECRET.encode())))
            path = f"/v1/images/{orjson.loads(created.body)['id']}"
            assert self._holding(running.data_dir)
            assert (await exchange(running, call("DELETE", path))).status == 204
            assert self._holding(running.data_dir) == []

    def _holding(self, folder: Path) -> list[Path]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return [path for path in files if SECRET.encode() in path.read_bytes()]

    async def test_bytes_left_by_a_kill_go_with_the_next_delete(self, gateway: Gateway) -> None:
        """A kill between row and file leaves bytes; DELETE again answers 410 and removes them."""
        async with gateway as running:
            created = await exchange(running, post())
            path = f"/v1/images/{orjson.loads(created.body)['id']}"
            (picture,) = running.data_dir.glob("images/*/*.png")
            data = picture.read_bytes()
            await exchange(running, call("DELETE", path))
            picture.write_bytes(data)
            assert (await exchange(running, call("DELETE", path))).status == 410
            assert not picture.exists()

    async def test_bytes_that_cannot_be_removed_are_said_each_time(self, gateway: Gateway) -> None:
        """503, also when the record was deleted before, until the file is really gone."""
        async with gateway as running:
            created = await exchange(running, post())
            path = f"/v1/images/{orjson.loads(created.body)['id']}"
            (picture,) = running.data_dir.glob("images/*/*.png")
            picture.unlink()
            picture.mkdir()  # even root cannot unlink a folder
            for _ in range(2):
                answer = await exchange(running, call("DELETE", path))
                assert (answer.status, answer.problem["code"]) == (503, "storage_failed")
            picture.rmdir()
            assert (await exchange(running, call("DELETE", path))).status == 410


async def test_a_locked_database_is_503_with_retry_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller learns when to come back."""
    monkeypatch.setattr("blossom_async.gateway.storage.records.sqlite._BUSY_TIMEOUT_S", 0.05)  # not 10 s
    async with running_gateway(tmp_path / "data") as running:
        other = sqlite3.connect(running.data_dir / "records.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answer = await exchange(running, post())
        other.close()
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert (await exchange(running, post())).status == 201


class TestSettings:
    """A setting that cannot be used is called by the name its user gave it."""

    @pytest.mark.parametrize(
        ("variable", "value", "told"),
        [
            ("BLOSSOM_PORT", "abc", "BLOSSOM_PORT: 'abc' cannot be used; allowed: a whole number from 1"),
            ("BLOSSOM_PORT", "70000", "BLOSSOM_PORT: 70000 is not a port; allowed: a whole number from 1"),
            ("BLOSSOM_RENDER_THREADS", "0", "BLOSSOM_RENDER_THREADS: 0 cannot be used; allowed: a whole"),
            ("BLOSSOM_RENDER_THREADS", "-1", "BLOSSOM_RENDER_THREADS: -1 cannot be used; allowed: a whole"),
            ("BLOSSOM_RENDER_THREADS", "257", "BLOSSOM_RENDER_THREADS: 257 cannot be used; allowed: a whole"),
            ("BLOSSOM_RENDER_THREADS", "many", "BLOSSOM_RENDER_THREADS: 'many' cannot be used; allowed: a"),
            ("BLOSSOM_API_KEYS", SECRET, "BLOSSOM_API_KEYS: a key is shorter than 16 characters"),
        ],
    )
    def test_from_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
    ) -> None:
        """The variable is named, and a key is not repeated."""
        monkeypatch.setenv(variable, value)
        with pytest.raises(ConfigurationError) as caught:
            load()
        assert str(caught.value).startswith(told)
        assert SECRET not in str(caught.value)

    def test_from_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """There the name is the one in the file."""
        monkeypatch.delenv("BLOSSOM_PORT")
        (tmp_path / "blossom.toml").write_text('[blossom]\nport = "abc"\n')
        with pytest.raises(ConfigurationError, match=r"^port: 'abc' cannot be used; allowed: a whole number"):
            load(tmp_path / "blossom.toml")

    @pytest.mark.parametrize("threads", [0, -1, 257])
    def test_given(self, threads: int) -> None:
        """No gateway is built that could draw nothing."""
        with pytest.raises(ConfigurationError, match=f"render_threads: {threads} cannot be used"):
            Settings(render_threads=threads)


async def test_a_name_that_is_twice_in_the_body_is_refused(gateway: Gateway) -> None:
    """Whoever checked it before may have read the other one."""
    body = b'{"prompt": "x", "width": 32, "height": 32, "require_auth": true, "require_auth": false}'
    async with gateway as running:
        answer = await exchange(running, post(body=body))
        assert answer.status == 400
        assert b"'require_auth' appears twice" in answer.body

"""The log: one line for each request, as text or JSON, and nothing that a caller sent."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from blossom_async.gateway.http.logs import formatter
from tests.cli.test_cli import running
from tests.conftest import KEY, RunningGateway, running_gateway
from tests.gateway.dashboard.test_dashboard import visiting
from tests.waiting import LIMIT_S

TINY = {"prompt": "a lake", "width": 32, "height": 32}


@contextmanager
def logged(form: str = "json") -> Iterator[io.StringIO]:
    """What the gateway's log says meanwhile, as an application with such a handler sees it."""
    said, log = io.StringIO(), logging.getLogger("blossom_async")
    handler = logging.StreamHandler(said)
    handler.setFormatter(formatter(form))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


def parsed(said: io.StringIO) -> list[dict[str, Any]]:
    """The lines of JSON."""
    return [orjson.loads(line) for line in said.getvalue().splitlines()]


def requests(said: io.StringIO) -> list[dict[str, Any]]:
    return [line for line in parsed(said) if line["event"] == "request"]


async def asked(
    there: RunningGateway, method: str, path: str, **options: Any
) -> tuple[Mapping[str, str], Any]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.request(method, f"{there.base_url}{path}", **options) as answer:
            body = await answer.read()
            return answer.headers, body


class TestRequests:
    """The access lines."""

    async def test_a_line_says_who_asked_for_what(self, tmp_path: Path) -> None:
        """Id, tenant, route, status, time and bytes; never the path itself."""
        async with running_gateway(tmp_path / "data") as there:
            with logged() as said:
                headers, body = await asked(there, "POST", "/v1/images", json=TINY)
                image_id = orjson.loads(body)["id"]
                await asked(there, "GET", f"/v1/images/{image_id}")
                await asked(there, "GET", "/v1/images/0000000000000000000000")
        made, found, missing = requests(said)
        assert made["request_id"] == headers["X-Request-Id"]
        assert (made["tenant"], made["method"], made["route"]) == ("main", "POST", "/v1/images")
        assert (made["status"], made["code"], made["level"]) == (201, None, "info")
        assert made["bytes"] > len(body)  # its head, too
        assert made["ms"] > 0
        assert (found["route"], found["status"]) == ("/v1/images/{id}", 200)
        assert (missing["status"], missing["code"]) == (404, "not_found")
        assert image_id not in said.getvalue()

    @pytest.mark.parametrize(
        ("access_log", "routes"),
        [
            ("none", []),
            ("calls", ["/v1/images", "/image/{_}"]),
            ("all", ["/v1/images", "/healthz", "/image/{_}", "/image/{_}"]),
        ],
    )
    async def test_pictures_and_probes_have_lines_if_wanted(
        self, tmp_path: Path, access_log: str, routes: list[str]
    ) -> None:
        """By default of pictures only what was refused is logged."""
        async with running_gateway(tmp_path / "data", access_log=access_log) as there:
            with logged() as said:
                _, body = await asked(there, "POST", "/v1/images", json=TINY)
                await asked(there, "GET", "/healthz")
                await asked(there, "GET", f"/image/{orjson.loads(body)['id']}")
                await asked(there, "GET", "/image/0000000000000000000000")
        assert [line["route"] for line in requests(said)] == routes

    async def test_the_front_doors_errors_are_found_by_their_id(self, tmp_path: Path) -> None:
        """In the log and on the dashboard, by the id that its caller was told."""
        async with running_gateway(tmp_path / "data") as there:
            with logged() as said:
                headers, _ = await asked(there, "POST", "/v1/images/generations", json={"prompt": ""})
            async with visiting(there) as visitor:
                page = await visitor.page("/traffic")
        line, *_ = requests(said)
        assert (line["request_id"], line["status"]) == (headers["X-Request-Id"], 400)
        assert line["request_id"] in page


class TestForm:
    """How a line looks."""

    def test_text_is_for_people(self) -> None:
        """Time, level, words, and the rest as name=value."""
        with logged("text") as said:
            logging.getLogger("blossom_async.gateway").warning(
                "%d views wait", 3, extra={"tenant": "main", "_mark": "of another library"}
            )
        assert re.fullmatch(r"20\S+Z \[warning  \] 3 views wait tenant=main\n", said.getvalue())

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_a_traceback_has_no_messages(self, form: str) -> None:
        """They may quote a prompt; the classes, the lines of code and the reasons of the system stay."""
        prompt = "xylophone-4711"
        with logged(form) as said:
            try:
                try:
                    raise OSError(28, "No space left on device", prompt)
                except OSError as exc:
                    raise ValueError(prompt) from exc
            except ValueError:
                logging.getLogger("blossom_async.gateway").exception("it failed")
        assert prompt not in said.getvalue()
        for shown in ("OSError: No space left on device", "ValueError", "raise ValueError(prompt)"):
            assert shown in said.getvalue()


def test_of_other_libraries_the_first_line_is_shown() -> None:
    """asyncio tells of an exception that nobody has taken, and shows its message in the lines below."""
    gc.collect()  # what earlier tests left behind tells nothing here
    said = io.StringIO()
    handler, log = logging.StreamHandler(said), logging.getLogger("asyncio")
    handler.setFormatter(formatter("json"))
    log.addHandler(handler)

    async def fail() -> None:
        raise ValueError("xylophone-4711")

    async def forget() -> None:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])

    try:
        asyncio.run(forget())
        gc.collect()
    finally:
        log.removeHandler(handler)
    (line,) = [orjson.loads(line) for line in said.getvalue().splitlines()]
    assert (line["logger"], line["event"]) == ("asyncio", "Task exception was never retrieved")
    assert "ValueError" in line["exception"]


@pytest.mark.campaign
def test_without_a_handler_nothing_is_said() -> None:
    """As a part of an application the gateway leaves its stderr alone."""
    code = (
        "import logging, blossom_async.gateway.server\n"
        "logging.getLogger('blossom_async.gateway').error('a lake')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")


async def _call(base_url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.post(f"{base_url}/v1/images", json=TINY) as answer:
            assert answer.status == 201


def served(tmp_path: Path, **settings: str) -> str:
    """What ``blossom serve`` says on stderr of one call."""
    environment = {**os.environ, **settings}
    with running("serve", "--data-dir", tmp_path / "data", env=environment) as there:
        assert there.stdout is not None
        address = re.search(r"http://\S+", "".join(there.stdout.readline() for _ in range(4)))
        assert address
        asyncio.run(_call(address[0], (tmp_path / "data" / "api_key").read_text()))
        there.send_signal(signal.SIGTERM)
        return there.communicate(timeout=LIMIT_S)[1]


@pytest.mark.campaign
def test_serve_writes_text(tmp_path: Path) -> None:
    """On stderr, from the level ``info`` on."""
    line, *_ = served(tmp_path).splitlines()
    assert "[info     ] request request_id=" in line
    assert "method=POST route=/v1/images status=201" in line


def test_serve_writes_json(tmp_path: Path) -> None:
    """One object a line."""
    line, *_ = served(tmp_path, BLOSSOM_LOG_FORMAT="json").splitlines()
    assert orjson.loads(line)["route"] == "/v1/images"


@pytest.mark.campaign
def test_serve_leaves_out_what_is_below_the_level(tmp_path: Path) -> None:
    """Requests are at ``info``."""
    assert "request_id" not in served(tmp_path, BLOSSOM_LOG_LEVEL="warning")

"""The examples do what they say."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from blossom_async import BlossomClient
from tests.test_models import INFO
from tests.waiting import LIMIT_S

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class SlowGateway:
    """Answers the health check at once, the first picture never, and all others at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.first = True

    async def handle(self, request: web.Request) -> web.Response:
        if request.path == "/healthz":
            return web.json_response({"service": "blossom"})
        if self.first:
            self.first = False
            self.asked.set()
            await asyncio.Event().wait()
        return web.Response(body=INFO, content_type="application/json")


@asynccontextmanager
async def slow_gateway() -> AsyncIterator[tuple[SlowGateway, str]]:
    gateway = SlowGateway()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", gateway.handle)
    async with TestServer(app, shutdown_timeout=0.1, handler_cancellation=True) as server:
        yield gateway, str(server.make_url("")).rstrip("/")


@asynccontextmanager
async def served_by_aiohttp(client: BlossomClient) -> AsyncIterator[str]:
    app = example("web_app").aiohttp_app(client)
    async with TestServer(app, handler_cancellation=True) as server:
        yield str(server.make_url("/"))


@asynccontextmanager
async def served_by_fastapi(client: BlossomClient) -> AsyncIterator[str]:
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    config = uvicorn.Config(example("web_app").fastapi_app(client), port=0, log_level="warning")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done()
        await asyncio.sleep(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    await running


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("served", [served_by_aiohttp, served_by_fastapi])
async def test_a_browser_that_goes_away_frees_its_slot(served) -> None:  # type: ignore[no-untyped-def]
    """With room for one call, the next browser is served although the first call would never have ended."""
    async with slow_gateway() as (gateway, base_url):
        client = BlossomClient(base_url, api_key="k", max_concurrency=1)
        async with served(client) as url, aiohttp.ClientSession() as browser:
            first = asyncio.create_task(browser.get(url, params={"prompt": "a lake"}))
            await gateway.asked.wait()
            first.cancel()
            async with browser.get(url, params={"prompt": "<b>a forest</b>"}) as response:
                text = await response.text()
                assert response.status == 200
            async with browser.get(url, params={"prompt": ""}) as response:
                assert response.status == 400
                assert "empty text" in await response.text()
    assert "&lt;b&gt;a forest" in text
    assert "http://127.0.0.1/image/A" in text


@pytest.mark.campaign
def test_the_pipeline_goes_on_after_kills(tmp_path: Path) -> None:
    """Killed twice, it ends with every prompt once and in order."""
    source, target = tmp_path / "prompts.txt", tmp_path / "urls.jsonl"
    source.write_text("".join(f"lake {number}\n" for number in range(300)), "utf-8")
    command = [sys.executable, str(EXAMPLES / "pipeline.py"), str(source), str(target)]
    for size in (1_000, 20_000):
        with subprocess.Popen(command) as there:
            while not target.exists() or target.stat().st_size < size:
                assert there.poll() is None
            there.kill()
    with target.open("ab") as torn:
        torn.write(b'{"prompt": "la')
    subprocess.run(command, check=True, timeout=LIMIT_S)
    lines = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert [line["prompt"] for line in lines] == [f"lake {number}" for number in range(300)]
    assert len({line["url"] for line in lines}) == 300


@pytest.mark.campaign
def test_the_benchmark_draws_a_histogram() -> None:
    """It measures the embedded gateway when no other is named."""
    ended = subprocess.run(
        [sys.executable, EXAMPLES / "benchmark.py", "--requests", "20", "--at-once", "4", "--side", "32"],
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    )
    assert "20 pictures in" in ended.stdout
    assert "0 failed" in ended.stdout
    assert "p99" in ended.stdout
    assert "#" * 50 in ended.stdout

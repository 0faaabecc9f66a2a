"""``examples/monitoring``: alerts and board ask for what the gateway really tells."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from blossom_async.testing import FakePollinations
from tests.conftest import RunningGateway, running_gateway
from tests.gateway.test_figures import text
from tests.ports import reserved_port
from tests.waiting import LIMIT_S, until

MONITORING = Path(__file__).parents[1] / "examples" / "monitoring"
BOARD: dict[str, Any] = json.loads((MONITORING / "grafana.json").read_text())
ALERTS: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
NAME = re.compile(r"\b(?:blossom|process)_[a-z_]+\b")
SERIES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def asked() -> Iterator[str]:
    """Every expression of the board and the alerts."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield target["expr"]
    for alert in ALERTS:
        yield alert["expr"]


async def test_every_name_is_one_that_the_gateway_tells(tmp_path: Path) -> None:
    """And every one it tells is on the board."""
    async with running_gateway(tmp_path) as running:
        told = dict(re.findall(r"^# TYPE (\S+) (\w+)$", await text(running), re.MULTILINE))
    series = {name + suffix: name for name, kind in told.items() for suffix in SERIES[kind]}
    named = {name for expr in asked() for name in NAME.findall(expr)}
    readme = set(re.findall(r"`(blossom_[a-z_]+[a-z])`", (MONITORING / "README.md").read_text()))
    assert (named | readme) - set(series) == set()
    shown = {series[name] for name in named}
    assert {name for name in told if name.startswith("blossom_")} - shown == set()


def test_the_board_can_be_read() -> None:
    """Panels have ids of their own, a place of their own, and the data source that is chosen."""
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        taken = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        cells |= taken
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_grafana_knows_every_field_of_the_board() -> None:
    """Read into Grafana's own types and written again it has lost nothing, so nothing is misspelt."""
    # Imported here, as every process that collects the tests would load them.
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models import dashboard

    register_default_plugins()
    read = json.dumps(dashboard.Dashboard.from_json(BOARD), cls=JSONEncoder)
    assert [*lost(BOARD, json.loads(read), "board")] == []


def lost(ours: Any, theirs: Any, where: str) -> Iterator[str]:
    """The fields of ours that are missing or differ in theirs, which may have more."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            yield from lost(value, theirs.get(name), f"{where}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, value in enumerate(ours):
            yield from lost(value, theirs[number], f"{where}[{number}]")
    elif ours != theirs:
        yield where


def test_alerts_say_what_to_do() -> None:
    """Each has a summary, an action and a severity."""
    for alert in ALERTS:
        assert set(alert["annotations"]) == {"summary", "action"}, alert["alert"]
        assert alert["labels"]["severity"] in {"warning", "critical"}


@pytest.mark.campaign
@promtool
def test_promtool_understands_them(tmp_path: Path) -> None:
    """The configuration with its alerts, and every expression of the board."""
    _check("config", MONITORING / "prometheus.yml")
    rules = [
        {"record": f"panel:{n}", "expr": expr.replace("$__rate_interval", "5m").replace("$job", "blossom")}
        for n, expr in enumerate(asked())
    ]
    board = tmp_path / "board.yml"
    board.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    _check("rules", board)


@pytest.mark.campaign
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
async def test_every_panel_has_figures(tmp_path: Path) -> None:
    """A Prometheus set up as shipped scrapes a gateway at work, and answers what the board asks."""
    paid = {"providers": ("pollinations",), "pollinations_key": "sk-1", "daily_budget": 100.0}
    async with (
        FakePollinations(api_key="sk-1") as service,
        running_gateway(tmp_path / "data", pollinations_url=service.base_url, **paid) as running,
        running.client(retry=None) as client,
        scraping(running, tmp_path) as prometheus,
        aiohttp.ClientSession() as http,
    ):
        waiting = {panel["title"]: panel for panel in PANELS}
        async with asyncio.timeout(LIMIT_S):
            while waiting:
                url = await client.image.generate_url("a lake", width=64, height=64)
                for address in (url, f"{running.base_url}/image/{'0' * 22}"):
                    async with http.get(address) as answer:
                        await answer.read()
                for title, panel in [*waiting.items()]:
                    if any(
                        [await has_figures(target["expr"], prometheus, http) for target in panel["targets"]]
                    ):
                        del waiting[title]


async def has_figures(expr: str, prometheus: str, http: aiohttp.ClientSession) -> bool:
    expr = expr.replace("$__rate_interval", "1m").replace("$job", "blossom")
    async with http.post(f"{prometheus}/api/v1/query", data={"query": expr}) as answer:
        found = await answer.json()
    assert found["status"] == "success", found
    return any(series["value"][1] != "NaN" for series in found["data"]["result"])


@asynccontextmanager
async def scraping(running: RunningGateway, folder: Path) -> AsyncIterator[str]:
    """A Prometheus that scrapes the gateway every second, and its address."""
    shipped = (MONITORING / "prometheus.yml").read_text()
    config = shipped.replace("15s", "1s").replace("127.0.0.1:8765", running.base_url.removeprefix("http://"))
    (folder / "prometheus.yml").write_text(config)
    shutil.copy(MONITORING / "alerts.yml", folder)
    with reserved_port() as port:
        address = f"127.0.0.1:{port}"
        arguments = [
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
        ]
        process = await asyncio.create_subprocess_exec(
            "prometheus", *arguments, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with aiohttp.ClientSession() as http:
                await until(partial(_is_ready, http, f"http://{address}"))
            yield f"http://{address}"
        finally:
            process.terminate()
            await process.wait()


async def _is_ready(http: aiohttp.ClientSession, address: str) -> bool:
    try:
        async with http.get(f"{address}/-/ready") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def _check(what: str, path: Path) -> None:
    ran = subprocess.run(["promtool", "check", what, str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr

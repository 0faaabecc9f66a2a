"""``examples/monitoring``: alerts and board ask for what the gateway really tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import running_gateway
from tests.gateway.test_figures import text

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


def _check(what: str, path: Path) -> None:
    ran = subprocess.run(["promtool", "check", what, str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr

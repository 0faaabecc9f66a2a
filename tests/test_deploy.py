"""``examples/deploy``: the files can be used as they are."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import orjson
import pytest
import yaml

from blossom_async.gateway.settings import Settings, load
from tests.conftest import running_gateway
from tests.waiting import LIMIT_S

DEPLOY = Path(__file__).parent.parent / "examples" / "deploy"
CLUSTER = DEPLOY.parent / "cluster"


def test_the_settings_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name in the file is known and every value can be used."""
    monkeypatch.delenv("BLOSSOM_PORT")
    settings = load(DEPLOY / "blossom.toml")
    assert settings.port == 8765
    assert settings.public_url == "https://images.example.com"
    assert settings.key_rate_limit == "600/min"
    assert not settings.api_keys


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
class TestUnit:
    """``blossom.service``, as systemd judges it."""

    def test_it_is_valid(self, tmp_path: Path) -> None:
        """With a program that is there, nothing is wrong with it."""
        unit = tmp_path / "blossom.service"
        program = Path(sys.executable).with_name("blossom")
        unit.write_text(
            (DEPLOY / "blossom.service").read_text().replace("/opt/blossom/bin/blossom", str(program))
        )
        ended = subprocess.run(
            ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert "blossom.service" not in ended.stderr
        assert ended.returncode == 0, ended.stderr

    def test_little_is_exposed(self) -> None:
        """Of 10, which is everything, it scores below 2."""
        ended = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", DEPLOY / "blossom.service"],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        score = re.search(r"exposure level for blossom.service: ([0-9.]+)", ended.stdout)
        assert score, ended.stderr
        assert float(score[1]) < 2

    def test_it_waits_for_the_end(self) -> None:
        """systemd kills it later than it ends by itself."""
        unit = (DEPLOY / "blossom.service").read_text()
        assert int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1]) > 30  # type: ignore[index]


class TestImage:
    """``Containerfile``."""

    text = (DEPLOY / "Containerfile").read_text()

    def test_hadolint_finds_nothing(self) -> None:
        """Not even a matter of style."""
        linter = shutil.which("hadolint", path=Path(sys.executable).parent)
        if linter is None:
            pytest.skip("this machine has no hadolint")
        ended = subprocess.run(
            [linter, DEPLOY / "Containerfile"], capture_output=True, text=True, timeout=LIMIT_S
        )
        assert (ended.returncode, ended.stdout) == (0, "")

    async def test_its_health_check_works(self, tmp_path: Path) -> None:
        """The command passes where a gateway answers, and fails where none does."""
        command = orjson.loads(re.search(r"CMD (\[\"python\".*\])", self.text)[1])  # type: ignore[index]
        async with running_gateway(tmp_path / "data") as there:
            asked = [part.replace("http://127.0.0.1:8765", there.base_url) for part in command[1:]]
            assert await self._status(asked) == 0
        assert await self._status(asked) == 1

    async def _status(self, asked: list[str]) -> int:
        checking = await asyncio.create_subprocess_exec(
            sys.executable, *asked, stderr=asyncio.subprocess.DEVNULL
        )
        return await checking.wait()

    def test_it_runs_without_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a user of its own, and its environment is settings of ours."""
        user = re.search(r"^USER (\d+)$", self.text, re.MULTILINE)
        assert user
        assert f"--uid {user[1]} --no-create-home" in self.text
        variables = dict(re.findall(r"(BLOSSOM_\w+)=(\S+)", self.text))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings = load()
        assert (settings.host, settings.port, str(settings.data_dir)) == ("0.0.0.0", 8765, "/data")


class TestFleet:
    """``examples/cluster``: the files for containers."""

    def test_its_settings_are_settings(self) -> None:
        """Those of the gateways are known, and what they have in common cannot be forgotten."""
        fleet = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
        gateways = [service for name, service in fleet["services"].items() if name.startswith("gateway-")]
        assert len(gateways) == 2
        known = {f"BLOSSOM_{field.name.upper()}" for field in attrs.fields(Settings)}
        for gateway in gateways:
            settings = gateway["environment"]
            assert {name for name in settings if name.startswith("BLOSSOM_")} <= known
            secrets = {"BLOSSOM_API_KEYS", "BLOSSOM_SIGNING_SECRETS", "AWS_SECRET_ACCESS_KEY"}
            assert all(":?" in settings[name] for name in secrets)
            assert gateway["build"]["args"].keys() == {"EXTRAS"}
        assert "ARG EXTRAS=" in (DEPLOY / "Containerfile").read_text()

    @pytest.mark.skipif(shutil.which("nginx") is None, reason="this machine has no nginx")
    def test_the_balancer_is_valid(self, tmp_path: Path) -> None:
        """As nginx judges it."""
        file = tmp_path / "nginx.conf"
        text = (CLUSTER / "nginx.conf").read_text()
        file.write_text(re.sub(r"gateway-\d", "127.0.0.1", text) + f"pid {tmp_path}/nginx.pid;")
        command = ["nginx", "-t", "-q", "-p", str(tmp_path), "-e", "stderr", "-c", str(file)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert ended.returncode == 0, ended.stderr

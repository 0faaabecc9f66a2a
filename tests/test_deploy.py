"""``examples/deploy``: the files can be used as they are."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from blossom_async.gateway.settings import load
from tests.conftest import running_gateway

DEPLOY = Path(__file__).parent.parent / "examples" / "deploy"


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
            ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False
        )
        assert "blossom.service" not in ended.stderr
        assert ended.returncode == 0, ended.stderr

    def test_little_is_exposed(self) -> None:
        """Of 10, which is everything, it scores below 2."""
        ended = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", DEPLOY / "blossom.service"],
            capture_output=True,
            text=True,
            timeout=60,
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
        user = re.search(r"^USER (\w+)$", self.text, re.MULTILINE)
        assert user
        assert f"--no-create-home {user[1]}" in self.text
        variables = dict(re.findall(r"(BLOSSOM_\w+)=(\S+)", self.text))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings = load()
        assert (settings.host, settings.port, str(settings.data_dir)) == ("0.0.0.0", 8765, "/data")

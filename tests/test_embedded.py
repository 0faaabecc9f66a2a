"""The gateway inside this process, and how processes share one data folder."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from blossom_async import BlossomClient, ConfigurationError
from tests.ports import reserved_port
from tests.waiting import LIMIT_S

TINY: dict[str, Any] = {"width": 32, "height": 32}


async def fetch(url: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.read()


async def test_a_fresh_machine_works_at_once() -> None:
    """No address, no key, no folder: the first call gives a URL that opens."""
    async with BlossomClient("embedded") as client:
        status, _ = await fetch(await client.image.generate_url("a lake", **TINY))
    assert status == 200


async def test_the_usual_port_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """URLs keep their address from run to run."""
    with reserved_port() as port:
        monkeypatch.setenv("BLOSSOM_PORT", str(port))
        async with BlossomClient("embedded") as client:
            assert client.base_url == f"http://127.0.0.1:{port}"


async def test_a_taken_port_is_said_and_another_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else at the port is no reason to fail."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("BLOSSOM_PORT", str(other.getsockname()[1]))
        with pytest.warns(UserWarning, match=r"is taken: the embedded gateway listens on 127.0.0.1 port"):
            async with BlossomClient("embedded") as client:
                assert await client.image.generate_url("a lake", **TINY)


async def test_urls_of_earlier_runs_come_back() -> None:
    """A later gateway on the same data folder serves what an earlier one made."""
    async with BlossomClient("embedded") as client:
        info = await client.image.generate_url_with_info("a lake", **TINY)
    async with BlossomClient("embedded") as client:
        _, data = await fetch(f"{client.base_url}/image/{info.id}")
    assert len(data) == info.file_size


async def test_two_clients_share_one_gateway() -> None:
    """The second finds the first's gateway and uses it."""
    async with BlossomClient("embedded") as first, BlossomClient("embedded") as second:
        assert first.base_url == second.base_url
        url = await second.image.generate_url("a lake", **TINY)
        assert await first.image.validate_url(url)


async def test_when_the_first_ends_the_second_goes_on() -> None:
    """A client whose borrowed gateway has gone becomes its successor, without a failed call."""
    first = BlossomClient("embedded")
    await first.image.generate_url("a lake", **TINY)
    async with BlossomClient("embedded") as second:
        earlier = await second.image.generate_url_with_info("a forest", **TINY)
        await first.aclose()
        urls = await second.image.generate_urls_batch([f"lake {n}" for n in range(10)], **TINY)
        assert not urls.failures
        assert await second.image.regenerate_from_url(earlier.url)


def test_two_processes_share_one_gateway() -> None:
    """Another process with the same data folder uses the running gateway."""
    script = (
        "import warnings; warnings.simplefilter('error')\n"
        "from blossom_async import BlossomClient\n"
        "with BlossomClient('embedded') as client:\n"
        "    print(client.base_url, client.image.generate_url('a lake', width=32, height=32))\n"
    )
    with BlossomClient("embedded") as client:
        ended = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT_S, check=True
        )
        base_url, url = ended.stdout.split()
        assert base_url == client.base_url
        with urllib.request.urlopen(url) as response:  # noqa: S310 - loopback
            assert response.status == 200


async def test_key_and_announcement_are_private(tmp_path: Path) -> None:
    """What opens the gateway can be read by its owner only, and the announcement goes with the gateway."""
    async with BlossomClient("embedded") as client:
        announced = orjson.loads((tmp_path / "data" / "gateway.json").read_bytes())
        assert (announced["base_url"], announced["api_key"]) == (client.base_url, client.api_key)
        for name in ("gateway.json", "api_key"):
            assert stat.S_IMODE((tmp_path / "data" / name).stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert not (tmp_path / "data" / "gateway.json").exists()


async def test_a_stale_announcement_is_not_believed(tmp_path: Path) -> None:
    """After a crash the announced gateway is gone, or its port is someone else's."""
    (tmp_path / "data").mkdir()
    with reserved_port() as port:
        for base_url in (f"http://127.0.0.1:{port}", "nonsense"):
            stale = {"base_url": base_url, "api_key": "x", "instance": "y"}
            (tmp_path / "data" / "gateway.json").write_bytes(orjson.dumps(stale))
            async with BlossomClient("embedded") as client:
                assert await client.image.generate_url("a lake", **TINY)
    (tmp_path / "data" / "gateway.json").write_text("{torn")
    async with BlossomClient("embedded") as client:
        assert await client.image.generate_url("a lake", **TINY)


async def test_a_data_folder_that_cannot_be_used_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line names the folder and the setting that moves it."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BLOSSOM_DATA_DIR", str(tmp_path / "file"))
    client = BlossomClient("embedded")
    with pytest.raises(ConfigurationError, match="BLOSSOM_DATA_DIR") as caught:
        await client.image.generate_url("a lake", **TINY)
    assert "\n" not in str(caught.value)
    await client.aclose()


def test_without_the_extra_the_way_out_is_said() -> None:
    """On an install without the gateway the error names the extra and the setting."""
    script = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from blossom_async import BlossomClient, ConfigurationError\n"
        "try:\n"
        "    BlossomClient('embedded').image.generate_url('a lake')\n"
        "except ConfigurationError as exc:\n"
        "    print(exc)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert "pip install '.[gateway]'" in ended.stdout
    assert "BLOSSOM_BASE_URL" in ended.stdout

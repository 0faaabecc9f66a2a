"""``blossom doctor``: each thing that may be wrong is found, and it says what to do; nothing is paid."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from blossom_async.gateway.checkup import Finding, examined
from blossom_async.gateway.settings import Settings
from blossom_async.testing import FakeOpenAI
from tests.cli.test_cli import blossom
from tests.conftest import KEY, running_gateway
from tests.gateway.making.test_end_to_end import ACCOUNT, openai_settings

SECRET = "a-secret-of-the-tests-0123456789-abcdefghijkl"


def found(*arguments: str, **env: str) -> tuple[int, list[Finding]]:
    """The exit status, and what was found that is not fine."""
    ended = blossom("doctor", "--json", *arguments, **env)
    findings = [Finding(**json.loads(line)) for line in ended.stdout.splitlines()]
    return ended.status, [finding for finding in findings if finding.level != "ok"]


def allow(folder: Path, mode: int) -> None:
    """Who may enter the folder."""
    folder.chmod(mode)


async def wrong(url: str | None = None, **settings: Any) -> list[Finding]:
    """What is not fine with a gateway of these settings."""
    seen = examined(Settings(**settings), url=url, api_key=KEY)
    return [finding async for finding in seen if finding.level != "ok"]


class TestCommand:
    """What it prints, and how it ends."""

    def test_nothing_is_wrong(self, tmp_path: Path) -> None:
        """As a fresh installation; the data folder is not made."""
        ended = blossom("doctor")
        assert (ended.status, ended.stderr) == (0, "blossom: 0 errors, 0 warnings\n")
        assert "ok       gateway: it does not run" in ended.stdout
        assert not (tmp_path / "data").exists()

    def test_a_setting_that_cannot_be_used(self) -> None:
        """Its own message, and where all settings are."""
        status, [finding] = found(BLOSSOM_PORT="many")
        assert status == 1
        assert finding.seen.startswith("BLOSSOM_PORT: 'many' cannot be used; allowed:")
        assert "docs/settings.md" in finding.todo

    def test_a_variable_without_effect(self) -> None:
        """A warning alone is no failure."""
        status, [finding] = found(BLOSSOM_ZEBRA="1")
        assert (status, finding.level) == (0, "warning")
        assert "BLOSSOM_ZEBRA is not a setting" in finding.seen

    def test_text_says_what_to_do(self, tmp_path: Path) -> None:
        """Below what was seen."""
        (tmp_path / "data").write_text("a file")
        ended = blossom("doctor")
        assert ended.status == 1
        assert "cannot be written (Not a directory)\n         -> give it to" in ended.stdout

    def test_a_folder_that_cannot_be_created(self, tmp_path: Path) -> None:
        """Found out before the gateway tries."""
        (tmp_path / "file").touch()
        status, [finding] = found(BLOSSOM_DATA_DIR=str(tmp_path / "file" / "inner"))
        assert (status, finding.what) == (1, "data folder")
        assert "cannot be created (Not a directory)" in finding.seen

    def test_a_folder_that_cannot_be_looked_at(self, tmp_path: Path) -> None:
        """For a name that is too long the system says so, as it does for a folder of another user."""
        status, findings = found(BLOSSOM_DATA_DIR=str(tmp_path / ("x" * 300)))
        assert (status, findings[0].what) == (1, "data folder")
        assert all("(File name too long)" in finding.seen for finding in findings)


@pytest.mark.parametrize(
    ("what", "settings"),
    [
        ("signing_secrets", {"signing_secrets": ("short",)}),
        ("webhooks", {"webhook_url": "https://hooks.example/x"}),
        ("C2PA", {"c2pa_cert": Path("cert.pem")}),
    ],
)
async def test_what_would_keep_the_gateway_from_starting(
    what: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Settings that depend on each other."""
    [finding] = await wrong(data_dir=tmp_path / "no", **settings)
    assert (finding.level, finding.what) == ("error", what)


class TestFolder:
    """Data folder and database."""

    async def test_a_folder_that_others_may_enter(self, tmp_path: Path) -> None:
        """It has keys in it."""
        allow(tmp_path, 0o755)
        [finding] = await wrong(data_dir=tmp_path)
        assert finding.todo == f"chmod 700 {tmp_path}"

    async def test_a_newer_database(self, tmp_path: Path) -> None:
        """It is said, and the database stays as it is."""
        async with running_gateway(tmp_path / "data"):
            pass
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / "records.sqlite")) as database, database:
            database.execute("UPDATE alembic_version SET version_num = '9999'")
        [finding] = await wrong(data_dir=tmp_path / "data")
        assert (finding.level, finding.what) == ("error", "database")
        assert "has schema '9999'" in finding.seen

    async def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        """Restore it."""
        allow(tmp_path, 0o700)
        (tmp_path / "records.sqlite").write_text("a lake" * 1000)
        [finding] = await wrong(data_dir=tmp_path)
        assert "file is not a database" in finding.seen
        assert "backup" in finding.todo

    async def test_a_database_server_that_is_away(self, tmp_path: Path) -> None:
        """Its password is in nothing that is said."""
        url = "postgresql+psycopg://user:xylophone@127.0.0.1:1/pictures"
        [finding] = await wrong(data_dir=tmp_path / "no", database_url=url, signing_secrets=(SECRET,))
        assert (finding.level, finding.what) == ("error", "database")
        assert "xylophone" not in str(finding)

    async def test_a_database_server_is_read(self, tmp_path: Path, postgres_url: str) -> None:
        """Nothing is wrong with an empty one, and nothing is made in it."""
        found = await wrong(data_dir=tmp_path / "no", database_url=postgres_url, signing_secrets=(SECRET,))
        assert found == []

    async def test_a_gateway_that_others_reach_without_keys(self, tmp_path: Path) -> None:
        """It would not start."""
        async with running_gateway(tmp_path / "data"):
            pass
        findings = await wrong(data_dir=tmp_path / "data", host="0.0.0.0", public_url="https://x.example")
        assert [finding.what for finding in findings] == ["API keys"]


class TestProviders:
    """Free calls only."""

    async def test_a_wrong_key(self, tmp_path: Path) -> None:
        """Whose it is, and what to do."""
        async with FakeOpenAI(api_key="another") as service:
            settings = openai_settings(service, daily_budget=1.0)
            [finding] = await wrong(data_dir=tmp_path / "no", **settings)
            assert (finding.level, finding.what) == ("error", "provider openai")
            assert "must check its key" in finding.todo
            assert ACCOUNT not in str(finding)
            assert not service.ledger.charges

    async def test_no_limit_of_spending(self, tmp_path: Path) -> None:
        """A warning where pictures may cost money."""
        async with FakeOpenAI(api_key=ACCOUNT) as service:
            [finding] = await wrong(data_dir=tmp_path / "no", **openai_settings(service))
        assert (finding.level, finding.what) == ("warning", "daily_budget")

    async def test_a_model_that_is_missing(self, tmp_path: Path) -> None:
        """As at the start of the gateway."""
        [finding] = await wrong(data_dir=tmp_path / "no", providers=("openai",), daily_budget=1.0)
        assert "BLOSSOM_OPENAI_MODEL" in finding.seen


@asynccontextmanager
async def proxy(target: str, *, add: bool = True, drop: str = "", date: str = "") -> AsyncIterator[str]:
    """A proxy on this machine that names the viewer, or leaves out a header."""

    async def forward(request: web.Request) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name not in {drop, "Host"}}
        if add:
            headers["X-Forwarded-For"] = "203.0.113.7"
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{target}{request.path}", headers=headers) as answer:
                body = await answer.read()
                own = {"Date": date} if date else {}
                return web.Response(status=answer.status, body=body, headers=own)

    app = web.Application()
    app.router.add_get("/{path:.*}", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class TestProxy:
    """What arrives of a request that was sent to the CDN."""

    async def wrong(self, folder: Path, *, trusted: tuple[str, ...], **options: Any) -> list[Finding]:
        async with running_gateway(folder, trusted_proxies=trusted) as running:
            async with proxy(running.base_url, **options) as url:
                allow(folder, 0o700)
                found = await wrong(url, data_dir=folder, trusted_proxies=trusted)
        return [finding for finding in found if "URLs begin with" not in finding.seen]

    async def test_all_is_well(self, tmp_path: Path) -> None:
        """The viewer's address is seen through the proxy."""
        assert await self.wrong(tmp_path / "data", trusted=("127.0.0.1",)) == []

    async def test_a_proxy_that_is_not_trusted(self, tmp_path: Path) -> None:
        """Its address would stand for every viewer's."""
        [finding] = await self.wrong(tmp_path / "data", trusted=())
        assert "add 127.0.0.1 to BLOSSOM_TRUSTED_PROXIES" in finding.todo

    async def test_a_proxy_that_names_no_viewer(self, tmp_path: Path) -> None:
        """What to write into nginx's configuration."""
        [finding] = await self.wrong(tmp_path / "data", trusted=("127.0.0.1",), add=False)
        assert "proxy_set_header X-Forwarded-For" in finding.todo

    async def test_a_proxy_that_drops_keys(self, tmp_path: Path) -> None:
        """Calls over it would all be refused."""
        [finding] = await self.wrong(tmp_path / "data", trusted=("127.0.0.1",), drop="Authorization")
        assert "let it pass Authorization on" in finding.todo

    async def test_a_clock_that_differs(self, tmp_path: Path) -> None:
        """Signed URLs would end at another time than they say."""
        date = "Tue, 15 Nov 1994 08:12:31 GMT"
        [finding] = await self.wrong(tmp_path / "data", trusted=("127.0.0.1",), date=date)
        assert (finding.level, finding.what) == ("error", "clock")

    async def test_nobody_there(self, tmp_path: Path) -> None:
        """Or somebody else."""
        [finding] = await wrong("http://127.0.0.1:1", data_dir=tmp_path / "no")
        assert "no answer" in finding.seen
        async with FakeOpenAI() as service:
            [finding] = await wrong(service.base_url, data_dir=tmp_path / "no")
        assert "not as a gateway" in finding.seen


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_options_and_words(shell: str) -> None:
    """As docs/batch.md says."""
    script = blossom(_BLOSSOM_COMPLETE=f"{shell}_source")
    assert "_BLOSSOM_COMPLETE" in script.stdout
    asking = {"_BLOSSOM_COMPLETE": f"{shell}_complete"}
    command = blossom(**asking, COMP_WORDS="blossom doc", COMP_CWORD="doc" if shell == "fish" else "1")
    assert "doctor" in command.stdout
    option = blossom(
        **asking, COMP_WORDS="blossom doctor --da", COMP_CWORD="--da" if shell == "fish" else "2"
    )
    assert "--data-dir" in option.stdout
    value = blossom(**asking, COMP_WORDS="blossom url --quality ", COMP_CWORD="" if shell == "fish" else "3")
    assert "ultra" in value.stdout

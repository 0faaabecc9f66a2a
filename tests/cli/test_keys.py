"""``blossom keys``: API keys kept as digests, and signing secrets that can be changed."""

from __future__ import annotations

import asyncio
import re
import signal
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import attrs
import orjson
import pytest

from blossom_async.cli.commands import commands
from blossom_async.errors import ConfigurationError, RateLimited
from blossom_async.gateway.callers.keys import ApiKeys
from blossom_async.gateway.callers.limits import Meter
from blossom_async.gateway.callers.secrets import own_secrets, rotated_secrets
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.records import Caller, Records
from tests.cli.test_cli import blossom, ended, refused, running
from tests.conftest import KEY, running_gateway
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def created(name: str = "ci", *more: str) -> str:
    """A key, as a script takes it from stdout."""
    made = blossom("keys", "create", name, *more)
    assert made.status == 0, made.stderr
    return made.stdout.removesuffix("\n")


async def status_of(base_url: str, key: str, method: str = "GET", path: str = "/v1/images/x") -> int:
    """What a call with the key is answered; 404 for a picture there is none of, if the key is good."""
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as http, http.request(method, base_url + path, headers=headers) as got:
        return got.status


class TestCommands:
    """They work on the data folder itself."""

    def test_a_key_is_on_stdout_alone(self) -> None:
        """A script takes it from there; a person reads on stderr that it is shown once."""
        made = blossom("keys", "create", "ci")
        assert re.fullmatch(r"blossom_[0-9A-Za-z_-]{43}\n", made.stdout)
        assert "it is not shown again" in made.stderr

    def test_the_key_is_in_no_file(self, tmp_path: Path) -> None:
        """Only its SHA-256 is kept."""
        key = created()
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if key.removeprefix("blossom_").encode() in path.read_bytes()]

    def test_list_says_what_there_is(self) -> None:
        """Name, tenant and times, the oldest first; never a key."""
        keys = [created("ci"), created("shop", "--tenant", "shop")]
        blossom("keys", "revoke", "ci")
        listed = blossom("keys", "list")
        rows = [re.split(r" {2,}", line.strip()) for line in listed.stdout.splitlines()]
        assert rows[0] == ["name", "tenant", "created", "revoked", "USD a day"]
        assert [row[:2] for row in rows[1:]] == [["ci", "main"], ["shop", "shop"]]
        assert [row[3] == "-" for row in rows[1:]] == [False, True]
        assert not [key for key in keys if key in listed.stdout]

    def test_list_as_json(self) -> None:
        """The same for programs, times with their offset."""
        created()
        (row,) = orjson.loads(blossom("keys", "list", "--json").stdout)
        assert (row["name"], row["tenant"], row["revoked_at"]) == ("ci", "main", None)
        assert row["created_at"].endswith("+00:00")

    def test_a_name_is_taken_for_good(self) -> None:
        """Also once its key was revoked: a name in a list means one key."""
        created()
        blossom("keys", "revoke", "ci")
        refused("keys", "create", "ci", says="an API key named 'ci' exists; choose another")

    @pytest.mark.parametrize("name", ["../x", "a b", "-x", "x" * 65, "é"])
    def test_a_name_that_is_none(self, name: str) -> None:
        """Is refused with what is allowed."""
        refused("keys", "create", "--", name, says="is not a valid name; allowed: 1 to 64 letters, digits")

    def test_revoking_what_there_is_not(self) -> None:
        """Is an error, for it may be a slip of the pen."""
        refused("keys", "revoke", "ci", says="no API key 'ci' to revoke; 'blossom keys list' lists")

    def test_every_command_says_how_it_is_used(self) -> None:
        """``--help`` of the group and of each command."""
        group = commands.get_command(None, "keys")  # type: ignore[arg-type]
        assert set(group.commands) == {"create", "list", "revoke", "rotate-signing"}  # type: ignore[union-attr]
        for name in group.commands:  # type: ignore[union-attr]
            assert "--data-dir" in blossom("keys", name, "--help").stdout


@contextmanager
def served(*args: str) -> Iterator[str]:
    """``blossom serve`` as a process; gives its address."""
    with running("serve", *args) as there:
        assert there.stdout is not None
        address = re.search(r"http://\S+:([0-9]+)", there.stdout.readline())
        assert address
        yield f"http://127.0.0.1:{address[1]}"
        there.send_signal(signal.SIGTERM)
        ended(there)
    assert there.returncode == 0


class TestRunningGateway:
    """What is done to the data folder reaches the processes that serve it."""

    @pytest.mark.campaign
    def test_made_and_revoked_while_it_runs(self) -> None:
        """A new key opens at once; a revoked one is refused by the other process, too."""
        with served() as address:
            key = created()
            assert asyncio.run(status_of(address, key)) == 404
            blossom("keys", "revoke", "ci")
            wait_until(lambda: asyncio.run(status_of(address, key)) == 401)

    @pytest.mark.campaign
    def test_beyond_loopback_a_stored_key_suffices(self) -> None:
        """A gateway that strangers can reach starts with keys of the database alone."""
        key = created()
        with served("--host", "0.0.0.0") as address:
            assert asyncio.run(status_of(address, key)) == 404
            assert asyncio.run(status_of(address, "not-a-key-of-this-gateway")) == 401

    def test_beyond_loopback_a_revoked_one_does_not(self) -> None:
        """A key that opens nothing is none."""
        created()
        blossom("keys", "revoke", "ci")
        refused("serve", "--host", "0.0.0.0", says="no API key is set; set BLOSSOM_API_KEYS, make one with")

    async def test_tenants_do_not_see_each_other(self, tmp_path: Path) -> None:
        """Another tenant's picture is 404, as if there were none."""
        shop = await asyncio.to_thread(created, "shop", "--tenant", "shop")
        async with running_gateway(tmp_path / "data") as there, there.client() as client:
            info = await client.image.generate_url_with_info("a lake", width=32, height=32)
            path = f"/v1/images/{info.id}"
            assert await status_of(there.base_url, KEY, path=path) == 200
            assert await status_of(there.base_url, shop, path=path) == 404


class TestSigningSecrets:
    """``blossom keys rotate-signing``."""

    def test_the_new_one_comes_first(self, tmp_path: Path) -> None:
        """URLs signed with the earlier ones stay valid: they are kept behind it."""
        before = own_secrets(tmp_path)
        assert rotated_secrets(tmp_path) == 2
        after = own_secrets(tmp_path)
        assert after[1:] == before
        assert after[0] != before[0]

    def test_the_oldest_can_be_dropped(self, tmp_path: Path) -> None:
        """With it goes every URL it signed."""
        own_secrets(tmp_path)
        rotated_secrets(tmp_path)
        before = own_secrets(tmp_path)
        assert rotated_secrets(tmp_path, drop_oldest=True) == 2
        assert own_secrets(tmp_path)[1:] == before[:1]

    def test_only_the_owner_can_read_them(self, tmp_path: Path) -> None:
        """Mode 600, and nothing of the change is left beside the file."""
        rotated_secrets(tmp_path)
        (file,) = tmp_path.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        """Leaves the secrets as they were, and says so."""
        before = own_secrets(tmp_path)
        (tmp_path / "signing_secrets").rename(tmp_path / "kept")
        (tmp_path / "signing_secrets").mkdir()
        with pytest.raises(ConfigurationError, match=r"signing secrets .* cannot be read"):
            rotated_secrets(tmp_path)
        assert tuple((tmp_path / "kept").read_text().split()) == before

    def test_the_command_says_when_it_counts(self, tmp_path: Path) -> None:
        """Running gateways go on with what they have read."""
        said = blossom("keys", "rotate-signing").stderr
        assert "2 secrets in" in said
        assert "restart running gateways to use the new one" in said
        assert len(own_secrets(tmp_path / "data")) == 2

    def test_secrets_of_the_settings_are_not_rotated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file would not be read; the command says what to do instead."""
        monkeypatch.setenv("BLOSSOM_SIGNING_SECRETS", "of-the-tests-0123456789-abcdefghijkl")
        refused("keys", "rotate-signing", says="signing_secrets is set, .* put a new secret first")


@attrs.define
class Clock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@asynccontextmanager
async def keys_at(folder: Path, wrong: Meter) -> AsyncIterator[ApiKeys]:
    """The key of the tests, and an empty database."""
    records = Records(folder / "records.sqlite")
    await records.open()
    yield ApiKeys([KEY], Lookups(records), wrong)
    await records.close()


MINE = Caller("main", "")


class TestWrongKeys:
    """Guessing ends, and takes nobody else with it."""

    async def test_beyond_the_limit_a_key_is_not_looked_at(self, tmp_path: Path) -> None:
        """The guess that would have been right comes too late; after the time said it is free again."""
        clock = Clock()
        async with keys_at(tmp_path, Meter(3, 60, clock=clock)) as keys:
            for guess in ("a", "b", "c"):
                assert await keys.holder(guess, "192.0.2.1") is None
            with pytest.raises(RateLimited, match="too many invalid API keys came from this addr") as caught:
                await keys.holder(KEY, "192.0.2.1")
            assert caught.value.retry_after_s == pytest.approx(20)
            assert await keys.holder(KEY, "192.0.2.2") == MINE
            clock.seconds += 20
            assert await keys.holder("d", "192.0.2.1") is None

    async def test_a_key_that_has_opened_goes_on_opening(self, tmp_path: Path) -> None:
        """A broken program at the same address does not lock out one that works."""
        async with keys_at(tmp_path, Meter(1, 60, clock=Clock())) as keys:
            assert await keys.holder(KEY, "192.0.2.1") == MINE
            assert await keys.holder("wrong", "192.0.2.1") is None
            assert await keys.holder(KEY, "192.0.2.1") == MINE
            with pytest.raises(RateLimited):
                await keys.holder("wrong", "192.0.2.1")

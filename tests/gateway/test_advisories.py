"""What the gateway says at start of packages that are known to be unsafe."""

from __future__ import annotations

from pathlib import Path

import pytest

from blossom_async.gateway.advisories import ADVISORIES, AdvisoryWarning, advice
from tests.conftest import running_gateway

OLD = {"aiohttp": "3.14.3", "pillow": "11.3.0"}
NEW = {"aiohttp": "3.14.5", "pillow": "13.0.0"}


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest packages that are accepted."""
    monkeypatch.setattr("blossom_async.gateway.advisories.version", OLD.__getitem__)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize(
    ("exposed", "decodes", "packages"),
    [
        (False, False, []),
        (True, False, ["aiohttp", "aiohttp"]),
        (False, True, ["pillow"]),
        (True, True, ["aiohttp", "aiohttp", "pillow"]),
    ],
)
def test_only_what_concerns_this_gateway_is_told(exposed: bool, decodes: bool, packages: list[str]) -> None:
    """Requests of others, and files of a provider elsewhere, are what an attacker can write."""
    told = list(advice(exposed=exposed, decodes=decodes))
    assert [sentence.split()[0] for sentence in told] == packages


@pytest.mark.usefixtures("old")
def test_it_says_what_was_found_and_what_to_install() -> None:
    """With the advisory's name, to look it up."""
    *_, last = advice(exposed=True, decodes=True)
    assert "pillow 11.3.0" in last
    assert "GHSA-8g5g-8vmr-9782" in last
    assert last.endswith("install pillow>=13.0.0")


@pytest.mark.parametrize("later", ["13.0.0", "13.1", "14", "13.0.0.post1", "100.0.0"])
def test_a_version_with_the_fix_is_fine(later: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions are compared by their numbers."""
    installed = {**NEW, "pillow": later}
    monkeypatch.setattr("blossom_async.gateway.advisories.version", installed.__getitem__)
    assert not list(advice(exposed=True, decodes=True))


@pytest.mark.usefixtures("old")
async def test_a_gateway_says_so_when_it_starts(tmp_path: Path) -> None:
    """Open to others, with an old aiohttp; on loopback it has nothing to say."""
    async with running_gateway(tmp_path / "alone"):
        pass
    with pytest.warns(AdvisoryWarning, match=r"aiohttp 3\.14\.3 is open to"):
        async with running_gateway(tmp_path / "open", trusted_proxies=("127.0.0.1",)):
            pass


def test_each_advisory_can_be_looked_up() -> None:
    """By the name that its database gives it."""
    assert all(advisory.names.startswith(("GHSA-", "CVE-")) for advisory in ADVISORIES)

"""The commands that work on the gateway's database, with that of a server."""

from __future__ import annotations

import pytest

from tests.cli.test_cli import blossom


@pytest.fixture(autouse=True)
def _shared(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOSSOM_DATABASE_URL", postgres_url)
    monkeypatch.setenv("BLOSSOM_SIGNING_SECRETS", "a-secret-that-all-gateways-know")
    monkeypatch.setenv("COLUMNS", "120")


def test_keys_and_spending_are_those_of_the_database() -> None:
    """Whichever machine the command runs on."""
    assert blossom("keys", "create", "shop", "--daily-budget", "2").status == 0
    assert "shop" in blossom("keys", "list").stdout
    assert blossom("keys", "revoke", "shop").status == 0
    for command in ("spend list", "spend held"):
        told = blossom(*command.split())
        assert told.status == 0, told.stderr


def test_a_database_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to check, and without the password."""
    monkeypatch.setenv("BLOSSOM_DATABASE_URL", "postgresql+psycopg://u:xylophone@127.0.0.1:1/d")
    told = blossom("keys", "list")
    assert told.status != 0
    assert "Check BLOSSOM_DATABASE_URL" in told.stderr
    assert "xylophone" not in told.stderr

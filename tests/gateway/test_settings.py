"""The gateway's settings: one table, from which the page, the environment and the file follow."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.serving.signing import Signer
from blossom_async.gateway.settings import Settings, check_keys, documented, load

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_code_says() -> None:
    """``docs/settings.md`` is ``documented()``, letter for letter."""
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == documented()


def test_every_setting_is_on_the_page() -> None:
    """With its name, and a sentence that is one."""
    for field in attrs.fields(Settings):
        (row,) = [line for line in documented().splitlines() if line.startswith(f"| `{field.name}` |")]
        assert row.count(" | ") == 3
        assert row.endswith(". |")


def test_times_have_their_unit() -> None:
    """A number of seconds is called one, and defaults are as they are written."""
    assert "| `sweep_every_s` | `60` | s |" in documented()
    assert "| `port` | `8765` |  |" in documented()
    assert "| `api_keys` | none |  |" in documented()


def test_the_page_names_nothing_of_this_machine() -> None:
    """What is found out on a machine is described in words."""
    assert str(Path.home()) not in documented()
    assert "| `render_threads` | one a processor |" in documented()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("host", "127.0.0.2", "127.0.0.2"),
        ("port", "8000", 8000),
        ("api_keys", "a" * 16 + "," + "b" * 16, ("a" * 16, "b" * 16)),
        ("trusted_proxies", "10.0.0.0/8,::1", ("10.0.0.0/8", "::1")),
        ("max_connections", "5", 5),
        ("max_queue", "7", 7),
        ("key_rate_limit", "600/min", "600/min"),
        ("failed_key_limit", "5/min", "5/min"),
        ("sweep_every_s", "2.5", 2.5),
        ("drain_delay_s", "5", 5.0),
    ],
)
def test_from_the_environment_and_from_a_file(
    name: str, text: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either way the same setting comes out."""
    file = tmp_path / "blossom.toml"
    array = isinstance(value, tuple)
    written = str(list(value)) if array else repr(text) if isinstance(value, str) else text  # type: ignore[arg-type]
    file.write_text(f"[blossom]\n{name} = {written}\n")
    if name == "port":
        monkeypatch.delenv("BLOSSOM_PORT")
    assert getattr(load(file), name) == value
    monkeypatch.setenv(f"BLOSSOM_{name.upper()}", text)
    assert getattr(load(), name) == value


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is given on the command line over both."""
    file = tmp_path / "blossom.toml"
    file.write_text("[blossom]\nmax_queue = 5\n")
    monkeypatch.setenv("BLOSSOM_MAX_QUEUE", "6")
    assert load(file).max_queue == 6
    assert load(file, max_queue=7).max_queue == 7


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("BLOSSOM_MAX_CONNECTIONS", "0", "allowed: a whole number from 1 to 100000"),
        ("BLOSSOM_MAX_QUEUE", "no", "allowed: a whole number from 1 to 100000"),
        ("BLOSSOM_SWEEP_EVERY_S", "0", "allowed: seconds from 1 to 86400"),
        ("BLOSSOM_SWEEP_EVERY_S", "nan", "allowed: seconds from 1 to 86400"),
        ("BLOSSOM_DRAIN_DELAY_S", "21", "allowed: seconds from 0 to 20"),
        ("BLOSSOM_KEY_RATE_LIMIT", "often", "allowed: a rate such as 600/min or 10/s"),
        ("BLOSSOM_FAILED_KEY_LIMIT", "0/min", "allowed: a rate such as 600/min or 10/s"),
        ("BLOSSOM_TRUSTED_PROXIES", "10.0.0.1/8", "10.0.0.0/8"),
    ],
)
def test_a_value_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    """The variable, the value and what is allowed are said."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert str(caught.value).startswith(f"{variable}: ")
    assert value in str(caught.value)
    assert told in str(caught.value)


def test_a_secret_is_not_said_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither by the settings nor in what is wrong with them."""
    secret = "xylophone-4711"
    monkeypatch.setenv("BLOSSOM_API_KEYS", secret)
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert secret not in str(caught.value)
    assert secret not in repr(Settings(signing_secrets=(secret,)))


@pytest.mark.parametrize("weak", ["short", "a" * 64])
def test_weak_signing_secrets_are_refused(weak: str) -> None:
    """Whoever can guess one can sign URLs."""
    with pytest.raises(ConfigurationError):
        Signer([weak])


def test_keys_are_needed_where_strangers_reach() -> None:
    """Those of the settings or of the database; on loopback neither."""
    far = Settings(host="0.0.0.0")
    with pytest.raises(ConfigurationError, match="blossom keys create"):
        check_keys(far, stored=False)
    check_keys(far, stored=True)
    check_keys(attrs.evolve(far, api_keys=("a" * 16,)), stored=False)
    check_keys(Settings(), stored=False)

"""The gateway's settings: one table, from which the page, the environment and the file follow."""

from __future__ import annotations

import json
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
    assert "| `render_threads` | one per processor |" in documented()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("host", "127.0.0.2", "127.0.0.2"),
        ("host", "fe80::1%eth0", "fe80::1%eth0"),
        ("port", "8000", 8000),
        ("api_keys", "a" * 16 + "," + "b" * 16, ("a" * 16, "b" * 16)),
        ("trusted_proxies", "10.0.0.0/8,::1", ("10.0.0.0/8", "::1")),
        ("max_connections", "5", 5),
        ("max_queue", "7", 7),
        ("key_rate_limit", "600/min", "600/min"),
        ("failed_key_limit", "5/min", "5/min"),
        ("sweep_every_s", "2.5", 2.5),
        ("metadata", "clean", "clean"),
        ("log_format", "json", "json"),
        ("log_level", "DEBUG", "debug"),
        ("access_log", "none", "none"),
        ("model_aliases", "dall-e-3=flux,gpt-*", ("dall-e-3=flux", "gpt-*")),
        ("response_format", "b64_json", "b64_json"),
        ("drain_delay_s", "5", 5.0),
        ("widths", "480,960", (480, 960)),
        ("blobs", "s3://bucket/some/prefix", "s3://bucket/some/prefix"),
    ],
)
def test_from_the_environment_and_from_a_file(
    name: str, text: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either way the same setting comes out."""
    file = tmp_path / "blossom.toml"
    written = str([*value]) if isinstance(value, tuple) else repr(text) if isinstance(value, str) else text
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
        ("BLOSSOM_RESERVED_CONNECTIONS", "1000", "a whole number from 0 to 999, below max_connections"),
        ("BLOSSOM_MAX_QUEUE", "no", "allowed: a whole number from 1 to 100000"),
        ("BLOSSOM_SWEEP_EVERY_S", "0", "allowed: seconds from 1 to 86400"),
        ("BLOSSOM_SWEEP_EVERY_S", "nan", "allowed: seconds from 1 to 86400"),
        ("BLOSSOM_DRAIN_DELAY_S", "21", "allowed: seconds from 0 to 20"),
        ("BLOSSOM_KEY_RATE_LIMIT", "often", "allowed: a rate such as 600/min or 10/s"),
        ("BLOSSOM_FAILED_KEY_LIMIT", "0/min", "allowed: a rate such as 600/min or 10/s"),
        ("BLOSSOM_METADATA", "none", "allowed: keep or clean"),
        ("BLOSSOM_LOG_FORMAT", "xml", "allowed: text or json"),
        ("BLOSSOM_LOG_LEVEL", "loud", "allowed: debug, info, warning or error"),
        ("BLOSSOM_ACCESS_LOG", "some", "allowed: calls, all or none"),
        ("BLOSSOM_MODEL_ALIASES", "a=b=c", "allowed: NAME, or NAME=MODEL"),
        ("BLOSSOM_RESPONSE_FORMAT", "bytes", "allowed: auto, url or b64_json"),
        ("BLOSSOM_TRUSTED_PROXIES", "10.0.0.1/8", "10.0.0.0/8"),
        ("BLOSSOM_USE_PROXIES", "enabled", "allowed: true or false"),
        ("BLOSSOM_HOST", "[::1]", "without scheme, brackets and port"),
        ("BLOSSOM_HOST", "127.0.0.1:80", "without scheme, brackets and port"),
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


def test_more_connections_reserved_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would leave none for pictures."""
    monkeypatch.setenv("BLOSSOM_MAX_CONNECTIONS", "8")
    monkeypatch.setenv("BLOSSOM_RESERVED_CONNECTIONS", "8")
    with pytest.raises(ConfigurationError, match="a whole number from 0 to 7, below max_connections"):
        load()
    monkeypatch.setenv("BLOSSOM_RESERVED_CONNECTIONS", "7")
    assert load().reserved_connections == 7


def test_lines_that_the_level_would_drop_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """``access_log=all`` would have no effect above ``info``."""
    monkeypatch.setenv("BLOSSOM_ACCESS_LOG", "all")
    monkeypatch.setenv("BLOSSOM_LOG_LEVEL", "error")
    with pytest.raises(
        ConfigurationError, match="BLOSSOM_ACCESS_LOG: all requests are logged from log_level info"
    ):
        load()


def test_a_secret_is_not_said_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither by the settings nor in what is wrong with them."""
    secret = "xylophone-4711"
    monkeypatch.setenv("BLOSSOM_API_KEYS", secret)
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert secret not in str(caught.value)
    assert secret not in repr(Settings(signing_secrets=(secret,)))


@pytest.mark.parametrize(
    "url",
    [
        "my-pictures",
        "file:///pictures",
        "s3:///",
        "s3://name:pass@bucket",
        "s3://bucket?key=x",
        "s3://b/../x",
    ],
)
def test_a_bucket_is_named_without_credentials(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else is refused unseen: it may hold a password."""
    monkeypatch.setenv("BLOSSOM_BLOBS", url)
    with pytest.raises(ConfigurationError, match="allowed: s3://bucket/prefix, gs://bucket/prefix") as caught:
        load()
    assert url not in str(caught.value)


@pytest.mark.parametrize("url", ["gateways.db", "postgresql://u:secret@h/d", "mysql+pymysql://h/d", "secret"])
def test_a_database_that_is_not_postgresql_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unseen, as the URL holds a password."""
    monkeypatch.setenv("BLOSSOM_DATABASE_URL", url)
    with pytest.raises(ConfigurationError, match=r"allowed: postgresql\+psycopg://") as caught:
        load()
    assert url not in str(caught.value)


def test_gateways_that_share_a_database_need_the_same_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that one signed would be refused by the other."""
    monkeypatch.setenv("BLOSSOM_DATABASE_URL", "postgresql+psycopg://u:secret@h/d")
    with pytest.raises(ConfigurationError, match="set BLOSSOM_SIGNING_SECRETS alike") as caught:
        load()
    assert "secret@" not in str(caught.value)
    monkeypatch.setenv("BLOSSOM_SIGNING_SECRETS", "k" * 40)
    assert load().database == "postgresql+psycopg://u:secret@h/d"
    assert "secret@" not in repr(load())


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


SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-old"
NEWER = "zyxwvutsrqponmlkjihgfedcba9876543210-new"


@pytest.mark.parametrize(
    "written",
    [f"{NEWER},{SECRET}", f"{NEWER}, {SECRET}", f" {NEWER} ,\t{SECRET}\n", f"{NEWER}\n{SECRET}\r\n",
     f"\ufeff{NEWER},{SECRET},", f",{NEWER},,{SECRET}"],
)  # fmt: skip
def test_lists_are_read_as_people_write_them(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks, line ends and empty members are no part of a secret."""
    monkeypatch.setenv("BLOSSOM_SIGNING_SECRETS", written)
    assert load().signing_secrets == (NEWER, SECRET)


def test_secrets_that_only_a_space_separates_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one secret they would invalidate every URL that was signed before."""
    monkeypatch.setenv("BLOSSOM_SIGNING_SECRETS", f"{NEWER} {SECRET}")
    with pytest.raises(ConfigurationError, match="separate secrets by commas") as caught:
        load()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("empty", ["", "\ufeff \n"])
def test_an_empty_value_is_as_unset(empty: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``${VAR:-}`` of a compose file leaves it so; the default is in force, also where a file sets none."""
    names = [field.name for field in attrs.fields(Settings)]
    for name in names:
        monkeypatch.delenv(f"BLOSSOM_{name.upper()}", raising=False)
    defaults = load()
    file = tmp_path / "blossom.toml"
    file.write_text("[blossom]\n" + "".join(f"{name} = {json.dumps(empty)}\n" for name in names), "utf-8")
    assert load(file) == defaults
    for name in names:
        monkeypatch.setenv(f"BLOSSOM_{name.upper()}", empty)
    assert load() == defaults


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("host", " 127.0.0.2\n", "127.0.0.2"),
        ("port", " 8000 ", 8000),
        ("port", "8000.0", 8000),
        ("sweep_every_s", "2.5\r\n", 2.5),
        ("openai_keyed", " Yes ", True),
        ("openai_keyed", "off", False),
        ("providers", "openai, offline", ("openai", "offline")),
        ("daily_budget", "5\n", 5.0),
        ("pollinations_model", "\u00a0turbo", "turbo"),
    ],
)
def test_blanks_around_a_value_do_not_count(
    name: str, written: str, value: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the environment and in a file."""
    file = tmp_path / "blossom.toml"
    file.write_text(f"[blossom]\n{name} = {json.dumps(written)}\n", "utf-8")
    monkeypatch.delenv("BLOSSOM_PORT")
    assert getattr(load(file), name) == value
    monkeypatch.setenv(f"BLOSSOM_{name.upper()}", written)
    assert getattr(load(), name) == value


def test_the_home_folder_may_be_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no shell has replaced it: in the environment, in a file, and on the command line."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BLOSSOM_DATA_DIR", "~/pictures")
    assert load().data_dir == tmp_path / "pictures"
    monkeypatch.delenv("BLOSSOM_DATA_DIR")
    (tmp_path / "blossom.toml").write_text('[blossom]\ndata_dir = "~/pictures"\n')
    assert load(Path("~/blossom.toml")).data_dir == tmp_path / "pictures"
    assert load(data_dir=Path("~/others")).data_dir == tmp_path / "others"


@pytest.mark.parametrize(
    "path",
    [
        "$HOME/pictures",
        "${DATA}/pictures",
        "~nobody-of-this-name/pictures",
        "s3://pictures",
        "file:///pictures",
    ],
)
def test_a_folder_that_nothing_names_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not made in the current folder."""
    monkeypatch.setenv("BLOSSOM_DATA_DIR", path)
    with pytest.raises(ConfigurationError, match=r"write the (path itself|whole path)"):
        load()


@pytest.mark.parametrize("name", ["API_KEYS", "SIGNING_SECRETS", "PROVIDERS"])
def test_a_list_in_brackets_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs take JSON; as part of a secret the brackets would be in force."""
    monkeypatch.setenv(f"BLOSSOM_{name}", '["one-of-more-than-16-characters", "another-one-of-that-length"]')
    with pytest.raises(ConfigurationError, match="the value is in brackets"):
        load()


@pytest.mark.parametrize("quoted", ['"127.0.0.2"', "'127.0.0.2'", ' "127.0.0.2" '])
def test_a_value_in_quotes_is_refused(quoted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's env files keep quotes; as part of a secret they would be in force."""
    monkeypatch.setenv("BLOSSOM_HOST", quoted)
    with pytest.raises(ConfigurationError, match="BLOSSOM_HOST: the value is in quotes"):
        load()


@pytest.mark.parametrize("written", ["${KEY}", "$OPENAI_KEY", "$(KEY)", "%KEY%", "${KEY:-}"])
@pytest.mark.parametrize("name", ["SIGNING_SECRETS", "OPENAI_KEY"])
def test_a_variable_that_nobody_expanded_is_refused(
    name: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd and Docker expand none in a file of settings; as a secret its name would be in force."""
    monkeypatch.setenv(f"BLOSSOM_{name}", written)
    with pytest.raises(ConfigurationError, match=f"BLOSSOM_{name}: the value is the name of a variable"):
        load()


def test_service_links_of_kubernetes_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a Service named blossom, and of one named blossom-api."""
    for name in ("BLOSSOM", "BLOSSOM_API"):
        monkeypatch.setenv(f"{name}_PORT", "tcp://10.96.12.7:8765")
        monkeypatch.setenv(f"{name}_SERVICE_HOST", "10.96.12.7")
        monkeypatch.setenv(f"{name}_SERVICE_PORT", "8765")
        monkeypatch.setenv(f"{name}_SERVICE_PORT_HTTP", "8765")
        monkeypatch.setenv(f"{name}_PORT_8765_TCP", "tcp://10.96.12.7:8765")
        monkeypatch.setenv(f"{name}_PORT_8765_TCP_PROTO", "tcp")
        monkeypatch.setenv(f"{name}_PORT_8765_TCP_PORT", "8765")
        monkeypatch.setenv(f"{name}_PORT_8765_TCP_ADDR", "10.96.12.7")
    assert load().port == 8765


@pytest.mark.parametrize("variable", ["BLOSSOM_DAILY_BUGDET", "BLOSSOM_DAILYBUDGET", "Blossom_Daily_Budget"])
def test_a_mistyped_variable_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget its writer counts on would not be in force."""
    monkeypatch.setenv(variable, "5")
    with pytest.raises(ConfigurationError, match=f"{variable}: .* did you mean BLOSSOM_DAILY_BUDGET"):
        load()


def test_a_variable_of_somebody_else_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the client are known."""
    monkeypatch.setenv("BLOSSOM_API_KEY", "k" * 16)
    monkeypatch.setenv("BLOSSOM_BASE_URL", "http://127.0.0.1:1")
    load()
    monkeypatch.setenv("BLOSSOM_SHOP", "roses")
    with pytest.warns(UserWarning, match="BLOSSOM_SHOP is not a setting"):
        load()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("daily_budget = 5.0\n", "daily_budget is outside"),
        ("[gateway]\ndaily_budget = 5.0\n", r"daily_budget of \[gateway\] is outside"),
        ("[Blossom]\ndaily_budget = 5.0\n", r"\[Blossom\] is outside"),
        ("[tool.blossom]\ndaily_budget = 5.0\n", r"\[tool\.blossom\] is outside"),
        ("[blossom]\nport = 1\n[other]\ndaily-budget = 5.0\n", r"daily-budget of \[other\] is outside"),
        ("", r"there is no section \[blossom\]"),
        ("blossom = 5", r"there is no section \[blossom\]"),
        ("[blossom]\ndaily_bugdet = 5.0\n", "unknown setting 'daily_bugdet'.* Did you mean 'daily_budget'"),
        ("[blossom]\nport = 1\nPort = 2\n", "unknown setting 'Port'.* Did you mean 'port'"),
        ("[blossom]\ndaily-budget = 5\ndaily_budget = 6\n", "daily_budget is set twice"),
        ("[blossom]\nmax_queue = 5.5\n", r"max_queue: .*allowed: a whole number"),
        ("[blossom]\nmax_queue = true\n", r"max_queue: .*allowed: a whole number"),
        ("[blossom\n", "it must be TOML"),
    ],
)
def test_a_file_that_would_not_be_in_force_is_refused(text: str, told: str, tmp_path: Path) -> None:
    """Each refusal names the file or the setting, and says where it belongs."""
    file = tmp_path / "blossom.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        load(file)


def test_sections_of_other_programs_are_warned_of(tmp_path: Path) -> None:
    """They may stand in the same file."""
    file = tmp_path / "blossom.toml"
    file.write_text("[logging]\nlevel = 'info'\n[blossom]\nmax-queue = 5\n")
    with pytest.warns(UserWarning, match="logging is not read"):
        assert load(file).max_queue == 5


def test_a_file_of_notepad_is_read(tmp_path: Path) -> None:
    """A byte order mark and CRLF do no harm; UTF-16 is named as what it is not."""
    file = tmp_path / "blossom.toml"
    file.write_bytes(b"\xef\xbb\xbf[blossom]\r\nmax_queue = 5\r\n")
    assert load(file).max_queue == 5
    file.write_bytes("[blossom]\nmax_queue = 5\n".encode("utf-16"))
    with pytest.raises(ConfigurationError, match=r"blossom\.toml: byte 0 is not UTF-8"):
        load(file)


@pytest.mark.parametrize("url", ["u:s3c@ret@h/d", "u/s:ecret@h/d", "u:s3c@ret:5x@h", "u:pass?word@h/d"])
def test_a_password_that_is_not_escaped_is_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """It is refused before anything takes a part of it for the host."""
    monkeypatch.setenv("BLOSSOM_SIGNING_SECRETS", "k" * 40)
    monkeypatch.setenv("BLOSSOM_DATABASE_URL", f"postgresql+psycopg://{url}")
    with pytest.raises(ConfigurationError, match="with any of its characters in %XX") as caught:
        load()
    assert url not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "near"),
    [("127.0.0.1", True), ("127.0.0.2", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("192.0.2.1", False), ("example.com", False)],
)  # fmt: skip
def test_who_can_reach_the_port(host: str, near: bool) -> None:
    """Only this machine, where it listens on loopback; a name may lead anywhere."""
    assert Settings(host=host).local is near

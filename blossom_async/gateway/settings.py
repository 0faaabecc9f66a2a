"""Every setting of the gateway: name, default, unit and help, from the environment or a TOML file."""

from __future__ import annotations

import math
import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs
import platformdirs
import typed_settings as ts
from typed_settings.converters import TSConverter
from typed_settings.exceptions import TsError
from typed_settings.loaders import DictLoader, Loader

from blossom_async.batch import RateLimit
from blossom_async.errors import ConfigurationError
from blossom_async.gateway.configured import cleaned, expanded, from_environment, from_file
from blossom_async.models import MAX_SIDE, MIN_SIDE
from blossom_async.rules import network_rule

__all__ = ["Settings", "check_keys", "documented", "load"]

_MIN_KEY = 16
_RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "render_threads": (1, 256),
    "max_connections": (1, 100_000),
    "max_queue": (1, 100_000),
    "sweep_every_s": (1, 86_400),
    "provider_at_once": (1, 10_000),
    "provider_wait_s": (0.1, 3600),
    "max_wait_s": (0.1, 3600),
    "provider_timeout_s": (1, 3600),
    "defer_wait_s": (0, 300),
    "drain_delay_s": (0, 20),
}
_ALLOWED = {
    "port": "a whole number from 1 to 65535, or 0 for any free one",
    "render_threads": "a whole number from 1 to 256",
    "max_connections": "a whole number from 1 to 100000",
    "reserved_connections": "a whole number below max_connections",
    "max_queue": "a whole number from 1 to 100000",
    "sweep_every_s": "seconds from 1 to 86400",
    "provider_at_once": "a whole number from 1 to 10000",
    "provider_wait_s": "seconds from 0.1 to 3600",
    "provider_timeout_s": "seconds from 1 to 3600",
    "max_wait_s": "seconds from 0.1 to 3600",
    "defer_wait_s": "seconds from 0 to 300",
    "daily_budget": "US dollars from 0 up",
    "drain_delay_s": "seconds from 0 to 20",
    "widths": f"whole numbers from {MIN_SIDE} to {MAX_SIDE}, separated by commas",
}
_CHOICES = {
    "metadata": ("keep", "clean"),
    "log_format": ("text", "json"),
    "log_level": ("debug", "info", "warning", "error"),
    "access_log": ("calls", "all", "none"),
    "response_format": ("auto", "url", "b64_json"),
}
_LISTS = (tuple[str, ...], tuple[int, ...])
_KEY = re.compile("[!-~]+")
_ALIAS = re.compile(r"[\w.:/*-]+(=[\w.:/-]+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?", re.ASCII)
_HOST = re.compile(r"[\w.-]+|[\da-f.]*:[\da-f.]*:[\w:.%-]*", re.IGNORECASE)  # a name, IPv4 or IPv6
_PUBLIC_URL = re.compile(r"https?://[0-9A-Za-z.\[\]:-]+(?:/[!$&-;=@-Z_a-z~%]*)?", re.ASCII)
_BUCKET_URL = re.compile(
    r"(s3|gs|az)://[0-9a-z][0-9a-z._-]{1,221}(/[0-9A-Za-z_][0-9A-Za-z._=-]*)*/?", re.ASCII
)
_DATABASE_URL = re.compile(r"postgresql\+psycopg://([!-.0->A-~]*@)?[!-.0->A-~]*/[!-?A-~]+", re.ASCII)
_UNREADABLE = re.compile(r"Could not convert value (.*) for option '(\w+)' from loader (\w+)", re.DOTALL)
_REFUSED = "Could not convert loaded settings: "
_COMPUTED = {
    "data_dir": "the platform's folder for user data",
    "render_threads": "one per processor",
    "reserved_connections": "a tenth",
}
_UNITS = {
    "render_threads": "threads",
    "max_connections": "connections",
    "reserved_connections": "connections",
    "max_queue": "pictures",
    "key_rate_limit": "calls",
    "failed_key_limit": "keys",
    "pollinations_rate_limit": "requests",
    "openai_rate_limit": "requests",
    "provider_at_once": "requests",
    "daily_budget": "US dollars",
    "widths": "pixels",
}
_PAGE = """\
# Settings of the gateway

Set a setting in the environment, as `BLOSSOM_` and its name in capitals, or in a TOML file for
`blossom serve --config FILE`, by its name in the section `[blossom]`. The environment overrides the file,
and an option of `blossom serve` overrides both. In the environment, lists are separated by commas or line
ends.

Blanks and line ends around a value are ignored, an empty value counts as not set, and `~` is the home folder.
A setting that would have no effect is refused: a misspelt variable or name, one outside `[blossom]`, a value
in quotes that no shell has removed. Service links of Kubernetes (`BLOSSOM_PORT=tcp://...`) are ignored.

| name | default | unit | what it is |
|---|---|---|---|"""


class _Unusable(ConfigurationError):
    """A value that a validator refuses. typed-settings shows its ``repr``, so that is the message."""

    def __repr__(self) -> str:
        return str(self)


def _data_dir() -> Path:
    try:
        path = platformdirs.user_data_path("blossom_async")
    except RuntimeError:
        path = Path("~")
    if not path.is_absolute():
        raise _Unusable("data_dir: no home folder was found; choose a folder with BLOSSOM_DATA_DIR")
    return path


def _in_range(_: object, field: attrs.Attribute[Any], number: float) -> None:
    low, high = _RANGES[field.name]
    if not low <= number <= high:
        what = "is not a port" if field.name == "port" else "cannot be used"
        raise _Unusable(f"{field.name}: {number} {what}; allowed: {_ALLOWED[field.name]}")


def _rate(_: object, field: attrs.Attribute[Any], rate: str | None) -> None:
    if rate is not None:
        try:
            RateLimit.parse(rate)
        except ValueError:
            raise _Unusable(
                f"{field.name}: {rate!r} cannot be used; allowed: a rate such as 600/min or 10/s"
            ) from None


def _listened(_: object, field: attrs.Attribute[Any], host: str) -> None:
    if not _HOST.fullmatch(host):
        raise _Unusable(
            f"{field.name}: {host!r} cannot be used; allowed: an address of this machine, such as 0.0.0.0 or "
            "::1, without scheme, brackets and port"
        )


def _url(_: object, field: attrs.Attribute[Any], url: str | None) -> None:
    if url is not None and not _PUBLIC_URL.fullmatch(url):
        raise _Unusable(
            f"{field.name}: {url!r} cannot be used; allowed: an http(s) URL without user, query and "
            "fragment, such as https://images.example.com"
        )


def _keys(_: object, field: attrs.Attribute[tuple[str, ...]], keys: tuple[str, ...]) -> None:
    if any(len(key) < _MIN_KEY or not _KEY.fullmatch(key) for key in keys):
        raise _Unusable(
            f"{field.name}: a key is shorter than {_MIN_KEY} characters, or contains a space or a character "
            "beyond ASCII; "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )


def _secrets(_: object, field: attrs.Attribute[tuple[str, ...]], secrets: tuple[str, ...]) -> None:
    if any(re.search(r"\s", secret) for secret in secrets):
        raise _Unusable(
            f"{field.name}: a secret contains a space or a line break; separate secrets by commas, "
            "and make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )


def _reserved(settings: Any, field: attrs.Attribute[Any], number: int | None) -> None:
    if number is not None and not 0 <= number < settings.max_connections:
        raise _Unusable(
            f"{field.name}: {number} cannot be used; allowed: a whole number from 0 to "
            f"{settings.max_connections - 1}, below max_connections"
        )


def _networks(_: object, field: attrs.Attribute[tuple[str, ...]], networks: tuple[str, ...]) -> None:
    for network in networks:
        try:
            network_rule(network)
        except ValueError as exc:
            raise _Unusable(f"{field.name}: {network!r} cannot be used; allowed: {exc}") from None


def _database(settings: Any, field: attrs.Attribute[str | None], url: str | None) -> None:
    if url is None:
        return
    if not _DATABASE_URL.fullmatch(url):
        raise _Unusable(
            f"{field.name}: the value cannot be used; allowed: "
            "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, with any of its characters in %XX"
        )
    if not settings.signing_secrets:
        raise _Unusable(
            f"{field.name}: gateways that share a database sign with the same secrets, and signing_secrets "
            "is not set; set BLOSSOM_SIGNING_SECRETS alike for all of them"
        )


def _providers(_: object, field: attrs.Attribute[tuple[str, ...]], names: tuple[str, ...]) -> None:
    known = ("offline", "pollinations", "openai")
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise _Unusable(
            f"{field.name}: {', '.join(names) or 'none'} cannot be used; allowed: one or more of "
            f"{', '.join(known)}, each once"
        )


def _choice(_: object, field: attrs.Attribute[Any], choice: str) -> None:
    *others, last = _CHOICES[field.name]
    if choice not in (*others, last):
        raise _Unusable(f"{field.name}: {choice!r} cannot be used; allowed: {', '.join(others)} or {last}")


def _access_log(settings: Any, field: attrs.Attribute[Any], choice: str) -> None:
    _choice(settings, field, choice)
    if choice == "all" and settings.log_level not in {"debug", "info"}:
        raise _Unusable(
            f"{field.name}: all requests are logged from log_level info on, and that is "
            f"{settings.log_level}; set one of them differently"
        )


def _aliases(_: object, field: attrs.Attribute[Any], aliases: tuple[str, ...]) -> None:
    for alias in aliases:
        if not _ALIAS.fullmatch(alias) or (alias == "none" and len(aliases) > 1):
            raise _Unusable(
                f"{field.name}: {alias!r} cannot be used; allowed: NAME, or NAME=MODEL for another model to "
                "draw instead, where * in NAME stands for anything; or none alone"
            )


def _widths(_: object, field: attrs.Attribute[tuple[int, ...]], widths: tuple[int, ...]) -> None:
    for width in widths:
        if not MIN_SIDE <= width <= MAX_SIDE:
            raise _Unusable(f"{field.name}: {width} cannot be used; allowed: {_ALLOWED[field.name]}")


def _bucket(_: object, field: attrs.Attribute[str | None], url: str | None) -> None:
    if url is not None and not _BUCKET_URL.fullmatch(url):  # not shown: it may hold a password
        raise _Unusable(
            f"{field.name}: the value cannot be used; allowed: s3://bucket/prefix, gs://bucket/prefix or "
            "az://container/prefix, without credentials: those have variables of their own, such as "
            "AWS_ACCESS_KEY_ID"
        )


def _budget(_: object, field: attrs.Attribute[float | None], usd: float | None) -> None:
    if usd is not None and not 0 <= usd < math.inf:
        raise _Unusable(f"{field.name}: {usd} cannot be used; allowed: {_ALLOWED[field.name]}")


@attrs.frozen(kw_only=True)
class Settings:
    """Each is set by ``BLOSSOM_`` and its name in capitals, or by its name in section ``[blossom]``."""

    data_dir: Path = ts.option(
        factory=_data_dir, help="Folder of the pictures, their records and the gateway's own key."
    )
    blobs: str | None = ts.option(
        default=None,
        validator=_bucket,
        help="Bucket that keeps the pictures, if not the data folder: `s3://bucket/prefix`, `gs://...` or "
        "`az://container/prefix`; see [storage](storage.md).",
    )
    host: str = ts.option(
        default="127.0.0.1",
        validator=_listened,
        help="Address to listen on; beyond loopback it needs an API key.",
    )
    port: int = ts.option(default=8765, validator=_in_range, help="Port to listen on; 0 takes any free one.")
    public_url: str | None = ts.option(
        default=None,
        validator=_url,
        help="Beginning of the URLs, if viewers reach the gateway by another name.",
    )
    api_keys: tuple[str, ...] = ts.option(
        default=(),
        validator=_keys,
        repr=False,
        help="Keys that may call /v1, separated by commas, besides those of `blossom keys`.",
    )
    signing_secrets: tuple[str, ...] = ts.option(
        default=(),
        validator=_secrets,
        repr=False,
        help="Secrets that sign URLs, the newest first, separated by commas; by default the gateway keeps "
        "its own in the data folder.",
    )
    database_url: str | None = ts.option(
        default=None,
        validator=_database,
        repr=False,
        help="PostgreSQL (15 or later) that keeps the records, if not the data folder: "
        "`postgresql+psycopg://user:password@host/database`. Gateways on several machines share it; "
        "it needs the extra `postgres`.",
    )
    trusted_proxies: tuple[str, ...] = ts.option(
        default=(),
        validator=_networks,
        help="Addresses and networks of proxies whose X-Forwarded-For is trusted, separated by commas.",
    )
    providers: tuple[str, ...] = ts.option(
        default=("offline",),
        validator=_providers,
        help="Who draws: offline, pollinations, openai, separated by commas. The next is asked if the one "
        "before lacks an option or has failed.",
    )
    pollinations_url: str = ts.option(
        default="https://gen.pollinations.ai", help="Address of Pollinations; its older host works, too."
    )
    pollinations_key: str | None = ts.option(
        default=None, repr=False, help="Key of the account at Pollinations."
    )
    pollinations_key_file: Path | None = ts.option(default=None, help="File with that key instead.")
    pollinations_model: str = ts.option(default="flux", help="Model for requests that name none.")
    pollinations_rate_limit: str | None = ts.option(
        default=None, validator=_rate, help="Requests that the account may make, such as 10/s."
    )
    openai_url: str = ts.option(
        default="https://api.openai.com/v1", help="Address of OpenAI, or of a server with its Images API."
    )
    openai_key: str | None = ts.option(default=None, repr=False, help="Key of the account there.")
    openai_key_file: Path | None = ts.option(default=None, help="File with that key instead.")
    openai_model: str | None = ts.option(
        default=None, help="Model for requests that name none; required with the provider openai."
    )
    openai_keyed: bool = ts.option(
        default=False,
        help="Whether that server honours Idempotency-Key, so that a lost answer can be requested again.",
    )
    openai_omit: tuple[str, ...] = ts.option(
        default=(),
        help="Parameters never sent to that server, such as response_format,seed; separated by commas.",
    )
    openai_rate_limit: str | None = ts.option(
        default=None, validator=_rate, help="Requests that the account may make, such as 50/min."
    )
    provider_at_once: int = ts.option(
        default=16,
        validator=_in_range,
        help="Requests in progress at each provider at once, of all gateways on a database together.",
    )
    provider_wait_s: float = ts.option(
        default=240.0, validator=_in_range, help="How long a call may wait for its turn at a provider."
    )
    provider_timeout_s: float = ts.option(
        default=300.0, validator=_in_range, help="How long a provider may take for a picture."
    )
    use_proxies: bool = ts.option(
        default=True,
        help="Whether providers are reached through the proxies of HTTP_PROXY and HTTPS_PROXY, except hosts "
        "in NO_PROXY. Pictures that a provider gives as URLs are always fetched directly.",
    )
    daily_budget: float | None = ts.option(
        default=None,
        validator=_budget,
        help="US dollars that each API key may spend a day (UTC), unless it has a budget of its own.",
    )
    defer_wait_s: float = ts.option(
        default=25.0,
        validator=_in_range,
        help="How long the URL of a deferred picture waits for the picture before it answers 202.",
    )
    webhook_url: str | None = ts.option(
        default=None,
        repr=False,
        help="URL that is told when a deferred picture is finished or has failed: https, or http on this "
        "machine.",
    )
    webhook_secret: str | None = ts.option(
        default=None,
        repr=False,
        help="Secret that signs webhooks: `whsec_` and 24 to 64 random bytes in base64.",
    )
    metadata: str = ts.option(
        default="keep",
        validator=_choice,
        help="`keep` keeps a picture with its provider's manifest (C2PA) byte for byte; `clean` leaves "
        "nothing in any file but the mark of where it comes from. Texts with prompts are always removed.",
    )
    c2pa_cert: Path | None = ts.option(
        default=None,
        help="PEM file with the certificate, and those that it is issued by, that pictures are signed with "
        "(C2PA); needs c2pa_key and `pip install '.[c2pa]'` in the checkout.",
    )
    c2pa_key: Path | None = ts.option(default=None, help="PEM file with the private key of c2pa_cert.")
    c2pa_timestamp_url: str | None = ts.option(
        default=None,
        validator=_url,
        help="Timestamp authority (RFC 3161) asked at each signature; without one no network is used.",
    )
    render_threads: int = ts.option(
        factory=lambda: min(os.cpu_count() or 1, 256),
        validator=_in_range,
        help="Pictures drawn and encoded at the same time.",
    )
    max_connections: int = ts.option(
        default=1000, validator=_in_range, help="Connections held at once; more are answered 503 and closed."
    )
    reserved_connections: int | None = ts.option(
        default=None,
        validator=_reserved,
        help="Of max_connections, those kept free of calls that make pictures, so that viewers get in.",
    )
    max_queue: int = ts.option(
        default=1000,
        validator=_in_range,
        help="Pictures made or waited for at once; calls for more are answered 503.",
    )
    max_wait_s: float = ts.option(
        default=2.0,
        validator=_in_range,
        help="The longest expected wait of a call, or the time that three pictures take if that is longer; "
        "beyond it the answer is 503 at once. Batches and deferred pictures wait up to provider_wait_s.",
    )
    key_rate_limit: str | None = ts.option(
        default=None,
        validator=_rate,
        help="Calls of /v1 that each API key may make, such as 600/min; more are answered 429.",
    )
    failed_key_limit: str | None = ts.option(
        default="30/min",
        validator=_rate,
        help="Wrong API keys that each address (IPv6: /64 network) may send; more are answered 429.",
    )
    model_aliases: tuple[str, ...] = ts.option(
        default=("dall-e-*", "gpt-image-*", "chatgpt-image-*"),
        validator=_aliases,
        help="Models of OpenAI's clients for which another draws where no provider lists them: the usual, "
        "or as in `dall-e-3=flux`; the answer says so. Whole names are listed in `GET /v1/models`. `none` "
        "refuses them.",
    )
    response_format: str = ts.option(
        default="auto",
        validator=_choice,
        help="What OpenAI's clients get if they name none: `url`, `b64_json`, or `auto`: bytes for models "
        "named gpt-image or chatgpt-image, as at OpenAI, else URLs.",
    )
    widths: tuple[int, ...] = ts.option(
        default=(320, 640, 1280),
        validator=_widths,
        help="Widths below its own in which a picture is served, at its URL with /w640 and so on, "
        "unless its request lists others; separated by commas.",
    )
    sweep_every_s: float = ts.option(
        default=60.0, validator=_in_range, help="Time between two removals of the files of expired pictures."
    )
    log_format: str = ts.option(
        default="text",
        validator=_choice,
        help="How `blossom serve` writes its log to stderr: `text`, or `json`, one object a line.",
    )
    log_level: str = ts.option(
        default="info",
        validator=_choice,
        help="Which lines `blossom serve` writes: `debug`, `info`, `warning` or `error`, and what is graver.",
    )
    access_log: str = ts.option(
        default="calls",
        validator=_access_log,
        help="Which requests have a line in the log: `calls` leaves out pictures that were served and "
        "probes, `all` has them too, `none` has none.",
    )
    traces: bool = ts.option(
        default=False,
        help="Whether `blossom serve` sends traces by OTLP, to where `OTEL_EXPORTER_OTLP_ENDPOINT` says; "
        "needs `pip install '.[otel]'` in the checkout.",
    )
    drain_delay_s: float = ts.option(
        default=0.0,
        validator=_in_range,
        help="When stopping: how long /readyz answers 503 before new connections are refused.",
    )

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the port."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def database(self) -> Path | str:
        """The file or the URL of the records."""
        return self.database_url or self.data_dir / "records.sqlite"


def load(config: Path | None = None, **given: Any) -> Settings:
    """The settings: ``given`` overrides the environment, which overrides the file, which overrides defaults.

    In each of them blanks around a value are ignored, an empty value counts as not set, and ``~`` is the home
    folder. Raises ``ConfigurationError`` for a file that cannot be read, an unknown name, or a bad value.
    """
    fields = attrs.fields_dict(attrs.resolve_types(Settings))
    lists = [name for name, field in fields.items() if field.type in _LISTS]
    file = {} if config is None else from_file(expanded(config), fields)
    given = {name: value for name, value in given.items() if cleaned(value) is not None}
    loaders: list[Loader] = [
        _File(_readable(file, fields)),
        _Environment(_readable(from_environment(os.environ, fields, lists), fields)),
    ]
    try:
        settings = ts.load_settings(Settings, loaders, converter=TSConverter(strlist_sep=None))
        return attrs.evolve(settings, **_readable(given, fields))
    except TsError as exc:
        reasons = exc.exceptions if isinstance(exc, ExceptionGroup) else (exc,)
        told = "; ".join(_told(str(reason)) for reason in reasons)
        raise ConfigurationError(told) from None  # typed-settings' own errors show the values, keys included


class _File(DictLoader):
    """Its own class, because typed-settings names the loader's class in errors."""


class _Environment(DictLoader):
    """As ``_File``."""


def _readable(values: dict[str, Any], fields: dict[str, attrs.Attribute[Any]]) -> dict[str, Any]:
    """Values in the form that typed-settings converts without loss."""
    readable = {}
    for name, value in values.items():
        kind = fields[name].type
        if kind in (Path, Path | None) and isinstance(value, str | Path):
            value = expanded(Path(value))
        elif kind is int and isinstance(value, str | float) and _WHOLE.fullmatch(str(value)):
            value = int(str(value).partition(".")[0])
        elif kind is int and type(value) is not int:
            value = str(value)  # int() would truncate a fraction, and accept True as 1
        elif kind in _LISTS and isinstance(value, str):
            value = cleaned(value.split(","))
        elif name in _CHOICES and isinstance(value, str):
            value = value.lower()
        readable[name] = value
    return readable


def _told(reason: str) -> str:
    if unreadable := _UNREADABLE.match(reason):
        value, name, loader = unreadable.groups()
        given = f"BLOSSOM_{name.upper()}" if loader == "_Environment" else name
        if name not in _ALLOWED and isinstance(getattr(attrs.fields(Settings), name).default, bool):
            return f"{given}: {value} cannot be used; allowed: true or false"
        if name not in _ALLOWED:
            return f"{given}: the value has the wrong type; see 'blossom serve --help'"
        return f"{given}: {value} cannot be used; allowed: {_ALLOWED[name]}"
    if reason.startswith(_REFUSED):
        name, _, rest = reason.removeprefix(_REFUSED).partition(":")
        variable = f"BLOSSOM_{name.upper()}"  # the environment wins over the file
        return f"{variable if variable in os.environ else name}:{rest}"
    return f"settings: {reason}"


def check_keys(settings: Settings, *, stored: bool) -> None:
    """Raises ``ConfigurationError`` when other machines could reach a gateway that has no API keys.

    ``stored``: whether the database has a key that is not revoked.
    """
    if not settings.api_keys and not stored and not settings.local:
        raise ConfigurationError(
            f"host {settings.host} can be reached from other machines, and no API key is set; "
            "set BLOSSOM_API_KEYS, make one with 'blossom keys create', or listen on 127.0.0.1"
        )


def documented() -> str:
    """The text of docs/settings.md."""
    rows = []
    for field in attrs.fields(Settings):
        told = field.metadata["typed-settings"]["help"]
        rows.append(f"| `{field.name}` | {_default(field)} | {_unit(field.name)} | {told} |")
    return "\n".join([_PAGE, *rows, ""])


def _default(field: attrs.Attribute[Any]) -> str:
    if field.name in _COMPUTED:
        return _COMPUTED[field.name]
    if field.default in (None, ()):
        return "none"
    if isinstance(field.default, tuple):
        return f"`{','.join(map(str, field.default))}`"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def _unit(name: str) -> str:
    return _UNITS.get(name, "s" if name.endswith("_s") else "")

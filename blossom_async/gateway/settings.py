"""Every setting of the gateway: name, default, unit and help, from the environment or a TOML file."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Any

import attrs
import platformdirs
import typed_settings as ts
from typed_settings.converters import TSConverter
from typed_settings.exceptions import TsError
from typed_settings.loaders import Loader

from blossom_async.errors import ConfigurationError

__all__ = ["Settings", "check_keys", "load"]

_MIN_KEY = 16
_MAX_THREADS = 256
_ALLOWED = {
    "port": "a whole number from 1 to 65535, or 0 for any free one",
    "render_threads": f"a whole number from 1 to {_MAX_THREADS}",
}
_UNREADABLE = re.compile(r"Could not convert value (.*) for option '(\w+)' from loader (\w+)", re.DOTALL)
_REFUSED = "Could not convert loaded settings: "


class _Unusable(ConfigurationError):
    """A value that a validator refuses. typed-settings shows the ``repr`` of it, which is the sentence."""

    def __repr__(self) -> str:
        return str(self)


def _data_dir() -> Path:
    return platformdirs.user_data_path("blossom_async")


def _port(_: object, field: attrs.Attribute[int], port: int) -> None:
    if not 0 <= port <= 65_535:
        raise _Unusable(f"{field.name}: {port} is no port; allowed: {_ALLOWED[field.name]}")


def _threads(_: object, field: attrs.Attribute[int], threads: int) -> None:
    if not 1 <= threads <= _MAX_THREADS:
        raise _Unusable(f"{field.name}: {threads} cannot be used; allowed: {_ALLOWED[field.name]}")


def _keys(_: object, field: attrs.Attribute[tuple[str, ...]], keys: tuple[str, ...]) -> None:
    if any(len(key) < _MIN_KEY or not key.isascii() or not key.isprintable() for key in keys):
        raise _Unusable(
            f"{field.name}: a key is shorter than {_MIN_KEY} characters or not printable ASCII; "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )


@attrs.frozen(kw_only=True)
class Settings:
    """Each is set by ``BLOSSOM_`` and its name in capitals, or by its name in section ``[blossom]``."""

    data_dir: Path = ts.option(
        factory=_data_dir, help="Folder of the pictures, their records and the gateway's own key."
    )
    host: str = ts.option(
        default="127.0.0.1", help="Address to listen on; beyond loopback it needs api_keys."
    )
    port: int = ts.option(default=8765, validator=_port, help="Port to listen on; 0 takes any free one.")
    public_url: str | None = ts.option(
        default=None, help="What URLs begin with, when viewers reach the gateway by another name."
    )
    api_keys: tuple[str, ...] = ts.option(
        default=(), validator=_keys, repr=False, help="Keys that may call /v1, separated by commas."
    )
    render_threads: int = ts.option(
        factory=lambda: min(os.cpu_count() or 1, _MAX_THREADS),
        validator=_threads,
        help="Pictures drawn and encoded at the same time.",
    )


def load(config: Path | None = None, **given: Any) -> Settings:
    """The settings in force: ``given`` (None counts as not given) over environment over file over default.

    Raises ``ConfigurationError`` for a file that cannot be read, an unknown name in it, or a bad value.
    """
    loaders: list[Loader] = []
    if config is not None:
        if not config.is_file():
            raise ConfigurationError(f"configuration file {config}: there is no such file")
        loaders.append(ts.FileLoader({"*.toml": ts.TomlFormat("blossom")}, [ts.find(str(config))]))
    loaders.append(ts.EnvLoader("BLOSSOM_"))
    try:
        settings = ts.load_settings(Settings, loaders, converter=TSConverter(strlist_sep=","))
        return attrs.evolve(settings, **{name: value for name, value in given.items() if value is not None})
    except TsError as exc:
        reasons = exc.exceptions if isinstance(exc, ExceptionGroup) else (exc,)
        told = "; ".join(_told(str(reason)) for reason in reasons)
        raise ConfigurationError(told) from None  # typed-settings' own errors show the values, keys included


def _told(reason: str) -> str:
    if unreadable := _UNREADABLE.match(reason):
        value, name, loader = unreadable.groups()
        given = f"BLOSSOM_{name.upper()}" if loader == "EnvLoader" else name
        if name not in _ALLOWED:
            return f"{given}: the value is of the wrong kind; see 'blossom serve --help'"
        return f"{given}: {value} cannot be used; allowed: {_ALLOWED[name]}"
    if reason.startswith(_REFUSED):
        name, _, rest = reason.removeprefix(_REFUSED).partition(":")
        variable = f"BLOSSOM_{name.upper()}"  # the environment wins over the file
        return f"{variable if variable in os.environ else name}:{rest}"
    return f"settings: {reason}"


def check_keys(settings: Settings) -> None:
    """Raises ``ConfigurationError`` when other machines could reach a gateway that has no API keys."""
    if not settings.api_keys and not _is_loopback(settings.host):
        raise ConfigurationError(
            f"host {settings.host} can be reached from other machines, and no API key is set; "
            "set BLOSSOM_API_KEYS, or listen on 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

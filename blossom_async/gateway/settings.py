"""Every setting of the gateway: name, default, unit and help, from the environment or a TOML file."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any

import attrs
import platformdirs
import typed_settings as ts
from typed_settings.converters import TSConverter
from typed_settings.exceptions import TsError
from typed_settings.loaders import Loader

from blossom_async.errors import ConfigurationError

__all__ = ["Settings", "is_loopback", "load"]

_MIN_KEY = 16


def _data_dir() -> Path:
    return platformdirs.user_data_path("blossom_async")


def _port(_: object, field: attrs.Attribute[int], port: int) -> None:
    if not 0 <= port <= 65_535:
        raise ConfigurationError(
            f"{field.name}: {port} is no port; allowed: 1 to 65535, or 0 for any free one"
        )


def _keys(_: object, field: attrs.Attribute[tuple[str, ...]], keys: tuple[str, ...]) -> None:
    if any(len(key) < _MIN_KEY or not key.isascii() or not key.isprintable() for key in keys):
        raise ConfigurationError(
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
        factory=lambda: os.cpu_count() or 1, help="Pictures drawn and encoded at the same time."
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
        raise ConfigurationError(f"settings: {'; '.join(_told(reason) for reason in reasons)}") from exc


def _told(reason: BaseException) -> str:
    own = reason.__cause__
    return str(own if isinstance(own, ConfigurationError) else reason)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

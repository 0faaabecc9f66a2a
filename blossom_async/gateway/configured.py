"""Reads settings as people write them: from the environment, and from a TOML file."""

from __future__ import annotations

import difflib
import re
import tomllib
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from blossom_async.errors import ConfigurationError, nearest

__all__ = ["cleaned", "expanded", "from_environment", "from_file"]

PREFIX = "BLOSSOM_"
SECTION = "blossom"

_CLIENTS = ("base_url", "api_key")  # read by the client, from the same environment
_TESTS = f"{PREFIX}TEST_"
# What Kubernetes sets in every pod beside a Service named blossom, or blossom-anything.
_SERVICE_LINK = re.compile(
    r"BLOSSOM(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)",
    re.ASCII,
)
_SERVICE_ADDRESS = re.compile(r"BLOSSOM(_\w+)?_PORT=(tcp|udp|sctp)://\S+", re.ASCII)
_QUOTED = re.compile(r"""(["']).*\1""", re.DOTALL)
# As shells, Kubernetes and Windows write one.
_VARIABLE = re.compile(r"\$(?:[A-Z_][A-Z0-9_]*|\{.*\}|\(.*\))|%[A-Z_][A-Z0-9_]*%", re.ASCII)
_BRACKETED = re.compile(r"\[.*\]", re.DOTALL)
_URL = re.compile(r"\w{2,}:/.*", re.ASCII | re.DOTALL)  # pathlib keeps one slash
_SEPARATORS = re.compile(r"[,\r\n]")  # of the members of a list
_BLANK = " \t\r\n\v\f\u00a0\u200b\u2060\ufeff"  # what copying a value brings along


def cleaned(value: object) -> object:
    """A value without surrounding blanks, line breaks and byte order mark; None for an empty one.

    In a list, each member is cleaned and empty ones are left out.
    """
    if isinstance(value, str):
        return value.strip(_BLANK) or None
    if isinstance(value, list | tuple):
        members = [member for member in map(cleaned, value) if member is not None]
        return members or None
    return value


def from_environment(
    environ: Mapping[str, str], names: Collection[str], lists: Collection[str]
) -> dict[str, Any]:
    """The settings in the environment by name, without empty ones; ``lists`` split at commas and line ends.

    Raises ``ConfigurationError`` for a value in quotes, one that is the name of a variable, a list in
    brackets, and a variable whose name is close to a setting's. Warns of other unknown variables that begin
    with ``BLOSSOM_``.
    """
    values: dict[str, Any] = {}
    for variable, written in environ.items():
        if not variable.upper().startswith(PREFIX) or _is_service_link(variable, written.strip(_BLANK)):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in names or variable != PREFIX + name.upper():
            _check_unknown(variable, (*names, *_CLIENTS))
            continue
        members = _SEPARATORS.split(written) if name in lists else [written]
        if any(_QUOTED.fullmatch(member.strip(_BLANK)) for member in members):
            raise ConfigurationError(
                f"{variable}: the value is in quotes, which would count as part of it; leave them out "
                "(no shell reads an env file of Docker)"
            )
        if any(_VARIABLE.fullmatch(member.strip(_BLANK)) for member in members):
            raise ConfigurationError(
                f"{variable}: the value is the name of a variable, and none is expanded here; write the "
                "value itself, or have a shell expand it"
            )
        if name in lists and _BRACKETED.fullmatch(written.strip(_BLANK)):
            raise ConfigurationError(
                f"{variable}: the value is in brackets, which would count as part of it; write its entries "
                "with commas between them, without brackets and quotes"
            )
        value = cleaned(members if name in lists else written)
        if value is not None:
            values[name] = value
    return values


def from_file(path: Path, names: Collection[str]) -> dict[str, Any]:
    """The settings in section ``[blossom]`` by name, without empty ones.

    Raises ``ConfigurationError`` for a file that cannot be read or is not TOML, for an unknown name in the
    section, and for settings outside it. Warns of other sections.
    """
    document = _toml(path)
    section = document.pop(SECTION, None)
    for title, content in document.items():
        stray = _first_known(title, content, names)
        if stray is not None:
            raise ConfigurationError(
                f"configuration file {path}: {stray} is outside [{SECTION}] and would have no effect; "
                f"move it below a line [{SECTION}]"
            )
        warnings.warn(f"configuration file {path}: {title} is not read; only [{SECTION}] is", stacklevel=2)
    if not isinstance(section, dict):
        raise ConfigurationError(
            f"configuration file {path}: there is no section [{SECTION}]; write the settings below that line"
        )
    values: dict[str, Any] = {}
    for written, value in section.items():
        name = written.replace("-", "_")
        if name not in names:
            raise ConfigurationError(
                f"configuration file {path}: unknown setting {written!r} in [{SECTION}];"
                f"{nearest(name.lower(), names)} docs/settings.md lists them all"
            )
        if name in values:
            raise ConfigurationError(f"configuration file {path}: {name} is set twice; keep one of them")
        value = cleaned(value)
        if value is not None:
            values[name] = value
    return values


def expanded(path: Path) -> Path:
    """The path with ``~`` as the home folder.

    Raises ``ConfigurationError`` if that is not known, and for a variable or a URL.
    """
    if str(path).startswith("$"):
        raise ConfigurationError(f"{path}: variables are not expanded here; write the path itself")
    if _URL.match(str(path)):
        raise ConfigurationError(
            f"{path}: this is a URL; write the path itself (a bucket for the pictures is BLOSSOM_BLOBS)"
        )
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigurationError(f"{path}: the home folder is not known; write the whole path") from None


def _is_service_link(variable: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(variable) or _SERVICE_ADDRESS.fullmatch(f"{variable}={value}"))


def _check_unknown(variable: str, names: Collection[str]) -> None:
    if variable.startswith(_TESTS) or variable in {PREFIX + name.upper() for name in _CLIENTS}:
        return
    close = difflib.get_close_matches(variable[len(PREFIX) :].lower(), names, n=1)
    if close:
        raise ConfigurationError(
            f"{variable}: there is no such setting, so it would have no effect; "
            f"did you mean {PREFIX}{close[0].upper()}? Rename it or unset it"
        )
    warnings.warn(f"{variable} is not a setting of Blossom and has no effect", stacklevel=4)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigurationError(f"configuration file {path}: there is no such file") from None
    except OSError as exc:
        raise ConfigurationError(f"configuration file {path}: it cannot be read ({exc.strerror})") from None
    except UnicodeDecodeError as exc:
        raise ConfigurationError(
            f"configuration file {path}: byte {exc.start} is not UTF-8; save the file as UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"configuration file {path}: {exc}; it must be TOML") from None


def _first_known(title: str, content: object, names: Collection[str]) -> str | None:
    """The part of a top-level entry that looks like ours: a setting, or a misspelt name of the section."""
    if not isinstance(content, dict):
        return title
    if nearest(title.lower(), [SECTION]):
        return f"[{title}]"
    for key, value in content.items():
        if key.replace("-", "_").lower() in names:
            return f"{key} of [{title}]"
        if isinstance(value, dict) and (found := _first_known(f"{title}.{key}", value, names)):
            return found
    return None

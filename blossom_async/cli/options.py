"""Options that several commands share: of the picture, and of the gateway that makes it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from blossom_async.cli.words import CannotStart, typed
from blossom_async.errors import BlossomError, ConfigurationError

if TYPE_CHECKING:
    import aiohttp

    from blossom_async.client import BlossomClient
    from blossom_async.models import ImageOptions

__all__ = [
    "GATEWAY",
    "PICTURE",
    "URL",
    "gateway_options",
    "help_settings",
    "number",
    "opened_client",
    "picture_options",
    "picture_settings",
]

Command = TypeVar("Command", bound=Callable[..., Any])

help_settings: dict[str, object] = {
    "help_option_names": ["-h", "--help"],
    "rich_help_config": click.RichHelpConfiguration(max_width=100, text_markup="rich"),
}


def _one_of(*words: str) -> dict[str, Any]:
    """How an option is declared that takes one of these words: a shell completes them."""

    def begun(_: click.Context, __: click.Parameter, typed: str) -> list[str]:
        return [word for word in words if word.startswith(typed)]

    return {"metavar": "|".join(words), "shell_complete": begun}


_PICTURE = (
    click.option("--width", type=int, metavar="PIXELS", help="16 to 4096; default 1024."),
    click.option("--height", type=int, metavar="PIXELS", help="As --width."),
    click.option(
        "--quality",
        **_one_of("standard", "hd", "ultra"),
        help="1, 2 or 4 credits a picture; default standard.",
    ),
    click.option(
        "--format",
        **_one_of("png", "jpg", "webp", "avif", "auto"),
        help="Default png; auto: the smallest each viewer accepts.",
    ),
    click.option("--transparency", is_flag=True, help="Transparent background; not with jpg."),
    click.option(
        "--compression",
        **_one_of("auto", "none", "lossy", "lossless"),
        help="auto: the smallest without visible loss.",
    ),
    click.option(
        "--lossy-quality",
        type=int,
        metavar="0-100",
        help="Quality of a jpg, webp or avif, in place of --compression.",
    ),
    click.option(
        "--quality-preset", **_one_of("web_optimized", "thumbnail", "print"), help="What the file is for."
    ),
    click.option("--model", metavar="NAME", help="A model the gateway offers."),
    click.option("--seed", type=int, metavar="N", help="The same seed and prompt make the same picture."),
    click.option("--negative-prompt", metavar="TEXT", help="What the picture must not show."),
    click.option("--expires-in", type=int, metavar="SECONDS", help="The URL answers 410 after this time."),
    click.option("--cache-control", metavar="VALUE", help="Cache-Control header of the picture."),
    click.option("--etag", metavar="VALUE", help="ETag header of the picture, without quotes."),
    click.option("--tracking-id", metavar="NAME", help="The campaign that views are counted under."),
    click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Stored with it; repeatable."),
    click.option(
        "--also-width",
        "widths",
        type=int,
        multiple=True,
        metavar="PIXELS",
        help="A width below its own in which it is served, too; repeatable.",
    ),
    click.option(
        "--allowed-domain",
        "allowed_domains",
        multiple=True,
        metavar="HOST",
        help="Only pages on this host may show it; *.HOST for its subdomains; repeatable.",
    ),
    click.option(
        "--allowed-ip",
        "ip_whitelist",
        multiple=True,
        metavar="NETWORK",
        help="Only this address or network may fetch it; repeatable.",
    ),
    click.option("--require-auth", is_flag=True, help="Only the owner's API key opens it."),
    click.option("--require-signature", is_flag=True, help="Only signed URLs open it; see blossom sign."),
    click.option("--defer", is_flag=True, help="Print the URL at once; it waits for the picture."),
    click.option("--cdn-prefix", metavar="URL", help="What URLs start with under --use-custom-cdn."),
    click.option("--use-custom-cdn", is_flag=True, help="URLs that start with --cdn-prefix."),
)
PICTURE = [
    *("--width", "--height", "--quality", "--format", "--transparency", "--compression", "--lossy-quality"),
    *("--quality-preset", "--model", "--seed", "--negative-prompt"),
]
GATEWAY = ["--base-url", "--api-key-file", "--timeout"]
URL = [
    *("--expires-in", "--cache-control", "--etag", "--tracking-id", "--metadata", "--also-width"),
    *("--allowed-domain", "--allowed-ip", "--require-auth", "--require-signature", "--defer"),
    *("--cdn-prefix", "--use-custom-cdn"),
]
"""The names of these options, for the panels of a command's help."""

_MAX_TIMEOUT = 86_400.0
_KEY = re.compile("[!-~]+", re.ASCII)


def number(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A callback that refuses nan, for which every comparison with a bound is False, and infinity."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number; allowed: {option.metavar} as a number.")
    return value


_GATEWAY = (
    click.option("--base-url", metavar="URL", help="The gateway, or 'embedded'. [BLOSSOM_BASE_URL]"),
    click.option(
        "--api-key-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="File that holds the API key; default: the key in BLOSSOM_API_KEY.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True, max=_MAX_TIMEOUT),
        callback=number,
        default=300.0,
        metavar="SECONDS",
        help="For each picture; default 300.",
    ),
)


def picture_options(command: Command) -> Command:
    """Adds the options of a picture."""
    return _with(_PICTURE, command)


def gateway_options(command: Command) -> Command:
    """Adds the options that name the gateway and say how to reach it."""
    return _with(_GATEWAY, command)


def _with(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def picture_settings(given: Mapping[str, Any]) -> ImageOptions:
    """The checked options of a picture, as far as they were given.

    Raises ``InvalidRequest`` for an invalid one, and ``CannotStart`` for metadata without ``=`` and for a
    CDN without a prefix.
    """
    from blossom_async.models import ImageOptions, ImageSettings, checked

    settings = {name: given[name] for name in ImageOptions.__annotations__ if _was_given(given.get(name))}
    settings = {name: typed(value) if isinstance(value, str) else value for name, value in settings.items()}
    if pairs := given["metadata"]:
        settings["metadata"] = _metadata(pairs)
    if settings.get("use_custom_cdn") and given["cdn_prefix"] is None:
        raise CannotStart("--use-custom-cdn needs a prefix; add --cdn-prefix https://cdn.example.com")
    checked(settings, ImageSettings)
    return settings  # type: ignore[return-value]


def _was_given(value: object) -> bool:
    return value is not None and value is not False and value != ()  # 0 was given, even if it is refused


def _metadata(pairs: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in pairs:
        name, equals, value = typed(text).partition("=")
        if not equals:
            raise CannotStart(f"--metadata: {text!r} is not a pair; allowed: KEY=VALUE")
        if name in found:
            raise CannotStart(f"--metadata: {name!r} is there twice; allowed: each key once; remove one")
        found[name] = value
    return found


def opened_client(
    given: Mapping[str, Any], session: aiohttp.ClientSession | None, *, max_concurrency: int = 64
) -> BlossomClient:
    """A client of the gateway named by option or environment, else of the embedded one.

    Raises ``ConfigurationError`` for an invalid address or an unusable key file, and ``CannotStart`` for
    a number outside its range.
    """
    import os

    from blossom_async.client import BlossomClient
    from blossom_async.transport import http_url

    base_url = given["base_url"] or os.environ.get("BLOSSOM_BASE_URL", "").strip() or "embedded"
    if base_url != "embedded":
        http_url(base_url, "--base-url" if given["base_url"] else "BLOSSOM_BASE_URL")
    try:
        return BlossomClient(
            base_url,
            api_key=_key(given["api_key_file"]),
            cdn_prefix=given.get("cdn_prefix"),
            max_concurrency=max_concurrency,
            timeout_s=given["timeout"],
            session=session,
        )
    except BlossomError:
        raise
    except ValueError as exc:
        raise CannotStart(str(exc)) from exc


def _key(path: Path | None) -> str | None:
    if path is None:
        return None
    where, allowed = f"--api-key-file {path}", "allowed: a file that holds the key alone"
    try:
        words = path.read_text("utf-8").split()
    except OSError as exc:
        raise ConfigurationError(f"{where}: {exc.strerror}; {allowed}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{where}: it is not text; {allowed}") from exc
    if len(words) != 1:
        raise ConfigurationError(f"{where}: it holds {len(words)} words; {allowed}")
    if not _KEY.fullmatch(words[0]):
        raise ConfigurationError(f"{where}: the key has characters other than visible ASCII; {allowed}")
    return words[0]

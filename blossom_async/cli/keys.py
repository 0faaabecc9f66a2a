"""``blossom keys``: API keys of a data folder's gateway, and the secrets that its URLs are signed with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import rich_click as click

from blossom_async.cli.folder import asked, changed, folder_options, folder_settings
from blossom_async.cli.options import help_settings
from blossom_async.cli.words import CannotStart, plural, say, stdout_checked
from blossom_async.errors import Conflict

if TYPE_CHECKING:
    from blossom_async.gateway.storage.records import ApiKey

__all__ = ["keys"]

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._@-]{0,63}", re.ASCII)
_NAMES = "1 to 64 letters, digits and . _ @ -, the first a letter or a digit"

T = TypeVar("T")


def _word(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _NAME.fullmatch(value):
        raise CannotStart(f"{parameter.human_readable_name}: {value!r} is no name; allowed: {_NAMES}")
    return value


@click.group("keys", cls=click.RichGroup, context_settings=help_settings)
def keys() -> None:
    """API keys of the gateway, and the secrets that URLs are signed with.

    The commands work on the data folder itself, whether or not a gateway runs there.
    """


@keys.command("create", cls=click.RichCommand, context_settings=help_settings)
@click.argument("name", callback=_word)
@click.option("--tenant", metavar="NAME", callback=_word, help="Whose pictures it opens; main unless said.")
@click.option(
    "--daily-budget",
    type=click.FloatRange(min=0),
    metavar="USD",
    help="What it may spend a day (UTC); the setting daily_budget unless said.",
)
@folder_options
def create(
    name: str, tenant: str | None, daily_budget: float | None, data_dir: Path | None, config: Path | None
) -> int:
    """Make an API key and print it, once.

    The gateway keeps only its SHA-256. Running gateways accept it from now on.
    """
    settings = folder_settings(data_dir, config)
    from blossom_async.gateway.callers.keys import MAIN_TENANT, digest, new_api_key
    from blossom_async.gateway.storage.records import ApiKey
    from blossom_async.gateway.storage.records.keys import add_api_key

    key = new_api_key()
    made = ApiKey(
        name=name,
        tenant=tenant or MAIN_TENANT,
        digest=digest(key),
        created_at=_now(),
        daily_budget=None if daily_budget is None else round(daily_budget * 1_000_000),
    )
    try:
        changed(settings, partial(add_api_key, made))
    except Conflict as exc:
        raise CannotStart(exc.detail) from exc
    with stdout_checked():
        click.echo(key)
    say(f"the key {name!r} of the tenant {made.tenant!r}; it is shown only now")
    return 0


@keys.command("list", cls=click.RichCommand, context_settings=help_settings)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@folder_options
def list_(as_json: bool, data_dir: Path | None, config: Path | None) -> int:
    """All API keys ever made, but not the keys themselves."""
    settings = folder_settings(data_dir, config)
    from blossom_async.gateway.storage.records.keys import all_api_keys

    known = asked(settings, all_api_keys)
    with stdout_checked():
        if as_json:
            from blossom_async.models import to_json

            click.echo(to_json([_shown(key) for key in known]))
        else:
            _table(known)
    return 0


@keys.command("revoke", cls=click.RichCommand, context_settings=help_settings)
@click.argument("name", callback=_word)
@folder_options
def revoke(name: str, data_dir: Path | None, config: Path | None) -> int:
    """End an API key for good.

    Running gateways refuse it within a second. Its pictures stay.
    """
    settings = folder_settings(data_dir, config)
    from blossom_async.gateway.storage.records.keys import revoke_api_key

    if not changed(settings, partial(revoke_api_key, name, _now())):
        raise CannotStart(f"there is no API key {name!r}; 'blossom keys list' shows those there are")
    say(f"the key {name!r} opens nothing any more")
    return 0


@keys.command("rotate-signing", cls=click.RichCommand, context_settings=help_settings)
@click.option("--drop-oldest", is_flag=True, help="End the URLs that the oldest secret signed.")
@folder_options
def rotate_signing(drop_oldest: bool, data_dir: Path | None, config: Path | None) -> int:
    """Make a new secret that URLs are signed with from now on.

    URLs signed before stay valid, unless their secret is dropped.
    """
    settings = folder_settings(data_dir, config)
    from blossom_async.gateway.callers.secrets import rotated_secrets

    if settings.signing_secrets:
        raise CannotStart(
            "signing_secrets is set, so that the gateway does not use those of the data folder; "
            "put a new secret in front of it instead"
        )
    count = rotated_secrets(settings.data_dir, drop_oldest=drop_oldest)
    say(f"{plural(count, 'secret')} in {settings.data_dir}; running gateways take it up at their next start")
    return 0


def _table(known: Sequence[ApiKey]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("name", "tenant", "created", "revoked", "USD a day"):
        table.add_column(title, overflow="fold")
    for key in known:
        budget = "-" if key.daily_budget is None else f"{key.daily_budget / 1e6:.2f}"
        table.add_row(key.name, key.tenant, _time(key.created_at), _time(key.revoked_at), budget)
    Console().print(table)


def _shown(key: ApiKey) -> dict[str, object]:
    return {
        "name": key.name,
        "tenant": key.tenant,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
        "daily_budget": None if key.daily_budget is None else key.daily_budget / 1e6,
    }


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"


def _now() -> datetime:
    return datetime.now(UTC)

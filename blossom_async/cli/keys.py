"""``blossom keys``: manages the API keys of a gateway, and the secrets that sign its URLs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import rich_click as click

from blossom_async.cli.folder import asked, changed, folder_options, folder_settings
from blossom_async.cli.options import help_settings, number
from blossom_async.cli.words import CannotStart, plural, say, stdout_checked
from blossom_async.errors import Conflict

if TYPE_CHECKING:
    from blossom_async.gateway.storage.records import ApiKey

__all__ = ["keys"]

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._@-]{0,63}", re.ASCII)
_NAMES = "1 to 64 letters, digits and . _ @ -, starting with a letter or a digit"

T = TypeVar("T")


def _word(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _NAME.fullmatch(value):
        raise CannotStart(
            f"{parameter.human_readable_name}: {value!r} is not a valid name; allowed: {_NAMES}"
        )
    return value


@click.group("keys", cls=click.RichGroup, context_settings=help_settings)
def keys() -> None:
    """Manage the gateway's API keys, and the secrets that sign its URLs.

    The commands work on the database itself: in the data folder, or the one that BLOSSOM_DATABASE_URL names.
    It does not matter whether a gateway runs there.
    """


@keys.command("create", cls=click.RichCommand, context_settings=help_settings)
@click.argument("name", callback=_word)
@click.option(
    "--tenant", metavar="NAME", callback=_word, help="Whose pictures it gives access to; default main."
)
@click.option(
    "--daily-budget",
    type=click.FloatRange(min=0),
    callback=number,
    metavar="USD",
    help="What it may spend per day (UTC); default: the setting daily_budget.",
)
@folder_options
def create(
    name: str, tenant: str | None, daily_budget: float | None, data_dir: Path | None, config: Path | None
) -> int:
    """Create an API key and print it, once.

    The gateway stores only its SHA-256. Running gateways accept the key at once.
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
    say(f"created the key {name!r} of the tenant {made.tenant!r}; it is not shown again")
    return 0


@keys.command("list", cls=click.RichCommand, context_settings=help_settings)
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@folder_options
def list_(as_json: bool, data_dir: Path | None, config: Path | None) -> int:
    """List all API keys, revoked ones too, without the keys themselves."""
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
    """Revoke an API key for good.

    Running gateways refuse it within a second. Its pictures stay.
    """
    settings = folder_settings(data_dir, config)
    from blossom_async.gateway.storage.records.keys import revoke_api_key

    if not changed(settings, partial(revoke_api_key, name, _now())):
        raise CannotStart(f"there is no API key {name!r} to revoke; 'blossom keys list' lists all")
    say(f"revoked the key {name!r}")
    return 0


@keys.command("rotate-signing", cls=click.RichCommand, context_settings=help_settings)
@click.option("--drop-oldest", is_flag=True, help="Also revoke the URLs that the oldest secret signed.")
@folder_options
def rotate_signing(drop_oldest: bool, data_dir: Path | None, config: Path | None) -> int:
    """Create a new secret for signing URLs.

    URLs that are already signed stay valid unless their secret is dropped.
    """
    settings = folder_settings(data_dir, config)
    from blossom_async.gateway.callers.secrets import rotated_secrets

    if settings.signing_secrets:
        raise CannotStart(
            "signing_secrets is set, so the gateway ignores the secrets in the data folder; "
            "put a new secret first in that setting instead"
        )
    count = rotated_secrets(settings.data_dir, drop_oldest=drop_oldest)
    say(f"{plural(count, 'secret')} in {settings.data_dir}; restart running gateways to use the new one")
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

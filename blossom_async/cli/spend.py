"""``blossom spend``: what providers were paid, and calls whose outcome is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from blossom_async.cli.folder import asked, changed, folder_options, folder_settings
from blossom_async.cli.options import help_settings
from blossom_async.cli.words import CannotStart, plural, say, stdout_checked

if TYPE_CHECKING:
    from blossom_async.gateway.storage.records import Claim, ProviderAttempt

__all__ = ["spend"]

_EPOCH = date(1970, 1, 1)
_DAYS = 30
_MICRO = 1e6


@click.group("spend", cls=click.RichGroup, context_settings=help_settings)
def spend() -> None:
    """Show what providers were paid, and settle calls whose outcome is unknown.

    The commands work on the database itself: in the data folder, or the one that BLOSSOM_DATABASE_URL names.
    It does not matter whether a gateway runs there.
    """


@spend.command("list", cls=click.RichCommand, context_settings=help_settings)
@click.option(
    "--days", type=click.IntRange(min=1), default=_DAYS, metavar="N", help="The last N days; default 30."
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@folder_options
def list_(days: int, as_json: bool, data_dir: Path | None, config: Path | None) -> int:
    """List US dollars by day (UTC), API key and provider."""
    settings = folder_settings(data_dir, config)
    from blossom_async.gateway.storage.records.calls import spent_by_day

    today = datetime.now(UTC).date()
    first = (today - timedelta(days=days - 1) - _EPOCH).days
    rows = asked(settings, partial(spent_by_day, first, (today - _EPOCH).days))
    shown = [
        {
            "date": _EPOCH + timedelta(days=row["day"]),
            "key": row["payer"] or "(of the settings)",
            "provider": row["provider"],
            "requests": row["attempts"],
            "pictures": row["pictures"],
            "usd": row["spent"] / _MICRO,
            "price_unknown": row["unpriced"],
            "usd_reserved": row["reserved"] / _MICRO,
        }
        for row in rows
    ]
    _print(shown, as_json=as_json)
    if not as_json and not shown:
        say(f"no call to a provider in {plural(days, 'day')}")
    return 0


@spend.command("held", cls=click.RichCommand, context_settings=help_settings)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@folder_options
def held(as_json: bool, data_dir: Path | None, config: Path | None) -> int:
    """List calls that may have been paid and brought no picture, oldest first.

    They are never sent again on their own. Check the provider's account, then release each.
    """
    settings = folder_settings(data_dir, config)
    from blossom_async.gateway.storage.records.calls import unknown_claims

    found = asked(settings, unknown_claims)
    _print([_told(call, attempt) for call, attempt in found], as_json=as_json)
    if not as_json and not found:
        say("no held calls: the cost of every call is known")
    return 0


@spend.command("release", cls=click.RichCommand, context_settings=help_settings)
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--paid/--not-paid", default=None, help="What the provider's account says.")
@folder_options
def release(ids: tuple[str, ...], paid: bool | None, data_dir: Path | None, config: Path | None) -> int:
    """Settle held calls: record whether they were paid, and free their Idempotency-Keys."""
    if paid is None:
        raise CannotStart(
            "nobody knows whether they were paid; give --paid or --not-paid, as the provider's account shows"
        )
    settings = folder_settings(data_dir, config)
    from blossom_async.gateway.storage.records.calls import release as released

    missing = [
        image_id
        for image_id in ids
        if not changed(settings, partial(released, image_id, paid=paid, now=datetime.now(UTC)))
    ]
    for image_id in missing:
        say(f"{image_id} is not a held call; 'blossom spend held' lists them")
    if done := len(ids) - len(missing):
        say(f"{plural(done, 'call')} released as {'paid' if paid else 'not paid'}")
    return 1 if missing else 0


def _told(call: Claim, attempt: ProviderAttempt) -> dict[str, Any]:
    return {
        "id": call.image_id,
        "since": attempt.sent_at,
        "provider": attempt.provider,
        "key": call.payer or "(of the settings)",
        "usd_reserved": attempt.reserved / _MICRO if attempt.priced else None,
        "request": attempt.request_id or "-",
    }


def _print(rows: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    with stdout_checked():
        if as_json:
            from blossom_async.models import to_json

            click.echo(to_json(rows))
        elif rows:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
            for title in rows[0]:
                table.add_column(title.replace("_", " "), overflow="fold", no_wrap=title == "id")
            for row in rows:
                table.add_row(*(Text(_cell(value)) for value in row.values()))
            Console().print(table)


def _cell(value: object) -> str:
    if value is None:
        return "not known"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"
    return str(value) or "-"

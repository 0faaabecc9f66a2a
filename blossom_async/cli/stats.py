"""``blossom stats``: how often pictures were seen; imports views from the access log of a cache."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from blossom_async.cli.options import GATEWAY, gateway_options, help_settings, opened_client
from blossom_async.cli.words import CannotStart, plural, said, stdout_checked
from blossom_async.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from blossom_async.gateway.counting.access_log import Imported
    from blossom_async.models import GroupStats, UrlStats

__all__ = ["stats"]

_BAR = 24  # columns of the longest bar
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets run: OWASP, CSV injection


def _day(_: click.Context, __: click.Parameter, text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is not a date; allowed: a date such as 2026-06-01.") from exc


class _Stats(click.RichCommand):
    """The command ``stats``, or ``stats import`` if that is its first argument."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] == ["import"]:
            return import_log.make_context(f"{info_name} import", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("stats", cls=_Stats, context_settings=help_settings)
@click.argument("tracking_id")
@click.option(
    "--from", "first", metavar="DATE", callback=_day, help="The first day, such as 2026-06-01, in UTC."
)
@click.option("--to", "last", metavar="DATE", callback=_day, help="The last day, included.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the same as CSV.")
@gateway_options
@click.option_panel("Days", options=["--from", "--to"])
@click.option_panel("Output", options=["--json", "--csv"])
@click.option_panel("Gateway", options=GATEWAY)
def stats(tracking_id: str, **given: Any) -> int:
    """Show how often the pictures of TRACKING_ID were seen, by day and by metadata value.

    Behind a CDN the gateway counts only what the CDN does not answer itself; `blossom stats import LOG`
    adds the views in an access log of nginx (see `blossom stats import --help`).
    """
    from blossom_async.cli.loop import run

    if given["as_json"] and given["as_csv"]:
        raise CannotStart("--json and --csv exclude each other; give one of them")
    found = run(_asked(tracking_id, given))
    with stdout_checked():
        if given["as_json"]:
            from blossom_async.models import to_json

            click.echo(to_json(found))
        elif given["as_csv"]:
            csv.writer(sys.stdout, lineterminator="\n").writerows(_rows(found))
        else:
            _draw(found)
    return 0


async def _asked(tracking_id: str, given: dict[str, Any]) -> UrlStats:
    from blossom_async.transport import http_session

    days = (given["first"] or date.min, given["last"] or date.max)
    how = {"cdn_prefix": None, **given}
    async with http_session(given["timeout"]) as session, opened_client(how, session) as client:
        return await client.image.get_url_stats(tracking_id, days)


def _rows(found: UrlStats) -> Iterator[tuple[object, ...]]:
    yield ("group", "key", "value", "views", "viewers", "avg_load_time_ms")
    yield ("total", "", "", found.total_views, found.unique_viewers, _number(found.avg_load_time))
    for day in found.by_day:
        yield ("day", "", day.date.isoformat(), day.views, day.viewers, _number(day.avg_load_time))
    for key, values in found.by_metadata.items():
        for value, group in values.items():
            texts = (_inert(key), _inert(value))
            yield ("metadata", *texts, group.views, group.viewers, _number(group.avg_load_time))


def _number(load_time: float | None) -> object:
    return "" if load_time is None else load_time


def _inert(text: str) -> str:
    """The text, marked so that a spreadsheet shows it instead of running it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _draw(found: UrlStats) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    total = plural(found.total_views, "view")
    load = f", {_ms(found.avg_load_time)} to load on average" if found.avg_load_time is not None else ""
    viewers = plural(found.unique_viewers, "viewer")
    console.print(Text(said(f"{found.tracking_id}: {total} by {viewers}{load}")), soft_wrap=True)
    if found.by_day:
        table = _table("day (UTC)")
        most = max(day.views for day in found.by_day)
        before = None
        for day in found.by_day:
            if before is not None and (missing := (day.date - before).days - 1):
                table.add_row(Text(f"  {plural(missing, 'day')} without", style="dim"))
            table.add_row(day.date.isoformat(), *_figures(day), _bar(day.views, most, console))
            before = day.date
        console.print()
        console.print(table)
    for key, values in found.by_metadata.items():
        table = _table(said(key))
        most = max(group.views for group in values.values())
        for value, group in values.items():
            table.add_row(Text(said(value) or "(empty)"), *_figures(group), _bar(group.views, most, console))
        console.print()
        console.print(table)


def _table(what: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(Text(what), overflow="ellipsis", no_wrap=True, max_width=24)
    for name in ("views", "viewers", "load"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="crop")
    return table


def _figures(group: GroupStats) -> tuple[str, str, str]:
    return f"{group.views:,}", f"{group.viewers:,}", _ms(group.avg_load_time)


def _ms(load_time: float | None) -> str:
    if load_time is None:
        return "-"
    return f"{load_time:.1f} ms" if load_time < 100 else f"{load_time:,.0f} ms"


def _bar(views: int, most: int, console: Console) -> str:
    """A bar in proportion to the views, to an eighth of a column."""
    if console.options.ascii_only:
        return "#" * round(views / most * _BAR) if most else ""
    eighths = round(views / most * _BAR * 8) if most else 0
    whole, rest = divmod(max(eighths, 1 if views else 0), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[rest].strip()


@click.command("import", cls=click.RichCommand, context_settings=help_settings)
@click.argument("access_log", type=click.Path(path_type=Path))
@click.option(
    "--all", "every", is_flag=True, help="Count lines that the gateway answered too, if it counted none."
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), metavar="FOLDER", help="The gateway's data folder."
)
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings as TOML, section blossom."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def import_log(access_log: Path, **given: Any) -> int:
    """Count the views in ACCESS_LOG that a cache in front of the gateway answered itself.

    The log is written by nginx, plain or gzip, and says whether the cache had the picture:

    \b
    log_format blossom '$remote_addr - $remote_user [$time_local] '
        '"$request_method $uri $server_protocol" $status $body_bytes_sent '
        '"$http_referer" "$http_user_agent" $request_time $upstream_cache_status '
        '"$http_sec_purpose"';

    Lines are counted once: importing a log again, renamed, compressed or longer, adds only what is new. The
    command works on the data folder, whether or not a gateway runs.
    """
    from blossom_async.cli.loop import run

    done = run(_imported(access_log, given))
    with stdout_checked():
        if given["as_json"]:
            from blossom_async.models import to_json

            click.echo(to_json({"lines": done.lines, "views": done.views, "skipped": dict(+done.skipped)}))
        else:
            click.echo(f"{plural(done.lines, 'new line')}, {plural(done.views, 'view')} counted")
            for reason, lines in (+done.skipped).most_common():
                click.echo(f"  {lines:,} {reason}")
    return 0


async def _imported(path: Path, given: dict[str, Any]) -> Imported:
    from datetime import UTC, datetime

    try:
        from blossom_async.gateway.counting.access_log import import_log
        from blossom_async.gateway.settings import load
        from blossom_async.gateway.storage.records import Records
    except ImportError as exc:
        raise ConfigurationError(
            "the gateway is not installed; pip install '.[gateway]' in the checkout"
        ) from exc
    database = load(given["config"], data_dir=given["data_dir"]).database
    if isinstance(database, Path) and not database.exists():
        raise CannotStart(f"{database}: no such file; name the gateway's data folder with --data-dir")
    records = Records(database)
    await records.open()
    try:
        return await import_log(path, records, every=given["every"], now=lambda: datetime.now(UTC))
    finally:
        await records.close()

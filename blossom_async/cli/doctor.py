"""``blossom doctor``: what is wrong with a gateway's settings and surroundings, and what to do."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from blossom_async.cli.folder import folder_options, folder_settings
from blossom_async.cli.options import help_settings
from blossom_async.cli.words import plural, said, say, stdout_checked
from blossom_async.errors import ConfigurationError

if TYPE_CHECKING:
    from blossom_async.gateway.checkup import Finding
    from blossom_async.gateway.settings import Settings

__all__ = ["doctor"]


@click.command("doctor", cls=click.RichCommand, context_settings=help_settings)
@click.option(
    "--url",
    metavar="URL",
    help="Where viewers reach the running gateway, over its proxy or CDN: checks what arrives there.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@folder_options
def doctor(url: str | None, as_json: bool, data_dir: Path | None, config: Path | None) -> int:
    """Check settings, data folder, database, providers, clock and proxy; say what to do.

    Nothing is changed or paid: providers are asked for their models only. Exits with 1 if anything is wrong;
    warnings alone exit with 0.
    """
    from blossom_async.cli.loop import run
    from blossom_async.gateway.checkup import Finding

    seen: list[Finding] = []

    def show(finding: Finding) -> None:
        seen.append(finding)
        with stdout_checked():
            click.echo(_line(finding, as_json=as_json))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            settings = folder_settings(data_dir, config)
        except ConfigurationError as exc:
            show(Finding("error", "settings", str(exc), "correct that; docs/settings.md lists all settings"))
            return 1
    for warning in caught:
        show(Finding("warning", "settings", str(warning.message), "rename it or unset it"))
    show(Finding("ok", "settings", f"providers: {', '.join(settings.providers)}"))
    run(_examine(settings, url, show))
    wrong = sum(finding.level == "error" for finding in seen)
    doubtful = sum(finding.level == "warning" for finding in seen)
    say(f"{plural(wrong, 'error')}, {plural(doubtful, 'warning')}")
    return 1 if wrong else 0


async def _examine(settings: Settings, url: str | None, show: Callable[[Finding], None]) -> None:
    from blossom_async import embedded
    from blossom_async.gateway.checkup import Finding, examined
    from blossom_async.transport import http_session

    async with http_session(5.0) as session:
        running = await embedded.running(settings.data_dir, session)
    where = "it does not run" if running is None else f"it runs on {running.base_url}"
    show(Finding("ok", "gateway", where))
    key = os.environ.get("BLOSSOM_API_KEY") or (None if running is None else running.api_key)
    async for finding in examined(settings, url=url, api_key=key):
        show(finding)


def _line(finding: Finding, *, as_json: bool) -> str:
    import attrs
    import orjson

    if as_json:
        return orjson.dumps(attrs.asdict(finding)).decode()
    todo = f"\n         -> {said(finding.todo)}" if finding.todo else ""
    return f"{finding.level:8} {said(finding.what)}: {said(finding.seen)}{todo}"

"""``blossom list``: the stored pictures, the newest first."""

from __future__ import annotations

from typing import Any

import rich_click as click

from blossom_async.cli.options import GATEWAY, gateway_options, help_settings, opened_client
from blossom_async.cli.words import said, say, size, stdout_checked

__all__ = ["list"]


@click.command("list", cls=click.RichCommand, context_settings=help_settings)
@click.argument("words", default="")
@click.option(
    "--state",
    type=click.Choice(["live", "expired", "all"]),
    default="live",
    help="Which pictures; default live. Deleted ones are never listed.",
)
@click.option("--tracking-id", metavar="TEXT", help="Only those of one tracking id.")
@click.option("--limit", type=click.IntRange(min=1), default=100, metavar="N", help="At most N; default 100.")
@click.option("--json", "as_json", is_flag=True, help="Everything about each, one JSON object a line.")
@gateway_options
@click.option_panel("Which", options=["--state", "--tracking-id", "--limit"])
@click.option_panel("Output", options=["--json"])
@click.option_panel("Gateway", options=GATEWAY)
def list(words: str, **given: Any) -> int:
    """List the stored pictures, the newest first: when each was made, its size and its URL.

    With WORDS only those whose prompt or tracking id contains them.
    """
    from blossom_async.cli.loop import run

    run(_listed(words, given))
    return 0


async def _listed(words: str, given: dict[str, Any]) -> None:
    from blossom_async.transport import http_session

    left, cursor = given["limit"], None
    async with http_session(given["timeout"]) as session, opened_client(given, session) as client:
        while left > 0:
            page = await client.image.list(
                words,
                state=given["state"],
                tracking_id=given["tracking_id"],
                limit=min(left, 1000),
                cursor=cursor,
            )
            with stdout_checked():
                for info in page:
                    shape = f"{info.width}x{info.height} {info.format}"
                    line = (
                        f"{info.created_at:%Y-%m-%d %H:%M}  {shape:14}  {size(info.file_size):>8}  {info.url}"
                    )
                    click.echo(info.to_json() if given["as_json"] else said(line))
            left -= len(page)
            if (cursor := page.next) is None:
                return
    say(f"these are the newest {given['limit']:,}; list more with --limit")

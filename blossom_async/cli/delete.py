"""``blossom delete``: deletes pictures."""

from __future__ import annotations

from typing import Any

import rich_click as click

from blossom_async.cli.options import GATEWAY, gateway_options, help_settings, opened_client
from blossom_async.cli.words import plural, say

__all__ = ["delete"]


@click.command("delete", cls=click.RichCommand, context_settings=help_settings)
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@gateway_options
@click.option_panel("Gateway", options=GATEWAY)
def delete(urls: tuple[str, ...], **given: Any) -> int:
    """Delete the pictures behind URL..., which may also be ids, with their prompts and metadata.

    Exit status 1 if one of them could not be deleted.
    """
    from blossom_async.cli.loop import run

    if not given["yes"]:
        click.confirm(f"Delete {plural(len(urls), 'picture')} for good?", abort=True, err=True)

    async def deleted() -> int:
        from blossom_async.batch import run as run_batch
        from blossom_async.transport import http_session

        async with http_session(given["timeout"]) as session, opened_client(given, session) as client:
            ended = await run_batch(client.image.delete, urls)
        for failure in ended.failures:
            say(f"{failure.item}: {failure.error}")
        done = sum(outcome.ok for outcome in ended.outcomes)
        say(f"{plural(done, 'picture')} deleted")
        return 0 if done == len(urls) else 1

    status: int = run(deleted())
    return status

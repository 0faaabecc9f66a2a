"""``blossom explain``: whether a viewer may see a picture, and which rule decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich_click as click

from blossom_async.cli.options import GATEWAY, gateway_options, help_settings, opened_client
from blossom_async.cli.words import said, stdout_checked

if TYPE_CHECKING:
    from blossom_async.models import Explanation

__all__ = ["explain"]

_ALLOWED = 200


@click.command("explain", cls=click.RichCommand, context_settings=help_settings)
@click.argument("url")
@click.option("--from", "address", metavar="IP", help="The viewer's address.")
@click.option("--referer", metavar="URL", help="The page that shows it: the Referer header.")
@click.option("--origin", metavar="ORIGIN", help="The Origin header, which scripts send.")
@click.option("--authorized", is_flag=True, help="The viewer sends the owner's API key.")
@click.option("--at", metavar="TIME", help="Such as 2026-12-24T18:00:00+00:00; default: now.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@gateway_options
@click.option_panel("Gateway", options=GATEWAY)
def explain(url: str, **given: Any) -> int:
    """Say how the gateway would answer a viewer of URL, and which rule decides.

    Exit status 1 if it refuses.
    """
    from blossom_async.cli.loop import run

    explanation: Explanation = run(_explained(url, given))
    with stdout_checked():
        if given["as_json"]:
            from blossom_async.models import to_json

            click.echo(to_json(explanation))
        else:
            click.echo(said(f"{explanation.status} {explanation.code}: {explanation.detail}"))
    return 0 if explanation.status == _ALLOWED else 1


async def _explained(url: str, given: dict[str, Any]) -> Explanation:
    from blossom_async.models import ExplainRequest
    from blossom_async.transport import http_session

    asked = {name: given[name] for name in ("address", "referer", "origin", "authorized")}
    at = ExplainRequest(url=url, at=given["at"]).at
    async with http_session(given["timeout"]) as session, opened_client(given, session) as client:
        return await client.image.explain_url(url, **asked, at=at)

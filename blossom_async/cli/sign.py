"""``blossom sign``: prints a signed URL for a picture."""

from __future__ import annotations

from typing import Any

import rich_click as click

from blossom_async.cli.options import GATEWAY, gateway_options, help_settings, opened_client
from blossom_async.cli.words import said, stdout_checked

__all__ = ["sign"]


@click.command("sign", cls=click.RichCommand, context_settings=help_settings)
@click.argument("url")
@click.option(
    "--ttl", "signature_ttl", type=int, default=3600, metavar="SECONDS", help="1 to 604,800; default 3,600."
)
@click.option("--access-key", metavar="NAME", help="Whom it is for; revoking this name ends the URL.")
@click.option(
    "--stable", is_flag=True, help="Give the same URL for a while, so that browsers cache the picture."
)
@gateway_options
@click.option_panel("Gateway", options=GATEWAY)
def sign(url: str, **given: Any) -> int:
    """Print a signed URL for the picture behind URL."""
    from blossom_async.cli.loop import run

    async def signed() -> None:
        from blossom_async.transport import http_session

        async with http_session(given["timeout"]) as session, opened_client(given, session) as client:
            made = await client.image.sign_url(
                url,
                signature_ttl=given["signature_ttl"],
                access_key=given["access_key"],
                stable=given["stable"],
            )
            with stdout_checked():
                click.echo(said(made))

    run(signed())
    return 0

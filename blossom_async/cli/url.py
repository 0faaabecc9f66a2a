"""``blossom url``: makes one picture and prints its URL."""

from __future__ import annotations

from typing import Any

import rich_click as click

from blossom_async.cli.options import (
    GATEWAY,
    PICTURE,
    URL,
    gateway_options,
    help_settings,
    opened_client,
    picture_options,
    picture_settings,
)
from blossom_async.cli.words import CannotStart, say, stdout_checked, typed

__all__ = ["url"]


@click.command("url", cls=click.RichCommand, context_settings=help_settings)
@click.argument("words", metavar="PROMPT", nargs=-1, required=True)
@click.option("--info", is_flag=True, help="Print a table of everything known about the picture.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@click.option("--keep", is_flag=True, help="Serve the picture until Ctrl-C if no other gateway does.")
@gateway_options
@picture_options
@click.option_panel("Output", options=["--info", "--json", "--keep"])
@click.option_panel("Gateway", options=GATEWAY)
@click.option_panel("Picture", options=PICTURE)
@click.option_panel("Its URL", options=URL)
def url(words: tuple[str, ...], **given: Any) -> int:
    """Make one picture of PROMPT and print its URL."""
    from blossom_async.cli.loop import run

    if len(words) > 1:
        raise click.UsageError(f"{len(words)} arguments where one PROMPT is expected; quote the prompt")
    if given["info"] and given["as_json"]:
        raise CannotStart("--info and --json exclude each other; give one of them")
    settings = picture_settings(given)
    try:
        run(_url(typed(words[0]), dict(settings), given))
    except KeyboardInterrupt:
        return 130
    return 0


async def _url(prompt: str, settings: dict[str, Any], given: dict[str, Any]) -> None:
    from blossom_async.cli.info import show_info
    from blossom_async.cli.loop import stop_signals
    from blossom_async.cli.serve import own_gateway
    from blossom_async.models import image_request
    from blossom_async.transport import http_session

    image_request({"prompt": prompt, **settings})  # checked before a gateway is started
    async with http_session(given["timeout"]) as session, opened_client(given, session) as client:
        info = await client.image.generate_url_with_info(prompt, **settings)
        with stdout_checked():
            show_info(info, as_json=given["as_json"], table=given["info"])
        note = own_gateway(str(client.base_url))
        if not note:
            return
        if not given["keep"]:
            say(f"{note}, or with --keep")
            return
        with stop_signals() as stop:
            say("serving it until Ctrl-C")
            await stop.wait()

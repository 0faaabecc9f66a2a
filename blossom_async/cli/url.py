"""``blossom url``: makes one picture and prints its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from blossom_async.cli.words import CannotStart, said, say, size, stdout_checked, typed

if TYPE_CHECKING:
    from blossom_async.models import ImageInfo

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
    from blossom_async.cli.loop import stop_signals
    from blossom_async.cli.serve import own_gateway
    from blossom_async.models import image_request
    from blossom_async.transport import http_session

    image_request({"prompt": prompt, **settings})  # checked before a gateway is started
    async with http_session(given["timeout"]) as session, opened_client(given, session) as client:
        info = await client.image.generate_url_with_info(prompt, **settings)
        with stdout_checked():
            _show(info, given)
        note = own_gateway(str(client.base_url))
        if not note:
            return
        if not given["keep"]:
            say(f"{note}, or with --keep")
            return
        with stop_signals() as stop:
            say("serving it until Ctrl-C")
            await stop.wait()


def _show(info: ImageInfo, given: dict[str, Any]) -> None:
    if given["as_json"]:
        from blossom_async.models import to_json

        click.echo(to_json(info))
    elif given["info"]:
        _table(info)
    else:
        click.echo(said(info.url))


def _table(info: ImageInfo) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    expires = f"{info.expires_at:%Y-%m-%d %H:%M:%S} UTC" if info.expires_at else "never"
    rows = {
        "URL": info.url,
        "id": info.id,
        "size": f"{info.width} x {info.height}, {info.format}, {size(info.file_size)}",
        "quality": f"{info.quality}, {info.cost} credits" if info.cost != 1 else f"{info.quality}, 1 credit",
        "made": f"{info.created_at:%Y-%m-%d %H:%M:%S} UTC, by {info.provider}, model {info.model}",
        "expires": expires,
        "seed": str(info.seed),
        "tracking id": info.tracking_id or "-",
        "metadata": ", ".join(f"{name}={value}" for name, value in info.metadata.items()) or "-",
        "sha256": info.sha256,
        "colour": info.dominant_color or "-",
    }
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(said(value)))
    Console().print(table)

"""``blossom get``: what is known of a picture, and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from blossom_async.cli.options import GATEWAY, gateway_options, help_settings, opened_client
from blossom_async.cli.words import CannotStart, said, stdout_checked

__all__ = ["get"]


@click.command("get", cls=click.RichCommand, context_settings=help_settings)
@click.argument("url")
@click.option("--wait", is_flag=True, help="Wait for a deferred picture.")
@click.option(
    "--download",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write its file to PATH, or into that folder, and print where it is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@gateway_options
@click.option_panel("Output", options=["--wait", "--download", "--json"])
@click.option_panel("Gateway", options=GATEWAY)
def get(url: str, **given: Any) -> int:
    """Print everything known about the picture behind URL, which may also be its id."""
    from blossom_async.cli.loop import run

    path: Path | None = given["download"]
    if path is not None and given["as_json"]:
        raise CannotStart("--download and --json exclude each other; give one of them")

    async def got() -> None:
        from blossom_async.cli.info import show_info
        from blossom_async.transport import http_session

        async with http_session(given["timeout"]) as session, opened_client(given, session) as client:
            info = await (client.image.wait(url) if given["wait"] else client.image.get(url))
            if path is None:
                with stdout_checked():
                    show_info(info, as_json=given["as_json"], table=True)
                return
            try:
                written = await client.image.download(info.id, path)
            except OSError as exc:
                raise CannotStart(f"--download {path}: {exc.strerror}; name another place") from exc
            with stdout_checked():
                click.echo(said(str(written)))

    run(got())
    return 0

"""What a command prints of a picture."""

from __future__ import annotations

import rich_click as click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from blossom_async.cli.words import said, size
from blossom_async.models import ImageInfo

__all__ = ["show_info"]


def show_info(info: ImageInfo, *, as_json: bool, table: bool) -> None:
    """Prints all of it as JSON or as a table, else its URL."""
    if as_json:
        click.echo(info.to_json())
    elif table:
        _table(info)
    else:
        click.echo(said(info.url))


def _table(info: ImageInfo) -> None:
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

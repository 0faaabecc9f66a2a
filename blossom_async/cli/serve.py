"""``blossom serve``: runs the gateway as a process of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from blossom_async.cli.options import help_settings
from blossom_async.cli.words import CannotStart, say
from blossom_async.errors import ConfigurationError

if TYPE_CHECKING:
    from blossom_async.gateway.settings import Settings

__all__ = ["own_gateway", "serve"]


@click.command("serve", cls=click.RichCommand, context_settings=help_settings)
@click.option("--host", metavar="ADDRESS", help="Address to listen on; default 127.0.0.1.")
@click.option("--port", type=int, metavar="PORT", help="Default 8765; 0 takes a free one.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where pictures and records are kept.",
)
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings as TOML, section blossom."
)
@click.option("--public-url", metavar="URL", help="What URLs start with, if viewers use another address.")
def serve(config: Path | None, **given: Any) -> int:
    """Run the gateway: serve the pictures of the data folder and accept calls for new ones.

    Every setting can also be given in the environment, as BLOSSOM_ and its name, or in a TOML file. Beyond
    loopback the gateway needs BLOSSOM_API_KEYS, or a key made with `blossom keys create`. Ctrl-C or SIGTERM
    stops it once the requests in flight are answered.
    """
    from blossom_async.cli.heap import use_one_heap
    from blossom_async.cli.loop import run

    use_one_heap()
    try:
        from blossom_async.gateway.settings import load
    except ImportError as exc:
        raise ConfigurationError(
            "the gateway is not installed; pip install '.[gateway]' in the checkout"
        ) from exc
    settings = load(config, **given)
    try:
        run(_serve(settings))
    except KeyboardInterrupt:  # the signal came before its handler was set
        say("stopped")
    return 0


async def _serve(settings: Settings) -> None:
    import secrets
    from contextlib import AsyncExitStack

    from blossom_async import embedded
    from blossom_async.cli.heap import keep_what_is_loaded
    from blossom_async.cli.loop import stop_signals
    from blossom_async.gateway.http.logs import configure
    from blossom_async.gateway.http.traces import sending_traces
    from blossom_async.gateway.server import listen, serving

    async with AsyncExitStack() as opened:
        with stop_signals() as stop:
            async with embedded.claimed(settings.data_dir):
                if settings.database_url is None:  # several on one server's database may mount one folder
                    await _refuse_second(settings)
                own_key, key_file = None, "BLOSSOM_API_KEYS or the configuration"
                if not settings.api_keys:
                    own_key = embedded.own_key(settings.data_dir)
                    key_file = f"{settings.data_dir / 'api_key'}"
                sock = listen(settings.host, settings.port)
                configure(settings.log_format, settings.log_level)
                if settings.traces:
                    opened.enter_context(sending_traces())
                instance = secrets.token_hex(8)
                server = serving(settings, sock, instance=instance, own_key=own_key)
                public_url = await opened.enter_async_context(server)
                key = own_key or settings.api_keys[0]
                opened.enter_context(embedded.announced(settings.data_dir, sock, key, instance))
            keep_what_is_loaded()
            click.echo(f"Blossom gateway on {public_url}")
            click.echo(f"  data folder  {settings.data_dir}")
            click.echo(f"  API key      in {key_file}")
            click.echo(f"  dashboard    {public_url}/")
            click.echo("  Ctrl-C stops it")
            await stop.wait()
        say("stopping once the requests in flight are answered")
    say("stopped")


async def _refuse_second(settings: Settings) -> None:
    from blossom_async import embedded
    from blossom_async.transport import http_session

    async with http_session(5.0) as session:
        first = await embedded.running(settings.data_dir, session)
    if first is not None:
        raise CannotStart(
            f"data folder {settings.data_dir}: a gateway on {first.base_url} already serves it; "
            "stop that one, or choose another with --data-dir"
        )


def own_gateway(base_url: str) -> str:
    """How the URLs of a gateway that ends with this process keep working; empty for any other gateway."""
    from blossom_async import embedded

    try:
        from blossom_async.gateway.settings import load
    except ImportError:
        return ""
    settings = load()
    told = embedded.announcement(settings.data_dir)
    if told.get("pid") != os.getpid() or told.get("base_url") != base_url:
        return ""
    port = base_url.rpartition(":")[2]
    again = "blossom serve" if port == str(settings.port) else f"blossom serve --port {port}"
    return f"the pictures are in {settings.data_dir}; their URLs work while `{again}` runs"

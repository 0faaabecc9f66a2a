"""The group of commands. A subcommand's module is imported when it is called, so that help is quick."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from blossom_async.cli.failures import sentence
from blossom_async.cli.words import CannotStart, say, stdout_checked
from blossom_async.errors import nearest

__all__ = ["commands"]

_COMMANDS = {
    "batch": "Make a picture of every prompt in a file.",
    "url": "Make one picture and print its URL.",
    "get": "Print what is known about a picture, or download it.",
    "list": "List the stored pictures, the newest first.",
    "delete": "Delete pictures.",
    "sign": "Print a signed URL for a picture.",
    "explain": "Say whether a viewer may see a picture, and why.",
    "stats": "Show how often pictures were seen.",
    "spend": "Show what providers were paid; settle calls whose outcome is unknown.",
    "serve": "Run the gateway: serve pictures and accept calls.",
    "migrate": "Move a gateway to PostgreSQL, and its pictures to a bucket.",
    "doctor": "Say what is wrong with a gateway's settings and surroundings, and what to do.",
    "keys": "Make, list and revoke API keys; rotate the signing secrets.",
}
"""Name -> summary. The command ``x`` is the object ``x`` of the module ``x`` in this package."""

_STOPPED = 130  # 128 + SIGINT, as shells have it
_NO_READER = 141  # 128 + SIGPIPE


class _Commands(click.Group):
    """Imports commands when they are called, and reports every expected error in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"{__package__}.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS:
            known = ", ".join(_COMMANDS)
            raise click.UsageError(
                f"No such command {args[0]!r}.{nearest(args[0], _COMMANDS)} Commands: {known}.", ctx
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of the output is gone, as with `| head`
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (1, 2):  # at exit the interpreter flushes what they still hold
                os.dup2(nowhere, descriptor)
            return _NO_READER
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as exc:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            said = sentence(exc, command)
            if said is None:
                raise
            raise CannotStart(said) from exc

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *_: Any, **options: Any) -> Any:
        """Runs a command and exits: 0 done, 1 some items failed, 2 the command failed, above 128 stopped."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is printed as a question mark
                stream.reconfigure(errors="replace")
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say(str(message))
            sys.exit(self._status(args, {**options, "prog_name": "blossom", "standalone_mode": False}))

    def _status(self, args: Sequence[str] | None, options: dict[str, Any]) -> int:
        try:
            with stdout_checked():
                return super().main(args, **options) or 0
        except click.exceptions.NoArgsIsHelpError as exc:
            exc.show()
            return exc.exit_code
        except click.UsageError as exc:
            command = exc.ctx.command_path if exc.ctx is not None else "blossom"
            say(f"{_ended(exc.format_message())} See {command} --help.")
            return exc.exit_code
        except click.ClickException as exc:
            say(exc.format_message())
            return exc.exit_code
        except click.Abort:
            return _STOPPED


@click.group(cls=_Commands, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="blossom-async", message="blossom %(version)s")
def commands() -> None:
    """Make pictures from prompts and serve them under URLs.

    Without --base-url or BLOSSOM_BASE_URL the command itself runs a gateway with an offline renderer. Its
    pictures stay in the data folder, and `blossom serve` serves them again.
    """


def _ended(message: str) -> str:
    """The message with punctuation at its end, so that another sentence can follow."""
    return message if message.endswith((".", "?", "?)")) else f"{message}."

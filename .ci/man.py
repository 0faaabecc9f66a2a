"""Write manual pages of `blossom` and its commands, from what `--help` says.

    uv run --extra all python .ci/man.py ~/.local/share/man

They come into the folder's ``man1``, where `man blossom` and `man blossom-batch` find them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click

from blossom_async.cli.commands import commands

_STATUS = (
    "0 if all is done, 1 if some items failed, 2 if the command could not run, above 128 if it was stopped."
)
_VARIABLES = {
    "BLOSSOM_BASE_URL": "The gateway that is called. Without it the command runs one of its own.",
    "BLOSSOM_API_KEY": "The API key for it.",
    "BLOSSOM_DATA_DIR": "The folder with pictures and database of a gateway that runs here.",
}


def commands_of(context: click.Context) -> Iterator[click.Context]:
    """This command, and those below it."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            if (command := context.command.get_command(context, name)) is not None:
                yield from commands_of(click.Context(command, parent=context, info_name=name))


def page(context: click.Context) -> str:
    """The manual page of a command, in roff."""
    command = context.command
    name = context.command_path.replace(" ", "-")
    text = [part for part in (command.help or "").split("\n\n") if part.strip()]
    lines = [
        f'.TH "{name.upper()}" 1 "" "blossom {version("blossom-async")}" "Blossom"',
        ".SH NAME",
        f"{escaped(name)} \\- {escaped(' '.join(text[0].split()).rstrip('.'))}",
        ".SH SYNOPSIS",
        f"\\fB{escaped(context.command_path)}\\fR {escaped(' '.join(command.collect_usage_pieces(context)))}",
        ".SH DESCRIPTION",
    ]
    for part in text:
        kept = part.strip().startswith("\b")  # click's mark: its lines stay as they are
        shown = part.strip().splitlines()[1:] if kept else [" ".join(part.split())]
        lines += [".PP", *([".nf", *map(escaped, shown), ".fi"] if kept else map(escaped, shown))]
    below = [sub for sub in commands_of(context) if sub.parent is context]
    if below:
        lines.append(".SH COMMANDS")
        for sub in below:
            what = sub.command.get_short_help_str(limit=200)
            lines += [".TP", f"\\fB{escaped(sub.command_path.replace(' ', '-'))}\\fR(1)", escaped(what)]
    lines.append(".SH OPTIONS")
    for parameter in command.get_params(context):
        option, what = parameter.get_help_record(context) or ("", "")
        if what:
            lines += [".TP", f"\\fB{escaped(option)}\\fR", escaped(" ".join(what.split()))]
    lines += [".SH EXIT STATUS", escaped(_STATUS), ".SH ENVIRONMENT"]
    for variable, what in _VARIABLES.items():
        lines += [".TP", f"\\fB{variable}\\fR", escaped(what)]
    if context.parent is not None:
        above = context.parent.command_path.replace(" ", "-")
        lines += [".SH SEE ALSO", f"\\fB{escaped(above)}\\fR(1)"]
    return "\n".join([*lines, ""])


def escaped(text: str) -> str:
    """Text as roff shows it letter for letter."""
    return re.sub(r"^(?=[.'])", r"\\&", text.replace("\\", "\\e").replace("-", "\\-"))


def main() -> None:
    """Writes all pages below the folder that is named."""
    folder = Path(sys.argv[1]) / "man1"
    folder.mkdir(parents=True, exist_ok=True)
    for context in commands_of(click.Context(commands, info_name="blossom")):
        name = context.command_path.replace(" ", "-")
        (folder / f"{name}.1").write_text(page(context), "utf-8")


if __name__ == "__main__":
    main()

"""What an expected failure says at the command line, in the names that the command uses."""

from __future__ import annotations

import re

import click

from blossom_async.errors import BlossomError, InvalidRequest, ResponseError, Unauthenticated

__all__ = ["sentence"]


def sentence(failure: BaseException, command: click.Command | None) -> str | None:
    """The sentence for a failure of the request or the environment; None for any other, which is a bug."""
    if isinstance(failure, BaseExceptionGroup):
        said = [sentence(one, command) for one in failure.exceptions]
        return said[0] if all(said) else None
    if isinstance(failure, BlossomError):
        return _in_names_of(command, failure)
    if isinstance(failure, MemoryError):
        return "out of memory; allow this process more, or ask for less at once"
    if isinstance(failure, OSError):
        where = f"{failure.filename}: " if failure.filename is not None else ""
        reason = failure.strerror or str(failure) or type(failure).__name__
        return f"{where}{reason}; the system refused this: look at permissions, free space and limits"
    return None


def _options(command: click.Command | None) -> list[click.Option]:
    """The options of the command, and of the commands in a group."""
    if command is None:
        return []
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    own = [param for param in command.params if isinstance(param, click.Option)]
    return own + [option for one in inner for option in _options(one)]


def _in_names_of(command: click.Command | None, failure: BlossomError) -> str:
    """The message with the command's options in place of the library's, ``--max-cost`` for ``max_cost``."""
    message = str(failure)
    names = {str(option.name): option.opts[0] for option in _options(command)}
    names |= {"api_key": names["api_key_file"]} if "api_key_file" in names else {}
    if isinstance(failure, InvalidRequest | ResponseError) and failure.field:
        field = failure.field.partition("[")[0]
        if field in names and message.startswith(failure.field):
            message = names[field] + message.removeprefix(field)
    # Names of one word may be words of the sentence. Those in quotes and paths are values.
    several = "|".join(re.escape(name) for name in names if "_" in name)
    pattern = rf"(?<![\w/.'\"-])({several})(?![\w/.'\"=-])"
    message = re.sub(pattern, lambda found: names[found[1]], message) if several else message
    if isinstance(failure, Unauthenticated) and "api_key" in names:
        return f"{message}; give the key in BLOSSOM_API_KEY or a file with {names['api_key']}"
    return message

"""What an expected failure says at the command line, in the names that the command uses."""

from __future__ import annotations

import re

import click

from blossom_async.errors import BlossomError, InvalidRequest, ResponseError

__all__ = ["sentence"]


def sentence(failure: BaseException, command: click.Command | None) -> str | None:
    """The sentence for a failure of the request or the environment; None for any other, which is a bug."""
    if isinstance(failure, BaseExceptionGroup):
        said = [sentence(one, command) for one in failure.exceptions]
        return said[0] if all(said) else None
    if isinstance(failure, BlossomError):
        return _in_names_of(command, failure)
    if isinstance(failure, OSError):
        where = f"{failure.filename}: " if failure.filename is not None else ""
        reason = failure.strerror or str(failure) or type(failure).__name__
        return f"{where}{reason}; the system refused this: look at permissions, free space and limits"
    return None


def _in_names_of(command: click.Command | None, failure: BlossomError) -> str:
    """The message with the command's options in place of the library's, ``--max-cost`` for ``max_cost``."""
    message = str(failure)
    options = [param for param in command.params if isinstance(param, click.Option)] if command else []
    names = {str(param.name): param.opts[0] for param in options}
    if isinstance(failure, InvalidRequest | ResponseError) and failure.field:
        field = failure.field.partition("[")[0]
        if field in names and message.startswith(failure.field):
            message = names[field] + message.removeprefix(field)
    # Names of one word may be words of the sentence. Those in quotes and paths are values.
    several = "|".join(re.escape(name) for name in names if "_" in name)
    pattern = rf"(?<![\w/.'\"-])({several})(?![\w/.'\"=-])"
    return re.sub(pattern, lambda found: names[found[1]], message) if several else message

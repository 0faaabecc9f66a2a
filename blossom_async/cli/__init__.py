"""The ``blossom`` command. Its packages are an extra, so they are imported only when it runs."""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = {"click", "rich", "rich_click"}


def main() -> None:
    """The entry point of the ``blossom`` script."""
    try:
        from blossom_async.cli.commands import commands

        commands.main()
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write("blossom: the command line is not installed; pip install '.[cli]' in the checkout\n")
        sys.exit(2)

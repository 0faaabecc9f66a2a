"""``python -m blossom_async``: the ``blossom`` command."""

from blossom_async.cli import main

main()

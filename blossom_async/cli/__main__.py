"""``python -m blossom_async.cli``."""

from blossom_async.cli import main

main()

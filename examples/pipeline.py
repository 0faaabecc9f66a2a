"""A file of prompts too large for memory becomes a file of URLs, in order, through any number of crashes.

Run: python examples/pipeline.py prompts.txt urls.jsonl
Run it again after a crash, a kill -9 or a power cut: it goes on where it was. Memory does not grow with the
file: prompts are read as they are needed, and results are appended as they come.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import anyio

from blossom_async import BlossomClient


async def prompts(path: Path) -> AsyncIterator[str]:
    """The lines of the file, one at a time, without blocking the event loop."""
    async with await anyio.open_file(path, encoding="utf-8") as file:
        async for line in file:
            yield line.rstrip("\n")


def whole_lines(file: IO[bytes]) -> int:
    """How many results the file holds; what a crash left of a line is cut off."""
    count = end = 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        count += 1
        end += len(line)
    file.seek(end)
    file.truncate()
    return count


async def main(source: Path, target: Path) -> None:
    journal = target.with_name(f"{target.name}.journal")
    with target.open("a+b") as results:
        results.seek(0)
        written = whole_lines(results)
        async with (
            BlossomClient("embedded", max_concurrency=32) as client,
            client.image.stream_urls(
                prompts(source), ordered=True, journal=journal, width=64, height=64, format="jpg"
            ) as outcomes,
        ):
            async for outcome in outcomes:
                if outcome.index < written:
                    continue  # an earlier run has written it
                url = outcome.value.url if outcome.value else None
                line = {"prompt": outcome.item, "url": url, "error": str(outcome.error or "") or None}
                results.write(json.dumps(line).encode() + b"\n")
                results.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))

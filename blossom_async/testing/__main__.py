"""``python -m blossom_async.testing``: a fake provider for other processes, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from blossom_async.errors import BlossomError
from blossom_async.testing import FakeOpenAI, FakePollinations
from blossom_async.testing.servers import FakeServer

_SERVERS: dict[str, type[FakeServer]] = {"pollinations": FakePollinations, "openai": FakeOpenAI}


def main() -> int:
    """Runs a server and prints its address as the only line of output. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m blossom_async.testing", description=__doc__)
    parser.add_argument("provider", choices=_SERVERS)
    parser.add_argument("--port", type=int, default=0, help="default 0: a free one")
    parser.add_argument("--api-key", help="the only accepted key; by default every caller is accepted")
    parser.add_argument("--ledger", type=Path, help="file that keeps the charges, also across kill -9")
    parser.add_argument("--keyed", action="store_true", help="honour Idempotency-Key")
    parser.add_argument(
        "--fail",
        action="append",
        default=[],
        metavar="FAULT[=PROBABILITY]",
        help="a fault that may happen to any request; repeatable",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed repeats the same faults")
    options = parser.parse_args()
    try:
        server = _SERVERS[options.provider](
            port=options.port, api_key=options.api_key, keyed=options.keyed, ledger_file=options.ledger
        )
        for number, wanted in enumerate(options.fail):
            fault, _, probability = wanted.partition("=")
            server.fail(fault, probability=float(probability or 1), seed=options.seed + number)
        asyncio.run(_serve(server))
    except (BlossomError, OSError, ValueError) as exc:
        parser.error(str(exc))
    return 0


async def _serve(server: FakeServer) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())

"""Four gateways over PostgreSQL under one rate of a provider: what they use of it, and the worst window.

Run: uv run --extra all --extra postgres python benchmarks/shared_rate.py [--json FILE]
The gateways are those of `benchmarks/fleet.py`, with one account at a provider that answers at once, is paid
and notes when it is asked; PostgreSQL 18 runs on this machine. Thirty-two callers ask for one picture after
the other. "Used" is the rate from the call that follows the first ``amount`` to the last, of the limit.
"Worst window" is how many calls came in the worst one of the limit's length, wherever it begins.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the server of the tests

import creating
from fleet import CALLERS, Gateway, durable_server, started
from two_nodes import worst_window

from blossom_async.batch import RateLimit

GATEWAYS = 4
ENV = "BLOSSOM_BENCHMARK_RATE"


def serve() -> None:
    """`blossom serve` with a provider that has a rate, and writes down when it is asked."""
    import attrs
    import numpy as np

    from blossom_async.cli import main
    from blossom_async.gateway import app
    from blossom_async.gateway.providers import Artwork
    from blossom_async.gateway.providers.offline import Offline

    rate, _, log = os.environ[ENV].partition(" in ")
    limits = {"rates": (RateLimit.parse(rate),), "at_once": 64}
    starts = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    artwork = Artwork(pixels=np.zeros((64, 64, 3), np.uint8), model="constant", notes="constant")

    async def generate(*_: object, **__: object) -> Artwork:
        os.write(starts, array("d", [time.monotonic()]).tobytes())
        return artwork

    def limited(settings: Any) -> list[Any]:
        return [attrs.evolve(each, limits=attrs.evolve(each.limits, **limits)) for each in known(settings)]

    known, app.accounts = app.accounts, limited
    Offline.remote = True
    Offline.generate = generate  # type: ignore[method-assign]
    sys.argv = ["blossom", "serve"]
    main()


async def asked_for_pictures(folder: str, url: str) -> None:
    gateways: list[Gateway] = []
    try:
        for number in range(GATEWAYS):
            gateways += [await started(folder, str(number), url, __file__)]
        await asyncio.gather(*(creating.asked(port) for _, port in gateways))
    finally:
        for running, _ in gateways:
            running.terminate()
            await running.wait()


def measured(rate: str, seconds: float) -> dict[str, Any]:
    limit = RateLimit.parse(rate)
    creating.CALLERS, creating.SECONDS = CALLERS // GATEWAYS, seconds
    with durable_server() as database, tempfile.TemporaryDirectory(dir=".") as folder:
        log = Path(folder, "starts").absolute()
        os.environ[ENV] = f"{rate} in {log}"
        asyncio.run(asked_for_pictures(folder, database.url("fleet")))
        starts = sorted(array("d", log.read_bytes()))
    steady = starts[limit.amount :]
    used = (len(steady) - 1) / (steady[-1] - steady[0]) * limit.per_s / limit.amount
    worst = worst_window(starts, limit.per_s)
    return {"rate": rate, "pictures": len(starts), "worst": worst, "used": used, "load": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file for the raw figures")
    parser.add_argument("--rate", default="50/s", help="of the provider")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    print(f"{wanted.rate:<12}{'worst window':>14}{'used':>8}{'load':>7}")
    rounds = []
    for number in range(wanted.rounds):
        rounds.append(found := measured(wanted.rate, wanted.seconds))
        print(f"round {number + 1:<6}{found['worst']:>14}{found['used']:>8.1%}{found['load']:>7.1f}")
    if wanted.json is not None:
        machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
        wanted.json.write_text(json.dumps({"machine": machine, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        main()

"""Ten thousand paid calls where one in five goes wrong: who was charged, who knows; and how fast `defer` is.

Run: uv run --extra all python benchmarks/paying.py --json benchmarks/results/paying.json
The gateway is `blossom serve`; the provider is a fake in a process of its own, whose ledger is the truth
about money. Once it honours an Idempotency-Key, once it is blind. Customers order pictures of 32x32 pixels,
each under a key of its own, and send it again until it is a picture or a final refusal. Once more they do it
with OpenAI's own client and its default retries, without a key. Then the ledger, the provider's list of
requests and the gateway's books are compared; a disagreement ends the run with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import openai
from overload import KEY, server

AT_ONCE = 64
RATE_LIMITED = 0.003  # they are rare: each slows the whole gateway down, as the provider asks for
SHARE = 1 - (0.8 / (1 - RATE_LIMITED)) ** (
    1 / 7
)  # of each other fault, so that a fifth of all requests fails
FAULTS = [
    "charge_then_reset", "charge_then_500", "reset", "hang", "server_error", "unavailable", "truncated",
]  # fmt: skip
SLOW_S = 30.0
MEASURED = 2000  # deferred calls, for each way of sending them
PER_S = 100  # of those that come as 32 customers' calls do


def serve_provider(ledger: Path, sends: Path, *, keyed: bool, slow: bool) -> None:
    """A fake provider until SIGTERM; then ``sends`` has how often each Idempotency-Key arrived."""
    from blossom_async.testing import FakeOpenAI

    async def run() -> Counter[str]:
        server = FakeOpenAI(ledger_file=ledger, keyed=keyed, retry_after_s=0.05, slow_s=SLOW_S)
        if slow:
            server.fail("slow_first_byte")
        else:
            for seed, fault in enumerate(FAULTS):
                server.fail(fault, probability=SHARE, seed=seed)
            server.fail("rate_limited", probability=RATE_LIMITED, seed=len(FAULTS))
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with server:
            print(server.base_url, flush=True)
            await stop.wait()
        return Counter(str(seen.idempotency_key) for seen in server.requests if seen.method == "POST")

    sends.write_text(json.dumps(asyncio.run(run())))


@asynccontextmanager
async def shop(folder: Path, *options: str, keyed: bool) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """A gateway in front of a provider: its address, and connections to it."""
    provider = [__file__, "--as", "provider", str(folder), "keyed" if keyed else "blind", *options]
    async with server(*provider) as url:
        env = {
            "BLOSSOM_API_KEYS": KEY,
            "BLOSSOM_DATA_DIR": str(folder / "data"),
            "BLOSSOM_PORT": "0",
            "BLOSSOM_PROVIDERS": "openai",
            "BLOSSOM_OPENAI_URL": url,
            "BLOSSOM_OPENAI_MODEL": "flux.1-schnell",
            "BLOSSOM_OPENAI_KEYED": str(keyed),
            "BLOSSOM_PROVIDER_TIMEOUT_S": "60" if options else "1",
            "BLOSSOM_PROVIDER_AT_ONCE": str(AT_ONCE),
            "BLOSSOM_MAX_QUEUE": "100000",
        }
        headers = {"Authorization": f"Bearer {KEY}"}
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            server("-m", "blossom_async.cli", "serve", **env) as gateway,
            aiohttp.ClientSession(gateway, connector=connector, headers=headers) as session,
        ):
            yield gateway, session


async def order(session: aiohttp.ClientSession, number: int, **options: Any) -> tuple[int, dict[str, Any]]:
    wish = {"prompt": f"picture {number}", "width": 32, "height": 32, **options}
    async with session.post(
        "/v1/images", json=wish, headers={"Idempotency-Key": f"order-{number}"}
    ) as response:
        return response.status, await response.json()


async def bought(session: aiohttp.ClientSession, number: int, answers: Counter[str], *, keyed: bool) -> str:
    """What an order comes to in the end. ``answers`` counts those on the way, too."""
    while True:
        status, told = await order(session, number)
        code = "picture" if status == 201 else told["code"]
        answers[code] += 1
        if code in {"picture", "provider_bad_content"} or (code == "outcome_unknown" and not keyed):
            return str(code)
        if code not in {"outcome_unknown", "overloaded", "provider_resting", "provider_unavailable"}:
            raise AssertionError(told)
        await asyncio.sleep(0.05)


async def bought_by_openai(client: openai.AsyncOpenAI, number: int) -> str:
    """As ``bought``, by OpenAI's client with its default settings."""
    try:
        await client.images.generate(prompt=f"picture {number}", size="32x32")  # type: ignore[call-overload]
    except openai.APIStatusError as exc:
        return str(exc.code)
    return "picture"


async def books(folder: Path) -> tuple[set[str], dict[str, str]]:
    """Of the gateway: the provider keys of the calls it lists as unknown, and the end of each attempt."""
    import sqlalchemy as sa

    from blossom_async.gateway.storage.records import Records, calls
    from blossom_async.gateway.storage.records.tables import attempts

    records = Records(folder / "data" / "records.sqlite")
    await records.open()
    listed = {attempt.provider_key for _, attempt in await records.read(calls.unknown_claims)}
    columns = sa.select(attempts.c.provider_key, attempts.c.outcome)
    ends = dict(await records.read(lambda known: known.execute(columns).all()))
    await records.close()
    return listed, ends


async def faulty(count: int, *, keyed: bool, by_openai: bool = False) -> dict[str, Any]:
    """Orders ``count`` pictures of a provider of which a fifth of the requests goes wrong."""
    from blossom_async.testing import Ledger

    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        answers: Counter[str] = Counter()
        ends: Counter[str] = Counter()
        numbers = iter(range(count))

        async def customer(session: aiohttp.ClientSession) -> None:
            for number in numbers:
                ends[await bought(session, number, answers, keyed=keyed)] += 1

        async def customer_of_openai(client: openai.AsyncOpenAI) -> None:
            for number in numbers:
                ends[await bought_by_openai(client, number)] += 1

        async with shop(folder, keyed=keyed) as (gateway, session):
            started = time.perf_counter()
            if by_openai:
                async with openai.AsyncOpenAI(base_url=f"{gateway}/v1", api_key=KEY) as client:
                    await asyncio.gather(*(customer_of_openai(client) for _ in range(AT_ONCE)))
            else:
                await asyncio.gather(*(customer(session) for _ in range(AT_ONCE)))
            wall_s = time.perf_counter() - started
        ledger = Ledger.read(folder / "ledger.jsonl")
        sends: dict[str, int] = json.loads((folder / "sends.json").read_text())
        listed, attempts = await books(folder)
    charged = {str(charge.idempotency_key) for charge in ledger.charges}
    booked = {key for key, outcome in attempts.items() if outcome in {"ok", "charged"}}
    report = {
        "orders": count,
        "orders_by_end": dict(ends),
        "answers": dict(answers),
        "requests_at_the_provider": sum(sends.values()),
        "automatic_repeats": sum(sends.values()) - len(sends),
        "charges": len(ledger.charges),
        "keys_charged_twice": len(ledger.double_charges()),
        "orders_charged_twice": len(ledger.double_charges(by=lambda charge: charge.prompt_sha256)),
        "unknown_listed": len(listed),
        "unknown_listed_and_charged": len(listed & charged),
        "unknown_listed_and_not_charged": len(listed - charged),
        "charged_and_neither_booked_nor_listed": len(charged - booked - listed),
        "booked_and_not_charged": len(booked - charged),
        "wall_s": wall_s,
    }
    assert ends.total() == count
    for name in (
        "keys_charged_twice", "orders_charged_twice", "charged_and_neither_booked_nor_listed",
        "booked_and_not_charged",
    ):  # fmt: skip
        assert report[name] == 0, (name, report)
    assert keyed or report["automatic_repeats"] == 0, report
    assert report["unknown_listed"] == ends["outcome_unknown"], report
    return report


async def deferred(*, at_once: int, per_s: float | None) -> dict[str, float]:
    """How long a deferred POST takes, in ms, at a provider that needs 30 s for a picture.

    ``per_s`` paces the calls; without, each of ``at_once`` customers sends the next once it has an answer.
    """
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        took: list[float] = []
        numbers = itertools.count()

        async def send(session: aiohttp.ClientSession) -> None:
            started = time.perf_counter()
            status, told = await order(session, next(numbers), defer=True)
            took.append((time.perf_counter() - started) * 1000)
            assert status == 202, told

        async def customer(session: aiohttp.ClientSession) -> None:
            while len(took) < MEASURED:
                await send(session)

        async with shop(Path(name), "slow", keyed=False) as (_, session):
            await asyncio.gather(*(send(session) for _ in range(at_once)))  # opens the connections
            took.clear()
            begun = time.perf_counter()
            if per_s is None:
                await asyncio.gather(*(customer(session) for _ in range(at_once)))
            else:
                async with asyncio.TaskGroup() as group:
                    for turn in range(MEASURED // at_once):
                        await asyncio.sleep(begun + turn * at_once / per_s - time.perf_counter())
                        for _ in range(at_once):
                            group.create_task(send(session))
            wall_s = time.perf_counter() - begun
        took.sort()
        return {
            "calls": len(took),
            "per_s": len(took) / wall_s,
            "p50_ms": took[len(took) // 2],
            "p99_ms": took[int(len(took) * 0.99)],
            "max_ms": took[-1],
        }


def commit_ms(folder: Path) -> float:
    """What one fdatasync of 4 kB costs on this disk: no deferred call can be faster than that."""
    probe = folder / "probe"
    with probe.open("wb", buffering=0) as file:
        took = []
        for _ in range(300):
            file.write(bytes(4096))
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - started) * 1000)
    probe.unlink()
    return sorted(took)[150]


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="where to write the raw figures")
    parser.add_argument("--only", choices=["faulty", "deferred"])
    wanted = parser.parse_args()
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("aiohttp", "openai", "sqlalchemy", "uvloop")},
        "load_before": os.getloadavg()[0],
        "faults": {**{fault: round(SHARE, 4) for fault in FAULTS}, "rate_limited": RATE_LIMITED},
    }
    if wanted.only != "deferred":
        for name in ("keyed", "blind", "blind, by OpenAI's client"):
            report[name] = await faulty(
                wanted.orders, keyed=name == "keyed", by_openai=name.endswith("client")
            )
            print(f"\n{name}")
            for what, figure in report[name].items():
                print(f"  {what:<40} {figure if not isinstance(figure, float) else f'{figure:.1f}'}")
    if wanted.only != "faulty":
        ways: dict[str, tuple[int, float | None]] = {
            "one after another": (1, None),
            "32 at once, 100 a second": (32, PER_S),
            "32 at once, without a pause": (32, None),
        }
        report["fdatasync_ms"] = commit_ms(Path.cwd())
        print(
            f"\ndefer, at a provider that takes {SLOW_S:g} s; one fdatasync {report['fdatasync_ms']:.2f} ms"
        )
        for name, (at_once, per_s) in ways.items():
            report[f"defer, {name}"] = row = await deferred(at_once=at_once, per_s=per_s)
            print(
                f"  {name:<30} p50 {row['p50_ms']:>6.1f} ms   p99 {row['p99_ms']:>6.1f} ms   "
                f"max {row['max_ms']:>6.1f} ms   {row['per_s']:>6.0f}/s"
            )
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:3] == ["--as", "provider"]:
        home = Path(sys.argv[3])
        serve_provider(
            home / "ledger.jsonl", home / "sends.json", keyed=sys.argv[4] == "keyed", slow="slow" in sys.argv
        )
    else:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(main())

"""How quick a gateway stays that holds a million pictures: its pages, searches, statistics, and creating.

Run: uv run --extra all python benchmarks/full.py [--pictures N] [--database URL] [--json FILE]
A database is filled with pictures of 100 campaigns and of one that has half of them all, each seen by one of
5,000 viewers. Then `blossom serve` answers every page, one after the other, and the pictures of
`benchmarks/creating.py` are created, next to the same gateway with an empty database. `--database` is the URL
of an empty database of PostgreSQL, which is filled instead of a file; then nothing is created.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import sqlalchemy as sa
from creating import asked as created
from overload import KEY
from serving import serve_with_constant_picture

from blossom_async.gateway.making.orders import new_id
from blossom_async.gateway.storage.records import ImageRecord, StoredFile, texts
from blossom_async.gateway.storage.records.images import Add, apply_together, to_row
from blossom_async.gateway.storage.records.postgres import Postgres
from blossom_async.gateway.storage.records.sqlite import Sqlite
from blossom_async.gateway.storage.records.views import store
from blossom_async.models import ImageRequest

NOW = datetime.now(UTC).replace(microsecond=0)
VIEWERS = [hashlib.sha256(b"%d" % number).digest() for number in range(5000)]
WORDS = Path(__file__).parent.parent.joinpath("docs/gateway.md").read_text().split()
TOGETHER = 5000
ROUNDS = 7
PAGES = {
    "first page": "/",
    "older page": "/?past={before}",
    "state": "/?state=expired",
    "search, frequent": "/?q=lake",
    "search, rare": "/?q=Xylophone",
    "search, never": "/?q=zzzzzz",
    "campaigns": "/campaigns",
    "campaign": "/campaigns/campaign%207",
    "largest campaign": "/campaigns/spring",
    "storage": "/storage",
    "stats": "/v1/stats?tracking_id=campaign%207",
    "stats, largest": "/v1/stats?tracking_id=spring",
    "list": "/v1/images?limit=24",
}


def picture(number: int, chance: random.Random) -> ImageRecord:
    formats = ("png", "webp", "jpg")
    prompt = f"{' '.join(chance.choices(WORDS, k=12))} by a lake, number {number}"
    return ImageRecord(
        id=new_id(),
        tenant="main",
        request=ImageRequest(
            f"{prompt} xylophone" if number % 100_000 == 50 else prompt,
            tracking_id="spring" if number % 2 else f"campaign {number // 2 % 100}",
            metadata={"variant": "AB"[number // 2 % 2]},
            format=formats[number % 3],
        ),
        width=1024,
        height=1024,
        files=(StoredFile(format=formats[number % 3], sha256="ab" * 32, file_size=100_000 + number),),
        provider="offline",
        model="scenery-1",
        seed=number,
        cost=1,
        created_at=NOW - timedelta(days=60) + timedelta(seconds=number),
        expires_at=None,
    )


def fill(place: Path | str, number: int) -> None:
    database = Sqlite(place) if isinstance(place, Path) else Postgres(sa.make_url(place))
    database.prepare()
    chance = random.Random(1)  # noqa: S311 - the same prompts in every run
    for start in range(0, number, TOGETHER):
        some = [picture(n, chance) for n in range(start, min(start + TOGETHER, number))]
        rows = [Add(to_row(made), None) for made in some]
        day = (NOW - datetime(1970, 1, 1, tzinfo=UTC)).days - start * 30 // number
        seen = [("main", str(made.request.tracking_id), day, made.id) for made in some]
        with database.writing.begin() as connection:
            apply_together(connection, rows)
            who = [(one, VIEWERS[(start + at) % len(VIEWERS)]) for at, one in enumerate(seen)]
            while texts.pack(connection):
                pass
            store({one: [1, 1, 1500] for one in seen}, who, NOW, connection)
    if isinstance(place, str):  # as the server does on its own after a while
        with database.writing.begin() as connection:
            connection.exec_driver_sql("ANALYZE")
    database.purge()
    database.writing.dispose()
    database.reading.dispose()


async def started(folder: Path, database: str | None) -> tuple[asyncio.subprocess.Process, int]:
    """A gateway, and its port."""
    env = {"BLOSSOM_API_KEYS": KEY, "BLOSSOM_DATA_DIR": str(folder), "BLOSSOM_PORT": "0"}
    if database is not None:
        env |= {"BLOSSOM_DATABASE_URL": database, "BLOSSOM_SIGNING_SECRETS": KEY}
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--serve"),
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert running.stdout is not None
    return running, int((await running.stdout.readline()).decode().split()[-1].rpartition(":")[2])


async def read(port: int) -> dict[str, dict[str, float]]:
    """Milliseconds of every page."""
    found = {}
    base = f"http://127.0.0.1:{port}"
    middle = (NOW - timedelta(days=60) + timedelta(seconds=1000)).timestamp()
    before = f"{int(middle * 1e6)}-{'0' * 22}"
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.post(f"{base}/login", data={"key": KEY}, headers={"Origin": base}) as answer:
            assert answer.status == 200
        for name, path in PAGES.items():
            times = []
            for _ in range(ROUNDS):
                begun = time.perf_counter()
                url = base + path.format(before=before)
                async with session.get(url, headers={"Authorization": f"Bearer {KEY}"}) as answer:
                    await answer.read()
                    assert answer.status == 200, (url, answer.status)
                times.append((time.perf_counter() - begun) * 1000)
            found[name] = {"first": times[0], "best": min(times), "median": statistics.median(times)}
            print(f"{name:18}", ", ".join(f"{key} {ms:7.1f} ms" for key, ms in found[name].items()))
    return found


async def creating(ports: Sequence[int]) -> dict[str, float]:
    """Pictures a second at the empty and at the full gateway: the best of three rounds in turns."""
    rounds = [[await created(port) for port in ports] for _ in range(3)]
    empty, full = (max(of) for of in zip(*rounds, strict=True))
    print(f"creating: {full} at the full one, {empty} at an empty one, {full / empty:.2f} of it")
    return {"empty": empty, "full": full}


async def main(pictures: int, url: str | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        here = Path(folder)
        begun = time.perf_counter()
        fill(here / "full" / "records.sqlite" if url is None else url, pictures)
        print(f"{pictures:,} pictures, filled in {time.perf_counter() - begun:.0f} s")
        empty, empty_port = await started(here / "empty", None)
        full, full_port = await started(here / "full", url)
        try:
            found = await read(full_port)
            rates = {} if url is not None else await creating((empty_port, full_port))
        finally:
            for running in (empty, full):
                running.terminate()
                await running.wait()
    about = {"machine": platform.platform(), "python": platform.python_version(), "load": os.getloadavg()}
    return {"pictures": pictures, **about, "pages_ms": found, "created_in_4_s": rates}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--database", help="an empty database of PostgreSQL")
    parser.add_argument("--json", type=Path, help="file for the raw figures")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_with_constant_picture([])
    else:
        report = asyncio.run(main(options.pictures, options.database))
        if options.json is not None:
            options.json.write_text(json.dumps(report, indent=1) + "\n")

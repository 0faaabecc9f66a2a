"""How quick a gateway stays that holds a million pictures: its pages, searches, statistics, and creating.

Run: uv run --extra all --extra postgres python benchmarks/full.py [--pictures N] [--json FILE]
     [--database URL --empty URL]
A database is filled with pictures of 100 campaigns and of one that has half of them all, each seen by one of
5,000 viewers: row by row as the gateway would have left it, but not through the gateway, which takes one to
two minutes of CPU. Then `blossom serve` answers every page, one after the other, and pictures are created as
in `benchmarks/creating.py`, in turns with a gateway whose database is empty. It is SQLite, or PostgreSQL with
`--database` and `--empty`: URLs of two empty databases on a server.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import sqlalchemy as sa
from creating import measured
from overload import KEY
from serving import serve_with_constant_picture
from sqlalchemy.dialects import sqlite

from blossom_async.gateway.storage.records import tables, texts
from blossom_async.gateway.storage.records.images import request_text
from blossom_async.gateway.storage.records.postgres import Postgres
from blossom_async.gateway.storage.records.sqlite import Sqlite
from blossom_async.gateway.storage.records.statistics import labels_in
from blossom_async.models import ImageRequest

NOW = datetime.now(UTC).replace(microsecond=0)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
VIEWERS = 5000
FILE_SIZE = 600_000
PACKED = 256  # texts in one row
KINDS = ("png", "webp", "jpg")
FILES = {
    kind: f'[{{"format":"{kind}","sha256":"{"ab" * 32}","file_size":{FILE_SIZE},"provenance":null}}]'
    for kind in KINDS
}
ENDS = (None, None, None)  # neither expired nor deleted nor swept
WORDS = Path(__file__).parent.parent.joinpath("docs/gateway.md").read_text().split()
ROUNDS = 7
CREATING_ROUNDS = 6
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


Server = tuple[asyncio.subprocess.Process, int]
"""A process, and its port."""


@cache
def request_around(campaign: str, variant: str, kind: str) -> list[str]:
    """What is stored of a request, before and behind the prompt."""
    asked = ImageRequest("PROMPT", tracking_id=campaign, metadata={"variant": variant}, format=kind)
    return request_text(asked).split('"PROMPT"')


@cache
def label_of(variant: str) -> tuple[bytes, str, str]:
    (label,) = labels_in(json.dumps({"metadata": {"variant": variant}}))
    return label


def sums(views: int) -> tuple[int, int, int]:
    """The columns of as many views, each of 1.5 ms."""
    return views, views, views * 1500


class Filling:
    """The rows of ``number`` pictures, one for each second, as a gateway has them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.chance = random.Random(1)  # noqa: S311 - the same prompts in every run
        self.files: Counter[str] = Counter()
        self.lines: list[tuple[int, str, str]] = []
        self.seen: list[tuple[str, str, int, str, bytes]] = []
        # The viewers by campaign, day and variant.
        self.days: dict[tuple[str, int, str], list[int]] = defaultdict(list)

    def images(self) -> Iterator[tuple[Any, ...]]:
        today, begin = (NOW - EPOCH).days, (NOW - timedelta(days=60) - EPOCH) // timedelta(microseconds=1)
        for number in range(self.number):
            name, made = f"{self.chance.getrandbits(88):022x}", begin + number * 1_000_000
            start = int(self.chance.random() * (len(WORDS) - 12))
            prompt = f"{' '.join(WORDS[start : start + 12])} by a lake, number {number}"
            prompt = f"{prompt} xylophone" if number % 100_000 == 50 else prompt
            campaign = "spring" if number % 2 else f"campaign {number // 2 % 100}"
            kind = KINDS[number % 3]
            variant, day = "AB"[number // 2 % 2], today - number * 30 // self.number
            before, after = request_around(campaign, variant, kind)
            self.files[kind] += 1
            self.lines.append((made, name, f"{texts.searchable(prompt)}\t{campaign}"))
            viewer = hashlib.md5(f"{campaign}{number % VIEWERS}".encode()).digest()  # noqa: S324 - no secret
            self.seen.append(("main", campaign, day, name, viewer))
            self.days[campaign, day, variant].append(number % VIEWERS)
            request = f"{before}{json.dumps(prompt)}{after}"
            size = (1024, 1024, FILES[kind], None, None)
            yield name, "main", campaign, request, *size, "offline", "scenery-1", number, 1, made, *ENDS, True

    def texts(self) -> Iterator[tuple[Any, ...]]:
        for start in range(0, self.number, PACKED):
            some = self.lines[start : start + PACKED]
            points, lines = (f"{made}-{name}" for made, name, _ in some), (line for _, _, line in some)
            yield "main", *some[-1][:2], some[0][0], len(some), " ".join(points), "\n".join(lines)

    def tables(self) -> Iterator[tuple[sa.Table, Iterable[tuple[Any, ...]]]]:
        """Each table with the rows for its first columns; to be read in this order."""
        yield tables.images, self.images()
        yield tables.texts, self.texts()
        self.seen.sort()
        yield tables.views, ((*seen[:4], *sums(1)) for seen in self.seen)
        yield tables.viewers, self.seen
        sizes = ((kind, number, number * FILE_SIZE) for kind, number in self.files.items())
        yield tables.stored_files, (("main", *size) for size in sizes)
        newest, pictures = self.lines[-1][0], Counter(seen[1] for seen in self.seen)
        rows = ((name, n, newest, n, 1, None) for name, n in pictures.items())
        yield tables.campaigns, (("main", *row) for row in rows)
        days: dict[tuple[str, int], list[int]] = defaultdict(list)
        of_labels: dict[tuple[str, tuple[bytes, str, str]], list[int]] = defaultdict(lambda: [0, 0])
        by_label = []
        for (campaign, day, variant), viewers in self.days.items():
            days[campaign, day] += viewers
            label = label_of(variant)
            by_label.append(("main", campaign, day, label[0], *sums(len(viewers)), len(set(viewers))))
            whole = of_labels[campaign, label]
            whole[:] = whole[0] + len(viewers), whole[1] + len(set(viewers))
        by_day = ((*key, *sums(len(viewers)), len(set(viewers))) for key, viewers in days.items())
        yield tables.campaign_days, (("main", *row) for row in by_day)
        yield tables.label_days, by_label
        ever = of_labels.items()
        yield tables.labels, (("main", c, *label, n, *sums(n), several) for (c, label), (n, several) in ever)


def fill(place: Path | str, number: int) -> None:
    database = Sqlite(place) if isinstance(place, Path) else Postgres(sa.make_url(place))
    database.prepare()
    database.writing.dispose()
    database.reading.dispose()
    write = into_sqlite if isinstance(place, Path) else into_postgres
    write(database.writing.url, Filling(number))
    with database.writing.begin() as connection:  # as the server does on its own after a while
        connection.exec_driver_sql("ANALYZE" if isinstance(place, str) else "PRAGMA optimize")
    database.writing.dispose()
    database.reading.dispose()


def into_sqlite(url: sa.URL, filling: Filling) -> None:
    connection = sqlite3.connect(str(url.database), isolation_level=None)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-400000"):
        connection.execute(f"PRAGMA {pragma}").close()
    connection.execute("BEGIN")
    for table, rows in filling.tables():
        columns, rows = written(table, rows)
        inserting = table.insert().compile(dialect=sqlite.dialect(), column_keys=columns)
        connection.executemany(str(inserting), rows)
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode=WAL").close()
    connection.close()


def into_postgres(url: sa.URL, filling: Filling) -> None:
    told = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(told) as connection, connection.cursor() as cursor:
        for table, rows in filling.tables():
            columns, rows = written(table, rows)
            with cursor.copy(f"COPY {table.name} ({','.join(columns)}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)


def written(table: sa.Table, rows: Iterable[tuple[Any, ...]]) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """The first columns, as many as the rows have, and the rows."""
    rows = iter(rows)
    first = next(rows)
    return list(table.columns.keys())[: len(first)], chain([first], rows)


async def started(folder: Path, database: str | None) -> Server:
    """A gateway."""
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


async def creating(servers: Mapping[str, Server]) -> dict[str, Any]:
    """Pictures a second and the gateway's CPU for each, in turns: medians, and all rounds."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    for turn in range(CREATING_ROUNDS):
        for name in sorted(servers, reverse=turn % 2 == 1):
            running, port = servers[name]
            rounds[name].append(await measured(port, running.pid))
    found = {
        name: {key: statistics.median(one[key] for one in some) for key in some[0]}
        for name, some in rounds.items()
    }
    for key in ("per_s", "cpu_us"):
        empty, full = found["empty"][key], found["full"][key]
        print(f"creating, {key}: {empty:.0f} at an empty one, {full:.0f} at the full one: {full / empty:.2f}")
    return found | {"rounds": rounds}


async def main(pictures: int, url: str | None, empty: str | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        here = Path(folder)
        begun = time.perf_counter()
        fill(here / "full" / "records.sqlite" if url is None else url, pictures)
        print(f"{pictures:,} pictures, filled in {time.perf_counter() - begun:.0f} s")
        servers = {"full": await started(here / "full", url)}
        try:
            found = await read(servers["full"][1])
            made = {}
            if url is None or empty is not None:
                servers["empty"] = await started(here / "empty", empty)
                made = await creating(servers)
        finally:
            for running, _ in servers.values():
                running.terminate()
                await running.wait()
    about = {"machine": platform.platform(), "python": platform.python_version(), "load": os.getloadavg()}
    return {"pictures": pictures, **about, "pages_ms": found, "created": made}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--database", help="an empty database of PostgreSQL, which is filled")
    parser.add_argument(
        "--empty", help="another one on that server, which stays empty until pictures are made"
    )
    parser.add_argument("--json", type=Path, help="file for the raw figures")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_with_constant_picture([])
    else:
        report = asyncio.run(main(options.pictures, options.database, options.empty))
        if options.json is not None:
            options.json.write_text(json.dumps(report, indent=1) + "\n")

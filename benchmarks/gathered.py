"""What a gateway slows down by once much has gathered: its pages, and pictures looked up beside them.

Run: uv run --extra all python benchmarks/gathered.py [--json benchmarks/results/gathered.json]
A database is filled with 200,000 pictures of 100 campaigns, each seen on two days by two of 5,000 viewers,
and the questions of each page are asked five times. Then every page is asked in turn, again and again, while
pictures are looked up; and the same look-ups with no page beside them, in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from blossom_async.gateway.counting.analytics import Tally, day_number
from blossom_async.gateway.making.orders import new_id
from blossom_async.gateway.storage.records import ImageRecord, Records, StoredFile, overview
from blossom_async.gateway.storage.records.views import campaign_views, store
from blossom_async.models import ImageRequest

START = datetime(2026, 1, 1, tzinfo=UTC)
CAMPAIGNS = 100
VIEWERS = [secrets.token_bytes(32) for _ in range(5000)]
TOGETHER = 2000
ROUNDS = 5
LOOKUPS = 400


def picture(number: int) -> ImageRecord:
    formats = ("png", "webp", "jpg")
    return ImageRecord(
        id=new_id(),
        tenant="main",
        request=ImageRequest(
            f"picture {number} of a lake",
            tracking_id=f"campaign {number % CAMPAIGNS}",
            metadata={"variant": "AB"[number // CAMPAIGNS % 2]},
            format=formats[number % 3],
        ),
        width=1024,
        height=1024,
        files=(StoredFile(format=formats[number % 3], sha256="ab" * 32, file_size=100_000 + number),),
        provider="offline",
        model="scenery-1",
        seed=number,
        cost=1,
        created_at=START + timedelta(seconds=number),
        expires_at=None,
    )


async def fill(records: Records, number: int) -> list[str]:
    """The ids of so many pictures, which are now in the database with their views."""
    ids = []
    for start in range(0, number, TOGETHER):
        some = [picture(n) for n in range(start, min(start + TOGETHER, number))]
        tally = Tally()
        for at, made in enumerate(some):
            for day in range(2):
                where = (made.tenant, str(made.request.tracking_id), day_number(START) + day, made.id)
                for who in range(2):
                    tally.add(where, VIEWERS[(at * 7 + day * 3 + who) % len(VIEWERS)], 1500)
        await asyncio.gather(*map(records.add, some))
        await records.write(partial(store, tally.counts, tally.seen, START))
        ids += [made.id for made in some]
    return ids


async def campaigns(records: Records) -> None:
    await records.study(partial(overview.campaigns, "main"))


async def campaign(records: Records) -> None:
    await records.study(partial(campaign_views, "main", "campaign 7", 0, 1 << 30))
    await records.study(partial(overview.campaign_pictures, "main", "campaign 7", 500))


async def storage(records: Records) -> None:
    await records.study(partial(overview.stored, "main"))


async def newest(records: Records) -> None:
    now = START + timedelta(days=300)
    page = await records.study(partial(overview.page, "main", "", "", None, 24, now))
    await records.study(partial(overview.views_of, page.pictures))


PAGES: dict[str, Callable[[Records], Awaitable[None]]] = {
    "/": newest,
    "/campaigns": campaigns,
    "/campaigns/{id}": campaign,
    "/storage": storage,
}


async def milliseconds(work: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await work()
    return (time.perf_counter() - started) * 1000


async def lookups(records: Records, ids: list[str]) -> dict[str, float]:
    """How long single pictures take that are looked up one after the other, a hundred a second."""
    times = []
    for _ in range(LOOKUPS):
        await asyncio.sleep(0.005)
        times.append(await milliseconds(partial(records.get, secrets.choice(ids))))
    times.sort()
    return {"p50": statistics.median(times), "p99": times[len(times) * 99 // 100], "max": times[-1]}


async def measured(records: Records, ids: list[str]) -> dict[str, Any]:
    pages = {}
    for name, page in PAGES.items():
        times = sorted([await milliseconds(partial(page, records)) for _ in range(ROUNDS)])
        pages[name] = {"best": times[0], "median": statistics.median(times)}

    async def all_pages() -> None:
        while True:
            for page in PAGES.values():
                await page(records)

    alone = await lookups(records, ids)
    asking = asyncio.create_task(all_pages())
    beside = await lookups(records, ids)
    asking.cancel()
    await asyncio.wait([asking])
    return {"pages_ms": pages, "lookup_alone_ms": alone, "lookup_beside_pages_ms": beside}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200_000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = Records(Path(folder) / "records.sqlite")
        await records.open()
        filled = time.perf_counter()
        ids = await fill(records, asked.pictures)
        filled = time.perf_counter() - filled
        found = await measured(records, ids)
        await records.close()
    print(f"{asked.pictures:,} pictures, filled in {filled:.0f} s")
    for name, times in found["pages_ms"].items():
        print(f"{name:<18} best {times['best']:8.1f} ms   median {times['median']:8.1f} ms")
    for name in ("lookup_alone_ms", "lookup_beside_pages_ms"):
        print(name, ", ".join(f"{key} {value:.2f}" for key, value in found[name].items()))
    if asked.json:
        about = {"machine": platform.platform(), "python": platform.python_version(), "load": os.getloadavg()}
        asked.json.write_text(json.dumps({"pictures": asked.pictures, **about, **found}, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())

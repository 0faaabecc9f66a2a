"""Analytics: what counts as a view, who counts as a viewer, no view is lost, no viewer can be identified."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import string
from collections import Counter
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from blossom_async import NotFound, UrlStats
from blossom_async.errors import Overloaded
from blossom_async.gateway.callers.keys import digest
from blossom_async.gateway.counting import analytics
from blossom_async.gateway.counting.analytics import Tally, Views, day_number, viewer
from blossom_async.gateway.storage.folder import LocalBlobs
from blossom_async.gateway.storage.records import ApiKey, ImageRecord, Records, StoredFile
from blossom_async.gateway.storage.records import keys as key_records
from blossom_async.gateway.storage.records import views as view_records
from blossom_async.gateway.storage.records.tables import salts, viewers, views
from blossom_async.models import ImageRequest
from tests.conftest import KEY, RunningGateway, running_gateway
from tests.thorough import examples
from tests.waiting import LIMIT_S

Gateway = AbstractAsyncContextManager[RunningGateway]

SMALL: dict[str, Any] = {"width": 32, "height": 32, "tracking_id": "summer"}
NOON = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)
TODAY = day_number(NOON)
PICTURE = ("main", "summer", TODAY, "a" * 22)


async def picture(running: RunningGateway, **options: Any) -> str:
    """The URL of a new tracked picture."""
    async with running.client() as client:
        return await client.image.generate_url("a lighthouse", **{**SMALL, **options})


async def view(url: str, method: str = "GET", **headers: str) -> int:
    """The status of one exchange, read to its end; ``_`` in the names of headers stands for ``-``."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=sent) as response:
        await response.read()
        return response.status


async def stats(running: RunningGateway, tracking_id: str = "summer", *days: str) -> UrlStats:
    async with running.client() as client:
        return await client.image.get_url_stats(tracking_id, days or None)  # type: ignore[arg-type]


async def asked(running: RunningGateway, query: str, key: str = KEY) -> tuple[int, Any]:
    """Status and JSON of ``GET /v1/stats`` with this query, as it is."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{running.base_url}/v1/stats{query}", headers=headers) as response,
    ):
        return response.status, await response.json(content_type=None)


def a_record(tracking_id: str | None = "summer", **changes: Any) -> ImageRecord:
    known: dict[str, Any] = {
        "id": "".join(secrets.choice(string.ascii_letters) for _ in range(22)),
        "tenant": "main",
        "request": ImageRequest("a lighthouse", seed=7, tracking_id=tracking_id, metadata={"variant": "A"}),
        "width": 1024,
        "height": 1024,
        "files": (StoredFile(format="png", sha256="ab" * 32, file_size=3),),
        "provider": "offline",
        "model": "scenery",
        "seed": 7,
        "cost": 1,
        "created_at": NOON,
        "expires_at": None,
    }
    return ImageRecord(**(known | changes))


class Database(Records):
    """The records of a folder, open while the block runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "records.sqlite")

    async def __aenter__(self) -> Database:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def count(self, tally: Tally, now: datetime = NOON) -> None:
        await self.write(partial(view_records.store, tally.counts, tally.seen, now))

    async def rows(self, table: sa.Table) -> list[Any]:
        return list(await self.read(lambda connection: connection.execute(sa.select(table)).all()))


def a_tally(*seen: tuple[tuple[str, str, int, str], bytes]) -> Tally:
    tally = Tally()
    for which, who in seen:
        tally.add(which, who, 1000)
    return tally


def files_of(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


# What a view is


async def test_a_view_is_in_the_statistics_that_are_asked_for_next(gateway: Gateway) -> None:
    """GET, 200, to the last byte: one view by one viewer, on this day."""
    async with gateway as running:
        assert await view(await picture(running)) == 200
        found = await stats(running)
    assert (found.total_views, found.unique_viewers) == (1, 1)
    assert [(day.views, day.viewers) for day in found.by_day] == [(1, 1)]
    assert abs(found.by_day[0].date - datetime.now(UTC).date()) <= timedelta(days=1)


async def test_the_cdn_form_of_the_url_counts_too(gateway: Gateway) -> None:
    """``/generated/{id}.{ext}`` is the same picture."""
    async with gateway as running:
        url = await picture(running)
        assert await view(url.replace("/image/", "/generated/") + ".png") == 200
        assert (await stats(running)).total_views == 1


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("HEAD", {}, 200),
        ("GET", {"If_None_Match": "*"}, 304),
        ("GET", {"Range": "bytes=0-"}, 206),
        ("GET", {"Range": "bytes=5-9"}, 206),
        ("GET", {"Range": "bytes=99999999-"}, 416),
        ("GET", {"If_Match": '"another"'}, 412),
        ("GET", {"Sec_Purpose": "prefetch"}, 200),
        ("GET", {"Sec_Purpose": "prefetch;prerender"}, 200),
        ("GET", {"Purpose": "Prefetch"}, 200),
        ("GET", {"X_Moz": "prefetch"}, 200),
        ("GET", {"Purpose": "preview"}, 200),
        ("OPTIONS", {"Origin": "https://a.example"}, 204),
    ],
)
async def test_what_is_no_view(gateway: Gateway, method: str, headers: dict[str, str], status: int) -> None:
    """HEAD, 304, parts, refusals and what is fetched before anyone looks do not count."""
    async with gateway as running:
        url = await picture(running)
        assert await view(url, method, **headers) == status
        found = await stats(running)
    assert (found.total_views, found.unique_viewers, found.avg_load_time, found.by_day) == (0, 0, None, ())


async def test_a_refused_viewer_is_none(gateway: Gateway) -> None:
    """Who may not see the picture has not seen it."""
    async with gateway as running:
        assert await view(await picture(running, require_auth=True)) == 401
        assert (await stats(running)).total_views == 0


async def test_warming_up_is_no_view(gateway: Gateway) -> None:
    """``preload_urls`` and ``validate_url`` fetch pictures that nobody looks at."""
    async with gateway as running:
        url = await picture(running)
        async with running.client() as client:
            report = await client.image.preload_urls([url, url], method="GET")
            assert await client.image.validate_url(url)
        assert [result.status for result in report.results] == [200, 200]
        assert (await stats(running)).total_views == 0


async def test_a_picture_without_tracking_id_leaves_no_trace(gateway: Gateway) -> None:
    """Only what someone asked to be counted is counted."""
    async with gateway as running:
        assert await view(await picture(running, tracking_id=None)) == 200
    async with Database(running.data_dir) as records:
        assert await records.rows(views) == await records.rows(viewers) == await records.rows(salts) == []


async def test_who_leaves_before_the_last_byte_has_not_seen_it(tmp_path: Path) -> None:
    """A view that was cut off is none, however long it was."""
    data = bytes(32 << 20)
    record = a_record(files=(StoredFile(format="png", sha256="ab" * 32, file_size=len(data)),))
    async with Database(tmp_path) as records:
        await records.add(record)
    blobs = LocalBlobs(tmp_path / "images")
    await blobs.open()
    await blobs.put(record.id, "png", data)
    await blobs.close()
    async with running_gateway(tmp_path) as running:
        port = int(running.base_url.rpartition(":")[2])
        leaving = socket.socket()
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with leaving:
            leaving.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(leaving, ("127.0.0.1", port))
            await loop.sock_sendall(leaving, f"GET /image/{record.id} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await loop.sock_recv(leaving, 64)).startswith(b"HTTP/1.1 200")
    async with running_gateway(tmp_path) as running:  # it stops once every exchange has ended
        assert (await stats(running)).total_views == 0
        assert await view(f"{running.base_url}/image/{record.id}") == 200
        assert (await stats(running)).total_views == 1


async def test_load_time_is_from_the_request_to_the_last_byte(tmp_path: Path) -> None:
    """A viewer who is slow to read has a long load time: in milliseconds, and no longer than it took."""
    data = bytes(16 << 20)
    record = a_record(files=(StoredFile(format="png", sha256="ab" * 32, file_size=len(data)),))
    async with Database(tmp_path) as records:
        await records.add(record)
    blobs = LocalBlobs(tmp_path / "images")
    await blobs.open()
    await blobs.put(record.id, "png", data)
    await blobs.close()
    async with running_gateway(tmp_path) as running:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(running.base_url.rpartition(":")[2]), limit=4096
        )
        started = loop.time()
        writer.write(f"GET /image/{record.id} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        await reader.readexactly(100)
        paused = loop.time()
        await asyncio.sleep(0.05)  # this is what a slow viewer does
        paused_ms = (loop.time() - paused) * 1000
        await reader.read()
        took_ms = (loop.time() - started) * 1000
        writer.close()
        found = await stats(running)
    assert found.total_views == 1
    assert found.avg_load_time is not None
    assert paused_ms <= found.avg_load_time <= took_ms


# Who a viewer is


async def test_viewers_are_told_apart_by_address_and_browser(tmp_path: Path) -> None:
    """The same again is one viewer; another address or another browser is another."""
    async with running_gateway(tmp_path / "data", trusted_proxies=("127.0.0.1",)) as running:
        url = await picture(running)
        for address, browser in [
            ("203.0.113.5", "Firefox"),
            ("203.0.113.5", "Firefox"),
            ("203.0.113.6", "Firefox"),
            ("203.0.113.5", "Safari"),
            ("198.51.100.1, 203.0.113.5", "Firefox"),  # what stands further left is the viewer's invention
        ]:
            assert await view(url, X_Forwarded_For=address, User_Agent=browser) == 200
        found = await stats(running)
    assert (found.total_views, found.unique_viewers) == (5, 3)


async def test_a_viewer_cannot_pretend_to_be_many(gateway: Gateway) -> None:
    """Without trusted proxies the address is that of the connection, whatever headers say."""
    async with gateway as running:
        url = await picture(running)
        for last in range(5):
            await view(url, X_Forwarded_For=f"203.0.113.{last}")
        found = await stats(running)
    assert (found.total_views, found.unique_viewers) == (5, 1)


async def test_an_ipv6_household_is_one_viewer() -> None:
    """Machines change their addresses inside their network of 64 bits."""
    one = viewer(ip_address("2001:db8:1:2:aaaa::1"), b"Firefox")
    assert viewer(ip_address("2001:db8:1:2:bbbb::9"), b"Firefox") == one
    assert viewer(ip_address("2001:db8:1:3:aaaa::1"), b"Firefox") != one
    assert viewer(ip_address("203.0.113.5"), b"Firefox") != viewer(None, b"Firefox")


async def test_one_viewer_of_two_pictures_of_a_campaign_is_one(gateway: Gateway) -> None:
    """Viewers are counted for the campaign, not for each of its pictures."""
    async with gateway as running:
        for seed in (1, 2):
            await view(await picture(running, seed=seed))
        found = await stats(running)
    assert (found.total_views, found.unique_viewers) == (2, 1)


async def test_who_comes_on_two_days_counts_twice(tmp_path: Path) -> None:
    """Nobody is known for longer than a day: the viewers of several days are a sum."""
    who = bytes(32)
    tomorrow = ("main", "summer", TODAY + 1, PICTURE[3])
    async with Database(tmp_path) as records:
        await records.count(a_tally((PICTURE, who), (tomorrow, who)))
        first, second = await records.rows(viewers)
        found = await records.read(partial(view_records.campaign_views, "main", "summer", TODAY, TODAY + 1))
    assert first.viewer != second.viewer
    assert found is not None
    assert analytics.url_stats("summer", found.days, found.groups).unique_viewers == 2


# By day and by metadata


async def test_days_begin_at_midnight_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last microsecond of a day and the first of the next are two days."""
    now = datetime(2026, 6, 15, 23, 59, 59, 999_999, tzinfo=UTC)
    monkeypatch.setattr("blossom_async.gateway.app._now", lambda: now)
    async with running_gateway(tmp_path / "data") as running:
        url = await picture(running)
        await view(url)
        now += timedelta(microseconds=1)
        await view(url)
        found = await stats(running)
    assert [(str(day.date), day.views) for day in found.by_day] == [("2026-06-15", 1), ("2026-06-16", 1)]


@pytest.mark.parametrize(
    ("days", "views_by_day"),
    [
        (("2026-06-14", "2026-06-16"), {"2026-06-14": 1, "2026-06-15": 2, "2026-06-16": 3}),
        (("2026-06-15", "2026-06-15"), {"2026-06-15": 2}),
        (("2026-06-15", "2026-06-16"), {"2026-06-15": 2, "2026-06-16": 3}),
        (("0001-01-01", "2026-06-13"), {}),
        (("2026-06-17", "9999-12-31"), {}),
    ],
)
async def test_both_days_of_a_range_are_included(
    tmp_path: Path, days: tuple[str, str], views_by_day: dict[str, int]
) -> None:
    """The first and the last day are in it, all others are not; days without views are not listed."""
    record = a_record()
    async with Database(tmp_path) as records:
        await records.add(record)
        for back in (-1, 0, 1):
            which = ("main", "summer", TODAY + back, record.id)
            await records.count(a_tally(*[(which, bytes(32))] * (back + 2)))
    async with running_gateway(tmp_path) as running:
        found = await stats(running, "summer", *days)
    assert {str(day.date): day.views for day in found.by_day} == views_by_day
    assert found.total_views == found.by_metadata["variant"]["A"].views == sum(views_by_day.values())


async def test_one_end_of_the_range_is_enough(gateway: Gateway) -> None:
    """``from`` alone has no end, ``to`` alone no beginning."""
    async with gateway as running:
        await view(await picture(running))
        for query, seen in [("from=1999-12-31", 1), ("to=1999-12-31", 0), ("from=9999-12-31", 0)]:
            status, found = await asked(running, f"?tracking_id=summer&{query}")
            assert (status, found["total_views"]) == (200, seen)


async def test_variants_of_a_test_are_told_apart(tmp_path: Path) -> None:
    """Views, viewers and load time of each value of each metadata key, unseen ones included."""
    async with running_gateway(tmp_path / "data", trusted_proxies=("127.0.0.1",)) as running:
        a1 = await picture(running, metadata={"variant": "A", "season": "summer"})
        a2 = await picture(running, metadata={"variant": "A"})
        b = await picture(running, metadata={"variant": "B", "season": "summer"})
        await picture(running, metadata={"variant": "C"})
        await picture(running, metadata={"variant": "A"}, tracking_id="winter")
        for url, last in [(a1, 1), (a1, 2), (a2, 1), (b, 1), (b, 1)]:
            await view(url, X_Forwarded_For=f"203.0.113.{last}")
        found = await stats(running)
    figures = {
        key: {value: (group.views, group.viewers) for value, group in values.items()}
        for key, values in found.by_metadata.items()
    }
    assert figures == {
        "variant": {"A": (3, 2), "B": (2, 1), "C": (0, 0)},
        "season": {"summer": (4, 2)},
    }
    assert found.by_metadata["variant"]["C"].avg_load_time is None
    assert found.by_metadata["variant"]["A"].avg_load_time is not None


async def test_average_load_time_is_of_the_views_it_is_known_of(tmp_path: Path) -> None:
    """A view whose time nobody measured changes no average."""
    tally = Tally()
    for load_us in (1000, 2000, None):
        tally.add(PICTURE, bytes(32), load_us)
    async with Database(tmp_path) as records:
        await records.count(tally)
    async with running_gateway(tmp_path) as running:
        found = await stats(running)
    assert (found.total_views, found.avg_load_time) == (3, 1.5)


# Who may ask, and what


async def test_a_campaign_of_another_tenant_does_not_exist(gateway: Gateway) -> None:
    """Each tenant has campaigns of its own, also under the same name."""
    other = "b" * 20
    key = ApiKey(name="other", tenant="shop", digest=digest(other), created_at=NOON)
    async with gateway as running:
        await view(await picture(running))
        async with Database(running.data_dir) as records:
            await records.write(partial(key_records.add_api_key, key))
        assert (await asked(running, "?tracking_id=summer", other))[0] == 404
        assert (await asked(running, "?tracking_id=summer"))[0] == 200
        assert (await asked(running, "?tracking_id=summer", "c" * 20))[0] == 401


async def test_a_tracking_id_that_no_picture_has_is_not_found(gateway: Gateway) -> None:
    """404, with the name that was asked for; a picture that nobody saw is enough for 200."""
    async with gateway as running:
        await picture(running)
        assert (await stats(running)).total_views == 0
        with pytest.raises(NotFound, match="'winter'"):
            await stats(running, "winter")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "tracking_id"),
        ("?tracking_id=", "tracking_id"),
        ("?tracking_id=a&tracking_id=a", "tracking_id"),
        ("?tracking_id=a&days=7", "days"),
        ("?tracking_id=a&from=yesterday", "from"),
        ("?tracking_id=a&from=", "from"),
        ("?tracking_id=a&from=20260601", "from"),
        ("?tracking_id=a&to=2026-W23-1", "to"),
        ("?tracking_id=a&to=2026-02-30", "to"),
        ("?tracking_id=a&to=0000-01-01", "to"),
        ("?tracking_id=a&from=%D9%A2%D9%A0%D9%A2%D9%A6-06-01", "from"),
        ("?tracking_id=a&from=2026-06-02&to=2026-06-01", "from"),
    ],
)
async def test_a_bad_question_is_refused_with_the_field(gateway: Gateway, query: str, field: str) -> None:
    """422 names what is wrong with it."""
    async with gateway as running:
        status, problem = await asked(running, query)
    assert (status, problem["field"]) == (422, field)


# Deleted pictures


async def test_views_of_a_deleted_picture_stay_without_its_name(gateway: Gateway) -> None:
    """The campaign's figures stay; that they were this picture's, and its metadata, is gone."""
    async with gateway as running:
        kept, gone = [await picture(running, metadata={"variant": name}) for name in "AB"]
        for url in (kept, gone, gone):
            assert await view(url) == 200
        image_id = gone.rpartition("/")[2]
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
            async with session.delete(f"{running.base_url}/v1/images/{image_id}") as response:
                assert response.status == 204
        found = await stats(running)
    assert (found.total_views, found.unique_viewers) == (3, 1)
    assert {value: group.views for value, group in found.by_metadata["variant"].items()} == {"A": 1}
    async with Database(running.data_dir) as records:
        assert image_id not in {
            row.image_id for row in [*await records.rows(views), *await records.rows(viewers)]
        }


async def test_a_view_that_comes_after_the_delete_counts_without_a_name(tmp_path: Path) -> None:
    """A picture may be deleted between its last view and the writing of it."""
    record = a_record()
    async with Database(tmp_path) as records:
        await records.add(record)
        await records.delete(record.id, NOON)
        await records.count(a_tally((("main", "summer", TODAY, record.id), bytes(32))))
        assert [(row.image_id, row.views) for row in await records.rows(views) if row.views] == [("", 1)]
        assert [row.image_id for row in await records.rows(viewers)] == [""]


async def test_a_campaign_stays_known_when_its_unseen_pictures_are_deleted(tmp_path: Path) -> None:
    """Statistics of no views are not the same as no such campaign."""
    record = a_record()
    ask = partial(view_records.campaign_views, "main", "summer", 0, TODAY)
    async with Database(tmp_path) as records:
        await records.add(record)
        await records.write(partial(view_records.fold, record.id))
        await records.delete(record.id, NOON)
        found = await records.read(ask)
    assert found is not None
    assert (found.days, found.groups) == ([], [])


# What is kept of a viewer


async def test_no_address_browser_or_page_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the database nor the log holds who looked, while the gateway runs and afterwards."""
    caplog.set_level(logging.DEBUG)
    told = {
        "X_Forwarded_For": "203.0.113.77",
        "User_Agent": "Strangefox/9",
        "Referer": "https://diary.example/",
    }
    secrets_of_viewers = [b"203.0.113.77", ip_address("203.0.113.77").packed, b"Strangefox", b"diary.example"]

    async with running_gateway(tmp_path / "data", trusted_proxies=("127.0.0.1",)) as running:
        assert await view(await picture(running), **told) == 200
        assert (await stats(running)).unique_viewers == 1
        while_open = files_of(tmp_path / "data")
    for content in [*while_open, *files_of(tmp_path / "data"), caplog.text.encode()]:
        for secret in secrets_of_viewers:
            assert secret not in content


async def test_processes_share_the_salt_of_a_day(tmp_path: Path) -> None:
    """A viewer whom two processes of the gateway have seen is one."""
    async with Database(tmp_path) as one, Database(tmp_path) as other:
        await asyncio.gather(*[records.count(a_tally((PICTURE, bytes(32)))) for records in (one, other)])
        assert len(await one.rows(viewers)) == len(await one.rows(salts)) == 1
        (counted,) = await one.rows(views)
    assert counted.views == 2


async def test_the_hash_is_of_no_use_in_another_campaign_or_tenant(tmp_path: Path) -> None:
    """Nobody can follow a viewer from one campaign to another."""
    others = [("main", "winter", TODAY, "b" * 22), ("mains", "ummer", TODAY, "c" * 22)]
    async with Database(tmp_path) as records:
        await records.count(a_tally(*[(which, bytes(32)) for which in (PICTURE, *others)]))
        hashes = [row.viewer for row in await records.rows(viewers)]
    assert len(set(hashes)) == 3
    assert {len(value) for value in hashes} == {16}


async def test_a_salt_is_thrown_away_after_two_days(tmp_path: Path) -> None:
    """48 hours after it was made, and not before; from then on the old hashes are nobody's."""
    two_days = timedelta(hours=48)
    async with Database(tmp_path) as records:
        await records.count(a_tally((PICTURE, bytes(32))))
        (before,) = await records.rows(salts)
        late = ("main", "summer", TODAY + 2, "a" * 22)
        await records.count(a_tally((late, bytes(32))), NOON + two_days - timedelta(microseconds=1))
        assert before in await records.rows(salts)
        await records.count(a_tally((late, bytes(32))), NOON + two_days)
        assert before not in await records.rows(salts)
        await records.count(a_tally((PICTURE, bytes(32))), NOON + two_days)
        assert len({row.viewer for row in await records.rows(viewers) if row.day == TODAY}) == 2
    assert not [content for content in files_of(tmp_path) if before.salt in content]


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(days=1), timedelta(days=3)])
async def test_a_clock_that_jumps_and_comes_back_loses_no_view(tmp_path: Path, jump: timedelta) -> None:
    """Every view counts, on the day that the clock showed; no salt is kept for longer."""
    async with Database(tmp_path) as records:
        for moment in (NOON, NOON + jump, NOON, NOON - jump, NOON):
            which = ("main", "summer", day_number(moment), "a" * 22)
            await records.count(a_tally((which, bytes(32))), moment)
        assert sum(row.views for row in await records.rows(views)) == 5
        await records.count(a_tally((PICTURE, bytes(32))), NOON + timedelta(hours=49))
        made = {row.made_at for row in await records.rows(salts)}
    assert made == {NOON + timedelta(hours=49)}


# That none is lost, and none waits


async def test_a_clean_stop_loses_no_view(tmp_path: Path) -> None:
    """What was answered before the gateway stopped is in the statistics of the next one."""
    async with running_gateway(tmp_path / "data") as running:
        url = await picture(running)
        await asyncio.gather(*(view(url) for _ in range(20)))
    async with running_gateway(tmp_path / "data") as running:
        assert (await stats(running)).total_views == 20


async def test_fifty_viewers_at_once_are_counted_exactly(tmp_path: Path) -> None:
    """50 viewers, 8 views each, while statistics are asked for: 400 views by 50."""
    async with running_gateway(tmp_path / "data", trusted_proxies=("127.0.0.1",)) as running:
        urls = [await picture(running, metadata={"variant": name}) for name in "AB"]

        async def one(number: int) -> None:
            for turn in range(8):
                await view(urls[turn % 2], X_Forwarded_For=f"203.0.113.{number}")
                if number % 10 == 0:
                    await stats(running)

        await asyncio.gather(*(one(number) for number in range(50)))
        found = await stats(running)
    assert (found.total_views, found.unique_viewers) == (400, 50)
    variants = found.by_metadata["variant"]
    assert {name: (group.views, group.viewers) for name, group in variants.items()} == {
        "A": (200, 50),
        "B": (200, 50),
    }


class Shelf:
    """Keeps tallies, or fails, or waits, as a test says; as with the records, who goes does not stop it."""

    def __init__(self) -> None:
        self.kept = Tally()
        self.failing = False
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.begun = asyncio.Event()

    async def store(self, tally: Tally) -> None:
        await asyncio.shield(asyncio.create_task(self._keep(tally)))

    async def _keep(self, tally: Tally) -> None:
        self.begun.set()
        await self.may_go_on.wait()
        if self.failing:
            raise Overloaded("the disk is full")
        self.kept.merge(tally)

    @property
    def views(self) -> int:
        return sum(counts[0] for counts in self.kept.counts.values())


async def test_what_could_not_be_stored_is_stored_the_next_time() -> None:
    """A failed flush says so and keeps the counts."""
    shelf = Shelf()
    counting = Views(shelf.store)
    counting.add(PICTURE, bytes(32), 1000)
    shelf.failing = True
    with pytest.raises(Overloaded):
        await counting.flush()
    counting.add(PICTURE, bytes(32), 2000)
    shelf.failing = False
    await counting.flush()
    assert shelf.kept.counts == {PICTURE: [2, 2, 3000]}
    await counting.close()


async def test_a_caller_who_goes_in_the_middle_of_a_flush_changes_nothing() -> None:
    """The views are handed over once: not lost, not twice."""
    shelf = Shelf()
    counting = Views(shelf.store)
    counting.add(PICTURE, bytes(32), 1000)
    shelf.may_go_on.clear()
    caller = asyncio.create_task(counting.flush())
    await shelf.begun.wait()
    caller.cancel()
    await asyncio.wait([caller])
    shelf.may_go_on.set()
    await counting.flush()
    assert shelf.views == 1
    await counting.close()


async def test_statistics_wait_for_views_that_are_being_stored() -> None:
    """A flush that has nothing itself waits for the one under way."""
    shelf = Shelf()
    counting = Views(shelf.store)
    counting.add(PICTURE, bytes(32), 1000)
    shelf.may_go_on.clear()
    first = asyncio.create_task(counting.flush())
    await shelf.begun.wait()
    second = asyncio.create_task(counting.flush())
    await asyncio.sleep(0)
    assert not second.done()
    shelf.may_go_on.set()
    await second
    assert shelf.views == 1
    await first
    await counting.close()


async def test_views_are_stored_within_a_second_without_being_asked_for() -> None:
    """One task hands them over, and is gone when there is nothing left."""
    shelf = Shelf()
    counting = Views(shelf.store)
    others = asyncio.all_tasks()
    counting.add(PICTURE, bytes(32), 1000)
    (ticking,) = asyncio.all_tasks() - others
    await asyncio.wait_for(ticking, LIMIT_S)
    assert shelf.views == 1
    assert asyncio.all_tasks() == others


async def test_a_failing_database_is_told_once_and_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has one line of it however long it lasts, and the views are stored when it is over."""
    monkeypatch.setattr(analytics, "_FLUSH_EVERY_S", 0)
    shelf = Shelf()
    shelf.failing = True
    tries = 0

    async def store(tally: Tally) -> None:
        nonlocal tries
        tries += 1
        shelf.failing = tries <= 3
        await shelf.store(tally)

    counting = Views(store)
    others = asyncio.all_tasks()
    counting.add(PICTURE, bytes(32), 1000)
    (ticking,) = asyncio.all_tasks() - others
    await asyncio.wait_for(ticking, LIMIT_S)
    assert (shelf.views, tries) == (1, 4)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_memory_is_bounded_while_the_database_fails() -> None:
    """Beyond the bound new viewers are dropped and counted; those known go on counting."""
    shelf = Shelf()
    counting = Views(shelf.store, most_held=4)
    for number in range(10):
        counting.add(PICTURE, bytes([number]) * 32, 1000)
    counting.add(PICTURE, bytes(32), 1000)
    assert counting.dropped == 7
    await counting.flush()
    assert (shelf.views, len(shelf.kept.seen)) == (4, 3)
    await counting.close()


async def test_what_is_lost_at_the_end_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A database that fails at the stop costs views, and the log says how many."""
    shelf = Shelf()
    shelf.failing = True
    counting = Views(shelf.store)
    for _ in range(3):
        counting.add(PICTURE, bytes(32), 1000)
    await counting.close()
    assert [record.getMessage() for record in caplog.records] == [
        "3 views could not be stored and are lost: the disk is full (503 overloaded)"
    ]


@settings(max_examples=examples(60), deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("view"), st.integers(0, 3), st.integers(0, 3)),
            st.tuples(st.just("flush"), st.booleans(), st.none()),
        ),
        max_size=40,
    )
)
def test_no_view_is_lost_or_counted_twice_whatever_fails(steps: list[tuple[str, Any, Any]]) -> None:
    """Any sequence of views and of flushes that fail or not ends with exactly the views that came."""

    async def play() -> None:
        shelf = Shelf()
        counting = Views(shelf.store)
        came: Counter[tuple[str, str, int, str]] = Counter()
        for step, what, who in steps:
            if step == "view":
                which = ("main", "summer", TODAY, f"{what}")
                counting.add(which, bytes([who]) * 32, 1000)
                came[which] += 1
                continue
            shelf.failing = what
            try:
                await counting.flush()
            except Overloaded:
                assert shelf.failing
        shelf.failing = False
        await counting.close()
        assert {which: counts[0] for which, counts in shelf.kept.counts.items()} == came
        assert {counts[2] // counts[0] for counts in shelf.kept.counts.values()} <= {1000}

    asyncio.run(play())


async def test_json_of_the_statistics_is_what_the_model_says(gateway: Gateway) -> None:
    """Dates as text, averages in milliseconds, every field there."""
    async with gateway as running:
        await view(await picture(running, metadata={"variant": "A"}))
        _, found = await asked(running, "?tracking_id=summer")
    group = {"views": 1, "viewers": 1, "avg_load_time": found["avg_load_time"]}
    assert found == {
        "tracking_id": "summer",
        "total_views": 1,
        "unique_viewers": 1,
        "avg_load_time": found["avg_load_time"],
        "by_day": [{**group, "date": found["by_day"][0]["date"]}],
        "by_metadata": {"variant": {"A": group}},
    }

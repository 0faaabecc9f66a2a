"""``blossom stats``: what it draws, and that a cache's access log is counted once, line by line."""

from __future__ import annotations

import asyncio
import csv
import gzip
import os
import re
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, date, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blossom_async.cli.stats import import_log
from blossom_async.gateway.counting import access_log
from blossom_async.gateway.counting.access_log import (
    BROKEN,
    COUNTED_THERE,
    LOG_FORMAT,
    NO_STATUS,
    NO_VIEW,
    NOT_TRACKED,
    SPECULATIVE,
    Hit,
    read_line,
)
from blossom_async.gateway.counting.analytics import day_number, viewer
from tests.cli.test_cli import Ended, blossom, refused
from tests.conftest import RunningGateway, running_gateway
from tests.gateway.counting.test_analytics import Database, a_record, stats, view

WHEN = "22/Nov/2026:13:00:07 +0000"
DAY = day_number(datetime(2026, 11, 22, tzinfo=UTC))
ID = "a" * 22


def line(
    path: str = f"/image/{ID}",
    *,
    method: str = "GET",
    status: int = 200,
    address: str = "203.0.113.5",
    when: str = WHEN,
    agent: str = "Firefox",
    cache: str = " 0.250 HIT",
) -> str:
    """A line as nginx writes it; ``cache`` is what follows the format "combined"."""
    request = f'"{method} {path} HTTP/1.1"'
    return f'{address} - - [{when}] {request} {status} 120000 "-" "{agent}"{cache}\n'


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder with a tracked picture of the id ``ID`` and one without tracking id."""

    async def store() -> None:
        async with Database(tmp_path / "data") as records:
            await records.add(a_record(id=ID))
            await records.add(a_record(None, id="u" * 22))

    asyncio.run(store())
    return tmp_path / "data"


def imported(log: Path, *options: object) -> dict[str, Any]:
    """What the command says of a log, with the data folder from the environment."""
    ran = blossom("stats", "import", log, "--json", *options)
    assert (ran.status, ran.stderr) == (0, "")
    told: dict[str, Any] = orjson.loads(ran.stdout)
    return told


def counted(data_dir: Path) -> list[tuple[int, int, int, int]]:
    """Day, views, loads and microseconds of load time, as they stand in the database."""
    with closing(sqlite3.connect(data_dir / "records.sqlite")) as database:
        return database.execute("SELECT day, views, loads, load_us FROM views ORDER BY day").fetchall()


def viewers(data_dir: Path) -> int:
    with closing(sqlite3.connect(data_dir / "records.sqlite")) as database:
        count: int = database.execute("SELECT count(*) FROM viewers").fetchone()[0]
        return count


async def shown(running: RunningGateway, *options: object, **env: str) -> Ended:
    """What ``blossom stats`` says of a gateway of this loop."""
    settings = {"BLOSSOM_BASE_URL": running.base_url, "BLOSSOM_API_KEY": running.api_key, "COLUMNS": "80"}
    return await asyncio.to_thread(blossom, "stats", *options, **settings, **env)


async def a_campaign(running: RunningGateway, **metadata: str) -> None:
    """Three views by two viewers."""
    async with running.client() as client:
        url = await client.image.generate_url(
            "x", width=32, height=32, tracking_id="summer", metadata=metadata
        )
    for last in (1, 1, 2):
        assert await view(url, X_Forwarded_For=f"203.0.113.{last}") == 200


# Showing


async def test_stats_draws_totals_days_and_metadata(tmp_path: Path) -> None:
    """A sentence, a bar for each day, and a table for each metadata key, within 80 columns."""
    async with running_gateway(tmp_path / "data", trusted_proxies=("127.0.0.1",)) as running:
        await a_campaign(running, variant="A", text="a very long value " * 10)
        ran = await shown(running, "summer")
    assert (ran.status, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert re.fullmatch(r"summer: 3 views by 2 viewers, [\d.,]+ ms to load on average", lines[0])
    assert re.search(r"^\d{4}-\d\d-\d\d +3 +2 +[\d.,]+ ms +█+ *$", ran.stdout, re.MULTILINE)
    assert re.search(r"^variant +views +viewers +load *$", ran.stdout, re.MULTILINE)
    assert re.search(r"^A +3 +2 +[\d.,]+ ms +█+ *$", ran.stdout, re.MULTILINE)
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in ran.stdout


async def test_days_without_views_are_not_passed_over(tmp_path: Path, data_dir: Path) -> None:
    """Between two days that are not neighbours stands how many had no views."""
    log = tmp_path / "access.log"
    log.write_text(line(when="01/Nov/2026:10:00:00 +0000") + line(when="05/Nov/2026:10:00:00 +0000") * 2)
    assert (await asyncio.to_thread(imported, log))["views"] == 3
    async with running_gateway(data_dir) as running:
        ran = await shown(running, "summer")
        part = await shown(running, "summer", "--from", "2026-11-02", "--to", "2026-11-05")
    days = [words[0] for text in ran.stdout.splitlines() if (words := text.split()) and "2026" in words[0]]
    assert days == ["2026-11-01", "2026-11-05"]
    assert "  3 days without" in ran.stdout
    assert part.stdout.startswith("summer: 2 views by 1 viewer, 250 ms")
    assert "2026-11-01" not in part.stdout


async def test_a_terminal_without_blocks_gets_plain_bars(tmp_path: Path) -> None:
    """Where the output is ASCII, so are the bars."""
    async with running_gateway(tmp_path / "data") as running:
        await a_campaign(running)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "blossom_async.cli", "stats", "summer"),
            env={
                **os.environ,
                "BLOSSOM_BASE_URL": running.base_url,
                "BLOSSOM_API_KEY": running.api_key,
                "PYTHONIOENCODING": "ascii",
            },
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert b"####" in out


async def test_stats_as_json_is_what_the_gateway_says(tmp_path: Path) -> None:
    """``--json`` for programs."""
    async with running_gateway(tmp_path / "data") as running:
        await a_campaign(running, variant="A")
        ran = await shown(running, "summer", "--json")
        found = await stats(running)
    told = orjson.loads(ran.stdout)
    assert (told["total_views"], told["by_metadata"]["variant"]["A"]["views"]) == (3, 3)
    assert date.fromisoformat(told["by_day"][0]["date"]) == found.by_day[0].date


@pytest.mark.parametrize("value", ['=HYPERLINK("https://evil.example")', "+1", "-1", "@SUM(A1)"])
async def test_csv_holds_no_formula(tmp_path: Path, value: str) -> None:
    """What a spreadsheet would run is a text in it, and can still be read."""
    async with running_gateway(tmp_path / "data") as running:
        await a_campaign(running, variant=value)
        ran = await shown(running, "summer", "--csv")
    head, total, day, group = csv.reader(ran.stdout.splitlines())
    assert head == ["group", "key", "value", "views", "viewers", "avg_load_time_ms"]
    assert total[:5] == ["total", "", "", "3", "1"]
    assert (day[0], day[3]) == ("day", "3")
    assert group[:4] == ["metadata", "variant", f"'{value}", "3"]


async def test_stats_of_an_unknown_campaign_is_an_error(tmp_path: Path) -> None:
    """Status 2 and one line that says what was not found."""
    async with running_gateway(tmp_path / "data") as running:
        ran = await shown(running, "winter")
    assert (ran.status, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert "'winter'" in ran.stderr


def test_a_bad_day_is_refused_before_anything_starts() -> None:
    """It names the option and what is allowed."""
    refused("stats", "summer", "--from", "June", says="--from.*'June' is not a date; allowed: .*2026-06-01")
    refused("stats", "summer", "--json", "--csv", says="exclude each other")


async def test_a_campaign_may_be_called_import(tmp_path: Path) -> None:
    """After ``--`` the word is a tracking id."""
    async with running_gateway(tmp_path / "data") as running:
        ran = await shown(running, "--", "import")
    assert "no pictures with the tracking_id 'import'" in ran.stderr


# What a line says


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (line(cache=" 0.250 MISS"), COUNTED_THERE),
        (line(cache=" 0.250 EXPIRED"), COUNTED_THERE),
        (line(cache=" 0.250 BYPASS"), COUNTED_THERE),
        (line(cache=" 0.250 -"), COUNTED_THERE),
        (line(cache=""), NO_STATUS),
        (line(cache=' 0.250 HIT "prefetch"'), SPECULATIVE),
        (line(method="HEAD"), NO_VIEW),
        (line(method="POST"), NO_VIEW),
        (line(status=304), NO_VIEW),
        (line(status=206), NO_VIEW),
        (line(status=403), NO_VIEW),
        (line("/"), NO_VIEW),
        (line("/v1/images"), NO_VIEW),
        (line(f"/image/{ID}x"), NO_VIEW),
        (line(f"/image/{ID}.png"), NO_VIEW),
        (line(f"/image/{ID}/w1"), NO_VIEW),
        (line(f"/generated/{ID}"), NO_VIEW),
        (line(f"/generated/{ID}.exe"), NO_VIEW),
        (line(when="31/Feb/2026:13:00:07 +0000"), BROKEN),
        (line(when="22/Foo/2026:13:00:07 +0000"), BROKEN),
        (line(when="22/Nov/2026"), BROKEN),
        (line()[:-40] + "\n", BROKEN),
        ("\n", BROKEN),
        ("\x00\xff\n", BROKEN),
        ('{"status": 200}\n', BROKEN),
    ],
)
def test_lines_that_are_no_views(text: str, why: str) -> None:
    """Each is left out for the reason that is reported."""
    assert read_line(text.encode("latin-1")) == why


@pytest.mark.parametrize("cache", ["HIT", "STALE", "UPDATING", "REVALIDATED"])
def test_what_the_cache_answered_itself_is_a_view(cache: str) -> None:
    """Which picture, which day, who, and the time nginx took."""
    who = viewer(ip_address("203.0.113.5"), b"Firefox")
    hit = Hit(ID, DAY, who, 12_000)
    assert read_line(line(cache=f" 0.012 {cache}").encode()) == hit
    assert read_line(line(cache=f' 0.012 {cache} "-"').encode()) == hit


@pytest.mark.parametrize(
    "path",
    [
        f"/image/{ID}?exp=1&sig=abc",
        f"/generated/{ID}.png",
        f"/generated/{ID}.auto?exp=1&sig=abc",
        f"/image/{ID}/w640",
        f"/generated/{ID}/w320.webp?v=2",
        f"/pictures/generated/{ID}.jpg",  # a cdn_prefix with a path
    ],
)
def test_every_form_of_a_url_is_known(path: str) -> None:
    """Signed, under a CDN's prefix, in any format and width."""
    hit = read_line(line(path).encode())
    assert isinstance(hit, Hit)
    assert hit.image_id == ID


@pytest.mark.parametrize(
    ("when", "day"),
    [
        ("22/Nov/2026:00:30:00 +0100", DAY - 1),
        ("22/Nov/2026:23:59:59 +0000", DAY),
        ("22/Nov/2026:23:30:00 -0130", DAY + 1),
        ("22/Nov/2026:05:29:59 +0530", DAY - 1),
        ("22/Nov/2026:05:30:00 +0530", DAY),
        ("01/Jan/2027:00:00:00 +0000", DAY + 40),
    ],
)
def test_the_day_is_that_of_utc(when: str, day: int) -> None:
    """The log's offset counts."""
    hit = read_line(line(when=when).encode())
    assert isinstance(hit, Hit)
    assert hit.day == day


@pytest.mark.parametrize(
    ("logged", "sent"),
    [
        ("-", b""),
        ("Mozilla/5.0 (X11)", b"Mozilla/5.0 (X11)"),
        (r"say \x22hi\x22 \x5C", rb'say "hi" ' + b"\\"),
        (r"caf\xC3\xA9", "café".encode()),
    ],
)
def test_the_browser_is_what_the_gateway_would_have_seen(logged: str, sent: bytes) -> None:
    """So that a viewer whom both have seen is one: nginx escapes some bytes."""
    hit = read_line(line(agent=logged).encode())
    assert isinstance(hit, Hit)
    assert hit.who == viewer(ip_address("203.0.113.5"), sent)


def test_a_user_name_cannot_forge_a_line() -> None:
    """What a viewer gives as name or browser stands in no other field; nginx escapes quotes."""
    forged = line().replace(" - - [", f" - x [{WHEN}] [")
    assert isinstance(read_line(forged.encode()), Hit)
    forged = line(status=404, agent=r"x\x22 200 1 \x22-\x22 \x22Firefox\x22 0.1 HIT", cache=" 0.1 MISS")
    assert read_line(forged.encode()) == NO_VIEW


@given(st.binary(max_size=200), st.integers(0, len(line())), st.integers(0, len(line())))
def test_no_line_is_fatal(noise: bytes, start: int, stop: int) -> None:
    """Any bytes, also in the middle of a good line, are a view or a reason."""
    good = line().encode()
    for text in (noise, good[:start] + noise + good[stop:]):
        hit = read_line(text, every=True)
        assert isinstance(hit, Hit) or hit in {BROKEN, NO_VIEW, SPECULATIVE}


# Importing


def test_import_says_what_became_of_every_line(tmp_path: Path, data_dir: Path) -> None:
    """Views by day with nginx's time as load time; the rest by reason; the sum is the number of lines."""
    log = tmp_path / "access.log"
    log.write_text(
        line()
        + line(f"/generated/{ID}.png", address="203.0.113.6", cache=" 0.750 STALE")
        + line(when="23/Nov/2026:00:00:00 +0000")
        + line(cache=" 0.100 MISS") * 2
        + line(f"/image/{'u' * 22}")
        + line(f"/image/{'x' * 22}")
        + line(method="HEAD")
        + "nonsense\n"
    )
    told = imported(log)
    assert told == {
        "lines": 9,
        "views": 3,
        "skipped": {COUNTED_THERE: 2, NOT_TRACKED: 2, NO_VIEW: 1, BROKEN: 1},
    }
    assert counted(data_dir) == [(DAY, 2, 2, 1_000_000), (DAY + 1, 1, 1, 250_000)]
    assert viewers(data_dir) == 3


def test_import_tells_it_to_people_too(tmp_path: Path, data_dir: Path) -> None:
    """Without ``--json``: a line of what was counted, and one for each reason."""
    log = tmp_path / "access.log"
    log.write_text(line() + line(cache=" 0.100 MISS") * 2)
    ran = blossom("stats", "import", log)
    assert ran.stdout == f"3 new lines, 1 view counted\n  2 {COUNTED_THERE}\n"
    assert (ran.status, ran.stderr) == (0, "")


def test_the_same_log_counts_once(tmp_path: Path, data_dir: Path) -> None:
    """Again, it has no new lines; grown, only those; renamed or packed it is the same log."""
    log = tmp_path / "access.log"
    log.write_text(line() * 3)
    assert imported(log)["views"] == 3
    assert imported(log) == {"lines": 0, "views": 0, "skipped": {}}
    with log.open("a") as more:
        more.write(line() * 2)
    assert imported(log)["views"] == 2
    rotated = log.rename(tmp_path / "access.log.1")
    with rotated.open("a") as more:
        more.write(line())
    assert imported(rotated)["views"] == 1
    packed = tmp_path / "access.log.2.gz"
    packed.write_bytes(gzip.compress(rotated.read_bytes() + line().encode()))
    assert imported(packed)["views"] == 1
    log.write_text(line(address="203.0.113.9") * 4)  # the one after the rotation
    assert imported(log)["views"] == 4
    assert counted(data_dir) == [(DAY, 11, 11, 2_750_000)]


def test_a_line_that_is_being_written_waits_for_its_end(tmp_path: Path, data_dir: Path) -> None:
    """Only complete lines count, and each once."""
    log = tmp_path / "access.log"
    for part in (line()[:50], line()[50:], line()[:-1], "\n"):
        with log.open("a") as more:
            more.write(part)
        imported(log)
    assert counted(data_dir) == [(DAY, 2, 2, 500_000)]


def test_a_log_without_cache_status_is_refused(tmp_path: Path, data_dir: Path) -> None:
    """Its views would count twice; the message says how to log and what ``--all`` means."""
    log = tmp_path / "access.log"
    log.write_text("nonsense\n" + line(method="HEAD", cache="") + line(cache="") * 2)
    refused("stats", "import", log, says=r"would count twice; .*upstream_cache_status.*--all")
    assert counted(data_dir) == []
    assert imported(log, "--all")["views"] == 2
    assert counted(data_dir) == [(DAY, 2, 0, 0)]


def test_all_counts_what_the_gateway_answered_too(tmp_path: Path, data_dir: Path) -> None:
    """For the time when the gateway itself counted nothing."""
    log = tmp_path / "access.log"
    log.write_text(line() + line(cache=" 0.100 MISS") + line(cache=""))
    assert imported(log, "--all")["views"] == 3
    assert counted(data_dir) == [(DAY, 3, 2, 350_000)]


def test_a_log_that_became_shorter_is_refused(tmp_path: Path, data_dir: Path) -> None:
    """Where the counted lines ended is no longer known."""
    log = tmp_path / "access.log"
    log.write_text(line() * 3)
    imported(log)
    log.write_text(line() * 2)
    refused("stats", "import", log, says="imported before, and it is shorter now")
    assert counted(data_dir) == [(DAY, 3, 3, 750_000)]


def test_a_packed_log_that_is_cut_counts_up_to_there(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is counted and said, and the whole log later adds the rest."""
    monkeypatch.setattr(access_log, "_VIEWS_AT_ONCE", 10)
    lines = "".join(line(agent=f"browser {number * 7919 % 1000}") for number in range(400))
    whole = gzip.compress(lines.encode())
    log = tmp_path / "access.log.gz"
    log.write_bytes(whole[: len(whole) // 2])
    refused("stats", "import", log, says=r"cannot be read after [\d,]+ lines, which were counted")
    ((_, views, _, _),) = counted(data_dir)
    assert 0 < views < 400
    log.write_bytes(whole)
    assert imported(log)["views"] == 400 - views
    assert counted(data_dir)[0][1] == 400


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_log_is_read_in_parts(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """However many lines and views are taken at once, the figures are the same."""
    monkeypatch.setattr(access_log, "_VIEWS_AT_ONCE", size)
    monkeypatch.setattr(access_log, "_LINES_AT_ONCE", size + 1)
    log = tmp_path / "access.log"
    log.write_text("".join(line(agent=f"{number % 6}") + line(status=404) for number in range(25)))
    assert imported(log) == {"lines": 50, "views": 25, "skipped": {NO_VIEW: 25}}
    assert (counted(data_dir), viewers(data_dir)) == ([(DAY, 25, 25, 6_250_000)], 6)


def test_a_line_too_long_for_memory_is_one_broken_line(tmp_path: Path, data_dir: Path) -> None:
    """It is passed over piece by piece, and the position behind it is right."""
    log = tmp_path / "access.log"
    log.write_text(line() + line(agent="x" * 300_000) + line())
    assert imported(log) == {"lines": 3, "views": 2, "skipped": {BROKEN: 1}}
    assert imported(log)["lines"] == 0


def test_imports_of_one_log_at_once_count_it_once(tmp_path: Path, data_dir: Path) -> None:
    """The second gives way; no line counts twice."""
    log = tmp_path / "access.log"
    log.write_text(line() * 2000)

    async def both() -> list[Any]:
        async with Database(data_dir) as one, Database(data_dir) as other:
            two = [
                access_log.import_log(log, records, now=lambda: datetime.now(UTC)) for records in (one, other)
            ]
            return await asyncio.gather(*two, return_exceptions=True)

    done = asyncio.run(both())
    assert counted(data_dir)[0][1] == 2000
    assert all(getattr(one, "code", "import_under_way") == "import_under_way" for one in done)


async def test_a_viewer_whom_cache_and_gateway_saw_is_one(tmp_path: Path) -> None:
    """Beside a running gateway, whose next statistics have the views of the log in them."""
    async with running_gateway(tmp_path / "data", trusted_proxies=("127.0.0.1",)) as running:
        async with running.client() as client:
            info = await client.image.generate_url_with_info("x", width=32, height=32, tracking_id="summer")
        await view(info.url, X_Forwarded_For="203.0.113.5", User_Agent='Fire"fox')
        log = tmp_path / "access.log"
        today = datetime.now(UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
        both = [line(f"/image/{info.id}", when=today, agent=name) for name in (r"Fire\x22fox", "Safari")]
        await asyncio.to_thread(log.write_text, "".join(both))
        assert (await asyncio.to_thread(imported, log))["views"] == 2
        found = await stats(running)
    assert (found.total_views, found.unique_viewers) == (3, 2)


def test_a_log_leaves_no_address_in_the_database(tmp_path: Path, data_dir: Path) -> None:
    """As with viewers of the gateway itself: a keyed hash is all there is."""
    log = tmp_path / "access.log"
    log.write_text(line(agent="Strangefox/9"))
    imported(log)
    assert viewers(data_dir) == 1
    for path in data_dir.iterdir():
        if path.is_file():
            for secret in (b"203.0.113.5", ip_address("203.0.113.5").packed, b"Strangefox"):
                assert secret not in path.read_bytes()


def test_what_cannot_be_imported_is_said(tmp_path: Path, data_dir: Path) -> None:
    """No such log, no log at all, no such data folder: one line, status 2."""
    refused("stats", "import", tmp_path / "none.log", says="none.log cannot be read: No such file")
    refused("stats", "import", tmp_path, says="cannot be read: Is a directory")
    (tmp_path / "bad.gz").write_bytes(b"\x1f\x8b not gzip")
    refused("stats", "import", tmp_path / "bad.gz", says="bad.gz cannot be read: ")
    log = tmp_path / "access.log"
    log.write_text(line())
    refused("stats", "import", log, "--data-dir", tmp_path / "no", says="no such file; .*--data-dir")


def test_an_empty_log_has_no_lines(tmp_path: Path, data_dir: Path) -> None:
    """Nothing to count is no error."""
    log = tmp_path / "access.log"
    log.write_text("")
    assert imported(log) == {"lines": 0, "views": 0, "skipped": {}}
    log.write_text(line())
    assert imported(log)["views"] == 1


def test_the_log_format_of_the_help_is_the_one_that_is_read() -> None:
    """What people copy out of the help is what the import understands."""
    help_text = import_log.help or ""
    shown_format = "".join(re.findall(r"'([^']*)'", help_text.partition("log_format")[2]))
    assert shown_format == LOG_FORMAT
    values = {
        "remote_addr": "203.0.113.5", "remote_user": "-", "time_local": WHEN, "status": "200",
        "request_method": "GET", "uri": f"/image/{ID}", "server_protocol": "HTTP/2.0",
        "body_bytes_sent": "5", "http_referer": "-",
        "http_user_agent": "Firefox", "request_time": "0.250", "upstream_cache_status": "HIT",
        "http_sec_purpose": "-",
    }  # fmt: skip
    text = re.sub(r"\$(\w+)", lambda name: values[name[1]], LOG_FORMAT)
    assert isinstance(read_line(f"{text}\n".encode()), Hit)

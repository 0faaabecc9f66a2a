"""Counts the views in an access log of nginx: those its cache answered, which the gateway never saw."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO, cast

import attrs

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.counting.analytics import Tally, day_number, is_speculative, viewer
from blossom_async.gateway.http.addresses import client_address
from blossom_async.gateway.storage.records import Records
from blossom_async.gateway.storage.records import views as view_records
from blossom_async.models import FORMATS, IMAGE_ID, WIDTH

__all__ = ["LOG_FORMAT", "Hit", "Imported", "import_log", "read_line"]

LOG_FORMAT = (
    '$remote_addr - $remote_user [$time_local] "$request_method $uri $server_protocol" $status '
    '$body_bytes_sent "$http_referer" "$http_user_agent" $request_time $upstream_cache_status '
    '"$http_sec_purpose"'
)
"""The ``log_format`` for nginx: its format "combined" without the signatures in ``$request``, and three more
fields, of which the last may be missing."""

_VIEWS_AT_ONCE = 5000  # in one transaction; it blocks a running gateway for some hundredths of a second
_LINES_AT_ONCE = 50_000
_MAX_LINE = 64 << 10
_CACHED = {b"HIT", b"STALE", b"UPDATING", b"REVALIDATED"}
_QUOTED = rb'"((?:[^"\\]|\\.)*)"'
_LINE = re.compile(
    rb"(\S+) \S+ .*?\[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d):\d\d ([+-]\d{4})\] "
    + _QUOTED
    + rb" (\d{3}) (?:\d+|-) "
    + rb" ".join((_QUOTED, _QUOTED))
    + rb"(?: (\d+\.\d+) ([A-Z]+|-)(?: "
    + _QUOTED
    + rb")?)?\r?\n",
    re.DOTALL,
)
_PICTURE = re.compile(
    rf"GET \S*/(?:image/({IMAGE_ID})(?:{WIDTH})?"
    rf"|generated/({IMAGE_ID})(?:{WIDTH})?\.(?:{'|'.join((*FORMATS, 'auto'))}))"
    r"(?:\?\S*)? HTTP/[\d.]+".encode("ascii")
)
_ESCAPED = re.compile(rb'\\(?:x([0-9A-Fa-f]{2})|(["\\]))')
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")

BROKEN = "not in the log format"
NO_VIEW = "not a GET of a picture answered with 200"
SPECULATIVE = "fetched before anyone looked"
NO_STATUS = "without a cache status"
COUNTED_THERE = "answered and counted by the gateway"
NOT_TRACKED = "of pictures that are untracked, deleted or unknown"


@attrs.frozen
class Hit:
    """A view in the log: picture, day (number of days since 1970, UTC), viewer and load time."""

    image_id: str
    day: int
    who: bytes
    load_us: int | None


@attrs.define
class _Read:
    bytes: int = 0
    lines: int = 0
    hits: list[Hit] = attrs.field(factory=list)
    skipped: Counter[str] = attrs.field(factory=Counter)


@attrs.define
class Imported:
    """What became of the new lines of a log; ``skipped`` has the reasons."""

    lines: int = 0
    views: int = 0
    skipped: Counter[str] = attrs.field(factory=Counter)


def read_line(line: bytes, *, every: bool = False) -> Hit | str:
    """The view in a line, or why the line is skipped.

    With ``every`` views that the gateway answered are counted, too.
    """
    found = _LINE.fullmatch(line)
    if found is None:
        return BROKEN
    address, minute, offset, request, status, _, agent, seconds, cache, purpose = found.groups()
    picture = _PICTURE.fullmatch(request)
    if picture is None or status != b"200":
        return NO_VIEW
    if purpose is not None and is_speculative({"Sec-Purpose": purpose.decode("latin-1")}):
        return SPECULATIVE
    if not every and cache not in _CACHED:
        return NO_STATUS if cache is None else COUNTED_THERE
    try:
        day = _day(minute, offset)
    except ValueError:
        return BROKEN
    who = viewer(client_address(address.decode("latin-1"), (), ()), _unescaped(agent))
    load_us = None if seconds is None else round(float(seconds) * 1_000_000)
    return Hit((picture[1] or picture[2]).decode("ascii"), day, who, load_us)


async def import_log(
    path: Path, records: Records, *, every: bool = False, now: Callable[[], datetime]
) -> Imported:
    """Counts the views in the lines added since the last import of this log.

    A log is recognised by its first line, so it may be renamed or compressed with gzip in between. An
    incomplete last line is left for the next import. Raises ``ConfigurationError`` for a log that cannot be
    read, has no cache status in its lines, or has become shorter; ``Conflict`` if two processes import it at
    the same time; and what ``Records`` raises. Views counted before an error stay counted, once.
    """
    done = Imported()
    try:
        with _opened(path) as log:
            first = log.readline(_MAX_LINE)
            name = hashlib.sha256(first).digest()
            start = await records.read(partial(view_records.imported_up_to, name))
            log.seek(max(0, start - 1))
            if start and log.read(1) != b"\n":
                raise ConfigurationError(
                    f"{path}: its first {start:,} bytes were imported before, and it is shorter now; "
                    "import the log it was cut from, or the one that continues it"
                )
            while (read := _read(log, every=every)).lines:
                unclear = read.skipped[NO_STATUS]
                if unclear and not (done.lines or read.hits or read.skipped[COUNTED_THERE]):
                    raise ConfigurationError(
                        f"{path}: its lines do not say whether the cache or the gateway answered, so views "
                        f"would count twice; set nginx's log_format to {LOG_FORMAT!r}, or pass --all if "
                        "the gateway has counted none of them"
                    )
                stop = start + read.bytes
                tally = await _tally(read.hits, records)
                counted = sum(count[0] for count in tally.counts.values())
                store = partial(view_records.store_imported, name, start, stop, tally.counts, tally.seen)
                await records.write(partial(store, now()))
                start = stop
                done.lines += read.lines
                done.views += counted
                done.skipped += read.skipped
                done.skipped[NOT_TRACKED] += len(read.hits) - counted
            return done
    except (OSError, EOFError, zlib.error) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        after = f" after {done.lines:,} lines, which were counted" if done.lines else ""
        raise ConfigurationError(f"access log {path} cannot be read{after}: {reason}") from exc


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"  # RFC 1952, 2.3.1
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.open(file) as log:
            yield cast(BinaryIO, log)


def _read(log: BinaryIO, *, every: bool) -> _Read:
    read = _Read()
    while len(read.hits) < _VIEWS_AT_ONCE and read.lines < _LINES_AT_ONCE:
        line = log.readline(_MAX_LINE)
        size = len(line)
        while line and not line.endswith(b"\n"):  # too long, or incomplete
            line = log.readline(_MAX_LINE)
            size += len(line)
        if not line:
            break
        read.bytes += size
        read.lines += 1
        hit = read_line(line, every=every) if size == len(line) else BROKEN
        if isinstance(hit, Hit):
            read.hits.append(hit)
        else:
            read.skipped[hit] += 1
    return read


async def _tally(hits: Sequence[Hit], records: Records) -> Tally:
    ids = {hit.image_id for hit in hits}
    campaigns = await records.read(partial(view_records.campaigns, ids))
    tally = Tally()
    for hit in hits:
        if hit.image_id in campaigns:
            tenant, tracking_id = campaigns[hit.image_id]
            tally.add((tenant, tracking_id, hit.day, hit.image_id), hit.who, hit.load_us)
    return tally


@lru_cache(maxsize=4096)
def _day(minute: bytes, offset: bytes) -> int:
    day, month, year, hour, past = re.split(rb"[/:]", minute)
    local = datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(past), tzinfo=UTC)
    ahead = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))
    return day_number(local + ahead if offset.startswith(b"-") else local - ahead)


def _unescaped(text: bytes) -> bytes:
    """What the viewer sent. nginx writes some bytes as \\xXX, and a hyphen for a missing header."""
    if text == b"-":
        return b""
    return _ESCAPED.sub(_byte, text) if b"\\" in text else text


def _byte(found: re.Match[bytes]) -> bytes:
    return found[2] if found[1] is None else bytes([int(found[1], 16)])

"""Counts views: what a view is, a buffer that keeps counting off the path of requests, and statistics.

A view is a GET that is answered with 200 and the whole picture, to its last byte. HEAD, 304, range requests,
and what a browser fetches before anyone looks (prefetch, prerender) are not views.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from ipaddress import IPv4Address, IPv6Address

import attrs
from multidict import istr

from blossom_async.errors import InvalidRequest
from blossom_async.models import DayStats, GroupStats, UrlStats

__all__ = ["Tally", "Views", "asked_for", "day_number", "is_speculative", "url_stats", "viewer"]

Picture = tuple[str, str, int, str]
"""Tenant, tracking id, day (number of days since 1970 in UTC) and picture id."""

_FLUSH_EVERY_S = 1.0
_MOST_HELD = 100_000
_SPECULATIVE_HEADERS = tuple(map(istr, ("Sec-Purpose", "Purpose", "X-Moz")))  # istr: faster to look up
_SPECULATIVE = re.compile("prefetch|prerender|preview", re.IGNORECASE)
_EPOCH = date(1970, 1, 1).toordinal()
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_FIRST_DAY = date.min.toordinal() - _EPOCH
_LAST_DAY = date.max.toordinal() - _EPOCH

_log = logging.getLogger("blossom_async.gateway")


@attrs.define
class Tally:
    """Views that are not in the database yet.

    ``counts`` holds for each picture and day the number of views, the number of those with a load time, and
    the sum of their load times in microseconds. ``seen`` says who has seen it: hashes made by ``viewer``.
    """

    counts: dict[Picture, list[int]] = attrs.field(factory=dict)
    seen: set[tuple[Picture, bytes]] = attrs.field(factory=set)

    def __len__(self) -> int:
        return len(self.counts) + len(self.seen)

    def add(self, picture: Picture, who: bytes, load_us: int | None) -> None:
        """Counts one view; ``load_us`` is None if it was not measured."""
        counts = self.counts.setdefault(picture, [0, 0, 0])
        counts[0] += 1
        if load_us is not None:
            counts[1] += 1
            counts[2] += load_us
        self.seen.add((picture, who))

    def merge(self, other: Tally) -> None:
        """Adds the views of another tally."""
        for picture, more in other.counts.items():
            counts = self.counts.setdefault(picture, [0, 0, 0])
            counts[:] = [mine + theirs for mine, theirs in zip(counts, more, strict=True)]
        self.seen |= other.seen


class Views:
    """Counts views in memory and passes them to ``store`` about once a second.

    ``store`` stores a tally durably or raises; then its views are in the next tally. While it fails, views
    beyond about 100,000 pictures and viewers are dropped; ``dropped`` counts them.
    """

    def __init__(self, store: Callable[[Tally], Awaitable[None]], *, most_held: int = _MOST_HELD) -> None:
        self._store = store
        self._most_held = most_held
        self._tally = Tally()
        self._storing = asyncio.Lock()
        self._ticking: asyncio.Task[None] | None = None  # while there is something to hand over
        self.dropped: int = 0

    def add(self, picture: Picture, who: bytes, load_us: int) -> None:
        """Counts one view without waiting."""
        tally = self._tally
        if (picture, who) not in tally.seen and len(tally) >= self._most_held:
            self.dropped += 1
            return
        tally.add(picture, who, load_us)
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick())

    async def flush(self) -> None:
        """Stores all views counted so far. Raises what ``store`` raises; then nothing is lost."""
        if self._tally or self._storing.locked():
            storing = asyncio.create_task(self._hand_over())
            storing.add_done_callback(_seen)
            await asyncio.shield(storing)  # cancelled midway, views could be lost or counted twice

    async def close(self) -> None:
        """Flushes for the last time. What cannot be stored is lost, and the log says how many views."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
        try:
            await self.flush()
        except Exception as exc:  # noqa: BLE001 - the gateway ends: this is the last chance to report it
            lost = sum(counts[0] for counts in self._tally.counts.values())
            _log.error("%d views could not be stored and are lost: %s", lost, exc)

    async def _tick(self) -> None:
        told = False
        while self._tally:
            await asyncio.sleep(_FLUSH_EVERY_S)
            try:
                await self.flush()
                told = False
            except Exception as exc:  # noqa: BLE001 - the border of the task: logged once, and tried again
                if not told:
                    _log.warning("views could not be stored; the next try includes them: %s", exc)
                told = True
        self._ticking = None

    async def _hand_over(self) -> None:
        async with self._storing:
            if not self._tally:
                return
            taken, self._tally = self._tally, Tally()
            try:
                await self._store(taken)
            except BaseException:
                self._tally.merge(taken)
                raise


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # retrieved, even if every waiter was cancelled


def is_speculative(headers: Mapping[str, str]) -> bool:
    """Whether the request says that nobody looks at the picture yet, as prefetches and warm-ups do."""
    for name in _SPECULATIVE_HEADERS:  # noqa: SIM110 - any() takes twice as long, on every view
        if name in headers and _SPECULATIVE.search(headers[name]):
            return True
    return False


def viewer(address: IPv4Address | IPv6Address | None, user_agent: bytes) -> bytes:
    """A hash of the viewer, to be kept in memory only: the database gets a keyed hash of it.

    Of an IPv6 address only the first 64 bits count: they name a household, whose machines change the rest
    every day.
    """
    packed = b"" if address is None else address.packed
    if len(packed) == 16:
        packed = packed[:8]
    return hashlib.sha256(bytes([len(packed)]) + packed + user_agent).digest()


def day_number(when: datetime) -> int:
    """The day of an aware UTC time, as the number of days since 1970."""
    return when.toordinal() - _EPOCH


def asked_for(query: Iterable[tuple[str, str]]) -> tuple[str, int, int]:
    """Tracking id, first and last day in a query ``tracking_id=&from=&to=``. Raises ``InvalidRequest``."""
    given: dict[str, str] = {}
    for name, value in query:
        if name not in ("tracking_id", "from", "to") or name in given:
            raise InvalidRequest(name, value, "tracking_id, from and to, each once", seen="this parameter")
        given[name] = value
    if not given.get("tracking_id"):
        raise InvalidRequest("tracking_id", given.get("tracking_id"), "the tracking_id of pictures of yours")
    first = _day("from", given["from"]) if "from" in given else _FIRST_DAY
    last = _day("to", given["to"]) if "to" in given else _LAST_DAY
    if first > last:
        raise InvalidRequest("from", given["from"], f"a day up to {given['to']}, the last one asked for")
    return given["tracking_id"], first, last


def _day(name: str, text: str) -> int:
    try:
        if not _DAY.fullmatch(text):  # Python reads more than RFC 3339 writes
            raise ValueError(text)
        return date.fromisoformat(text).toordinal() - _EPOCH
    except ValueError as exc:
        raise InvalidRequest(name, text, "a day such as 2026-06-01") from exc


def url_stats(
    tracking_id: str,
    days: Sequence[tuple[int, int, int, int, int]],
    groups: Iterable[tuple[str, str, int, int, int, int]],
) -> UrlStats:
    """The statistics of a campaign.

    ``days`` are its days with views, ``groups`` its metadata keys and values. Both have views, loads,
    microseconds of load time, and viewers.
    """
    by_metadata: dict[str, dict[str, GroupStats]] = {}
    for key, value, *sums in groups:
        by_metadata.setdefault(key, {})[value] = _group(*sums)
    total = _group(*(sum(day[column] for day in days) for column in range(1, 5)))
    return UrlStats(
        tracking_id=tracking_id,
        total_views=total.views,
        unique_viewers=total.viewers,
        avg_load_time=total.avg_load_time,
        by_day=tuple(
            DayStats(date=date.fromordinal(day + _EPOCH), **attrs.asdict(_group(*sums)))
            for day, *sums in days
        ),
        by_metadata=by_metadata,
    )


def _group(views: int, loads: int, load_us: int, viewers: int) -> GroupStats:
    average = round(load_us / loads / 1000, 3) if loads else None
    return GroupStats(views=views, viewers=viewers, avg_load_time=average)

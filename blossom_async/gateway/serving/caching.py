"""What caches may do with a picture, and which format and bytes a request asks for. Decides only; no I/O.

RFC numbers: 9110 is HTTP semantics, 9111 caching, 8246 ``immutable``, 5861 ``stale-*``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs
from multidict import MultiMapping, istr

from blossom_async.rules import directives

__all__ = ["Plan", "asks_for_less", "cache_control", "evaluate", "http_date", "negotiated", "vary"]

YEAR_S = 31_536_000
SIGNED_S = 300  # browsers ask again at least this often, so that revoking a key takes effect

_AGES = frozenset({"max-age", "s-maxage"})
# Directives that a picture with an expiry may carry: none lets a cache keep it for longer.
_LOWERING = frozenset(
    {"public", "private", "no-cache", "no-store", "no-transform", "must-revalidate", "proxy-revalidate"}
)
_ENTITY_TAG = re.compile(r'[\s,]*((?:W/)?"[^"\x00-\x20\x7f]*")[ \t]*(?=,|$)')
_RANGE = re.compile(r"bytes=[ \t,]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t,]*", re.ASCII | re.IGNORECASE)
_CONDITIONS = tuple(  # istr: faster to look up
    map(istr, ("If-Match", "If-Unmodified-Since", "If-None-Match", "If-Modified-Since", "Range"))
)
_MAX_MEDIA_RANGES = 64  # browsers send fewer than ten
_WEIGHT = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)  # 9110, 12.4.2
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_CLOCK = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})"
_DATES = tuple(  # 9110, 5.6.7: the format to send, and two obsolete ones that must be understood
    re.compile(form, re.ASCII)
    for form in (
        rf"(?:{'|'.join(_DAYS)}), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_CLOCK} GMT",
        rf"(?:{'|'.join(_WEEKDAYS)}), (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_CLOCK} GMT",
        rf"(?:{'|'.join(_DAYS)}) {_MONTH} (?P<day>[ 0-9][0-9]) {_CLOCK} (?P<year>[0-9]{{4}})",
    )
)


@attrs.frozen(kw_only=True)
class Plan:
    """How to answer: a status, and the bytes from ``start`` up to ``stop`` (none for 304, 412 and 416).

    ``content_range`` is the value of that header for 206 and 416, else None.
    """

    status: int
    start: int = 0
    stop: int = 0
    content_range: str | None = None


def cache_control(
    asked: str | None,
    expires_at: datetime | None,
    now: datetime,
    *,
    restricted: bool = False,
    signed_until: datetime | None = None,
) -> str:
    """The ``Cache-Control`` of a picture that has not expired; ``asked`` is its owner's ``cache_control``.

    ``restricted`` pictures (``require_auth``, ``ip_whitelist``, ``allowed_domains``) are revalidated on each
    use. Under a signed URL a picture stays fresh for at most 300 s, and never beyond ``signed_until``. Both
    are private whatever was asked, because shared caches would serve them to anybody.

    For public pictures the owner may ask for anything shorter. Every ``max-age`` and ``s-maxage`` is limited
    to the time left until ``expires_at``, or to a year. A picture that expires carries nothing that lets a
    cache serve it later: no ``immutable``, no ``stale-*``, no unknown directive.
    """
    if not restricted and signed_until is None:
        return _public(asked, expires_at, now)
    wishes = list(directives(asked or ""))
    names = {name for name, _ in wishes}
    if "no-store" in names:
        kept = ["private", "no-store"]
    elif restricted or "no-cache" in names:
        kept = ["private", "no-cache"]
    else:
        ages = [_seconds(value) for name, value in wishes if name == "max-age"]
        ages += [_seconds_until(moment, now) for moment in (expires_at, signed_until) if moment is not None]
        kept = ["private", f"max-age={min(SIGNED_S, *ages)}", "must-revalidate"]
    return ", ".join([*kept, "no-transform"] if "no-transform" in names else kept)


def vary(
    *, require_auth: bool = False, allowed_domains: Sequence[str] = (), negotiated: bool = False
) -> str | None:
    """The value of ``Vary``: the request headers that the answer depends on; None if there are none.

    An ``ip_whitelist`` depends on no header: only ``private`` keeps its pictures out of shared caches.
    """
    names = ["Authorization"] if require_auth else []
    names += ["Referer", "Origin", "Sec-Fetch-Site"] if allowed_domains else []
    names += ["Accept"] if negotiated else []
    return ", ".join(names) or None


def negotiated(accept: Sequence[str], available: Sequence[str]) -> str:
    """The format to send, by the values of the header Accept (9110, 12.5.1).

    ``available`` has the preferred format first. Its last one is the default, sent when Accept names none of
    them. A wildcard counts for the default alone, since a viewer that sends ``*/*`` may not know the others.
    Invalid media ranges are ignored, and so are all after the first 64.
    """
    weights: dict[str, float] = {}
    for part in ",".join(accept).split(",", _MAX_MEDIA_RANGES)[:_MAX_MEDIA_RANGES]:
        media, *rest = (text.strip(" \t").lower() for text in part.split(";"))
        first = next((parameter for parameter in rest if parameter), "q=1")
        if found := _WEIGHT.fullmatch(first):  # else an invalid weight, or a parameter that no picture has
            weights[media] = float(found[1])
    *others, default = available
    wildcard = weights.get("image/*", weights.get("*/*", 0.0))
    best, best_weight = default, weights.get(_media_type(default), wildcard)
    for name in reversed(others):  # among equals the preferred one wins
        weight = weights.get(_media_type(name), 0.0)
        if weight > 0 and weight >= best_weight:
            best, best_weight = name, weight
    return best


def evaluate(
    method: str,
    headers: MultiMapping[str],
    *,
    etag: str,
    last_modified: datetime,
    size: int,
    now: datetime,
) -> Plan:
    """How to answer a GET or HEAD with these headers, once every access check has passed (9110, 13.2.2).

    ``etag`` is the strong entity tag with its quotes. A single range is served; several ranges, an unknown
    unit or a malformed range get the whole picture.
    """
    whole = Plan(status=200, stop=size)
    if not asks_for_less(headers):
        return whole
    changed = last_modified.replace(microsecond=0)
    if "If-Match" in headers:
        if not _matches(headers, "If-Match", etag, weakly=False):
            return Plan(status=412)
    elif (limit := _date(headers, "If-Unmodified-Since", now)) and changed > limit:
        return Plan(status=412)
    if "If-None-Match" in headers:
        if _matches(headers, "If-None-Match", etag, weakly=True):
            return Plan(status=304)
    elif (since := _date(headers, "If-Modified-Since", now)) and changed <= since <= now:
        return Plan(status=304)
    if method != "GET" or "Range" not in headers or not _range_applies(headers, etag, changed, now):
        return whole
    return _part(headers.getall("Range"), size) or whole


def asks_for_less(headers: MultiMapping[str]) -> bool:
    """Whether the request has a header because of which it may get less than the whole picture."""
    for name in _CONDITIONS:  # noqa: SIM110 - any() takes twice as long, on every view
        if name in headers:
            return True
    return False


def http_date(moment: datetime) -> str:
    """An aware time as an HTTP date: ``Sun, 06 Nov 1994 08:49:37 GMT`` (9110, 5.6.7)."""
    utc = moment.astimezone(UTC)
    day, month = _DAYS[utc.weekday()], _MONTHS[utc.month - 1]  # not strftime, which uses the locale's names
    return f"{day}, {utc.day:02} {month} {utc.year:04} {utc:%H:%M:%S} GMT"


def _public(asked: str | None, expires_at: datetime | None, now: datetime) -> str:
    # One second less: caches that count whole seconds keep a picture through the last one.
    left = YEAR_S if expires_at is None else max(0, _seconds_until(expires_at, now) - 1)
    if asked is None:
        asked = "public, immutable" if expires_at is None else "public"
    wishes = list(directives(asked))
    names = {name for name, _ in wishes}
    kept = []
    for name, value in wishes:
        if name in _AGES:
            kept.append(f"{name}={min(_seconds(value), left)}")
        elif expires_at is None:
            kept.append(name if value is None else f"{name}={value}")
        elif name in _LOWERING:
            # Without its argument a directive is only stricter, and some caches find "max-age=" anywhere in
            # the header, even inside quotes.
            kept.append(name)
    if "no-store" not in names:
        if "max-age" not in names:  # without it a cache may guess the freshness (9111, 4.2.2)
            kept.insert(1 if names & {"public", "private"} else 0, f"max-age={left}")
        if expires_at is not None and "must-revalidate" not in names:
            kept.append("must-revalidate")
    return ", ".join(kept)


def _seconds_until(moment: datetime, now: datetime) -> int:
    return max(0, (moment - now) // timedelta(seconds=1))


def _seconds(value: str | None) -> int:
    digits = (value or "").strip('"')
    # An invalid freshness counts as stale (9111, 4.2.1).
    return _whole(digits) if re.fullmatch("[0-9]+", digits, re.ASCII) else 0


def _media_type(name: str) -> str:
    return "image/jpeg" if name == "jpg" else f"image/{name}"


def _whole(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else 10**18  # beyond any size, and int() refuses 4,300 digits


def _matches(headers: MultiMapping[str], name: str, etag: str, *, weakly: bool) -> bool:
    value = ", ".join(headers.getall(name)).strip()
    if value == "*":
        return True
    position = 0
    tags = []
    while found := _ENTITY_TAG.match(value, position):
        tags.append(found[1])
        position = found.end()
    if value[position:].strip(" \t,"):
        return False  # not a list of entity tags
    return etag in tags or (weakly and f"W/{etag}" in tags)


def _date(headers: MultiMapping[str], name: str, now: datetime) -> datetime | None:
    values = headers.getall(name, [])
    return _http_date(values[0].strip(), now) if len(values) == 1 else None


def _http_date(text: str, now: datetime) -> datetime | None:
    for form in _DATES:
        if found := form.fullmatch(text):
            year = int(found["year"])
            if len(found["year"]) == 2:  # more than 50 years ahead means the past century (9110, 5.6.7)
                year += now.year // 100 * 100
                year -= 100 if year > now.year + 50 else 0
            try:
                return datetime(
                    year,
                    _MONTHS.index(found["month"]) + 1,
                    int(found["day"]),
                    int(found["hour"]),
                    int(found["minute"]),
                    int(found["second"]),
                    tzinfo=UTC,
                )
            except ValueError:
                return None
    return None


def _range_applies(headers: MultiMapping[str], etag: str, changed: datetime, now: datetime) -> bool:
    values = headers.getall("If-Range", [])
    if not values:
        return True
    if len(values) > 1:
        return False
    # The bytes of an id never change, so its date is as strong a validator as its tag (9110, 8.8.2.2).
    return values[0].strip() == etag or _http_date(values[0].strip(), now) == changed


def _part(values: list[str], size: int) -> Plan | None:
    """The plan for a single byte range; None if the whole picture is to be sent."""
    found = _RANGE.fullmatch(values[0].strip()) if len(values) == 1 else None
    if found is None:
        return None
    if found[3] is not None:
        start, stop = max(0, size - _whole(found[3])), size
    else:
        start = _whole(found[1])
        last = _whole(found[2]) if found[2] else size - 1
        if found[2] and last < start:
            return None  # malformed (9110, 14.1.2)
        stop = min(last + 1, size)
    if start >= stop:
        return Plan(status=416, content_range=f"bytes */{size}")
    return Plan(status=206, start=start, stop=stop, content_range=f"bytes {start}-{stop - 1}/{size}")

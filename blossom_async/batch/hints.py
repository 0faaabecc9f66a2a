"""When to send the next request, as the headers of an answer say."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from itertools import islice

import attrs

__all__ = ["Quota", "pause_s", "quotas", "retry_after_s"]

_LONGEST_S = 7 * 86_400.0  # more than this is a mistake or an attack
_LONGEST_TEXT = 512
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,15})?", re.ASCII)
_SPAN = re.compile(
    r"(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m(?!s))?(?:([0-9.]{1,16})s)?(?:([0-9.]{1,16})ms)?"
)
_FIELD = re.compile(r"\b([a-z]+)\s*=\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)(?![\w.])", re.ASCII)
_EPOCH_S = 1_000_000_000.0  # numbers from here on (September 2001) are instants, not spans
_PER_BUCKET = ("requests", "tokens", "images")
_MOST_QUOTAS = 8
_MOST_STARTS = 10_000_000
_LONGEST_WINDOW_S = 86_400.0


@attrs.frozen
class Quota:
    """One quota of a server, as far as it is published: None is what it does not say.

    ``amount`` requests in any ``per_s`` seconds, of which ``left`` may still be made; in ``reset_s`` seconds
    there are more again. ``evenly``: ``reset_s`` is when all are back, and they come back one by one.
    """

    name: str
    amount: int | None = None
    per_s: float | None = None
    left: int | None = None
    reset_s: float | None = None
    evenly: bool = False


def retry_after_s(headers: Mapping[str, str], *, now_s: float | None = None) -> float | None:
    """Seconds the server asks to wait before the next request, 0..604,800; None when it does not say.

    Reads ``retry-after-ms`` (OpenAI, Azure), ``Retry-After`` as seconds, as a fraction or as a date (RFC
    9110, 10.2.3), and then, as ``pause_s``, the quotas that are used up. Of several values the longest
    holds. A date is taken relative to the ``Date`` of the answer, else to ``now_s`` (Unix time, default
    now). Values that are not numbers, negative, or above seven days are ignored. Never raises.
    """
    fields = _fields(headers)
    asked = [
        *(_bounded(_number(text), 0.001) for text in fields.get("retry-after-ms", ())),
        *(_wait(text, fields, now_s) for text in fields.get("retry-after", ())),
    ]
    longest = max((wait for wait in asked if wait is not None), default=None)
    return longest if longest is not None else _exhausted(fields, now_s)


def pause_s(headers: Mapping[str, str], *, now_s: float | None = None) -> float | None:
    """Seconds until there is room in a quota that the answer reports as used up.

    None if no quota is used up, or if the answer does not say for how long.

    Reads ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers, the forms of drafts 3 to 10),
    ``RateLimit-Remaining`` / ``-Reset``, and ``x-ratelimit-remaining[-requests|-tokens|-images]`` and
    ``-reset`` of GitHub, OpenAI and others: seconds, Unix time, or spans such as ``6m0s`` and ``120ms``.
    Bounded like ``retry_after_s``; never raises. For ``Gate.pause()``, also after successes.
    """
    fields = _fields(headers)
    return _exhausted(fields, now_s) if fields else None


def quotas(headers: Mapping[str, str], *, now_s: float | None = None) -> list[Quota]:
    """The quotas that an answer publishes, used up or not, at most eight.

    Reads ``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers, the forms of drafts 0
    to 10), and the ``x-ratelimit-limit``, ``-remaining`` and ``-reset`` that ``pause_s`` reads, but not those
    of tokens. An amount is a whole number from 1 to 10,000,000, a window at most a day; what is outside of
    that, or is no number, is ignored. Never raises. For ``Gate.heed()``.
    """
    fields = _fields(headers)
    if not fields:
        return []
    found: dict[str, Quota] = {}
    for text in (*fields.get("ratelimit-policy", ()), *fields.get("ratelimit-limit", ())):
        for name, first, values in islice(_members(text), _MOST_QUOTAS):
            amount, per_s = _whole(values.get("q", first)), values.get("w")
            if amount and per_s is not None and 0 < per_s <= _LONGEST_WINDOW_S:
                found[name] = Quota(name, amount, per_s)
    for state in (*_states(fields), *_pair_states(fields, now_s)):
        policy = found.get(state.name) or next((q for q in found.values() if q.amount == state.amount), None)
        if policy is None and len(found) == 1 and not state.evenly:
            (policy,) = found.values()
        if policy is not None:
            state = attrs.evolve(state, name=policy.name, amount=policy.amount, per_s=policy.per_s)
        found[state.name] = state
    return list(found.values())[:_MOST_QUOTAS]


def _members(text: str) -> Iterator[tuple[str, float | None, dict[str, float]]]:
    """Name, leading number and parameters of the members of a list, such as ``"burst";q=5;w=1, 100;w=60``."""
    for member in text.lower().split(","):
        name = member.partition(";")[0].strip()
        yield name.strip('"'), _number(name), {key: float(value) for key, value in _FIELD.findall(member)}


def _whole(number: float | None) -> int | None:
    return int(number) if number is not None and 1 <= number <= _MOST_STARTS else None


def _left(number: float | None) -> int | None:
    return int(number) if number is not None and 0 <= number <= _MOST_STARTS else None


def _states(fields: Mapping[str, list[str]]) -> Iterator[Quota]:
    for members in _of_ratelimit(fields):
        for name, values in islice(members, _MOST_QUOTAS):
            if "remaining" in values:
                reset_s = _bounded(values.get("reset"))
                yield _state(name, values.get("limit"), values["remaining"], reset_s)
            else:
                yield _state(name, None, values.get("r"), _bounded(values.get("t")))


def _pair_states(fields: Mapping[str, list[str]], now_s: float | None) -> Iterator[Quota]:
    for name, bucket, limit, left, reset_s in _of_pairs(fields, now_s):
        if bucket != "-tokens":
            yield attrs.evolve(_state(name, limit, left, reset_s), evenly=bool(bucket))


def _state(name: str, limit: float | None, left: float | None, reset_s: float | None) -> Quota:
    return Quota(name, _whole(limit), None, _left(left), reset_s)


def _fields(headers: Mapping[str, str]) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for name, value in headers.items():  # of a multidict: repeated fields one by one
        lower = name.lower()
        if lower.startswith(("retry-after", "ratelimit", "x-ratelimit", "x-rate-limit")) or lower == "date":
            fields.setdefault(lower.replace("x-rate-limit", "x-ratelimit"), []).append(value[:_LONGEST_TEXT])
    if fields.keys() == {"date"}:
        fields.clear()
    return fields


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _bounded(seconds: float | None, unit: float = 1.0) -> float | None:
    if seconds is None or not math.isfinite(seconds):
        return None
    return seconds * unit if 0 <= seconds * unit <= _LONGEST_S else None


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _now(fields: Mapping[str, list[str]], now_s: float | None) -> float:
    """The time on the server's clock if known, so that a wrong clock on this side does no harm."""
    sent = _date(fields["date"][0]) if "date" in fields else None
    if sent is not None:
        return sent
    return time.time() if now_s is None else now_s


def _wait(text: str, fields: Mapping[str, list[str]], now_s: float | None) -> float | None:
    number = _number(text)
    if number is not None:
        return _bounded(number)
    instant = _date(text)
    if instant is not None:
        return _bounded(max(0.0, instant - _now(fields, now_s)))
    if "," in text:  # two fields that a proxy joined
        waits = [_bounded(_number(part)) for part in text.split(",")]
        return max((wait for wait in waits if wait is not None), default=None)
    return None


def _reset(text: str, fields: Mapping[str, list[str]], now_s: float | None) -> float | None:
    """Seconds from a span, or until an instant."""
    number = _number(text)
    if number is None:
        span = _SPAN.fullmatch(text.strip()) if text.strip() else None
        if span is None:
            return None
        parts = [_number(part) if part else 0.0 for part in span.groups()]
        if None in parts:
            return None
        return _bounded(sum(p * u for p, u in zip(parts, (86_400, 3600, 60, 1, 0.001), strict=True) if p))
    if number >= 1000 * _EPOCH_S:
        number /= 1000  # Unix time in milliseconds
    return _bounded(max(0.0, number - _now(fields, now_s)) if number >= _EPOCH_S else number)


def _exhausted(fields: Mapping[str, list[str]], now_s: float | None) -> float | None:
    waits = []
    for members in _of_ratelimit(fields):
        for _, values in members:
            remaining = values.get("remaining", values.get("r"))
            if remaining is not None and remaining <= 0:
                waits.append(_bounded(values.get("reset", values.get("t"))))
    for _, bucket, limit, left, reset_s in _of_pairs(fields, now_s):
        if left <= 0:
            # OpenAI (Rate limits, "Rate limits in headers"): the reset of a bucket is when it is *full*
            # again; it refills evenly, so there is room for one request after this share of it.
            waits.append(reset_s / limit if bucket and limit else reset_s)
    return max((wait for wait in waits if wait is not None), default=None)


def _of_ratelimit(fields: Mapping[str, list[str]]) -> Iterator[Iterator[tuple[str, dict[str, float]]]]:
    """``"burst";r=0;t=5, "day";r=900;t=80000`` and, of older drafts, ``limit=10, remaining=0, reset=5``.

    Name and parameters of the quotas in each field; an older one is without a name.
    """
    for text in fields.get("ratelimit", ()):
        whole = {key: float(value) for key, value in _FIELD.findall(text.lower())}
        if "remaining" in whole:
            yield iter([("", whole)])
        else:
            yield ((name, values) for name, _, values in _members(text))


def _of_pairs(
    fields: Mapping[str, list[str]], now_s: float | None
) -> Iterator[tuple[str, str, float | None, float, float]]:
    """Name, bucket, limit, what is left, and the seconds until it is reset."""
    for family in ("ratelimit", "x-ratelimit"):
        for bucket in ("", *(f"-{name}" for name in _PER_BUCKET)):
            left = _smallest(fields.get(f"{family}-remaining{bucket}", ()))
            if left is None:
                continue
            resets = [_reset(text, fields, now_s) for text in fields.get(f"{family}-reset{bucket}", ())]
            reset_s = max((reset for reset in resets if reset is not None), default=None)
            if reset_s is not None:
                yield (
                    f"{family}{bucket}",
                    bucket,
                    _smallest(fields.get(f"{family}-limit{bucket}", ())),
                    left,
                    reset_s,
                )


def _smallest(texts: Iterable[str]) -> float | None:
    numbers = [_number(part.partition(";")[0]) for text in texts for part in text.split(",")]
    return min((number for number in numbers if number is not None), default=None)

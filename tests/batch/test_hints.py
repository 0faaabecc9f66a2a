"""Reading Retry-After and rate limit headers, also from hostile servers."""

from __future__ import annotations

import math
from email.utils import formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from blossom_async.batch.hints import pause_s, retry_after_s

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "20"}, 20),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"Retry-After": formatdate(NOW + 30, usegmt=True)}, 30),
        ({"Retry-After": formatdate(NOW - 30, usegmt=True)}, 0),
        ({"Retry-After": formatdate(9e9, usegmt=True), "Date": formatdate(9e9 - 5, usegmt=True)}, 5),
        ({"Retry-After-Ms": "250", "Retry-After": "1"}, 1),
        ({"retry-after-ms": "250"}, 0.25),
        ({"Retry-After": "5, 10"}, 10),
        ({"Retry-After": "604800"}, 604_800),
        ({"Retry-After": "604802"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "1e18"}, None),
        ({"Retry-After": "9" * 15}, None),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Mon, 99 Foo 9999 99:99:99 GMT"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "12"}, 12),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, fractions, dates, milliseconds; nonsense is as if it were not there."""
    assert retry_after_s(headers, now_s=NOW) == (None if seconds is None else pytest.approx(seconds, abs=1))


def test_of_two_fields_the_longer_wait_holds() -> None:
    """Whatever order they come in."""
    headers = CIMultiDict([("Retry-After", "7"), ("Retry-After", "3")])
    assert retry_after_s(headers) == 7


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"RateLimit": '"default";r=0;t=30', "RateLimit-Policy": '"default";q=100;w=60'}, 30),
        ({"RateLimit": '"burst";r=0;t=5, "day";r=0;t=800'}, 800),
        ({"RateLimit": '"burst";r=3;t=5, "day";r=900;t=80000'}, None),
        ({"RateLimit": "limit=10, remaining=0, reset=50"}, 50),
        ({"RateLimit": "limit=10, remaining=1, reset=50"}, None),
        ({"RateLimit-Limit": "10", "RateLimit-Remaining": "0", "RateLimit-Reset": "7"}, 7),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW) + 40)}, 40),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW * 1000) + 40_000)}, 40),
        ({"X-Rate-Limit-Remaining": "0", "X-Rate-Limit-Reset": "9"}, 9),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "120ms"}, 0.12),
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1m0s",
            },
            1,
        ),
        ({"x-ratelimit-remaining-tokens": "12", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"X-RateLimit-Remaining": "0"}, None),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "-3"}, None),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW) - 40)}, 0),
        ({"Content-Type": "application/json", "Date": formatdate(NOW, usegmt=True)}, None),
    ],
)
def test_a_used_up_quota_says_how_long(headers: dict[str, str], seconds: float | None) -> None:
    """In the forms of the drafts, GitHub and OpenAI; a quota with room says nothing."""
    assert pause_s(headers, now_s=NOW) == (None if seconds is None else pytest.approx(seconds, abs=1e-3))


names = st.sampled_from(
    ["Retry-After", "retry-after-ms", "Date", "RateLimit", "RateLimit-Policy"]
    + [
        f"{family}-{what}{bucket}"
        for family in ("RateLimit", "x-ratelimit", "X-Rate-Limit")
        for what in ("Limit", "Remaining", "Reset")
        for bucket in ("", "-requests", "-tokens", "-images")
    ]
)
texts = (
    st.text(max_size=40)
    | st.text(alphabet='0123456789.,-+eE:;=rtqwdhms "GMT', max_size=40)
    | st.floats().map(str)
    | st.integers(-(10**20), 10**20).map(str)
    | st.floats(-1e10, 1e10).map(lambda at: formatdate(at, usegmt=True))
)


@given(st.lists(st.tuples(names, texts), max_size=12), st.floats(0, 4e9))
@example([("Retry-After", "Mon, 01 Jan 0001 00:00:00 -2359")], 0.0)
@example([("RateLimit-Remaining", "0"), ("RateLimit-Reset", "1.2.3s")], 0.0)
def test_no_header_raises_or_asks_for_an_impossible_wait(fields: list[tuple[str, str]], now_s: float) -> None:
    """None, or a finite number of seconds from 0 to a week."""
    for read in (retry_after_s, pause_s):
        for headers in (CIMultiDict(fields), dict(fields)):
            seconds = read(headers, now_s=now_s)
            assert seconds is None or (math.isfinite(seconds) and 0 <= seconds <= 7 * 86_400)

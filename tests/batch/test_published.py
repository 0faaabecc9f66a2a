"""Quotas that a server publishes: read in every dialect, kept before anything is refused."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blossom_async.batch import Gate, RetryPolicy, stream
from blossom_async.batch.hints import Quota, quotas
from blossom_async.errors import RateLimited
from tests.batch.limited_servers import Sliding
from tests.thorough import thoroughly
from tests.virtual_clock import on_virtual_clock

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {"RateLimit-Policy": '"default";q=100;w=60', "RateLimit": '"default";r=50;t=30'},
            [Quota("default", 100, 60, 50, 30)],
        ),
        (
            {"RateLimit-Policy": '"burst";q=5;w=1, "day";q=900;w=3600', "RateLimit": '"day";r=4;t=9'},
            [Quota("burst", 5, 1), Quota("day", 900, 3600, 4, 9)],
        ),
        (
            {"RateLimit-Policy": "100;w=60", "RateLimit": "limit=100, remaining=50, reset=30"},
            [Quota("100", 100, 60, 50, 30)],
        ),
        (
            {"RateLimit-Limit": "10, 10;w=1", "RateLimit-Remaining": "7", "RateLimit-Reset": "1"},
            [Quota("10", 10, 1, 7, 1)],
        ),
        (
            {
                "x-ratelimit-limit": "60",
                "x-ratelimit-remaining": "59",
                "x-ratelimit-reset": str(int(NOW) + 9),
            },
            [Quota("x-ratelimit", 60, None, 59, 9)],
        ),
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-limit-tokens": "90",
                "x-ratelimit-remaining-tokens": "1",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            [Quota("x-ratelimit-requests", 60, None, 59, 1, evenly=True)],
        ),
        ({"RateLimit-Policy": '"a";q=0;w=60, "b";q=5;w=0, "c";q=5;w=1e30, "d";q=-1;w=3, "e";q=nan;w=1'}, []),
        ({"RateLimit-Policy": "Sat, 28 Nov 2026 10:00:00 GMT;w=60"}, []),
        ({"RateLimit-Policy": ",".join(f'"{n}";q=5;w=1' for n in range(10_000))}, None),
        ({}, []),
    ],
)
def test_quotas_are_read(headers: dict[str, str], expected: list[Quota] | None) -> None:
    """Every draft and the headers before them; what is absurd is as if it were not there."""
    found = quotas(headers, now_s=NOW)
    assert len(found) <= 8
    assert expected is None or found == expected


def drafts(limit: Sliding, amount: int, per_s: float) -> dict[str, Callable[[float], dict[str, str]]]:
    def left(now: float) -> int:
        return amount - limit.taken(now)

    def reset_s(now: float) -> int:
        return math.ceil(limit.free_in_s(now))

    return {
        "draft 10": lambda now: {
            "RateLimit-Policy": f'"all";q={amount};w={per_s:g}',
            "RateLimit": f'"all";r={left(now)};t={reset_s(now)}',
        },
        "draft 7": lambda now: {
            "RateLimit-Policy": f"{amount};w={per_s:g}",
            "RateLimit": f"limit={amount}, remaining={left(now)}, reset={reset_s(now)}",
        },
        "policy alone": lambda _: {"RateLimit-Policy": f'"all";q={amount};w={per_s:g}'},
    }


@pytest.mark.parametrize(
    ("amount", "per_s", "seconds"), thoroughly((100, 1, 20), (100, 1, 60), (600, 60, 600), (70, 10, 200))
)
@pytest.mark.parametrize("draft", thoroughly("draft 10", "draft 7", "policy alone"))
def test_a_published_limit_is_kept_before_the_first_refusal(
    amount: int, per_s: float, seconds: float, draft: str
) -> None:
    """No refusal at all, and at least 95 % of what the limit allows."""
    done, refused = on_virtual_clock(published(Sliding(amount, per_s), amount, per_s, seconds, draft))
    assert refused == 0
    assert done >= 0.95 * amount * seconds / per_s


async def published(
    limit: Sliding,
    amount: int,
    per_s: float,
    seconds: float,
    draft: str,
    *,
    others: int = 0,
    at_once: int = 64,
) -> tuple[int, int]:
    """How many got done, and how many were refused."""
    gate, chance = Gate(), random.Random(1)  # noqa: S311 - reproducible, not secret
    loop, tell = asyncio.get_running_loop(), drafts(limit, amount, per_s)[draft]
    done = refused = 0
    for _ in range(others):
        limit.refuses_for(loop.time())

    async def attempt(_: int) -> None:
        nonlocal done, refused
        sent_at = loop.time()
        await asyncio.sleep(chance.uniform(0, 0.005))
        wait_s = limit.refuses_for(loop.time())
        headers = tell(loop.time())
        await asyncio.sleep(chance.uniform(0.05, 0.15))
        gate.heed(headers, sent_at)
        if wait_s is not None:
            refused += 1
            raise RateLimited("too many", retry_after_s=math.ceil(wait_s))
        done += 1

    options = {"gates": [gate], "retry": RetryPolicy(), "deadline_s": seconds, "max_concurrency": at_once}
    async with stream(attempt, iter(range(10**9)), **options) as outcomes:  # type: ignore[arg-type]
        async for _ in outcomes:
            pass
    return done, refused


def test_what_others_have_used_of_a_quota_is_left_to_them() -> None:
    """``remaining`` counts, not only what this process has sent."""
    limit = Sliding(100, 60)
    seen = on_virtual_clock(published(limit, 100, 60, 50, "draft 10", others=30, at_once=8))
    assert seen == (70, 0)


@given(
    st.lists(
        st.tuples(
            st.builds(
                Quota,
                st.sampled_from(["a", "b"]),
                st.none() | st.integers(1, 10_000_000),
                st.none() | st.floats(1e-9, 86_400),
                st.none() | st.integers(0, 10_000_000),
                st.none() | st.floats(0, 604_800),
                st.booleans(),
            ),
            st.floats(0, 1000),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_no_quota_stops_a_gate_for_good(said: list[tuple[Quota, float]]) -> None:
    """Whatever a server says, the next start waits ten minutes at most."""

    async def go() -> None:
        gate, loop = Gate(), asyncio.get_running_loop()
        for quota, after_s in said:
            await asyncio.sleep(after_s)
            gate._published.heed([quota], loop.time() - 1, loop.time())
            gate.closed = True
            began = loop.time()
            await gate.acquire()
            assert loop.time() - began <= 601

    on_virtual_clock(go())

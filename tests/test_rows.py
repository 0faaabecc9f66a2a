"""The engine that each worker of a cluster runs: rows in, their new columns out."""

from __future__ import annotations

import asyncio
import pickle
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from blossom_async import ConfigurationError, RetryPolicy, TransportError, Unauthenticated
from blossom_async.batch import current_attempt
from blossom_async.gateway.server import listen, serving
from blossom_async.gateway.settings import Settings
from blossom_async.rows import ADDED, Calls, Engine, GenerateOptions, Pictures, Sharing
from tests.conftest import KEY, RunningGateway
from tests.ports import reserved_port

Gateway = AbstractAsyncContextManager[RunningGateway]
TINY = {"width": 32, "height": 32}
ROWS: list[dict[str, Any]] = [{"sku": n, "text": f"lake {n}", "seed": n} for n in range(20)]


def pictures(gateway: RunningGateway, **changes: Any) -> Pictures:
    """The work as a worker gets it."""
    named = {"run": "catalogue", "id": "sku", "prompt": "text", "options": TINY}
    where = {"base_url": gateway.base_url, "api_key": gateway.api_key}
    work: Pictures = pickle.loads(pickle.dumps(Pictures.of({**named, **where, **changes})))  # noqa: S301
    return work


def sharing(**given: Any) -> Sharing:
    return Sharing.of(given, workers=(1, 2), known=GenerateOptions.__annotations__)


async def told(work: Pictures | Calls, rows: list[dict[str, Any]], **given: Any) -> list[dict[str, Any]]:
    """The new columns of the rows, by a fresh engine."""
    engine = Engine(work, sharing(**given))
    try:
        return await asyncio.to_thread(engine.columns, rows)
    finally:
        await asyncio.to_thread(engine.close)


async def test_each_row_has_its_picture_or_why_not(gateway: Gateway) -> None:
    """In order, with the same columns for all; options come from columns, too."""
    rows = [*ROWS[:3], {"sku": 3, "text": "", "seed": 3}, {"sku": None, "text": "a fox", "seed": 4}]
    async with gateway as running:
        found = await told(pictures(running, columns=["seed"]), rows)
        async with running.client() as client:
            first = await client.image.get(found[0]["url"])
    assert {tuple(row) for row in found} == {ADDED}
    assert [row["error_code"] for row in found] == [None, None, None, "InvalidRequest", "InvalidRequest"]
    assert found[3]["error"].startswith("prompt: empty text cannot be used")
    assert found[0]["sha256"] == first.sha256
    assert (found[0]["width"], found[0]["cost"], found[0]["replayed"]) == (32, 1, False)
    assert first.seed == 0


async def test_the_same_rows_again_are_replayed(gateway: Gateway) -> None:
    """By another worker, in another order; and to a plain client, which has the same keys."""
    async with gateway as running:
        once = await told(pictures(running), ROWS)
        again = await told(pictures(running), ROWS[::-1])
        async with running.client() as client:
            requests: list[Any] = [{"sku": row["sku"], "prompt": row["text"]} for row in ROWS]
            batch = await client.image.generate_urls_batch_custom(
                requests, run="catalogue", id="sku", width=32, height=32
            )
    assert [row["url"] for row in again[::-1]] == [row["url"] for row in once] == list(batch)
    assert {row["replayed"] for row in again} == {True}


async def test_threads_share_one_engine(gateway: Gateway) -> None:
    """Blocks that are handed over side by side."""
    async with gateway as running:
        engine = Engine(pictures(running), sharing(max_concurrency=4))
        blocks = [asyncio.to_thread(engine.columns, ROWS[at : at + 5]) for at in range(0, 20, 5)]
        found = [row for block in await asyncio.gather(*blocks) for row in block]
        await asyncio.to_thread(engine.close)
        await asyncio.to_thread(engine.close)
    assert len({row["image_id"] for row in found}) == 20


async def test_what_every_row_would_fail_with_is_raised(gateway: Gateway) -> None:
    """As a key that is not accepted."""
    async with gateway as running:
        with pytest.raises(Unauthenticated):
            await told(pictures(running, api_key="a-wrong-key-0123456789012345"), ROWS)


@pytest.mark.campaign
async def test_a_place_where_no_gateway_ever_answered_is_raised(gateway: Gateway) -> None:
    """After half a minute, as it may be starting."""
    async with gateway as running:
        engine = Engine(pictures(running), sharing(retry=None))
    with pytest.raises(TransportError):
        await asyncio.to_thread(engine.columns, ROWS)
    await asyncio.to_thread(engine.close)


async def test_a_gate_of_the_gateway_is_shared_with_others(gateway: Gateway) -> None:
    """Two engines of two runs, under one name."""
    async with gateway as running:
        limited = sharing(rate_limit="50/s", gate="paint")
        engines = [Engine(pictures(running, run=run), limited) for run in ("one", "other")]
        found = await asyncio.gather(*(asyncio.to_thread(engine.columns, ROWS) for engine in engines))
        for engine in engines:
            await asyncio.to_thread(engine.close)
    assert [row["error"] for rows in found for row in rows] == [None] * 40


async def test_rows_that_begin_in_an_outage_wait_for_its_end(tmp_path: Path) -> None:
    """Of a gateway that has answered this worker before."""
    settings = Settings(data_dir=tmp_path / "data", api_keys=(KEY,))
    with reserved_port() as port:
        async with serving(settings, listen("127.0.0.1", port)) as base_url:
            running = RunningGateway(base_url, tmp_path / "data")
            engine = Engine(pictures(running), sharing(retry=RetryPolicy(max_attempts=2, first_wait_s=0.1)))
            await asyncio.to_thread(engine.columns, ROWS[:1])
        begun = asyncio.create_task(asyncio.to_thread(engine.columns, ROWS))
        await asyncio.wait([begun], timeout=1)
        async with serving(settings, listen("127.0.0.1", port)):
            found = await begun
            await asyncio.to_thread(engine.close)
    assert [row["error"] for row in found] == [None] * len(ROWS)


async def test_a_key_of_the_worker_is_used_where_none_was_given(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no key is in a representation."""
    async with gateway as running:
        work = pictures(running, api_key=None)
        monkeypatch.setenv("BLOSSOM_API_KEY", KEY)
        found = await told(work, ROWS[:1])
        assert KEY not in repr(pictures(running))
    assert found[0]["error"] is None


async def shout(row: dict[str, Any]) -> dict[str, Any]:
    if row["sku"] == 1:
        raise OSError("no")
    if row["sku"] == 2:
        return 7  # type: ignore[return-value]
    return {"loud": row["text"].upper(), "key": current_attempt().key}


@pytest.mark.parametrize("function", [shout, "tests.test_rows:shout"])
async def test_any_coroutine_function_can_be_applied(function: object) -> None:
    """Its columns, or why there are none; its keys follow from run and id."""
    found = [await told(Calls.of(function, {"run": "a", "id": "sku"}), ROWS[at:4]) for at in (0, 3)]
    assert found[0][0]["loud"] == "LAKE 0"
    assert found[0][3]["key"] == found[1][0]["key"] != found[0][0]["key"]
    assert [row["error_code"] for row in found[0]] == [None, "OSError", "TypeError", None]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "run: '' cannot be used"),
        ({"run": "a", "id": 7}, "id: 7 cannot be used"),
        (
            {"run": "a", "id": "url"},
            "id: 'url' cannot be used; allowed: the name of a column, and none of url",
        ),
        ({"run": "a", "prompt": ""}, "prompt: '' cannot be used"),
        ({"run": "a", "columns": "width"}, "columns: 'width' cannot be used; allowed: a list"),
        ({"run": "a", "columns": ["widht"]}, r"unknown option 'widht'. Did you mean 'width'\?"),
        ({"run": "a", "options": {"defer": True}}, "unknown option 'defer'"),
        ({"run": "a", "options": {"width": 3}}, "width: 3 cannot be used"),
        ({"run": "a", "base_url": "embedded"}, "base_url: no address"),
        ({"run": "a", "base_url": "nowhere"}, "base_url: 'nowhere' is not a valid address"),
        ({"run": "a", "options": {"use_custom_cdn": True}, "base_url": "http://a"}, "use_custom_cdn needs"),
    ],
)
def test_bad_options_of_pictures_are_refused(options: dict[str, Any], says: str) -> None:
    """Where the caller is, before a worker starts."""
    with pytest.raises((ValueError, TypeError, ConfigurationError), match=says):
        Pictures.of(options)


def test_blocks_are_larger_where_each_worker_gets_many() -> None:
    """A block costs a cluster something; a number that is given is taken as it is."""
    rows = [None, 100, 30_000, 1_000_000]
    assert [sharing(workers=2).rows_of_a_block(number) for number in rows] == [250, 250, 1875, 2000]
    assert {sharing(workers=2, block=10).rows_of_a_block(number) for number in rows} == {10}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workers": 0}, "workers: 0 cannot be used"),
        ({"workers": (3, 2)}, r"workers: \(3, 2\) cannot be used; allowed: the least, then the most"),
        ({"workers": 9, "max_concurrency": 8}, "8 calls at once cannot be shared by 9 workers"),
        ({"block": True}, "block: True cannot be used"),
        ({"timeout_s": 0}, "timeout_s: 0 cannot be used"),
        ({"retry": 3}, "retry: 3 cannot be used"),
        ({"blok": 3}, "unknown option 'blok'"),
        ({"gate": "paint"}, "gate: 'paint' with 0 rate limits cannot be used"),
        ({"gate": "a b", "rate_limit": "1/s"}, "gate: 'a b' with 1 rate limits cannot be used"),
        ({"rate_limit": "fast"}, "rate limit: 'fast'"),
    ],
)
def test_bad_limits_are_refused(options: dict[str, Any], says: str) -> None:
    """As above."""
    with pytest.raises((ValueError, TypeError), match=says):
        sharing(**options)


@pytest.mark.parametrize(
    ("function", "options", "says"),
    [
        (len, {}, "function: <built-in function len> cannot be used; allowed: a coroutine function"),
        ("tests.nothing:shout", {}, "'tests.nothing:shout' cannot be imported"),
        ("shout", {}, "'shout' cannot be imported"),
        (shout, {"run": "a"}, "run and id: only one is given"),
        (shout, {"run": " a", "id": "sku"}, "run: ' a' cannot be used"),
    ],
)
def test_bad_calls_are_refused(function: object, options: dict[str, Any], says: str) -> None:
    """As above."""
    with pytest.raises(ValueError, match=says):
        Calls.of(function, options)


def test_a_missing_column_is_named() -> None:
    """With the columns that there are."""
    work = Pictures.of({"run": "a", "id": "sku", "base_url": "http://a"})
    assert work.reads(["sku", "prompt", "note"]) == ["prompt", "sku"]
    with pytest.raises(ConfigurationError, match="no column 'prompt'; allowed: one of sku, text; name it in"):
        work.reads(["sku", "text"])
    with pytest.raises(ConfigurationError, match="no column 'sku'"):
        Calls.of(shout, {"run": "a", "id": "sku"}).reads(["text"])

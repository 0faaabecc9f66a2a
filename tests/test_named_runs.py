"""Batches with ``run`` and ``id``: sent again in any part and from anywhere, nothing is made twice."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from blossom_async import BlossomClient, ImageRequest, InvalidRequest, Rejected
from tests.conftest import RunningGateway

Gateway = AbstractAsyncContextManager[RunningGateway]
TINY: Any = {"width": 32, "height": 32}
ROWS: list[Any] = [{"sku": f"A{n}", "prompt": f"lake {n % 3}"} for n in range(9)]


async def test_the_same_call_again_is_answered_with_what_was_made(gateway: Gateway, tmp_path: Path) -> None:
    """Another client, another order, a part, a stream, a journal; another run makes new pictures."""
    named: Any = {"run": "catalogue", "id": "sku", **TINY}
    async with gateway as running:
        async with running.client() as client:
            first = list(await client.image.generate_urls_batch_custom(ROWS, **named))
        async with running.client() as client:
            again = list(await client.image.generate_urls_batch_custom(ROWS[::-1], **named))
            journal = tmp_path / "run.jsonl"
            part = await client.image.generate_urls_batch_custom(ROWS[4:6], journal=journal, **named)
            async with client.image.stream_urls(ROWS[7:], ordered=True, **named) as outcomes:
                streamed = [outcome.value.url async for outcome in outcomes if outcome.ok]
            other = await client.image.generate_urls_batch_custom(ROWS, **{**named, "run": "another"})
    assert len({*first}) == 9
    assert None not in first
    assert again == first[::-1]
    assert list(part) == first[4:6]
    assert streamed == first[7:]
    assert not {*other} & {*first}


async def test_an_id_is_a_field_a_function_or_the_request_itself(gateway: Gateway) -> None:
    """A field that is an option is sent as well; without an id equal requests are one."""
    async with gateway as running, running.client() as client:
        batch = client.image.generate_urls_batch_custom
        requests = [ImageRequest("a lake", tracking_id=f"A{n}", **TINY) for n in range(2)]
        by_option = await batch(requests, run="by option", id="tracking_id")
        function: Any = lambda request: request.tracking_id  # noqa: E731
        by_function = await batch(requests, run="by option", id=function)
        texts = [await batch(["a lake", "a fox", "a lake"], run="texts", **TINY) for _ in range(2)]
        unknown = await batch(ROWS[:1], run="catalogue", id=lambda _: "A1", **TINY)
    assert [info and info.tracking_id for info in by_option.infos] == ["A0", "A1"]
    assert list(by_function) == list(by_option)
    assert list(texts[0]) == list(texts[1])
    assert texts[0][0] == texts[0][2] != texts[0][1]
    assert "unknown option 'sku'" in str(unknown.outcomes[0].error)  # only a field named by id is left out


async def test_another_request_under_an_id_is_refused(gateway: Gateway) -> None:
    """By the gateway, with words that name id and run; also within one batch, and with ``dedup``."""
    rows = [{"sku": "A1", "prompt": "a lake"}, {"sku": "A1", "prompt": "a fox"}]
    named: Any = {"run": "catalogue", "id": "sku", "max_concurrency": 1, "dedup": True, **TINY}
    async with gateway as running, running.client() as client:
        urls = await client.image.generate_urls_batch_custom(rows, **named)
    error = urls.failures[0].error
    assert isinstance(error, Rejected)
    assert error.code == "idempotency_key_reused"
    assert str(error).startswith("id 'A1' was used in run 'catalogue' for another request; use another id")
    assert urls[0] is not None


async def test_a_request_without_its_id_is_not_sent(gateway: Gateway) -> None:
    """It fails alone."""
    rows: Any = [{"prompt": "a lake"}, {"sku": True, "prompt": "a lake"}, "a lake", {"sku": 7, "prompt": "x"}]
    async with gateway as running, running.client() as client:
        urls = await client.image.generate_urls_batch_custom(rows, run="catalogue", id="sku", **TINY)
    assert [url is not None for url in urls] == [False, False, False, True]
    assert isinstance(urls.outcomes[0].error, InvalidRequest)
    assert str(urls.outcomes[0].error) == (
        "sku: None cannot be used; allowed: a str or an int that tells the request apart within its run"
    )


@pytest.mark.parametrize("how", ["alone", "journal", "dedup"])
async def test_a_function_that_fails_for_a_request_fails_that_one(
    how: str, gateway: Gateway, tmp_path: Path
) -> None:
    """Whatever it raises; the others are made."""
    rows: Any = [{"prompt": "a lake"}, {"tracking_id": "A1", "prompt": "a fox"}]
    more: Any = {"journal": tmp_path / "run.jsonl"} if how == "journal" else {"dedup": how == "dedup"}
    named: Any = {"run": "catalogue", "id": lambda row: row["tracking_id"], **TINY}
    async with gateway as running, running.client() as client:
        urls = await client.image.generate_urls_batch_custom(rows, **named, **more)
    assert [url is not None for url in urls] == [False, True]
    error = urls.outcomes[0].error
    assert isinstance(error, InvalidRequest)
    assert isinstance(error.__cause__, KeyError)
    assert str(error) == (
        "id: a function that raises KeyError: 'tracking_id' cannot be used; allowed: a function that returns "
        "a str or an int for every request"
    )


async def asynchronous(_: object) -> str:
    return "A1"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"run": ""}, "run: '' cannot be used; allowed: one line"),
        ({"run": 7}, "run: 7 cannot be used"),
        ({"id": "sku"}, "id: given without run"),
        ({"run": "a", "id": ""}, "id: '' cannot be used; allowed: the name of a field, or a function"),
        ({"run": "a", "id": asynchronous}, "id: <function asynchronous.* cannot be used"),
    ],
)
async def test_bad_options_are_refused_before_anything_is_sent(options: Any, says: str) -> None:
    """Without a gateway."""
    client: Any = BlossomClient("http://127.0.0.1:9")
    with pytest.raises(ValueError, match=says):
        await client.image.generate_urls_batch_custom(ROWS, **options)
    with pytest.raises(ValueError, match=says):
        client.image.stream_urls(ROWS, **options)

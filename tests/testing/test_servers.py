"""The fake providers answer as the real ones are documented, and share nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from PIL import Image
from yarl import URL

from blossom_async.errors import ConfigurationError
from blossom_async.testing import FakeOpenAI, FakePollinations, SeenRequest
from tests.waiting import LIMIT_S


class Clock:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


async def post(server: FakePollinations | FakeOpenAI, body: object, **headers: str) -> tuple[int, Any, Any]:
    """Status, headers and JSON of a POST to the images API."""
    base = server.base_url if isinstance(server, FakeOpenAI) else f"{server.base_url}/v1"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.request("POST", f"{base}/images/generations", json=body, headers=names) as response:
        return response.status, response.headers, await response.json()


async def get(url: str | URL, **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body of a GET."""
    async with aiohttp.request("GET", url, headers=headers) as response:
        return response.status, response.headers, await response.read()


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


async def test_pollinations_answers_with_a_jpeg_of_the_size_and_its_headers() -> None:
    """Type, cache, file name from the prompt, model and usage."""
    async with FakePollinations() as server:
        url = f"{server.base_url}/image/{quote('Fox & owl?', safe='')}?width=320&height=200&model=z-image"
        status, headers, body = await get(url)
    assert status == 200
    assert (opened(body).format, opened(body).size) == ("JPEG", (320, 200))
    assert headers["Content-Type"] == "image/jpeg"
    assert "immutable" in headers["Cache-Control"]
    assert headers["Content-Disposition"] == 'inline; filename="fox-owl.jpg"'
    assert headers["X-Cache"] == "MISS"
    assert headers["x-model-used"] == "z-image"
    assert headers["x-usage-completion-image-tokens"] == "1"


async def test_pollinations_draws_1024_by_default_and_alpha_when_asked() -> None:
    """``transparent=true`` gives a PNG with transparent pixels."""
    async with FakePollinations() as server:
        plain = opened((await get(f"{server.base_url}/image/fox"))[2])
        clear = opened((await get(f"{server.base_url}/image/fox?transparent=true"))[2])
    assert (plain.size, plain.mode) == ((1024, 1024), "RGB")
    assert (clear.format, clear.mode) == ("PNG", "RGBA")
    assert clear.getchannel("A").getextrema() == (0, 255)


async def test_the_whole_prompt_is_read_from_the_path() -> None:
    """Slashes, question marks, percent signs and other scripts: as encoded, as one prompt."""
    prompts = ["a/b", "a%2Fb", "why?", "100%", "../x", "狐", "models/x", "a b+c"]
    async with FakePollinations() as server:
        for prompt in prompts:
            async with aiohttp.request(
                "GET",
                URL(f"{server.base_url}/image/{quote(prompt, safe='')}?width=16", encoded=True),
            ) as response:
                assert response.status == 200
        found = {charge.prompt_sha256 for charge in server.ledger.charges}
    assert found == {hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts}


async def test_the_same_picture_is_paid_once_at_pollinations() -> None:
    """``X-Cache: HIT`` and the same bytes; another seed is another picture, and paid."""
    async with FakePollinations() as server:
        url = f"{server.base_url}/image/fox?width=64&height=64"
        first, again = await get(f"{url}&seed=1"), await get(f"{url}&seed=1")
        other = await get(f"{url}&seed=2")
        assert (first[1]["X-Cache"], again[1]["X-Cache"], other[1]["X-Cache"]) == ("MISS", "HIT", "MISS")
        assert first[2] == again[2] != other[2]
        assert server.ledger.total == Decimal("0.002")


async def test_random_seeds_and_no_cache_are_always_paid() -> None:
    """``seed=-1`` is a new picture each time; ``no-cache=true`` passes the cache by."""
    async with FakePollinations() as server:
        for query in ("seed=-1", "seed=-1", "seed=3&no-cache=true", "seed=3&no-cache=true"):
            status, headers, _ = await get(f"{server.base_url}/image/fox?width=16&height=16&{query}")
            assert (status, headers["X-Cache"]) == (200, "MISS")
        assert len(server.ledger.charges) == 4


async def test_requests_join_a_picture_that_is_under_way() -> None:
    """Twenty at once, one MISS, one charge, one picture."""
    async with FakePollinations() as server:
        with server.held():
            url = f"{server.base_url}/image/fox?width=64&height=64"
            waiting = [asyncio.create_task(get(url)) for _ in range(20)]
            await server.wait_for_requests(20)
            assert len(server.ledger.charges) == 1
        answers = await asyncio.gather(*waiting)
    assert sorted(headers["X-Cache"] for _, headers, _ in answers) == ["HIT"] * 19 + ["MISS"]
    assert len({body for _, _, body in answers}) == 1


async def test_the_cache_forgets_after_thirty_days() -> None:
    """Then the same request is made and paid again."""
    clock = Clock()
    async with FakePollinations(clock=clock) as server:
        url = f"{server.base_url}/image/fox?width=16&height=16"
        caches = []
        for days in (0, 29, 2):
            clock.now += timedelta(days=days)
            caches.append((await get(url))[1]["X-Cache"])
        assert caches == ["MISS", "HIT", "MISS"]
        assert [charge.at.day for charge in server.ledger.charges] == [1, 1]


@pytest.mark.parametrize(
    "attempt",
    [
        lambda server: get(f"{server.base_url}/image/fox?key=sk_right&width=16"),
        lambda server: get(f"{server.base_url}/image/fox?width=16", Authorization="Bearer sk_right"),
        lambda server: post(server, {"prompt": "fox"}, Authorization="Bearer sk_right"),
    ],
)
async def test_pollinations_takes_its_key_in_header_or_query(attempt: Callable[..., Awaitable[Any]]) -> None:
    """With the key it answers; no secret is in what the server shows of its requests."""
    async with FakePollinations(api_key="sk_right") as server:
        assert (await attempt(server))[0] == 200
        assert "sk_right" not in repr(server.requests)
        seen = server.requests[0]
        assert "***" in (seen.params.get("key"), seen.headers.get("Authorization", "")[-3:])


@pytest.mark.parametrize("query", ["", "&key=sk_wrong"])
async def test_pollinations_refuses_a_wrong_key_but_not_a_cached_picture(query: str) -> None:
    """401 in the envelope, and no charge; the cache comes before the key."""
    async with FakePollinations(api_key="sk_right") as server:
        url = f"{server.base_url}/image/fox?width=16&height=16"
        status, _, body = await get(f"{url}{query}")
        assert (status, b"UNAUTHORIZED" in body, server.ledger.charges) == (401, True, ())
        await get(f"{url}&key=sk_right")
        assert (await get(f"{url}{query}"))[0] == 200


async def test_pollinations_post_answers_base64_by_default() -> None:
    """With usage, the media type, and a picture of ``size``."""
    async with FakePollinations() as server:
        status, headers, body = await post(server, {"prompt": "fox", "size": "320x200", "seed": 5})
        again = await post(server, {"prompt": "fox", "size": "320x200", "seed": 5})
    assert status == 200
    assert body.keys() == {"created", "data", "usage"}
    assert body["data"][0]["media_type"] == "image/jpeg"
    assert opened(base64.b64decode(body["data"][0]["b64_json"])).size == (320, 200)
    assert body["usage"].keys() == {"input_tokens", "output_tokens", "total_tokens", "input_tokens_details"}
    assert (headers["X-Cache"], again[1]["X-Cache"]) == ("MISS", "HIT")


async def test_pollinations_post_without_a_seed_is_new_each_time() -> None:
    """So a repeat is paid again."""
    async with FakePollinations() as server:
        answers = [await post(server, {"prompt": "fox", "size": "64x64"}) for _ in range(2)]
        assert len(server.ledger.charges) == 2
    assert answers[0][2]["data"] != answers[1][2]["data"]


async def test_pollinations_url_works_without_a_key_while_it_is_cached() -> None:
    """``url`` is a keyless GET of the same picture; after thirty days it is 401. ``Content-Location`` too."""
    clock = Clock()
    async with FakePollinations(api_key="sk_right", clock=clock) as server:
        asked = {"prompt": "fox/owl", "size": "64x48", "seed": 5, "response_format": "url"}
        _, headers, body = await post(server, asked, Authorization="Bearer sk_right")
        url = URL(body["data"][0]["url"], encoded=True)
        status, cached, picture = await get(url)
        assert (status, cached["X-Cache"], opened(picture).size) == (200, "HIT", (64, 48))
        assert (await get(headers["Content-Location"]))[2] == picture
        clock.now += timedelta(days=31)
        assert (await get(url))[0] == 401


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", 5),
        ("prompt", "\ud800"),
        ("n", 2),
        ("size", "big"),
        ("size", "9" * 5000 + "x16"),
        ("quality", ["hd"]),
        ("size", "9999x16"),
        ("quality", "best"),
        ("response_format", "base64"),
        ("model", "no-such-model"),
    ],
)
async def test_pollinations_says_which_field_is_wrong(field: str, value: object) -> None:
    """400 in the envelope with ``details.fieldErrors``, and no charge."""
    async with FakePollinations() as server:
        status, _, body = await post(server, {"prompt": "fox", field: value})
        assert server.ledger.charges == ()
    assert (status, body["error"]["code"]) == (400, "BAD_REQUEST")
    assert set(body["error"]["details"]["fieldErrors"]) <= {field, "width", "height"}


async def test_the_legacy_host_is_free_and_a_jpeg() -> None:
    """``GET /prompt/{prompt}``; the ledger has it with an amount of 0, once."""
    async with FakePollinations(api_key="sk_right") as server:
        url = f"{server.base_url}/prompt/a%20fox?width=64&height=64&model=turbo&transparent=true"
        first, again = await get(url), await get(url)
        assert [charge.amount for charge in server.ledger.charges] == [Decimal(0)]
    assert (first[0], first[1]["Content-Type"], opened(first[2]).size) == (200, "image/jpeg", (64, 64))
    assert first[1]["X-Auth-Status"] == "unauthenticated"
    assert first[2] == again[2]


async def test_a_free_legacy_picture_is_not_in_the_cache_of_the_paid_one() -> None:
    """The same words, size, seed and model: drawn and paid at the other host."""
    async with FakePollinations() as server:
        query = "width=64&height=64&seed=1&model=sana"
        await get(f"{server.base_url}/prompt/fox?{query}")
        assert (await get(f"{server.base_url}/image/fox?{query}"))[1]["X-Cache"] == "MISS"
        assert [charge.amount > 0 for charge in server.ledger.charges] == [False, True]


async def test_pollinations_lists_its_models_three_ways() -> None:
    """Rich, as OpenAI does, and as bare names; nothing is charged or failed for it."""
    async with FakePollinations() as server:
        server.fail("server_error")
        lists = []
        for path in ("/image/models", "/v1/models", "/models"):
            async with aiohttp.request("GET", f"{server.base_url}{path}") as response:
                lists.append(await response.json())
    assert {"flux", "sana"} <= {model["name"] for model in lists[0]}
    assert lists[1]["object"] == "list"
    assert {"flux", "sana"} <= {model["id"] for model in lists[1]["data"]}
    assert {"flux", "sana"} <= set(lists[2])


@pytest.mark.parametrize(("format_", "found"), [(None, "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
async def test_gpt_image_answers_base64_of_the_format_and_size(format_: str | None, found: str) -> None:
    """With size, format and usage in the answer."""
    asked: dict[str, object] = {"model": "gpt-image-2", "prompt": "fox", "size": "256x128", "n": 2}
    if format_:
        asked["output_format"] = format_
    async with FakeOpenAI() as server:
        status, _, body = await post(server, asked)
        assert server.ledger.total == Decimal("0.10")
    assert status == 200
    pictures = [opened(base64.b64decode(entry["b64_json"])) for entry in body["data"]]
    assert [(picture.format, picture.size) for picture in pictures] == [(found, (256, 128))] * 2
    assert body["data"][0] != body["data"][1]
    assert body["output_format"] == (format_ or "png")
    assert "usage" in body


async def test_gpt_image_refuses_a_transparent_jpeg() -> None:
    """400 that names ``background``, and no charge."""
    async with FakeOpenAI() as server:
        asked = {
            "model": "gpt-image-1",
            "prompt": "fox",
            "background": "transparent",
            "output_format": "jpeg",
        }
        status, _, body = await post(server, asked)
        assert (status, body["error"]["param"], server.ledger.charges) == (400, "background", ())


async def test_gpt_image_gives_alpha_when_asked() -> None:
    """``background: transparent``."""
    async with FakeOpenAI() as server:
        asked = {"model": "gpt-image-1", "prompt": "fox", "background": "transparent"}
        _, _, body = await post(server, asked)
    picture = opened(base64.b64decode(body["data"][0]["b64_json"]))
    assert picture.mode == "RGBA"
    assert picture.getchannel("A").getextrema() == (0, 255)


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("gpt-image-1", "response_format", "b64_json"),
        ("gpt-image-1", "seed", 1),
        ("gpt-image-1", "size", "512x512"),
        ("gpt-image-1", "quality", "hd"),
        ("gpt-image-2", "size", "1000x1000"),
        ("gpt-image-2", "size", "2048x512"),
        ("gpt-image-2", "output_compression", 50),
        ("gpt-image-2", "output_format", ["png"]),
        ("gpt-image-2", "n", 11),
        ("dall-e-3", "background", "transparent"),
        ("dall-e-3", "output_format", "png"),
        ("dall-e-3", "output_compression", 50),
        ("dall-e-3", "moderation", "low"),
        ("dall-e-3", "n", 2),
        ("dall-e-3", "size", "512x512"),
        ("some-model", "response_format", "binary"),
        ("some-model", "size", "0x64"),
    ],
)
async def test_openai_models_refuse_what_they_do_not_take(model: str, field: str, value: object) -> None:
    """400 with ``param``, and no charge."""
    async with FakeOpenAI() as server:
        status, _, body = await post(server, {"model": model, "prompt": "fox", field: value})
        assert server.ledger.charges == ()
    assert (status, body["error"]["param"]) == (400, field)


async def test_dall_e_gives_a_url_that_lives_for_an_hour() -> None:
    """The URL brings the picture to anybody, then 403 with XML."""
    clock = Clock()
    async with FakeOpenAI(api_key="sk-right", clock=clock) as server:
        asked = {"model": "dall-e-3", "prompt": "fox", "size": "1792x1024"}
        _, _, body = await post(server, asked, Authorization="Bearer sk-right")
        url = body["data"][0]["url"]
        assert body["data"][0]["revised_prompt"] == "fox"
        status, headers, picture = await get(url)
        assert (status, headers["Content-Type"], opened(picture).size) == (200, "image/png", (1792, 1024))
        clock.now += timedelta(hours=1)
        status, headers, _ = await get(url)
        assert (status, headers["Content-Type"].partition(";")[0]) == (403, "application/xml")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "b64_json"),
        ({"response_format": "base64"}, "b64_json"),
        ({"response_format": "b64_json"}, "b64_json"),
        ({"response_format": "url"}, "url"),
    ],
)
async def test_other_models_take_sides_and_answer_as_asked(asked: dict[str, str], field: str) -> None:
    """``width`` and ``height``, ``steps``, ``seed``; the answer has one field."""
    sides = {"width": 60, "height": 40, "steps": 4, "seed": 9, "negative_prompt": "dog"}
    async with FakeOpenAI() as server:
        _, _, body = await post(server, {"model": "black-forest/flux", "prompt": "fox", **sides, **asked})
        assert server.ledger.charges[0].seed == 9
        entry = body["data"][0]
        assert entry.keys() == {field}
        data = base64.b64decode(entry["b64_json"]) if field == "b64_json" else (await get(entry["url"]))[2]
    assert opened(data).size == (60, 40)


async def test_openai_needs_its_key() -> None:
    """401 ``invalid_api_key``, and no charge."""
    async with FakeOpenAI(api_key="sk-right") as server:
        status, _, body = await post(server, {"prompt": "fox"}, Authorization="Bearer sk-wrong")
        assert (status, body["error"]["code"], server.ledger.charges) == (401, "invalid_api_key", ())


async def test_openai_lists_models() -> None:
    """``{"object": "list", "data": [{"id", ...}]}``."""
    async with FakeOpenAI() as server, aiohttp.request("GET", f"{server.base_url}/models") as response:
        body = await response.json()
    assert {"gpt-image-2", "dall-e-3"} <= {model["id"] for model in body["data"]}


@pytest.mark.parametrize("make", [FakePollinations, FakeOpenAI])
async def test_unknown_paths_and_bodies_are_answered_in_the_providers_shape(make: Any) -> None:
    """404 and 400 with ``error``, both among the requests seen."""
    async with make() as server:
        status, _, body = await get(f"{server.base_url}/no/such/path")
        assert (status, b'"error"' in body) == (404, True)
        base = server.base_url.removesuffix("/v1")
        async with aiohttp.request("POST", f"{base}/v1/images/generations", data=b"{broken") as response:
            assert response.status == 400
            assert "error" in await response.json()
        assert [seen.method for seen in server.requests] == ["GET", "POST"]


async def test_requests_are_shown_as_they_arrived() -> None:
    """Method, path as encoded, parameters, parsed body, headers whatever their case."""
    async with FakePollinations() as server:
        await get(f"{server.base_url}/image/a%20fox?width=16&seed=4", Authorization="Bearer sk_secret")
        await post(server, {"prompt": "fox", "size": "16x16", "key": "sk_secret"})
        first, second = await server.wait_for_requests(2)
    assert (first.method, first.path) == ("GET", "/image/a%20fox")
    assert first.params == {"width": "16", "seed": "4"}
    assert first.headers["authorization"] == "Bearer ***"
    assert second.body == {"prompt": "fox", "size": "16x16", "key": "***"}
    assert "sk_secret" not in repr([first, second])


async def test_waiting_for_requests_ends_when_they_arrive() -> None:
    """Not before the last of them."""
    async with FakeOpenAI() as server:
        waiting = asyncio.create_task(server.wait_for_requests(2))
        await get(f"{server.base_url}/models")
        assert not waiting.done()
        await get(f"{server.base_url}/models")
        assert len(await waiting) == 2


async def test_two_servers_share_nothing() -> None:
    """Not their faults, requests, charges, caches or addresses."""
    async with FakePollinations() as one, FakePollinations() as two:
        one.fail("server_error")
        path = "/image/fox?width=16&height=16"
        assert (await get(one.base_url + path))[0] == 500
        status, headers, _ = await get(two.base_url + path)
        assert (status, headers["X-Cache"]) == (200, "MISS")
        one.clear()
        assert (await get(one.base_url + path))[1]["X-Cache"] == "MISS"
        assert (len(one.requests), len(two.requests)) == (2, 1)
        assert (len(one.ledger.charges), len(two.ledger.charges)) == (1, 1)
        assert one.base_url != two.base_url


@pytest.mark.parametrize("make", [FakePollinations, FakeOpenAI])
async def test_a_key_is_charged_once_under_fifty_requests_at_once(make: Any) -> None:
    """All get the same picture, also those that come while the first is under way."""
    async with make(keyed=True) as server:
        body = {"prompt": "fox", "size": "1024x1024"}
        with server.held():
            waiting = [asyncio.create_task(post(server, body, Idempotency_Key="k1")) for _ in range(50)]
            await server.wait_for_requests(50)
        answers = [await task for task in waiting]
        answers.append(await post(server, body, Idempotency_Key="k1"))
        assert len(server.ledger.charges) == 1
        assert server.ledger.double_charges() == []
        assert {status for status, _, _ in answers} == {200}
        pictures = [
            base64.b64decode(entry["b64_json"]) if "b64_json" in entry else (await get(entry["url"]))[2]
            for _, _, answer in answers
            for entry in answer["data"]
        ]
        assert len(set(pictures)) == 1


@pytest.mark.parametrize("make", [FakePollinations, FakeOpenAI])
async def test_a_blind_server_charges_each_time(make: Any) -> None:
    """The key changes nothing, and the ledger shows the double charge."""
    async with make() as server:
        for _ in range(3):
            await post(server, {"prompt": "fox", "size": "1024x1024"}, Idempotency_Key="k1")
        assert [len(group) for group in server.ledger.double_charges()] == [3]


@pytest.mark.parametrize("fault", ["charge_then_500", "charge_then_reset", "truncated"])
async def test_a_key_brings_back_what_was_paid_and_lost(fault: str) -> None:
    """The repeat with the same key has the picture, without a second charge."""
    async with FakeOpenAI(keyed=True) as server:
        body = {"model": "gpt-image-1", "prompt": "fox"}
        server.fail_next(fault)
        try:
            await post(server, body, Idempotency_Key="k1")
        except aiohttp.ClientError:
            assert fault == "charge_then_reset"
        _, _, answer = await post(server, body, Idempotency_Key="k1")
        opened(base64.b64decode(answer["data"][0]["b64_json"]))
        assert len(server.ledger.charges) == 1


async def test_a_key_used_for_another_request_is_refused() -> None:
    """409, and no charge."""
    async with FakeOpenAI(keyed=True) as server:
        await post(server, {"prompt": "fox"}, Idempotency_Key="k1")
        status, _, _ = await post(server, {"prompt": "owl"}, Idempotency_Key="k1")
        assert (status, len(server.ledger.charges)) == (409, 1)


async def test_leaving_ends_whatever_hangs_drips_or_is_held() -> None:
    """At once: nobody waits for a client, a fault or a picture."""
    async with asyncio.timeout(LIMIT_S), aiohttp.ClientSession() as session:
        async with FakeOpenAI(slow_s=3600) as server:
            url = f"{server.base_url}/images/generations"
            waiting = []
            for number, fault in enumerate(
                ["hang", "charge_then_hang", "slow_drip", "slow_first_byte", None], 1
            ):
                if fault:
                    server.fail_next(fault)
                else:
                    held = server.held()
                    held.__enter__()
                waiting.append(asyncio.create_task(session.post(url, json={"prompt": f"fox {number}"})))
                await server.wait_for_requests(number)
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(end, aiohttp.ClientError) for end in ended) >= 4


async def test_a_url_that_is_too_long_is_refused_as_by_the_edge() -> None:
    """Over 8 KB: 400, and it never gets as far as the provider."""
    async with FakePollinations() as server:
        status, _, _ = await get(f"{server.base_url}/image/{'x' * 9000}")
        assert (status, server.requests) == (400, [])


async def test_a_fault_of_the_answer_leaves_an_error_alone() -> None:
    """What was refused is not charged, so it is not charged and lost either."""
    async with FakeOpenAI() as server:
        server.fail_next("charge_then_reset")
        status, _, _ = await post(server, {"model": "dall-e-3", "prompt": ""})
        assert (status, server.ledger.charges) == (400, ())


async def test_an_address_exists_only_while_the_server_runs() -> None:
    """Before and after, asking for it is an error that says what to do."""
    server = FakeOpenAI()
    with pytest.raises(ConfigurationError, match="async with"):
        _ = server.base_url
    async with server:
        assert server.base_url.endswith("/v1")
    with pytest.raises(ConfigurationError, match="async with"):
        _ = server.base_url


async def test_a_port_that_is_taken_is_said() -> None:
    """With the port, and with the way out."""
    async with FakeOpenAI() as server:
        port = int(server.base_url.split(":")[2].partition("/")[0])
        with pytest.raises(ConfigurationError, match=f":{port} .*port 0"):
            async with FakePollinations(port=port):
                pass


@pytest.mark.campaign
def test_the_fixtures_give_running_servers_to_each_test(tmp_path: Path) -> None:
    """Named as a plugin, they work in a stranger's test suite; each test starts anew."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["blossom_async.testing.fixtures"]\n')
    (tmp_path / "test_it.py").write_text(
        "import aiohttp, pytest\n"
        "pytestmark = pytest.mark.asyncio\n"
        "@pytest.mark.parametrize('turn', [1, 2])\n"
        "async def test_both(turn, fake_pollinations, fake_openai):\n"
        "    for url in (f'{fake_pollinations.base_url}/v1/models', f'{fake_openai.base_url}/models'):\n"
        "        async with aiohttp.request('GET', url) as response:\n"
        "            assert response.status == 200\n"
        "    assert len(fake_pollinations.requests) == len(fake_openai.requests) == 1\n"
    )
    settings = ["-W", "error", "-o", "asyncio_default_fixture_loop_scope=function", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *settings, "--rootdir", "."]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert "2 passed" in ended.stdout, ended.stdout + ended.stderr


def test_importing_the_kit_imports_neither_pillow_nor_pytest() -> None:
    """Both are needed only where they are used."""
    code = (
        "import sys, blossom_async.testing; sys.exit(bool({'PIL', 'pytest', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=LIMIT_S).returncode == 0


def test_without_pillow_the_server_says_what_to_install() -> None:
    """``ConfigurationError`` with the extra's name, before anything listens."""
    code = (
        "import sys, asyncio\n"
        "sys.modules['PIL'] = None\n"
        "from blossom_async.errors import ConfigurationError\n"
        "from blossom_async.testing import FakeOpenAI\n"
        "async def main():\n"
        "    async with FakeOpenAI(): pass\n"
        "try:\n    asyncio.run(main())\n"
        "except ConfigurationError as error:\n    sys.exit('.[gateway]' not in str(error))\n"
        "sys.exit(1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=LIMIT_S).returncode == 0


def test_a_seen_request_does_not_show_its_key() -> None:
    """The key that was sent can be compared, and is in no repr."""
    assert "api_key" not in repr(
        SeenRequest(
            at=datetime.now(UTC),
            id="r",
            method="GET",
            path="/",
            headers={},
            params={},
            body=None,
            api_key="sk",
        )
    )

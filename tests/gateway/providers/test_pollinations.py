"""Pollinations: what is sent to it, and which of its answers can be used."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web
from PIL import Image

from blossom_async.errors import ConfigurationError, InvalidRequest
from blossom_async.gateway.providers import Delivery
from blossom_async.gateway.providers.faults import Kind, ProviderFault, to_error
from blossom_async.gateway.providers.pollinations import Pollinations
from blossom_async.gateway.providers.wire import Secret, provider_session
from blossom_async.models import ImageRequest
from blossom_async.testing import FakePollinations, Fault
from tests.waiting import GROWING_S

REQUEST = ImageRequest("a red fox & an owl?", width=256, height=192)
CANARY = "canary-0123456789-abcdefgh"


@asynccontextmanager
async def provider(server: FakePollinations, path: str = "", **options: Any) -> AsyncIterator[Pollinations]:
    """The adapter, at that server."""
    options = {"timeout_s": 30.0, "placeholders": [server.placeholder_sha256], **options}
    async with provider_session() as session:
        yield Pollinations(session, base_url=f"{server.base_url}{path}", **options)


async def made(server: FakePollinations, request: ImageRequest = REQUEST, **options: Any) -> Delivery:
    async with provider(server, **options) as asked:
        asked.check(request)
        return await asked.generate(request, 7, key="k")


async def fault_of(server: FakePollinations, fault: Fault, **options: Any) -> ProviderFault:
    """What becomes of this fault; planned twice, since a GET is repeated when its connection breaks."""
    server.fail_next(fault, times=2)
    async with provider(server, **options) as asked:
        with pytest.raises(ProviderFault) as caught:
            await asked.generate(REQUEST, 7, key="k")
    return caught.value


# What is asked


async def test_a_short_prompt_is_a_get_with_nothing_it_does_not_need() -> None:
    """Prompt in the path with nothing safe, the seed always, the key in its header only."""
    async with FakePollinations(api_key=CANARY) as server:
        delivery = await made(server, key=Secret(CANARY))
        (seen,) = server.requests
    assert (seen.method, seen.path) == ("GET", "/image/a%20red%20fox%20%26%20an%20owl%3F")
    assert dict(seen.params) == {
        "model": "flux",
        "width": "256",
        "height": "192",
        "seed": "7",
        "private": "true",
    }
    assert seen.headers["Authorization"] == "Bearer ***"
    assert seen.headers["Idempotency-Key"] == "k"
    assert (delivery.format, delivery.width, delivery.height) == ("jpg", 256, 192)
    assert Image.open(io.BytesIO(delivery.data)).size == (256, 192)
    assert (delivery.model, delivery.cached, delivery.notes) == (
        "flux",
        False,
        "pollinations flux; sent as jpg",
    )
    assert delivery.request_id == seen.id


@pytest.mark.parametrize("prompt", ["ü" * 400, "..", ".", "./x", "models", "models/x", "x" * 32_000])
async def test_a_prompt_that_makes_no_good_path_is_a_post(prompt: str) -> None:
    """Long ones, dots, and what would be another call."""
    async with FakePollinations() as server:
        delivery = await made(server, ImageRequest(prompt, width=64, height=48))
        (seen,) = server.requests
    assert (seen.method, seen.path) == ("POST", "/v1/images/generations")
    assert seen.body == {
        "prompt": prompt,
        "model": "flux",
        "size": "64x48",
        "seed": 7,
        "private": True,
        "response_format": "b64_json",
    }
    assert (delivery.width, delivery.height) == (64, 48)


@pytest.mark.parametrize("prompt", ["a/b", "%2e%2e", "a?b#c&d=e", "日本語 \N{FOX FACE}", "+", "ü" * 300])
async def test_a_path_holds_the_prompt_letter_for_letter(prompt: str) -> None:
    """Nothing is taken for a separator on the way."""
    async with FakePollinations() as server:
        await made(server, ImageRequest(prompt, width=64, height=48))
        (seen,) = server.requests
    assert seen.method == "GET"
    assert unquote(seen.path.removeprefix("/image/")) == prompt


@pytest.mark.parametrize("prompt", ["a logo", "a logo " * 400])
async def test_transparency_and_quality_are_asked_of_models_that_have_them(prompt: str) -> None:
    """By GET and by POST."""
    request = ImageRequest(
        prompt, width=64, height=64, model="gptimage", transparency=True, quality="ultra", format="webp"
    )
    async with FakePollinations() as server:
        delivery = await made(server, request)
        (seen,) = server.requests
    asked = seen.params if seen.method == "GET" else seen.body
    assert str(asked["transparent"]).lower() == "true"
    assert asked["quality"] == "hd"
    assert delivery.format == "png"
    assert Image.open(io.BytesIO(delivery.data)).mode == "RGBA"


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("transparency", {"transparency": True}),
        ("transparency", {"transparency": True, "model": "zimage"}),
        ("quality", {"quality": "hd"}),
        ("negative_prompt", {"negative_prompt": "people"}),
        ("negative_prompt", {"negative_prompt": "people", "model": "gptimage"}),
    ],
)
async def test_what_the_model_cannot_do_is_refused_before_any_cost(
    field: str, options: dict[str, Any]
) -> None:
    """Never asked for and ignored."""
    async with FakePollinations() as server, provider(server) as asked:
        with pytest.raises(InvalidRequest) as caught:
            asked.check(ImageRequest("x", **options))
        assert server.requests == []
    assert caught.value.field == field


async def test_the_older_host_is_asked_in_its_own_way() -> None:
    """Another path, and free."""
    async with FakePollinations() as server:
        delivery = await made(server, path="/prompt")
        (seen,) = server.requests
    assert (seen.method, seen.path) == ("GET", "/prompt/a%20red%20fox%20%26%20an%20owl%3F")
    assert dict(seen.params) == {
        "model": "flux",
        "width": "256",
        "height": "192",
        "seed": "7",
        "private": "true",
    }
    assert (delivery.usd, delivery.cached) == (Decimal(0), True)


@pytest.mark.parametrize("prompt", ["ü" * 2000, "..", "."])
async def test_the_older_host_has_no_way_for_some_prompts(prompt: str) -> None:
    """It takes them in URLs only."""
    async with FakePollinations() as server, provider(server, "/prompt") as asked:
        with pytest.raises(InvalidRequest, match="fits into a URL"):
            asked.check(ImageRequest(prompt))


async def test_the_older_host_is_known_by_its_name() -> None:
    """``image.pollinations.ai`` needs no path."""
    async with provider_session() as session:
        asked = Pollinations(session, base_url="https://image.pollinations.ai/")
        assert asked.price(REQUEST) == 0
        assert Pollinations(session).price(REQUEST) == Decimal("0.002")


async def test_a_model_that_no_request_could_name_is_refused() -> None:
    """It is written into files."""
    async with provider_session() as session:
        with pytest.raises(InvalidRequest, match="model"):
            Pollinations(session, model="flüx")
        with pytest.raises(ConfigurationError, match="http"):
            Pollinations(session, base_url="gen.pollinations.ai")


# Money


async def test_a_repeated_request_is_billed_once() -> None:
    """``keyed``: by its content; the second answer says that it is not billed."""
    async with FakePollinations() as server, provider(server) as asked:
        first = await asked.generate(REQUEST, 7, key="k1")
        again = await asked.generate(REQUEST, 7, key="k2")
        assert len(server.ledger.charges) == 1
    assert asked.keyed
    assert (first.cached, again.cached, again.usd) == (False, True, Decimal(0))
    assert first.data == again.data


@pytest.mark.parametrize("prompt", ["a fox", "a fox " * 500])
async def test_a_lost_answer_is_fetched_again_without_paying_twice(prompt: str) -> None:
    """The seed is in the request, so the same one joins what was paid for."""
    request = ImageRequest(prompt, width=64, height=64)
    for timeout_s in GROWING_S:
        async with FakePollinations() as server, provider(server) as asked:
            server.fail_next(Fault.CHARGE_THEN_HANG)
            async with provider(server, timeout_s=timeout_s) as hasty:
                with pytest.raises(ProviderFault) as caught:
                    await hasty.generate(request, 7, key="k")
            if not server.ledger.charges:
                continue
            assert (caught.value.kind, caught.value.charged) == (Kind.LOST, "unknown")
            assert (await asked.generate(request, 7, key="k")).cached
            assert len(server.ledger.charges) == 1
            return
    raise AssertionError("nothing was charged")


async def test_prices_are_the_services_own_once_they_are_known() -> None:
    """Before, those in the table; what was charged follows from the tokens it reports."""
    async with FakePollinations() as server, provider(server) as asked:
        assert asked.price(REQUEST) == Decimal("0.002")
        assert (await asked.generate(REQUEST, 1, key="k")).usd == Decimal("0.002")
        await asked.models()
        assert asked.price(REQUEST) == Decimal("0.001")
        assert (await asked.generate(REQUEST, 2, key="k")).usd == Decimal("0.001")
        assert asked.price(ImageRequest("x", model="unheard-of")) is None


# Models


async def test_models_are_asked_for_once_an_hour() -> None:
    """And by one caller at a time."""
    clock = [0.0]
    async with FakePollinations() as server, provider(server, clock=lambda: clock[0]) as asked:
        lists = await asyncio.gather(*(asked.models() for _ in range(20)))
        assert {model.name for model in lists[0]} == {"flux", "sana", "z-image", "gptimage"}
        assert asked.price(ImageRequest("x", model="flux")) == Decimal("0.001")
        assert len(server.requests) == 1
        clock[0] = 3599
        await asked.models()
        assert len(server.requests) == 1
        clock[0] = 3600
        await asked.models()
        assert len(server.requests) == 2


async def test_models_are_listed_without_the_key() -> None:
    """With it the list would lack what the balance does not cover, and that is no fault of the request."""
    async with FakePollinations(api_key=CANARY) as server, provider(server, key=Secret(CANARY)) as asked:
        await asked.models()
        assert [seen.api_key for seen in server.requests] == [None]


async def test_the_last_list_holds_while_the_service_is_down() -> None:
    """Asked again after a minute; without any list it is a fault."""
    clock = [0.0]
    async with provider_session() as session:
        async with FakePollinations() as server:
            asked = Pollinations(session, base_url=server.base_url, clock=lambda: clock[0])
            before = await asked.models()
        clock[0] = 4000
        assert await asked.models() == before
        with pytest.raises(ProviderFault):
            await Pollinations(session, base_url="http://127.0.0.1:9").models()


async def test_a_model_that_is_not_on_a_fresh_list_is_refused_early() -> None:
    """With the nearest name; without a list the service decides."""
    clock = [0.0]
    request = ImageRequest("x", model="z-imag")
    async with FakePollinations() as server, provider(server, clock=lambda: clock[0]) as asked:
        asked.check(request)
        await asked.models()
        with pytest.raises(InvalidRequest, match="Did you mean 'z-image'"):
            asked.check(request)
        asked.check(ImageRequest("x", model="flux"))
        clock[0] = 3600
        asked.check(request)


async def test_the_older_hosts_models_are_free() -> None:
    """Its list has names only."""
    async with FakePollinations() as server, provider(server, "/prompt") as asked:
        models = await asked.models()
    assert "turbo" in {model.name for model in models}
    assert asked.price(ImageRequest("x", model="turbo")) == Decimal(0)


LISTED = [
    {
        "name": "gptimage",
        "aliases": ["gpt-image", 5],
        "output_modalities": ["image"],
        "pricing": {
            "currency": "pollen",
            "promptTextTokens": "0.000002",
            "completionImageTokens": "0.000008",
        },
    },
    {
        "name": "odd",
        "pricing": {"completionImageTokens": "-1", "promptTextTokens": "nan", "x": None},
        "aliases": 5,
    },
    {"name": "veo", "output_modalities": ["video"]},
    {"no": "name"},
    7,
    "plain",
]


@asynccontextmanager
async def with_list(listed: bytes, status: int = 200) -> AsyncIterator[Pollinations]:
    """The adapter, at a server that lists this and draws noise for 8 tokens of text and 1,000 of picture."""
    out = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(out, "JPEG")

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path == "/image/models":
            return web.Response(body=listed, status=status)
        usage = {"x-usage-prompt-text-tokens": "8", "x-usage-completion-image-tokens": "1000"}
        return web.Response(body=out.getvalue(), headers={"x-model-used": "gptimage", **usage})

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, sock).start()
    try:
        async with provider_session() as session:
            yield Pollinations(session, base_url=f"http://127.0.0.1:{sock.getsockname()[1]}")
    finally:
        await runner.cleanup()


async def test_a_model_that_is_paid_by_the_token_has_its_price_afterwards() -> None:
    """What is charged is the usage that the answer reports, at the rates of the list."""
    request = ImageRequest("x", width=64, height=64, model="gpt-image")
    async with with_list(json.dumps(LISTED).encode()) as asked:
        models = {model.name: model for model in await asked.models()}
        assert models.keys() == {"gptimage", "odd", "plain"}
        assert models["gptimage"].aliases == ("gpt-image",)
        asked.check(request)
        assert asked.price(request) is None
        delivery = await asked.generate(request, 7, key="k")
    assert (delivery.usd, delivery.model) == (Decimal("0.008016"), "gptimage")


@pytest.mark.parametrize(("listed", "status"), [(b"{}", 200), (b"<html>", 200), (b"[]", 503)])
async def test_a_list_that_is_none_is_a_fault(listed: bytes, status: int) -> None:
    """Nothing was charged for it."""
    async with with_list(listed, status) as asked:
        with pytest.raises(ProviderFault) as caught:
            await asked.models()
    assert caught.value.charged == "no"


# What goes wrong

REFUSALS = {
    Fault.RATE_LIMITED_IP: (Kind.RATE_LIMITED, None),
    Fault.RATE_LIMITED_KEY: (Kind.RATE_LIMITED, 7.0),
    Fault.RATE_LIMITED_COMMUNITY: (Kind.RATE_LIMITED, 7.0),
    Fault.RATE_LIMITED_CONCURRENCY: (Kind.RATE_LIMITED, 1.0),
    Fault.RATE_LIMITED_FREE_MODEL: (Kind.RATE_LIMITED, 7.0),
    Fault.RATE_LIMITED_QUEUE_429: (Kind.RATE_LIMITED, None),
    Fault.RATE_LIMITED_QUEUE_402: (Kind.RATE_LIMITED, None),
    Fault.RATE_LIMITED_UPSTREAM: (Kind.RATE_LIMITED, None),
    Fault.PLACEHOLDER: (Kind.PLACEHOLDER, None),
    Fault.PAYMENT_REQUIRED: (Kind.OUT_OF_FUNDS, None),
    Fault.KEY_BUDGET_EXHAUSTED: (Kind.OUT_OF_FUNDS, None),
    Fault.INSUFFICIENT_BALANCE: (Kind.OUT_OF_FUNDS, None),
    Fault.PAYMENT_REQUIRED_X402: (Kind.OUT_OF_FUNDS, None),
    Fault.UNAUTHORIZED: (Kind.UNAUTHORIZED, None),
    Fault.FORBIDDEN: (Kind.UNAUTHORIZED, None),
    Fault.SAFETY_BLOCKED: (Kind.MODERATION, None),
    Fault.CONTENT_POLICY_VIOLATION: (Kind.MODERATION, None),
    Fault.UNAVAILABLE: (Kind.UNAVAILABLE, None),
    Fault.EDGE_530: (Kind.UNAVAILABLE, None),
}
"""Fault -> kind and wish to wait. Nothing was charged."""

UNKNOWN = {
    Fault.SERVER_ERROR,
    Fault.BAD_GATEWAY,
    Fault.GATEWAY_TIMEOUT,
    Fault.EDGE_524,
    Fault.CLOSED_EARLY,
    Fault.RESET,
    Fault.HANG,
    Fault.CHARGE_THEN_RESET,
    Fault.CHARGE_THEN_500,
    Fault.CHARGE_THEN_HANG,
}
PAID_FOR_NOTHING = {
    Fault.SVG_AS_PNG,
    Fault.JSON_AS_JPEG,
    Fault.TRUNCATED,
    Fault.EMPTY_BODY,
    Fault.TINY,
    Fault.WRONG_SIZE,
}
LATE = {Fault.SLOW_DRIP, Fault.SLOW_FIRST_BYTE}


def test_every_fault_of_the_kit_is_looked_at() -> None:
    """A new one must be put in a table here."""
    looked_at = {*REFUSALS, *UNKNOWN, *PAID_FOR_NOTHING, *LATE, Fault.HTML_200, Fault.SAME_BYTES}
    assert looked_at == FakePollinations.known_faults


@pytest.mark.parametrize(("fault", "meant"), REFUSALS.items(), ids=REFUSALS)
async def test_a_refusal_is_recognised_in_every_shape(fault: Fault, meant: tuple[Kind, float | None]) -> None:
    """All nine shapes of throttling, money, keys and moderation."""
    async with FakePollinations(retry_after_s=7) as server:
        found = await fault_of(server, fault)
        assert not server.ledger.charges
        assert found.request_id == server.requests[-1].id
    assert (found.kind, found.retry_after_s, found.charged) == (*meant, "no")


@pytest.mark.parametrize("fault", sorted(UNKNOWN))
async def test_an_answer_that_did_not_come_is_of_unknown_cost(fault: Fault) -> None:
    """Whether or not the ledger has it: from here both look the same."""
    for timeout_s in GROWING_S if "hang" in fault else (30.0,):
        async with FakePollinations() as server:
            found = await fault_of(server, fault, timeout_s=timeout_s)
        if server.requests:
            break
    assert (found.kind, found.charged, found.safe_to_repeat) == (Kind.LOST, "unknown", False)


@pytest.mark.parametrize("fault", sorted(PAID_FOR_NOTHING))
@pytest.mark.parametrize("prompt", ["a fox", "a fox " * 500])
async def test_a_bad_picture_is_paid_for_and_refused(fault: Fault, prompt: str) -> None:
    """The service says that it delivered."""
    request = ImageRequest(prompt, width=256, height=192)
    async with FakePollinations() as server, provider(server) as asked:
        server.fail_next(fault)
        with pytest.raises(ProviderFault) as caught:
            await asked.generate(request, 7, key="k")
        assert len(server.ledger.charges) == 1
    assert caught.value.kind is Kind.BAD_CONTENT
    assert caught.value.charged in {"yes", "unknown"}


async def test_a_page_of_the_edge_says_nothing_of_money() -> None:
    """200 and HTML, without a header of the service."""
    async with FakePollinations() as server:
        found = await fault_of(server, Fault.HTML_200)
    assert (found.kind, found.charged) == (Kind.BAD_CONTENT, "unknown")


async def test_one_picture_for_all_prompts_is_noticed_at_the_second() -> None:
    """The first cannot be told from a good one."""
    async with FakePollinations() as server, provider(server) as asked:
        server.fail(Fault.SAME_BYTES)
        await asked.generate(REQUEST, 7, key="k1")
        await asked.generate(REQUEST, 7, key="k2")
        with pytest.raises(ProviderFault, match="another prompt") as caught:
            await asked.generate(ImageRequest("something else", width=256, height=192), 7, key="k3")
    assert (caught.value.kind, caught.value.charged) == (Kind.BAD_CONTENT, "yes")


@pytest.mark.parametrize("fault", sorted(LATE))
async def test_a_late_picture_is_a_picture(fault: Fault) -> None:
    """As long as it comes within the time allowed."""
    async with FakePollinations(slow_s=0) as server:
        server.fail_next(fault)
        assert (await made(server, ImageRequest("x", width=64, height=64))).width == 64


async def test_cancelling_closes_the_connection() -> None:
    """Nothing goes on in this process."""
    async with FakePollinations() as server, provider(server) as asked:
        with server.held():
            task = asyncio.create_task(asked.generate(REQUEST, 7, key="k"))
            await server.wait_for_requests(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (await asked.generate(REQUEST, 7, key="k")).cached


async def test_the_key_is_nowhere_but_in_its_header(caplog: pytest.LogCaptureFixture) -> None:
    """Not in a message, repr, log record or traceback of any fault; nor is the prompt."""
    caplog.set_level(logging.DEBUG)
    shown = []
    for fault in sorted(FakePollinations.known_faults - LATE - {Fault.SAME_BYTES}):
        async with FakePollinations() as server:
            server.fail_next(fault, times=2)
            async with provider(server, key=Secret(CANARY), timeout_s=2.0) as asked:
                try:
                    await asked.generate(REQUEST, 7, key="k")
                except ProviderFault as exc:
                    shown += [*traceback.format_exception(exc), repr(exc), repr(exc.args), str(to_error(exc))]
            assert {seen.api_key for seen in server.requests} == {CANARY}
            shown += [repr(asked), *(seen.path for seen in server.requests)]
            assert not any("key" in seen.params for seen in server.requests)
    text = "\n".join([*shown, caplog.text])
    assert len(shown) > 100
    assert CANARY not in text
    assert REQUEST.prompt not in text

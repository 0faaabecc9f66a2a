"""OpenAI's Images API in its dialects: what is sent, and which answers can be used."""

from __future__ import annotations

import base64
import io
import json
import logging
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
import attrs
import pytest
from aiohappyeyeballs import AddrInfoType
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from yarl import URL

from blossom_async.errors import InvalidRequest
from blossom_async.gateway.providers import Delivery
from blossom_async.gateway.providers.answers import document_of, picture_of
from blossom_async.gateway.providers.faults import Kind, ProviderFault, to_error
from blossom_async.gateway.providers.openai import (
    Flavour,
    OpenAI,
    _flexible,
    _usd,
    flavour_of,
)
from blossom_async.gateway.providers.wire import Secret, provider_session
from blossom_async.models import ImageRequest
from blossom_async.testing import FakeOpenAI, Fault
from tests.waiting import GROWING_S

CANARY = "canary-0123456789-abcdefgh"
MODELS = ("gpt-image-2.5-flare", "dall-e-3", "generic-1")
REQUEST = ImageRequest("a red fox & an owl?", width=256, height=192)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def provider_at(url: str, session: aiohttp.ClientSession, **options: Any) -> OpenAI:
    downloads = options.pop("downloads", session)
    return OpenAI(session, downloads, base_url=url, **{"model": "generic-1", "timeout_s": 30.0, **options})


@asynccontextmanager
async def provider(server: FakeOpenAI, **options: Any) -> AsyncIterator[OpenAI]:
    """The adapter, at that server."""
    async with provider_session() as session:
        yield provider_at(server.base_url, session, placeholders=[server.placeholder_sha256], **options)


@asynccontextmanager
async def answering(handler: _Handler) -> AsyncIterator[str]:
    """The address of a server with one handler for all paths."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, sock).start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        await runner.cleanup()


def drawn(width: int = 256, height: int = 192) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 50).save(out, "PNG")
    return out.getvalue()


async def asked_of(request: ImageRequest, **options: Any) -> tuple[dict[str, Any], Delivery]:
    """The body that was sent for a request, and what came of it."""
    async with FakeOpenAI() as server, provider(server, **options) as asked:
        asked.check(request)
        delivery = await asked.generate(request, 7, key="k")
        (seen,) = server.requests
    return seen.body, delivery


# What is asked


async def test_the_key_and_the_idempotency_key_are_headers() -> None:
    """Nothing of them is in the URL."""
    async with FakeOpenAI(api_key=CANARY) as server, provider(server, key=Secret(CANARY)) as asked:
        delivery = await asked.generate(REQUEST, 7, key="k-1")
        (seen,) = server.requests
    assert (seen.method, seen.path, dict(seen.params)) == ("POST", "/v1/images/generations", {})
    assert seen.headers["Authorization"] == "Bearer ***"
    assert seen.idempotency_key == "k-1"
    assert (delivery.request_id, delivery.cached, delivery.usd) == (seen.id, False, None)


async def test_without_an_idempotency_key_there_is_no_header() -> None:
    """As for pictures that nobody would ask for again."""
    async with FakeOpenAI() as server, provider(server) as asked:
        await asked.generate(REQUEST, 7, key="")
    assert "Idempotency-Key" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("gpt-image-1-mini", "1536x1024"),
        ("gpt-image-1.5", "1536x1024"),
        ("chatgpt-image-latest", "1536x1024"),
        ("gpt-image-2", "944x704"),
        ("gpt-image-2.6-sunburst", "944x704"),
        ("openai/gpt-image-2", "944x704"),
    ],
)
async def test_gpt_image_is_asked_for_what_it_takes(model: str, size: str) -> None:
    """No seed, no ``response_format``; a size of the model's, a lossless file."""
    async with provider_session() as session:
        order = provider_at("https://a.example/v1", session, model=model)._order(REQUEST, 7)
    assert order.body == {
        "model": model,
        "prompt": REQUEST.prompt,
        "size": size,
        "quality": "low",
        "output_format": "png",
    }


async def test_gpt_image_delivers_a_larger_picture_to_cut_from() -> None:
    """The fake refuses what the real one would."""
    body, delivery = await asked_of(REQUEST, model="gpt-image-2.5-flare")
    assert "response_format" not in body
    assert (delivery.width, delivery.height, delivery.format) == (944, 704, "png")
    assert delivery.notes == "openai gpt-image-2.5-flare; drawn at 944x704; takes no seed"


async def test_gpt_image_takes_transparency_quality_and_what_not_to_show() -> None:
    """The last as an instruction; it has no parameter for it."""
    request = ImageRequest(
        "a logo",
        model="gpt-image-2.5-flare",
        transparency=True,
        quality="ultra",
        negative_prompt="text",
        format="webp",
    )
    body, delivery = await asked_of(request)
    assert (body["background"], body["quality"], body["output_format"]) == ("transparent", "high", "png")
    assert body["prompt"] == "a logo\n\nDo not show: text"
    assert Image.open(io.BytesIO(delivery.data)).mode == "RGBA"


async def test_a_jpg_is_asked_for_as_jpeg() -> None:
    """It comes sooner, and is encoded again here."""
    body, delivery = await asked_of(ImageRequest("x", format="jpg", model="gpt-image-2"))
    assert (body["output_format"], delivery.format) == ("jpeg", "jpg")


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(512, 512, "1024x1024"), (800, 600, "1792x1024"), (9 * 16, 16 * 16, "1024x1792")],
)
async def test_dall_e_is_asked_for_what_it_takes(width: int, height: int, size: str) -> None:
    """One of its sizes, that of which least is cut off."""
    body, _ = await asked_of(ImageRequest("x", width=width, height=height, quality="hd", model="dall-e-3"))
    assert body == {
        "model": "dall-e-3",
        "prompt": "x",
        "size": size,
        "quality": "hd",
        "response_format": "b64_json",
    }


async def test_another_model_is_asked_as_most_servers_take_it() -> None:
    """vLLM-Omni, LocalAI and others: exact size, the seed, what not to show."""
    body, delivery = await asked_of(attrs.evolve(REQUEST, negative_prompt="people", quality="hd"))
    assert body == {
        "model": "generic-1",
        "prompt": REQUEST.prompt,
        "size": "256x192",
        "seed": 7,
        "response_format": "b64_json",
        "quality": "hd",
        "negative_prompt": "people",
    }
    assert delivery.notes == "openai generic-1"


async def test_together_is_asked_in_its_own_words() -> None:
    """Sides apart, in steps of 16, and ``base64``."""
    body, delivery = await asked_of(ImageRequest("x", width=250, height=180), flavour=Flavour.TOGETHER)
    assert body == {
        "model": "generic-1",
        "prompt": "x",
        "seed": 7,
        "width": 256,
        "height": 192,
        "response_format": "base64",
        "output_format": "png",
    }
    assert (delivery.width, delivery.height) == (256, 192)


async def test_azure_has_a_version_in_the_url_and_the_key_in_a_header_of_its_own() -> None:
    """``/openai/deployments/NAME/images/generations?api-version=``"""
    seen: list[tuple[str, str | None, str | None]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(
            (str(request.rel_url), request.headers.get("api-key"), request.headers.get("Authorization"))
        )
        return web.json_response({"data": [{"b64_json": base64.b64encode(drawn()).decode()}]})

    async with answering(handle) as url, provider_session() as session:
        for query in ("", "?api-version=2026-01-01"):
            address = f"{url}/openai/deployments/pictures{query}"
            asked = provider_at(address, session, flavour=Flavour.AZURE, key=Secret(CANARY))
            await asked.generate(REQUEST, 7, key="k")
    path = "/openai/deployments/pictures/images/generations"
    assert seen == [
        (f"{path}?api-version=2025-04-01-preview", CANARY, None),
        (f"{path}?api-version=2026-01-01", CANARY, None),
    ]


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("ORIGIN", ""),
        ("ORIGIN/", ""),
        ("ORIGIN/v1", "/v1"),
        ("ORIGIN/v1/", "/v1"),
        ("ORIGIN/v1//", "/v1"),
        ("  ORIGIN/v1 \n", "/v1"),
        ("ORIGIN/a%2Fb/v1?key=x", "/a%2Fb/v1"),
        ("ORIGIN/v1/images/generations", "/v1"),
        ("ORIGIN/images/generations/", ""),
    ],
)
async def test_a_base_url_is_taken_as_people_write_it(base: str, path: str) -> None:
    """With or without a path, slashes at its end, blanks around it, or as the whole address."""
    seen: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(request.raw_path)
        return web.json_response({"data": [{"b64_json": base64.b64encode(drawn()).decode()}]})

    async with answering(handle) as url, provider_session() as session:
        asked = provider_at(base.replace("ORIGIN", url), session)
        await asked.generate(REQUEST, 7, key="k")
        await asked.models()
    query = base.partition("?")[2]
    assert seen == [f"{path}/{what}{query and '?' + query}" for what in ("images/generations", "models")]


@pytest.mark.parametrize(
    ("url", "flavour"),
    [
        ("https://api.openai.com/v1", Flavour.OPENAI),
        ("https://name.openai.azure.com/openai/deployments/x", Flavour.AZURE),
        ("https://api.together.xyz/v1", Flavour.TOGETHER),
        ("http://localhost:8080/v1", Flavour.OPENAI),
        ("https://notazure.com/v1", Flavour.OPENAI),
    ],
)
def test_a_flavour_is_told_by_the_host(url: str, flavour: Flavour) -> None:
    """Nobody needs to set it."""
    assert flavour_of(url) is flavour


@pytest.mark.parametrize(
    ("model", "field", "options"),
    [
        ("gpt-image-2", "transparency", {"transparency": True}),
        ("gpt-image-2-2026-04-21", "transparency", {"transparency": True}),
        ("gpt-image-2", "negative_prompt", {"prompt": "x" * 31_990, "negative_prompt": "people"}),
        ("dall-e-3", "transparency", {"transparency": True}),
        ("dall-e-3", "quality", {"quality": "ultra"}),
        ("dall-e-3", "negative_prompt", {"negative_prompt": "people"}),
        ("dall-e-3", "prompt", {"prompt": "x" * 4001}),
        ("generic-1", "transparency", {"transparency": True}),
        ("generic-1", "quality", {"quality": "ultra"}),
    ],
)
async def test_what_the_model_cannot_do_is_refused_before_any_cost(
    model: str, field: str, options: dict[str, Any]
) -> None:
    """Never asked for and ignored."""
    request = ImageRequest(**{"prompt": "x", "model": model, **options})
    async with FakeOpenAI() as server, provider(server) as asked:
        with pytest.raises(InvalidRequest) as caught:
            asked.check(request)
        assert server.requests == []
    assert caught.value.field == field
    assert model in caught.value.allowed


@given(width=st.integers(16, 4096), height=st.integers(16, 4096))
@example(width=16, height=4096)
@example(width=4096, height=4096)
@example(width=3840, height=1281)
@example(width=2881, height=2879)
def test_the_newer_models_sizes_are_within_their_limits(width: int, height: int) -> None:
    """Steps of 16, 1:3 to 3:1, 3840 a side, 655,360 to 8,294,400 pixels; and they cover what was asked."""
    wide, high = _flexible(width, height)
    assert wide % 16 == high % 16 == 0
    assert max(wide, high) <= 3840
    assert wide <= 3 * high <= 9 * wide
    assert 655_360 <= wide * high <= 8_294_400
    if max(width, height) <= 2880 and 1 / 3 <= width / height <= 3:
        assert wide >= width
        assert high >= height


# What comes


async def fault_of(server: FakeOpenAI, fault: Fault, model: str, **options: Any) -> ProviderFault:
    """What becomes of this fault."""
    server.fail_next(fault)
    async with provider(server, model=model, **options) as asked:
        with pytest.raises(ProviderFault) as caught:
            await asked.generate(REQUEST, 7, key="k")
    return caught.value


REFUSALS = {
    Fault.RATE_LIMITED: (Kind.RATE_LIMITED, 7.0),
    Fault.INSUFFICIENT_QUOTA: (Kind.OUT_OF_FUNDS, None),
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
    Fault.BARE_DETAIL,
    Fault.BARE_MESSAGE,
    Fault.EDGE_524,
    Fault.CLOSED_EARLY,
    Fault.RESET,
    Fault.HANG,
    Fault.CHARGE_THEN_RESET,
    Fault.CHARGE_THEN_500,
    Fault.CHARGE_THEN_HANG,
}
BAD_PICTURES = {Fault.SVG_AS_PNG, Fault.JSON_AS_JPEG, Fault.TRUNCATED, Fault.TINY, Fault.WRONG_SIZE}
NO_PICTURE = {Fault.HTML_200, Fault.EMPTY_BODY, Fault.DATA_MISSING, Fault.DATA_EMPTY}
LATE = {Fault.SLOW_DRIP, Fault.SLOW_FIRST_BYTE}


def test_every_fault_of_the_kit_is_looked_at() -> None:
    """A new one must be put in a table here."""
    looked_at = {*REFUSALS, *UNKNOWN, *BAD_PICTURES, *NO_PICTURE, *LATE, Fault.PLACEHOLDER, Fault.SAME_BYTES}
    assert looked_at == FakeOpenAI.known_faults


@pytest.mark.parametrize(("fault", "meant"), REFUSALS.items(), ids=REFUSALS)
@pytest.mark.parametrize("model", MODELS)
async def test_a_refusal_is_recognised(fault: Fault, meant: tuple[Kind, float | None], model: str) -> None:
    """And nothing was charged for it."""
    async with FakeOpenAI(retry_after_s=7) as server:
        found = await fault_of(server, fault, model)
        assert not server.ledger.charges
        assert found.request_id == server.requests[0].id
    assert (found.kind, found.retry_after_s, found.charged) == (*meant, "no")


@pytest.mark.parametrize("fault", sorted(UNKNOWN))
async def test_an_answer_that_did_not_come_is_of_unknown_cost(fault: Fault) -> None:
    """It was sent once, and is not sent again here."""
    for timeout_s in GROWING_S if "hang" in fault else (30.0,):
        async with FakeOpenAI() as server:
            found = await fault_of(server, fault, "generic-1", timeout_s=timeout_s)
        if server.requests:
            break
    assert len(server.requests) == 1
    assert (found.kind, found.charged, found.safe_to_repeat) == (Kind.LOST, "unknown", False)


@pytest.mark.parametrize("fault", sorted(BAD_PICTURES))
@pytest.mark.parametrize("model", MODELS)
async def test_a_bad_picture_is_paid_for_and_refused(fault: Fault, model: str) -> None:
    """The service counts it as delivered."""
    async with FakeOpenAI() as server:
        found = await fault_of(server, fault, model)
    assert (found.kind, found.charged) == (Kind.BAD_CONTENT, "yes")


@pytest.mark.parametrize("fault", sorted(NO_PICTURE))
async def test_an_answer_without_a_picture_may_have_been_charged(fault: Fault) -> None:
    """Nothing in it says so, nothing says otherwise."""
    async with FakeOpenAI() as server:
        found = await fault_of(server, fault, "generic-1")
    assert (found.kind, found.charged) == (Kind.BAD_CONTENT, "unknown")


async def test_a_placeholder_is_recognised() -> None:
    """What it costs at a service that takes money for pictures is not known."""
    async with FakeOpenAI() as server:
        found = await fault_of(server, Fault.PLACEHOLDER, "generic-1")
    assert (found.kind, found.charged) == (Kind.PLACEHOLDER, "unknown")


async def test_one_picture_for_all_prompts_is_noticed_at_the_second() -> None:
    """As for Pollinations."""
    async with FakeOpenAI() as server, provider(server) as asked:
        server.fail(Fault.SAME_BYTES)
        await asked.generate(REQUEST, 7, key="k1")
        with pytest.raises(ProviderFault, match="another prompt"):
            await asked.generate(ImageRequest("something else", width=256, height=192), 7, key="k2")


@pytest.mark.parametrize("fault", sorted(LATE))
async def test_a_late_picture_is_a_picture(fault: Fault) -> None:
    """As long as it comes within the time allowed."""
    async with FakeOpenAI(slow_s=0) as server, provider(server) as asked:
        server.fail_next(fault)
        assert (await asked.generate(ImageRequest("x", width=64, height=64), 7, key="k")).width == 64


async def test_a_server_that_honours_keys_is_paid_once() -> None:
    """``keyed`` is what the operator knows of the server."""
    async with FakeOpenAI(keyed=True) as server, provider(server, keyed=True) as asked:
        server.fail_next(Fault.CHARGE_THEN_500)
        with pytest.raises(ProviderFault):
            await asked.generate(REQUEST, 7, key="k")
        assert (await asked.generate(REQUEST, 7, key="k")).width == 256
        assert len(server.ledger.charges) == 1
        assert asked.keyed


# A wrong URL


@pytest.mark.parametrize("path", ["", "/", "/v1/v1", "/v2", "/v1/images"])
async def test_a_url_that_leads_nowhere_is_the_settings_fault(path: str) -> None:
    """Nothing was charged, and the setting is named, not the request."""
    async with FakeOpenAI() as server, provider_session() as session:
        asked = provider_at(server.base_url.removesuffix("/v1") + path, session)
        with pytest.raises(ProviderFault, match="nor is there an Images API under http://127") as caught:
            await asked.generate(REQUEST, 7, key="k")
    assert (caught.value.kind, caught.value.charged) == (Kind.MISCONFIGURED, "no")
    assert "BLOSSOM_OPENAI_URL" in str(to_error(caught.value))


@pytest.mark.parametrize("status", [200, 405])
async def test_a_url_of_a_web_site_is_the_settings_fault(status: int) -> None:
    """It has a page for every address."""

    async def handle(request: web.Request) -> web.StreamResponse:
        page = "<!DOCTYPE html><title>Welcome</title>"
        return web.Response(status=status if request.method == "POST" else 200, text=page)

    async with answering(handle) as url, provider_session() as session:
        with pytest.raises(ProviderFault) as caught:
            await provider_at(url, session).generate(REQUEST, 7, key="k")
    assert (caught.value.kind, caught.value.charged) == (Kind.MISCONFIGURED, "no")


@pytest.mark.parametrize(
    ("told", "models", "kind"),
    [
        ({"error": {"message": "The model `m` does not exist"}}, 404, Kind.REJECTED),
        ({"detail": "Not Found"}, 200, Kind.REJECTED),
        ({"detail": "Not Found"}, 401, Kind.REJECTED),
        ({"detail": "Not Found"}, 404, Kind.MISCONFIGURED),
    ],
)
async def test_a_404_is_the_settings_fault_only_where_nothing_is_found(
    told: dict[str, object], models: int, kind: Kind
) -> None:
    """An unknown model is the request's; and a server may be asked for its models to tell."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.json_response(told, status=404 if request.method == "POST" else models)

    async with answering(handle) as url, provider_session() as session:
        with pytest.raises(ProviderFault) as caught:
            await provider_at(url, session).generate(REQUEST, 7, key="k")
    assert caught.value.kind is kind


# Pictures that come as URLs


def gives(*entries: object) -> _Handler:
    """A server whose answer has these entries; under /files/ it has pictures and tricks."""

    async def handle(request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/files/picture":
                assert not {"Authorization", "Idempotency-Key"} & request.headers.keys()
                return web.Response(body=drawn(), content_type="application/octet-stream")
            case "/files/gone":
                raise web.HTTPForbidden
            case "/files/elsewhere":
                raise web.HTTPFound("/files/picture")
            case "/files/loop":
                raise web.HTTPFound("/files/loop")
            case "/files/to-a-file":
                raise web.HTTPFound("file:///etc/passwd")
            case "/files/page":
                return web.Response(text="<html>expired</html>", content_type="text/html")
        origin = str(request.url.origin())
        text = json.dumps({"data": entries}).replace("ORIGIN", origin)
        return web.Response(text=text, content_type="application/json")

    return handle


@pytest.mark.parametrize(
    "entry",
    [
        {"url": "ORIGIN/files/picture"},
        {"url": "ORIGIN/files/elsewhere"},
        {"url": f"data:image/png;base64,{base64.b64encode(drawn()).decode()}"},
        {"b64_json": f"data:image/png;base64,{base64.b64encode(drawn()).decode()}"},
        {"b64_json": None, "url": "ORIGIN/files/picture"},
        {"b64_json": "", "base64": base64.b64encode(drawn()).decode()},
    ],
)
async def test_a_picture_comes_in_several_wrappings(entry: object) -> None:
    """Base64, a ``data:`` URL, or a URL that is fetched without the key, over redirects."""
    async with answering(gives(entry)) as url, provider_session() as session:
        delivery = await provider_at(url, session, key=Secret(CANARY)).generate(REQUEST, 7, key="k")
    assert (delivery.format, delivery.width) == ("png", 256)


@pytest.mark.parametrize("name", ["gone", "loop", "to-a-file", "page", "absent"])
async def test_a_url_that_brings_no_picture_was_paid_for(name: str) -> None:
    """The picture was made; it cannot be had."""
    async with answering(gives({"url": f"ORIGIN/files/{name}?sig=canary-in-a-query"})) as url:
        async with provider_session() as session:
            with pytest.raises(ProviderFault) as caught:
                await provider_at(url, session).generate(REQUEST, 7, key="k")
    assert (caught.value.kind, caught.value.charged) == (Kind.BAD_CONTENT, "yes")
    assert "canary" not in "".join(traceback.format_exception(caught.value))


async def test_downloads_go_where_their_guard_allows() -> None:
    """Row 77: a URL of a provider is a stranger's URL."""

    def guard(info: AddrInfoType) -> socket.socket:
        raise PermissionError(13, "not this one")

    async with answering(gives({"url": "http://169.254.169.254/latest"})) as url:
        async with provider_session() as session, provider_session(guard) as downloads:
            with pytest.raises(ProviderFault, match="gives no picture") as caught:
                await provider_at(url, session, downloads=downloads).generate(REQUEST, 7, key="k")
    assert caught.value.charged == "yes"


@pytest.mark.parametrize(
    "entry", [{}, None, 5, "x", {"b64_json": 5}, {"b64_json": "no base64!"}, {"url": "file:///x"}]
)
async def test_an_entry_without_a_picture_is_a_fault(entry: object) -> None:
    """Whatever is in its place."""
    async with answering(gives(entry)) as url, provider_session() as session:
        with pytest.raises(ProviderFault) as caught:
            await provider_at(url, session).generate(REQUEST, 7, key="k")
    assert caught.value.kind is Kind.BAD_CONTENT


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "b64_json", "url", "usage"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(body=st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
@example(body=b'{"data": [{"url": "http://[::1"}]}')
@example(body=b'{"data": [{"url": "http://a.example:99999/"}]}')
@example(body=b'{"data": [{"b64_json": "data:image/png;base64,\xc3\xa9"}]}')
def test_no_answer_raises_anything(body: bytes) -> None:
    """Bytes, an address, or nothing."""
    assert isinstance(picture_of(document_of(body)), bytes | str | None)


# Money and models


@asynccontextmanager
async def as_openai(port: int) -> AsyncIterator[aiohttp.ClientSession]:
    """A session for which api.openai.com is on this machine."""

    class Here(aiohttp.abc.AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[aiohttp.abc.ResolveResult]:
            return [
                {
                    "hostname": host,
                    "host": "127.0.0.1",
                    "port": port,
                    "family": socket.AF_INET,
                    "proto": 0,
                    "flags": 0,
                }
            ]

        async def close(self) -> None:
            pass

    connector = aiohttp.TCPConnector(resolver=Here())
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def test_openais_own_prices_are_for_openai_itself() -> None:
    """Before: what the guide lists. After: the tokens the answer names. Elsewhere nothing is known."""
    request = ImageRequest("x", model="gpt-image-2", quality="hd")
    async with FakeOpenAI() as server:
        port = URL(server.base_url).port
        assert port is not None
        async with as_openai(port) as session:
            asked = provider_at(f"http://api.openai.com:{port}/v1", session)
            assert asked.price(request) == Decimal("0.053")
            assert asked.price(ImageRequest("x", model="gpt-image-2-2026-04-21")) == Decimal("0.006")
            assert asked.price(ImageRequest("x", model="gpt-image-2", width=2048)) is None
            assert asked.price(ImageRequest("x", model="gpt-image-2.6-flare")) is None
            assert (await asked.generate(request, 7, key="k")).usd == Decimal("0.03005")
            assert {model.name for model in await asked.models()} == {
                "gpt-image-2.6-flare",
                "gpt-image-2",
                "dall-e-3",
            }
            other = provider_at(server.base_url, session)
            assert other.price(request) is None
            assert (await other.generate(request, 7, key="k")).usd is None
            assert "generic-1" in {model.name for model in await other.models()}


@pytest.mark.parametrize(
    "usage",
    [None, [], {}, {"output_tokens": "5"}, {"output_tokens": -1, "input_tokens": 1}, {"output_tokens": True}],
)
def test_a_usage_that_cannot_be_read_is_no_price(usage: object) -> None:
    """Better none than a wrong one."""
    assert _usd({"text": "5", "image": "8", "output": "30"}, usage) is None


async def test_a_server_without_a_list_of_models_is_a_fault() -> None:
    """Nothing was charged for it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/none/"):
            raise web.HTTPNotFound
        return web.json_response({"data": "none"})

    async with answering(handle) as url, provider_session() as session:
        with pytest.raises(ProviderFault) as caught:
            await provider_at(url, session).models()
        with pytest.raises(ProviderFault) as other:
            await provider_at(f"{url}/none", session).models()
    assert (caught.value.kind, caught.value.charged) == (Kind.BAD_CONTENT, "no")
    assert other.value.kind is Kind.REJECTED


# Secrets


async def test_the_key_is_nowhere_but_in_its_header(caplog: pytest.LogCaptureFixture) -> None:
    """Not in a message, repr, log record or traceback of any fault; nor is the prompt."""
    caplog.set_level(logging.DEBUG)
    shown = []
    sent = set()
    for fault in sorted(FakeOpenAI.known_faults - LATE - {Fault.SAME_BYTES}):
        async with FakeOpenAI() as server:
            found = await fault_of(server, fault, "generic-1", key=Secret(CANARY), timeout_s=0.2)
            sent |= {seen.api_key for seen in server.requests}  # none on a machine that is slow now
            shown += [*traceback.format_exception(found), repr(found), str(to_error(found))]
    text = "\n".join([*shown, caplog.text])
    assert sent == {CANARY}
    assert len(shown) > 80
    assert CANARY not in text
    assert REQUEST.prompt not in text


async def test_a_server_that_repeats_the_key_is_not_repeated() -> None:
    """Some do, in their refusals."""

    async def handle(request: web.Request) -> web.StreamResponse:
        said = f"Incorrect API key provided: {request.headers['Authorization']} for {await request.text()}"
        return web.json_response({"error": {"message": said, "code": CANARY}}, status=401)

    async with answering(handle) as url, provider_session() as session:
        with pytest.raises(ProviderFault) as caught:
            await provider_at(url, session, key=Secret(CANARY)).generate(REQUEST, 7, key="k")
    assert caught.value.kind is Kind.UNAUTHORIZED
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert CANARY not in text
    assert REQUEST.prompt not in text

"""What programs send to the front door, as their sources have it: each gets a picture it can use."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tests.conftest import KEY, RunningGateway, running_gateway
from tests.gateway.calls.test_front_door import talking
from tests.gateway.making.test_end_to_end import drawing

LIBRECHAT = {"background": "auto", "quality": "auto", "size": "1024x1024", "output_compression": 100, "n": 1}
REQUESTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "Open WebUI, dall-e-3": (
        "",
        {"model": "dall-e-3", "n": 1, "size": "512x512", "response_format": "b64_json"},
        "b64_json",
    ),
    "Open WebUI, gpt-image-1.5": ("", {"model": "gpt-image-1.5", "n": 1, "size": "1024x1024"}, "b64_json"),
    "Open WebUI, version": ("?api-version=2025-04-01", {"model": "dall-e-2", "size": "256x256"}, "url"),
    "LibreChat, png": (
        "",
        {"model": "gpt-image-1", "output_format": "png", **LIBRECHAT},
        "b64_json",
    ),
    "LibreChat, webp": ("", {"model": "gpt-image-1", "output_format": "webp", **LIBRECHAT}, "b64_json"),
    "LibreChat, DALL-E 3": (
        "",
        {"model": "dall-e-3", "quality": "standard", "style": "vivid", "size": "1024x1024", "n": 1},
        "url",
    ),
    "LobeChat": (
        "",
        {
            "model": "dall-e-3",
            "n": 1,
            "response_format": "b64_json",
            "steps": 20,
            "cfg": 2.5,
            "seed": 7,
            "aspectRatio": "16:9",
        },
        "b64_json",
    ),
    "n8n, v2": ("", {"model": "gpt-image-1", "n": 1, "size": "1024x1024", "quality": "medium"}, "b64_json"),
    "n8n, v1": (
        "",
        {"model": "dall-e-3", "size": "1024x1024", "style": "natural", "response_format": "url"},
        "url",
    ),
    "Home Assistant": (
        "",
        {
            "model": "dall-e-3",
            "size": "1024x1024",
            "quality": "standard",
            "style": "vivid",
            "response_format": "url",
            "n": 1,
        },
        "url",
    ),
    "LlamaIndex": ("", {"model": "dall-e-3", "n": 1, "size": "1024x1024", "style": "vivid"}, "url"),
    "LangChain": ("", {"model": "dall-e-2", "n": 1, "size": "1024x1024"}, "url"),
}


async def post(
    running: RunningGateway, path: str, body: dict[str, Any], **headers: str
) -> tuple[int, str, bytes]:
    headers = {"Authorization": f"Bearer {KEY}", **headers}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.post(f"{running.base_url}{path}", json=body) as answer:
            return answer.status, answer.content_type, await answer.read()


@pytest.mark.parametrize("program", REQUESTS)
async def test_a_program_gets_its_picture(program: str, tmp_path: Path) -> None:
    """In the field that it reads; and the answer says which model drew."""
    query, body, field = REQUESTS[program]
    async with running_gateway(tmp_path) as running:
        path = f"/v1/images/generations{query}"
        user = {"X-OpenWebUI-User-Name": "someone"}
        status, _, answered = await post(running, path, {"prompt": "a lake", **body}, **user)
        answer = json.loads(answered)
        assert status == 200, answer
        assert answer["model"] == "scenery-1"
        assert (
            answer["note"] == f"'{body['model']}' is not offered here; the gateway's own model drew instead"
        )
        (item,) = answer["data"]
        assert list(item) == [field]
        if field == "b64_json":
            data = base64.b64decode(item["b64_json"])
        else:
            async with aiohttp.ClientSession() as http, http.get(item["url"]) as picture:
                data = await picture.read()
    assert data[:4] in {b"\x89PNG", b"RIFF"}
    if program == "LobeChat":
        assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (1360, 768)


class TestModels:
    """Names that no provider has."""

    async def test_a_model_that_is_offered_draws_itself(self, tmp_path: Path) -> None:
        """Only what no provider lists has another draw."""
        async with drawing(tmp_path) as (service, running, _):
            for model, drawn in (("gpt-image-2", "gpt-image-2"), ("dall-e-9", "flux.1-schnell")):
                body = {"prompt": "a lake", "model": model, "size": "1024x1024", "response_format": "url"}
                _, _, answered = await post(running, "/v1/images/generations", body)
                answer = json.loads(answered)
                assert answer["model"] == drawn
                assert ("note" in answer) is (model != drawn)
            assert len(service.ledger.charges) == 2

    async def test_an_alias_of_ones_own(self, tmp_path: Path) -> None:
        """It is listed, and draws with the model after the equals sign."""
        async with drawing(tmp_path, model_aliases=("painter=gpt-image-1", "ghost-*")) as (_, running, _):
            async with openai.AsyncOpenAI(base_url=f"{running.base_url}/v1", api_key=KEY) as client:
                assert (await client.models.retrieve("painter")).owned_by == "alias"
                names = [model.id async for model in client.models.list()]
                assert "painter" in names
                assert "ghost-*" not in names
                answer = await client.images.generate(
                    prompt="a lake", model="painter", size="1024x1024", response_format="url"
                )
        assert answer.model_extra is not None
        assert answer.model_extra["model"] == "gpt-image-1"
        assert answer.model_extra["note"] == "'painter' is not offered here; gpt-image-1 drew instead"

    async def test_none_refuses_them(self, tmp_path: Path) -> None:
        """As every other name."""
        async with running_gateway(tmp_path, model_aliases=("none",)) as running:
            body = {"prompt": "a lake", "model": "dall-e-3"}
            status, _, answered = await post(running, "/v1/images/generations", body)
        assert (status, json.loads(answered)["error"]["param"]) == (400, "model")


@pytest.mark.parametrize(
    ("usual", "model", "field"),
    [
        ("auto", "gpt-image-1", "b64_json"),
        ("auto", "scenery-1", "url"),
        ("url", "gpt-image-1", "url"),
        ("b64_json", "scenery-1", "b64_json"),
    ],
)
async def test_the_usual_answer_is_a_setting(usual: str, model: str, field: str, tmp_path: Path) -> None:
    """For clients that name none and read only one of the two."""
    async with running_gateway(tmp_path, response_format=usual) as running:
        body = {"prompt": "a lake", "model": model, "size": "32x32"}
        _, _, answered = await post(running, "/v1/images/generations", body)
    assert list(json.loads(answered)["data"][0]) == [field]


class TestStream:
    """``stream=True``: one event for each picture, once it is there."""

    async def test_openais_client_reads_it(self, tmp_path: Path) -> None:
        """As its own events, with the bytes; ours has the URL, too."""
        async with talking(tmp_path) as (running, client):
            stream = await client.images.generate(
                prompt="a lake", size="64x32", n=2, stream=True, partial_images=2, output_format="webp"
            )
            events = [event async for event in stream]
        assert [event.type for event in events] == ["image_generation.completed"] * 2
        for event in events:
            assert event.type == "image_generation.completed"
            assert base64.b64decode(event.b64_json)[:4] == b"RIFF"
            assert (event.size, event.output_format, event.background) == ("64x32", "webp", "opaque")
            assert event.model_extra is not None
            assert event.model_extra["url"].startswith(f"{running.base_url}/image/")

    async def test_its_lines(self, tmp_path: Path) -> None:
        """An event's name, its data on one line, and an empty one."""
        async with running_gateway(tmp_path) as running:
            body = {"prompt": "a lake", "size": "32x32", "stream": True}
            status, kind, events = await post(running, "/v1/images/generations", body)
        assert (status, kind) == (200, "text/event-stream")
        name, data, *rest = events.split(b"\n")
        assert name == b"event: image_generation.completed"
        assert json.loads(data.removeprefix(b"data: "))["type"] == "image_generation.completed"
        assert rest == [b"", b""]

    async def test_a_failure_is_an_error_as_ever(self, tmp_path: Path) -> None:
        """Nothing is streamed before all is made, so the status says it."""
        async with talking(tmp_path) as (_, client):
            with pytest.raises(openai.BadRequestError):
                await client.images.generate(prompt="a lake", size="8x8", stream=True)


@pytest.mark.parametrize("size", ["16x16", "16X16", "16*16", "16×16", " 16 x 16 "])
async def test_a_size_is_read_however_its_sign_is_written(tmp_path: Path, size: str) -> None:
    """It can mean nothing else; nor can jpg."""
    async with running_gateway(tmp_path) as running:
        body = {"prompt": "a", "size": size, "output_format": "jpg", "response_format": "b64_json"}
        status, _, answered = await post(running, "/v1/images/generations", body)
    assert status == 200
    assert base64.b64decode(json.loads(answered)["data"][0]["b64_json"]).startswith(b"\xff\xd8")


class TestWrongPaths:
    """Errors in a form that OpenAI's clients show."""

    async def test_a_base_url_that_ends_in_a_slash(self, tmp_path: Path) -> None:
        """To which some clients add another one."""
        async with running_gateway(tmp_path) as running:
            status, _, _ = await post(running, "/v1//images/generations", {"prompt": "a", "size": "16x16"})
        assert status == 200

    @pytest.mark.parametrize(
        "path",
        [
            *("/images/generations", "/chat/completions", "/openai/deployments/x/y"),
            *("/v1/v1/images/generations", "/v1/openai/deployments/x/y", "/api/v1/images/generations"),
        ],
    )
    async def test_a_base_url_without_v1_or_with_more(self, tmp_path: Path, path: str) -> None:
        """The right one is named."""
        async with running_gateway(tmp_path) as running:
            status, _, answered = await post(running, path, {})
        error = json.loads(answered)["error"]
        assert (status, error["code"]) == (404, "not_found")
        assert f"the base URL {running.base_url}/v1" in error["message"]

    async def test_the_call_in_a_browser(self, tmp_path: Path) -> None:
        """It says what to do, and not that there is no picture of that name."""
        async with running_gateway(tmp_path) as running, aiohttp.ClientSession() as http:
            async with http.get(f"{running.base_url}/v1/images/generations") as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "POST")
                assert "made by POST" in await answer.text()

    async def test_their_other_apis(self, tmp_path: Path) -> None:
        """The client shows what is said."""
        async with talking(tmp_path) as (_, client):
            with pytest.raises(openai.NotFoundError, match="this gateway makes pictures only"):
                await client.chat.completions.create(model="x", messages=[{"role": "user", "content": "x"}])
            with pytest.raises(openai.NotFoundError, match="this gateway makes pictures only"):
                await client.responses.create(model="x", input="x")

    async def test_edits(self, tmp_path: Path) -> None:
        """Whose provider cannot draw from a picture."""
        async with talking(tmp_path) as (_, client):
            with pytest.raises(openai.NotFoundError, match="offline cannot draw from a picture") as refused:
                await client.images.edit(image=("x.png", b"x"), prompt="a lake")
            assert refused.value.code == "not_offered"

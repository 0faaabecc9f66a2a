"""The OpenAI Images API over this gateway, as the real ``openai`` package uses it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tests.conftest import KEY, RunningGateway, running_gateway

MODEL = "scenery-1"


@asynccontextmanager
async def talking(folder: Path, key: str = KEY) -> AsyncIterator[tuple[RunningGateway, openai.AsyncOpenAI]]:
    async with (
        running_gateway(folder) as running,
        openai.AsyncOpenAI(base_url=f"{running.base_url}/v1", api_key=key, max_retries=0) as client,
    ):
        yield running, client


async def fetched(url: str) -> tuple[int, str, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, response.content_type, await response.read()


async def test_a_url_that_opens(tmp_path: Path) -> None:
    """Only the base URL differs: the client prints a URL of this gateway."""
    async with talking(tmp_path) as (running, client):
        answer = await client.images.generate(prompt="a lake at dawn", size="256x256", model=MODEL)
        assert answer.data is not None
        url = answer.data[0].url
        assert url is not None
        assert url.startswith(f"{running.base_url}/image/")
        status, kind, body = await fetched(url)
        assert (status, kind) == (200, "image/png")
        assert body.startswith(b"\x89PNG")


async def test_base64(tmp_path: Path) -> None:
    """The bytes of the answer are those that the gateway stored."""
    async with talking(tmp_path) as (_, client):
        answer = await client.images.generate(
            prompt="a lake", size="64x64", response_format="b64_json", output_format="webp"
        )
        assert answer.data is not None
        data = base64.b64decode(answer.data[0].b64_json or "")
        assert data[:4] == b"RIFF"
        assert data[8:12] == b"WEBP"


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
async def test_output_compression_is_the_quality_of_the_file(tmp_path: Path, output_format: Any) -> None:
    """More compression, fewer bytes."""
    async with talking(tmp_path) as (_, client):
        sizes = []
        for compression in (0, 30, 80):
            answer = await client.images.generate(
                prompt="a lake",
                size="256x256",
                response_format="b64_json",
                output_format=output_format,
                output_compression=compression,
                extra_body={"seed": 7},
            )
            assert answer.data
            sizes.append(len(answer.data[0].b64_json or ""))
        assert sizes == sorted(set(sizes))


async def test_several_differ(tmp_path: Path) -> None:
    """`n` pictures of one prompt are `n` different ones, also with a seed."""
    async with talking(tmp_path) as (_, client):
        answer = await client.images.generate(prompt="a lake", size="64x64", n=3, extra_body={"seed": 7})
        assert answer.data is not None
        bodies = [(await fetched(item.url or ""))[2] for item in answer.data]
        assert len(set(bodies)) == 3


async def test_our_options_come_along(tmp_path: Path) -> None:
    """`extra_body` takes what `POST /v1/images` takes: here an expiry and a rule."""
    async with talking(tmp_path) as (_, client):
        answer = await client.images.generate(
            prompt="a lake", size="64x64", extra_body={"expires_in": 60, "require_auth": True}
        )
        assert answer.data is not None
        assert (await fetched(answer.data[0].url or ""))[0] == 401


async def test_quality_and_background(tmp_path: Path) -> None:
    """Their words for what ours call quality and transparency."""
    async with talking(tmp_path) as (_, client):
        answer = await client.images.generate(
            prompt="a lake", size="64x64", quality="high", background="transparent"
        )
        assert answer.data is not None
        path = (answer.data[0].url or "").replace("/image/", "/v1/images/")
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession() as session, session.get(path, headers=headers) as response:
            info = await response.json()
        assert info["quality"] == "ultra"
        assert (await fetched(answer.data[0].url or ""))[2][25] == 6  # colour with alpha


async def test_the_same_key_gives_the_same_pictures(tmp_path: Path) -> None:
    """`Idempotency-Key` holds for each of the `n`."""
    async with talking(tmp_path) as (_, client):
        answers: list[list[str | None]] = []
        for _ in range(2):
            answer = await client.images.generate(
                prompt="a lake", size="64x64", n=2, extra_headers={"Idempotency-Key": "order-1"}
            )
            answers.append([item.url for item in answer.data or []])
        assert answers[0] == answers[1]
        assert len(set(answers[0])) == 2


async def test_models(tmp_path: Path) -> None:
    """What the providers offer, one by one or all; another is 404."""
    async with talking(tmp_path) as (_, client):
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve(MODEL)).owned_by == "offline"
        with pytest.raises(openai.NotFoundError) as refused:
            await client.models.retrieve("dall-e-9")
        assert refused.value.code == "model_not_found"


@pytest.mark.parametrize(
    "options",
    [
        {"stream": False, "partial_images": 0},
        {"moderation": "auto"},
        {"output_compression": 100},
        {"style": "vivid"},
        {"style": "natural"},
        {"extra_body": {"n": 1.0, "partial_images": 0.0, "output_compression": 100.0, "size": "64X64"}},
        {"extra_body": {"style": None, "moderation": None, "n": None, "response_format": None}},
        {"model": "", "user": "", "extra_body": {"style": "", "quality": "", "negative_prompt": ""}},
    ],
)
async def test_their_defaults_ask_for_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    """Parameters at their documented defaults are accepted, and those that a person left empty."""
    async with talking(tmp_path) as (_, client):
        answer = await client.images.generate(prompt="a lake", size="64x64", **options)
        assert answer.data


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"extra_body": {"stream": "yes"}}, "stream"),
        ({"extra_body": {"partial_images": 2}}, "partial_images"),
        ({"moderation": "low"}, "moderation"),
        ({"output_compression": 50}, "output_compression"),
        ({"extra_body": {"output_compression": True}}, "output_compression"),
        ({"extra_body": {"style": "cubist"}}, "style"),
        ({"size": "big"}, "size"),
        ({"size": "8x8"}, "width"),
        ({"n": 11}, "n"),
        ({"quality": "best"}, "quality"),
        ({"output_format": "gif"}, "output_format"),
        ({"response_format": "pixels"}, "response_format"),
        ({"model": "nonesuch-1"}, "model"),
        ({"extra_body": {"steps": "many"}}, "steps"),
        ({"extra_body": {"aspectRatio": "wide"}}, "aspectRatio"),
        ({"extra_body": {"defer": True}}, "defer"),
    ],
)
async def test_what_cannot_be_done_is_refused_in_their_words(
    options: dict[str, Any], param: str, tmp_path: Path
) -> None:
    """A `BadRequestError` that names the parameter; nothing is made."""
    async with talking(tmp_path) as (_, client):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.images.generate(prompt="a lake", **{"size": "64x64", **options})
        assert refused.value.param == param
        assert refused.value.type == "invalid_request_error"


async def test_a_parameter_nobody_knows(tmp_path: Path) -> None:
    """It is refused, not ignored."""
    async with talking(tmp_path) as (_, client):
        with pytest.raises(openai.BadRequestError, match="unknown option 'stile'"):
            await client.images.generate(prompt="a lake", extra_body={"stile": "vivid"})


async def test_a_wrong_key(tmp_path: Path) -> None:
    """An `AuthenticationError`, as theirs."""
    async with talking(tmp_path, key="wrong") as (_, client):
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.images.generate(prompt="a lake")
        assert refused.value.type == "authentication_error"


async def test_a_body_that_is_too_long(tmp_path: Path) -> None:
    """Refused in their shape, with the limit."""
    async with talking(tmp_path) as (_, client):
        with pytest.raises(openai.APIStatusError, match="longer than 1048576 bytes") as refused:
            await client.images.generate(prompt="a" * 1_100_000)
        assert (refused.value.status_code, refused.value.code) == (413, "request_entity_too_large")

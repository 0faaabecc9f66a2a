"""Pictures on the way, which a provider streams: they are passed on as they arrive."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from blossom_async.testing.pictures import draw
from tests.conftest import KEY, RunningGateway, running_gateway
from tests.gateway.calls.test_edits import front
from tests.gateway.calls.test_repeats import MODEL, paid_gateway
from tests.gateway.providers.test_dialects import serving

SIZE: Any = "1024x1024"
SKETCH, PICTURE = (
    draw(words, width=side, height=side, format="png", transparent=False).data
    for words, side in (("a sketch", 64), ("a lake", 1024))
)


class Streaming:
    """A provider that sends what it is told to, event by event."""

    def __init__(self, then: Callable[[web.StreamResponse], Awaitable[None]]) -> None:
        self.then = then
        self.asked: list[dict[str, Any]] = []
        self.more = asyncio.Event()

    async def generate(self, http: web.Request) -> web.StreamResponse:
        self.asked.append(await http.json())
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await answer.prepare(http)
        for number in range(4):  # one more than was asked for
            await event(answer, "partial_image", SKETCH, partial_image_index=number)
        await self.more.wait()
        await self.then(answer)
        return answer


async def event(answer: web.StreamResponse, kind: str, data: bytes, **more: Any) -> None:
    told = {"type": f"image_generation.{kind}", "b64_json": base64.b64encode(data).decode(), **more}
    await answer.write(b"event: x\r\ndata: " + json.dumps(told).encode() + b"\r\n\r\n")


async def completes(answer: web.StreamResponse) -> None:
    await event(answer, "completed", PICTURE, usage={"input_tokens": 1, "output_tokens": 2})


async def breaks_off(answer: web.StreamResponse) -> None:
    await answer.write(b'data: {"type": "image_generation.comp')


@asynccontextmanager
async def drawing(folder: Path, provider: Streaming) -> AsyncIterator[RunningGateway]:
    app = web.Application()
    app.router.add_post("/v1/images/generations", provider.generate)
    async with serving(app) as url:
        settings = {"openai_url": str(url / "v1"), "openai_model": MODEL, "openai_key": "sk-of-a-test"}
        async with running_gateway(folder, providers=("openai",), **settings) as running:
            yield running


async def test_openais_client_reads_them(tmp_path: Path) -> None:
    """Of a generation and of an edit, each with its own names; the picture is paid for once."""
    asked: dict[str, Any] = {"prompt": "a lake", "model": MODEL, "size": SIZE, "stream": True}
    async with paid_gateway(tmp_path) as (running, service), front(running) as client:
        streams = [
            await client.images.generate(**asked, partial_images=2),
            await client.images.edit(**asked, image=("x.png", SKETCH), partial_images=1),
        ]
        made = [[event async for event in stream] for stream in streams]
        charged = len(service.ledger.charges)
    assert [event.type for event in made[0]] == [
        *["image_generation.partial_image"] * 2,
        "image_generation.completed",
    ]
    assert [event.type for event in made[1]] == ["image_edit.partial_image", "image_edit.completed"]
    assert [getattr(event, "partial_image_index", None) for event in made[0]] == [0, 1, None]
    for event in (*made[0], *made[1]):
        assert base64.b64decode(event.b64_json)[:4] == b"\x89PNG"
    assert charged == 2


async def test_they_come_before_the_picture_does(tmp_path: Path) -> None:
    """No more than were asked for; then the picture, under a URL of the gateway's."""
    provider = Streaming(completes)
    async with drawing(tmp_path, provider) as running, front(running) as client:
        stream = await client.images.generate(
            prompt="a lake", size=SIZE, stream=True, partial_images=3, extra_body={"format": "jpg"}
        )
        seen = [await anext(stream) for _ in range(3)]
        provider.more.set()
        (last,) = [event async for event in stream]
    assert [base64.b64decode(event.b64_json) for event in seen] == [SKETCH] * 3
    assert seen[0].size == "64x64"
    assert (last.type, last.output_format) == ("image_generation.completed", "jpeg")
    assert (provider.asked[0]["stream"], provider.asked[0]["partial_images"]) == (True, 3)


async def test_a_failure_after_them_is_an_event_that_the_client_raises(tmp_path: Path) -> None:
    """The picture may have been paid for, so it is held; the client repeats nothing."""
    provider = Streaming(breaks_off)
    async with drawing(tmp_path, provider) as running, front(running) as client:
        stream = await client.images.generate(prompt="a lake", size=SIZE, stream=True, partial_images=1)
        assert (await anext(stream)).type == "image_generation.partial_image"
        provider.more.set()
        with pytest.raises(openai.APIError) as failed:
            await anext(stream)
    assert failed.value.code == "outcome_unknown"
    assert len(provider.asked) == 1


async def test_a_client_that_leaves_changes_nothing(tmp_path: Path) -> None:
    """The picture is made, and there for who asks again under the key."""
    provider = Streaming(completes)
    async with drawing(tmp_path, provider) as running:
        async with openai.AsyncOpenAI(base_url=f"{running.base_url}/v1", api_key=KEY) as client:
            asked: dict[str, Any] = {
                "prompt": "a lake",
                "size": SIZE,
                "stream": True,
                "partial_images": 1,
                "extra_headers": {"Idempotency-Key": "one"},
            }
            stream = await client.images.generate(**asked)
            await anext(stream)
            await stream.close()
            provider.more.set()
            (again,) = [event async for event in await client.images.generate(**asked)][-1:]
    assert again.type == "image_generation.completed"
    assert len(provider.asked) == 1


async def test_a_server_that_does_not_stream(tmp_path: Path) -> None:
    """It refuses by name, is asked without, and from then on at once: there is the picture only."""
    asked: list[set[str]] = []

    async def generate(http: web.Request) -> web.Response:
        body = await http.json()
        asked.append({"stream", "partial_images"} & body.keys())
        if asked[-1]:
            error = {"message": "Unknown parameter.", "param": min(asked[-1]), "code": "unknown_parameter"}
            return web.json_response({"error": error}, status=400)
        return web.json_response({"data": [{"b64_json": base64.b64encode(PICTURE).decode()}]})

    provider = Streaming(completes)
    provider.generate = generate  # type: ignore[method-assign]
    async with drawing(tmp_path, provider) as running, front(running) as client:
        for _ in range(2):
            stream = await client.images.generate(prompt="a lake", size=SIZE, stream=True, partial_images=2)
            assert [event.type async for event in stream] == ["image_generation.completed"]
    assert asked == [{"stream", "partial_images"}, {"stream"}, set(), set()]

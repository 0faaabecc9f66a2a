"""Pictures that are drawn from pictures, through OpenAI's own client."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from blossom_async.errors import Rejected
from blossom_async.gateway.calls import uploads
from blossom_async.testing import FakeOpenAI
from blossom_async.testing.exchange import SeenRequest
from blossom_async.testing.pictures import draw
from tests.conftest import KEY, RunningGateway
from tests.gateway.dashboard.test_dashboard import OTHER_KEY, add_tenant
from tests.gateway.making.test_end_to_end import drawing
from tests.gateway.making.test_end_to_end import picture as opened


def photo(
    words: str = "a lake", width: int = 96, file_format: str = "png", *, transparent: bool = False
) -> bytes:
    return draw(words, width=width, height=64, format=file_format, transparent=transparent).data


PHOTO, MASK = photo(), photo("a hole", transparent=True)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def drawn(service: FakeOpenAI) -> list[SeenRequest]:
    """What the provider was asked to draw."""
    return [seen for seen in service.requests if seen.method == "POST"]


def front(running: RunningGateway, key: str = KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{running.base_url}/v1", api_key=key)


async def sent(
    running: RunningGateway, body: Any, key: str = KEY, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Status and answer; a mapping goes as JSON, anything else as it is."""
    asked = {"json": body} if isinstance(body, dict) else {"data": body}
    headers = {"Authorization": f"Bearer {key}", **headers}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{running.base_url}/v1/images/edits", **asked) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def test_a_picture_is_drawn_from_files(tmp_path: Path) -> None:
    """The provider gets every byte; the result has the shape of the first, and is paid for once."""
    webp = photo("a boat", file_format="webp")
    async with drawing(tmp_path) as (service, running, _), front(running) as client:
        answer = await client.images.edit(
            image=[("a.png", PHOTO), ("b.webp", webp)],
            mask=("mask.png", MASK),
            prompt="a lake with a boat",
            response_format="url",
            extra_body={"seed": 7, "metadata": {"shop": "north"}, "expires_in": 60},
        )
        (asked,) = drawn(service)
        assert answer.data is not None
        status, image = await opened(answer.data[0].url or "")
        charged = len(service.ledger.charges)
        staged = list((running.data_dir / "staging").rglob("*.*"))
    assert [file["sha256"] for file in asked.body["image"]] == [sha256(PHOTO), sha256(webp)]
    assert asked.body["mask"] == {"type": "image/png", "sha256": sha256(MASK)}
    assert (asked.path, asked.body["seed"], asked.body["size"]) == ("/v1/images/edits", "7", "96x64")
    assert (status, image and image.size, charged, staged) == (200, (96, 64), 1, [])


async def test_pictures_of_this_gateway_and_data_urls(tmp_path: Path) -> None:
    """In JSON as newer clients send it; a signed URL names the picture as well as any other."""
    async with drawing(tmp_path) as (service, running, client):
        info = await client.image.generate_url_with_info("a lake", width=64, height=64)
        async with aiohttp.ClientSession() as session, session.get(info.url) as answer:
            stored = await answer.read()
        signed = await client.image.sign_url(info.url)
        packed = f"data:image/png;base64,{base64.b64encode(PHOTO).decode()}"
        body = {
            "prompt": "both",
            "images": [{"image_url": signed}, {"url": packed, "type": "image_url"}],
            "size": "64x32",
        }
        status, told = await sent(running, body)
        assert status == 200, told
        with pytest.raises(Rejected) as refused:
            await client.image.regenerate_from_url(told["data"][0]["url"])
        asked = drawn(service)[-1].body
    assert [file["sha256"] for file in asked["image"]] == [sha256(stored), sha256(PHOTO)]
    assert refused.value.code == "drawn_from_pictures"


async def test_large_pictures_in_json(tmp_path: Path) -> None:
    """They are decoded as they arrive; as anything but a picture, base64 stays the text that it is."""
    chance = random.Random(1)  # noqa: S311 - not secret
    large = png_of(300, 300, b"".join(b"\0" + chance.randbytes(900) for _ in range(300)), level=0)
    text = base64.b64encode(large).decode()
    packed = f"data:image/png;base64,{text}"
    async with drawing(tmp_path) as (service, running, _):
        body = {"prompt": "x", "image": [packed, f"data:image/png;base64,{base64.b64encode(PHOTO).decode()}"]}
        status, told = await sent(running, {**body, "size": "64x32"})
        assert status == 200, told
        asked = drawn(service)[-1].body
        refused = [
            await sent(running, wrong) for wrong in ({**body, "prompt": text}, {"prompt": "x", "image": text})
        ]
        assert len(drawn(service)) == 1
    assert [file["sha256"] for file in asked["image"]] == [sha256(large), sha256(PHOTO)]
    assert [(status, told["error"]["param"]) for status, told in refused] == [(400, "prompt"), (400, "image")]
    assert f"{len(text):,}" in refused[0][1]["error"]["message"]


PROGRAMS: dict[str, tuple[dict[str, str], str]] = {
    "Open WebUI": ({"model": "gpt-image-1.5", "n": "1", "size": "64x64", "background": "auto"}, "image"),
    "Open WebUI, several": ({"model": "dall-e-2", "size": "64x32", "response_format": "b64_json"}, "image[]"),
    "LibreChat": ({"model": "gpt-image-1", "quality": "auto", "size": "auto"}, "image[]"),
}
"""What programs send, as their sources have it."""


async def test_programs_get_a_picture_they_can_use(tmp_path: Path) -> None:
    """Drawn by the gateway's own model in place of those they know."""
    async with drawing(tmp_path) as (_, running, _client):
        for fields, name in PROGRAMS.values():
            form = aiohttp.FormData({"prompt": "a lake", **fields})
            form.add_field(name, PHOTO, filename="image.png", content_type="image/png")
            status, answer = await sent(running, form)
            assert status == 200, answer
            assert answer["model"] == "flux.1-schnell"
            assert base64.b64decode(answer["data"][0]["b64_json"])[:4] == b"\x89PNG"


async def test_a_key_stands_for_the_pictures_too(tmp_path: Path) -> None:
    """The same ones replay the picture, others are another request. So for retries of OpenAI's client."""

    def form(data: bytes) -> aiohttp.FormData:
        made = aiohttp.FormData({"prompt": "a lake"})
        made.add_field("image", data, filename="x.png")
        return made

    async with drawing(tmp_path) as (service, running, _):
        key = {"Idempotency-Key": "one"}
        first, again = [await sent(running, form(PHOTO), **key) for _ in range(2)]
        status, other = await sent(running, form(photo("another")), **key)
        service.fail_next("charge_then_reset")
        async with front(running) as client:
            with pytest.raises(openai.APIStatusError) as lost:
                await client.images.edit(image=("x.png", PHOTO), prompt="another")
        charged = len(service.ledger.charges)
    assert first[1]["data"] == again[1]["data"]
    assert (status, other["error"]["code"]) == (400, "idempotency_key_reused")
    assert (lost.value.status_code, charged) == (424, 2)


def png_of(width: int, height: int, lines: bytes = b"", level: int = -1) -> bytes:
    """A png that says so, whatever its pixels are."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(lines, level)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def part(data: bytes, name: str = "image") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="p"\r\n\r\n'
    return head.encode() + data + b"\r\n"


async def test_a_picture_of_more_than_a_mebibyte(tmp_path: Path) -> None:
    """It reaches the provider as it came."""
    line = b"\0" + random.Random(1).randbytes(3 * 700)  # noqa: S311 - reproducible, not secret
    large = png_of(700, 700, line * 700, level=0)
    async with drawing(tmp_path) as (service, running, _), front(running) as client:
        await client.images.edit(image=("x.png", large), prompt="a lake", size="256x256")
        (asked,) = drawn(service)
    assert [file["sha256"] for file in asked.body["image"]] == [sha256(large)]


PROMPT = part(b"a lake", "prompt").replace(b'; filename="p"', b"")
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a text": (part(b"<svg/>"), "image: "),
    "one cut off": (part(PHOTO[:-30]), "cut off"),
    "one with damaged pixels": (part(png_of(64, 64)), "its pixels are damaged"),
    "a bomb": (part(png_of(60_000, 60_000, bytes(10_000_000))), "60000x60000"),
    "one too large to decode": (part(png_of(6000, 6000)), "at most 25,000,000 pixels"),
    "a gif": (part(b"GIF89a" + bytes(40)), "image: "),
    "a mask alone": (part(MASK, "mask"), "1 to 16 pictures"),
    "an opaque mask": (part(PHOTO) + part(PHOTO, "mask"), "png with alpha channel"),
    "a mask of another size": (part(photo(width=64)) + part(MASK, "mask"), "64x64 pixels as the first"),
    "two masks": (part(PHOTO) + part(MASK, "mask") * 2, "at most one"),
    "too many pictures": (part(PHOTO) * 17, "17 pictures"),
    "ten thousand parts": (part(b"", "x[]") * 10_000, "more than 100 parts"),
    "a part without a name": (b"--x\r\n\r\nx\r\n", "no name"),
    "one in base64": (part(b"").replace(b"form-data", b"form-data\r\nContent-Transfer-Encoding: base64"), ""),
    "a header that aiohttp warns of": (part(b"x").replace(b"form-data; ", b"form-d\xff"), "cannot be read"),
    "a part with two names": (part(b"x").replace(b"; f", b'; name="mask"; f'), "cannot be read"),
    "a name in other letters": (part(b"x", "grün"), "has the name"),
    "a charset that is none": (part(b"x" * 40, "_charset_"), "cannot be read"),
    "a field twice": (part(PHOTO) + PROMPT, "appears twice"),
    "bytes for a prompt": (part(b"\xff", "model"), "not in UTF-8"),
    "a nested form": (b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y--\r\n", "no name"),
    "no parts": (b"x" * 100, "1 to 16 pictures"),
}


async def test_what_cannot_be_used_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    """Each says what was seen, what is allowed and what to do."""
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    async with drawing(tmp_path) as (service, running, _):
        found = {
            case: await sent(running, parts + PROMPT + b"--x--\r\n", **form)
            for case, (parts, _) in HOSTILE.items()
        }
        assert drawn(service) == []
    assert {case: status for case, (status, _) in found.items()} == dict.fromkeys(HOSTILE, 400)
    told = {case: answer["error"]["message"] for case, (_, answer) in found.items()}
    unlike = {case: told[case] for case, (_, said) in HOSTILE.items() if said not in told[case]}
    assert unlike == {}


async def test_other_peoples_pictures_are_out_of_reach(tmp_path: Path) -> None:
    """Nothing is fetched from elsewhere, and another tenant's picture is as unknown as any."""
    async with drawing(tmp_path) as (service, running, client):
        await add_tenant(running)
        private = await client.image.generate_url("a secret", width=64, height=64, require_auth=True)
        unknown = private.replace("/image/", "/image/x")
        urls = (private, unknown, f"{service.base_url}/models", "file:///etc/passwd")
        refused = [await sent(running, {"prompt": "x", "image": url}, OTHER_KEY) for url in urls]
        refused.append(await sent(running, {"prompt": "x", "images": [{"file_id": "file-1"}]}, OTHER_KEY))
        assert len(drawn(service)) == 1
    assert [status for status, _ in refused] == [400] * 5
    assert {told["error"]["param"] for _, told in refused} == {"image"}
    assert "the URL of no such picture" in refused[0][1]["error"]["message"]


async def test_too_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one call 413, of all calls of a tenant or of everybody 503; and a compressed body is 415."""
    async with drawing(tmp_path) as (service, running, _):
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        body = part(PHOTO) + PROMPT + b"--x--\r\n"
        gzipped, _ = await sent(running, zlib.compress(body), **form, **{"Content-Encoding": "deflate"})
        plain, _ = await sent(running, b"x", **{"Content-Type": "text/plain"})
        unbounded, _ = await sent(running, body, **{"Content-Type": "multipart/form-data"})
        full = []
        for name in ("_MOST_OF_ONE", "_MOST_HELD"):
            with monkeypatch.context() as patch:
                patch.setattr(uploads, name, len(PHOTO))
                full.append(await sent(running, body, **form))
        monkeypatch.setattr(uploads, "MAX_UPLOAD", len(PHOTO))
        long, _ = await sent(running, body, **form)

        async def endless() -> AsyncIterator[bytes]:
            while True:  # lines before the first part
                yield b"x" * 60 + b"\r\n" * 1000

        monkeypatch.setattr(uploads, "_MOST_TEXT", 900)
        with contextlib.suppress(aiohttp.ClientError):  # it may be still sending
            unending, _ = await sent(running, endless(), **form)
            assert unending == 413
        assert drawn(service) == []
    assert (gzipped, plain, unbounded, long) == (415, 415, 400, 413)
    assert [(status, told["error"]["code"]) for status, told in full] == [(503, "overloaded")] * 2

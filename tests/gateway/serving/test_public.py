"""Public: the HTTP checklist over raw sockets, the order of the checks, and no partial pictures."""

import asyncio
import hashlib
import logging
import secrets
import socket
import string
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs
import orjson
import pytest
from aiohttp import web
from aiohttp.http import RawRequestMessage

from blossom_async.gateway.background.upkeep import Upkeep
from blossom_async.gateway.callers.keys import ApiKeys
from blossom_async.gateway.http import ready
from blossom_async.gateway.http.logs import AccessLines
from blossom_async.gateway.http.metrics import Metrics, RequestCounter
from blossom_async.gateway.http.problems import problems
from blossom_async.gateway.http.ready import Finder, Ready, ReadyHandler
from blossom_async.gateway.serving.gatekeeper import Gatekeeper
from blossom_async.gateway.serving.hot import HotBytes
from blossom_async.gateway.serving.public import Public
from blossom_async.gateway.serving.signing import Signer
from blossom_async.gateway.storage.folder import LocalBlobs
from blossom_async.gateway.storage.lookups import RECHECK_S, Lookups
from blossom_async.gateway.storage.records import ImageRecord, Records, StoredFile
from blossom_async.models import ImageRequest

START = datetime(2026, 11, 22, 13, 0, 0, 250_000, tzinfo=UTC)
DATE = "Sun, 22 Nov 2026 13:00:00 GMT"
_BASE62 = string.digits + string.ascii_letters
BODY = bytes(range(256)) * 40
UNKNOWN = "0" * 22


@attrs.frozen
class Answer:
    """One response as it came over the wire; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        code: str = orjson.loads(self.body)["code"]
        return code


async def next_answer(reader: asyncio.StreamReader, method: str = "GET") -> Answer:
    """One answer of a connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    status_line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    pairs = [field.split(": ", 1) for field in fields]
    assert len({name.lower() for name, _ in pairs}) == len(pairs), "a header was sent twice"
    status, headers = int(status_line.split()[1]), {name.lower(): value for name, value in pairs}
    empty = method == "HEAD" or status in {204, 304}
    body = b"" if empty else await reader.readexactly(int(headers["content-length"]))
    return Answer(status, headers, body)


@attrs.define
class Gallery:
    """A real server on port 0 over real records and blobs, with a clock that tests move."""

    records: Records
    blobs: LocalBlobs
    now: datetime = START + timedelta(seconds=30)
    port: int = 0
    seconds: float = 0.0  # on the clock by which look-ups are remembered
    at_once: int = 0  # answers that were ready

    async def store(
        self,
        data: bytes = BODY,
        *,
        file_size: int | None = None,
        created_at: datetime = START,
        **options: Any,
    ) -> str:
        """The id of a new picture made with these options."""
        image_id = "".join(secrets.choice(_BASE62) for _ in range(22))
        request = ImageRequest("a lighthouse at dawn", seed=7, **options)
        await self.blobs.put(image_id, request.format, data)
        left = None if request.expires_in is None else timedelta(seconds=request.expires_in)
        await self.records.add(
            ImageRecord(
                id=image_id,
                tenant="main",
                request=request,
                width=request.width,
                height=request.height,
                files=(
                    StoredFile(
                        format=request.format,
                        sha256=hashlib.sha256(data).hexdigest(),
                        file_size=len(data) if file_size is None else file_size,
                    ),
                ),
                provider="offline",
                model="scenery",
                seed=7,
                cost=1,
                created_at=created_at,
                expires_at=None if left is None else START + left,
            )
        )
        return image_id

    async def ask(self, target: str, *headers: str, method: str = "GET") -> Answer:
        """The answer to one request; ``target`` and ``headers`` go out byte for byte."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = await next_answer(reader, method)
        writer.write_eof()
        assert await reader.read() == b"", "more was sent than the head says"
        writer.close()
        await writer.wait_closed()
        return answer

    async def image(self, image_id: str, *headers: str, method: str = "GET") -> Answer:
        return await self.ask(f"/image/{image_id}", *headers, method=method)


@pytest.fixture
async def gallery(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Gallery]:
    gallery = Gallery(Records(tmp_path / "records.sqlite"), LocalBlobs(tmp_path / "images"))
    hot_bytes = getattr(request, "param", 1 << 20)
    await gallery.records.open()
    await gallery.blobs.open()
    lookups = Lookups(gallery.records, clock=lambda: gallery.seconds)
    public = Public(
        Gatekeeper(ApiKeys((), lookups), lookups, Signer(["of-the-tests-0123456789-abcdefghijkl"])),
        lookups,
        HotBytes(gallery.blobs, hot_bytes),
        now=lambda: gallery.now,
    )
    app = web.Application(middlewares=[problems])
    app.add_routes(public.routes())
    runner = web.AppRunner(app)
    await runner.setup()

    def find(asked: RawRequestMessage, peer: str | None) -> Ready | None:
        answer = public.at_once(asked, peer)
        gallery.at_once += answer is not None
        return answer

    loop = asyncio.get_running_loop()
    connection = partial(
        ReadyHandler,
        cast("web.Server", runner.server),
        loop=loop,
        finder=Finder(find),
        counter=RequestCounter(Metrics(), AccessLines("none")),
    )
    listening = await loop.create_server(connection, "127.0.0.1", 0)
    gallery.port = listening.sockets[0].getsockname()[1]
    yield gallery
    listening.close()
    await runner.cleanup()
    await gallery.records.close()
    await gallery.blobs.close()


def hot_bytes(*sizes: int) -> pytest.MarkDecorator:
    """Runs a test with a gallery that keeps so many bytes in memory."""
    return pytest.mark.parametrize("gallery", sizes, indirect=True)


# The picture


async def test_get_answers_with_the_picture_and_its_headers(gallery: Gallery) -> None:
    """Rows 1, 27, 31 and 33: bytes, type, length, validators, explicit freshness, safe to open."""
    image_id = await gallery.store()
    answer = await gallery.image(image_id)
    assert answer.status == 200
    assert answer.body == BODY
    assert answer.headers | {"server": "", "x-request-id": "", "date": ""} == {
        "content-type": "image/png",
        "content-length": str(len(BODY)),
        "content-disposition": f'inline; filename="{image_id}.png"',
        "etag": f'"{hashlib.sha256(BODY).hexdigest()}"',
        "last-modified": DATE,
        "cache-control": "public, max-age=31536000, immutable",
        "accept-ranges": "bytes",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "cross-origin",
        "access-control-allow-origin": "*",
        "access-control-expose-headers": "ETag, Content-Length",
        "server": "",
        "x-request-id": "",
        "date": "",
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"etag": "banner,v2", "cache_control": 'no-cache="set-cookie"', "format": "webp"},
        {"expires_in": 3600},
        {"cache_control": "no-store"},
    ],
)
@pytest.mark.parametrize(
    ("version", "line"), [("1.1", "Connection: close"), ("1.0", "Connection: keep-alive"), ("1.0", "A: b")]
)
async def test_a_picture_is_the_same_on_every_kind_of_connection(
    gallery: Gallery, options: dict[str, Any], version: str, line: str
) -> None:
    """One that ends, one of HTTP/1.0, and one that stays: all but what is said of the connection.

    On the last it is ready from the second time on.
    """
    image_id = await gallery.store(**options)
    first, usual = await gallery.image(image_id), await gallery.image(image_id)
    assert gallery.at_once == 1
    reader, writer = await asyncio.open_connection("127.0.0.1", gallery.port)
    writer.write(f"GET /image/{image_id} HTTP/{version}\r\nHost: x\r\n{line}\r\n\r\n".encode())
    answer = await next_answer(reader)
    assert ("close" in line) == (answer.headers.pop("connection", "") == "close")
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    for head in (first.headers, usual.headers, answer.headers):
        assert head.pop("x-request-id")
        assert head.pop("date")
    assert (answer.headers, answer.body) == (usual.headers, usual.body) == (first.headers, first.body)


async def test_another_aiohttp_answers_by_its_handlers(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it lacks what the quick way takes from it, pictures are served all the same."""
    monkeypatch.setattr(ready, "_SUITS", False)
    image_id = await gallery.store()
    for _ in range(3):
        assert (await gallery.image(image_id)).body == BODY
    assert gallery.at_once == 0


async def test_requests_sent_at_once_are_answered_in_order(gallery: Gallery) -> None:
    """On one connection, each with its own picture, date and request id."""
    bodies = [bytes([n]) * 1000 * n for n in range(1, 9)]
    ids = [await gallery.store(body) for body in bodies]
    reader, writer = await asyncio.open_connection("127.0.0.1", gallery.port)
    writer.write(b"".join(f"GET /image/{one} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for one in ids * 2))
    before = datetime.now(UTC).replace(microsecond=0)
    answers = [await next_answer(reader) for _ in ids * 2]
    writer.close()
    assert [answer.body for answer in answers] == bodies * 2
    assert len({answer.headers["x-request-id"] for answer in answers}) == 16
    for answer in answers:
        assert before <= parsedate_to_datetime(answer.headers["date"]) <= datetime.now(UTC)


async def test_a_picture_deleted_after_it_was_shown_is_gone_on_the_same_connection(gallery: Gallery) -> None:
    """Nothing that is kept of an answer outlives its picture."""
    image_id = await gallery.store()
    asked = f"GET /image/{image_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", gallery.port)
    writer.write(asked)
    assert (await next_answer(reader)).status == 200
    await gallery.records.delete(image_id, gallery.now)
    gallery.seconds += 1
    writer.write(asked)
    assert (await next_answer(reader)).status == 410
    writer.close()


@pytest.mark.parametrize(
    ("format_", "kind"), [("jpg", "image/jpeg"), ("png", "image/png"), ("webp", "image/webp")]
)
async def test_both_urls_serve_every_format(gallery: Gallery, format_: str, kind: str) -> None:
    """`/image/{id}` and `/generated/{id}.{ext}` give the same picture with its stored type."""
    image_id = await gallery.store(format=format_)
    for target in (f"/image/{image_id}", f"/generated/{image_id}.{format_}"):
        answer = await gallery.ask(target)
        assert (answer.status, answer.headers["content-type"], answer.body) == (200, kind, BODY)


async def test_the_makers_etag_and_cache_control_are_sent(gallery: Gallery) -> None:
    """`etag` and `cache_control` of the request become headers of the picture."""
    image_id = await gallery.store(etag="banner,v2", cache_control="public, max-age=60")
    answer = await gallery.image(image_id)
    assert answer.headers["etag"] == '"banner,v2"'
    assert answer.headers["cache-control"] == "public, max-age=60"
    assert (await gallery.image(image_id, 'If-None-Match: "banner,v2"')).status == 304


async def test_max_age_shrinks_as_the_expiry_comes_nearer(gallery: Gallery) -> None:
    """A cache that fetches late keeps the picture for what is left, not for what was asked."""
    image_id = await gallery.store(expires_in=3600, cache_control="public, max-age=600")
    assert (await gallery.image(image_id)).headers["cache-control"] == "public, max-age=600, must-revalidate"
    gallery.now = START + timedelta(seconds=3590)
    assert (await gallery.image(image_id)).headers["cache-control"] == "public, max-age=9, must-revalidate"


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Range: bytes=0-9",),
        ("Range: bytes=99999999-",),
        ("If-None-Match: *",),
        ("If-Match: *",),
        ("Accept-Encoding: gzip",),
    ],
)
async def test_head_answers_as_get_without_range_and_without_body(
    gallery: Gallery, lines: tuple[str, ...]
) -> None:
    """Rows 2 and 3: the same status and headers as a GET that does not ask for a range."""
    image_id = await gallery.store()
    head = await gallery.image(image_id, *lines, method="HEAD")
    get = await gallery.image(image_id, *(line for line in lines if not line.startswith("Range")))
    differ = {"date", "x-request-id"}
    assert head.status == get.status
    assert head.body == b""
    assert {k: v for k, v in head.headers.items() if k not in differ} == {
        k: v for k, v in get.headers.items() if k not in differ
    }


@pytest.mark.parametrize("target", ["/image/" + UNKNOWN, "/image/x", "/image/" + UNKNOWN + "?a=1"])
async def test_head_of_an_error_has_the_status_and_no_body(gallery: Gallery, target: str) -> None:
    """Row 2 for errors."""
    head, get = await gallery.ask(target, method="HEAD"), await gallery.ask(target)
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@hot_bytes(1 << 50)
async def test_head_does_not_read_the_file(gallery: Gallery) -> None:
    """A HEAD of a terabyte answers with its length: nothing was read to know it."""
    image_id = await gallery.store(b"", file_size=1 << 40)
    with gallery.blobs.path(image_id, "png").open("r+b") as file:
        file.truncate(1 << 40)
    answer = await gallery.image(image_id, method="HEAD")
    assert (answer.status, answer.headers["content-length"]) == (200, str(1 << 40))


async def test_a_connection_is_kept_for_the_next_picture(gallery: Gallery) -> None:
    """GET, 304, HEAD and 206 leave the connection in step: the next answer begins where it should."""
    image_id = await gallery.store()
    reader, writer = await asyncio.open_connection("127.0.0.1", gallery.port)
    target = f"/image/{image_id} HTTP/1.1\r\nHost: x\r\n"
    for request, status, length in [
        (f"GET {target}\r\n", b"200", len(BODY)),
        (f"GET {target}If-None-Match: *\r\n\r\n", b"304", 0),
        (f"HEAD {target}\r\n", b"200", 0),
        (f"GET {target}Range: bytes=-7\r\n\r\n", b"206", 7),
        (f"GET {target}\r\n", b"200", len(BODY)),
    ]:
        writer.write(request.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == status
        assert len(await reader.readexactly(length)) == length
    writer.close()
    await writer.wait_closed()


# Conditions and ranges


@pytest.mark.parametrize(
    "lines",
    [
        ('If-None-Match: "x", "v1"',),
        ('If-None-Match: W/"v1"',),
        ("If-None-Match: *",),
        ('If-None-Match: "x"', 'If-None-Match: "v1"'),
        (f"If-Modified-Since: {DATE}",),
    ],
)
async def test_a_picture_the_client_has_is_304(gallery: Gallery, lines: tuple[str, ...]) -> None:
    """Rows 4 to 7: with the caching headers of the 200, without body, length and type."""
    image_id = await gallery.store(etag="v1")
    whole, answer = await gallery.image(image_id), await gallery.image(image_id, *lines)
    assert (answer.status, answer.body) == (304, b"")
    for name in ("cache-control", "etag", "x-content-type-options"):
        assert answer.headers[name] == whole.headers[name]
    assert not {"content-length", "content-type", "transfer-encoding"} & set(answer.headers)


async def test_a_bad_if_modified_since_is_ignored(gallery: Gallery) -> None:
    """Row 9."""
    image_id = await gallery.store()
    for value in ("garbage", "Sun, 22 Nov 99999 13:00:00 GMT", "Sun, 22 Nov 2037 13:00:00 GMT"):
        assert (await gallery.image(image_id, f"If-Modified-Since: {value}")).status == 200


async def test_a_failed_if_match_is_412_that_no_cache_stores(gallery: Gallery) -> None:
    """Row 10."""
    image_id = await gallery.store()
    answer = await gallery.image(image_id, 'If-Match: "other"')
    assert (answer.status, answer.code) == (412, "precondition_failed")
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [("0-9", 0, 10), ("-10", -10, None), ("10000-", 10_000, None), ("10239-99999", -1, None)],
)
@pytest.mark.parametrize("hot", [True, False])
async def test_a_range_is_206(gallery: Gallery, value: str, start: int, stop: int | None, hot: bool) -> None:
    """Rows 12 and 13, from memory and from the file: those bytes, where they lie, the same ETag."""
    image_id = await gallery.store()
    if hot:
        await gallery.image(image_id)
    answer = await gallery.image(image_id, f"Range: bytes={value}")
    expected = BODY[start:stop]
    first = start % len(BODY)
    assert (answer.status, answer.body) == (206, expected)
    assert answer.headers["content-length"] == str(len(expected))
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(BODY)}"
    assert answer.headers["etag"] == f'"{hashlib.sha256(BODY).hexdigest()}"'
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize("value", ["bytes=-0", f"bytes={len(BODY)}-"])
async def test_a_range_beyond_the_picture_is_416_that_no_cache_stores(gallery: Gallery, value: str) -> None:
    """Row 14: with the true size in Content-Range."""
    image_id = await gallery.store()
    answer = await gallery.image(image_id, f"Range: {value}")
    assert answer.status == 416
    assert answer.headers["content-range"] == f"bytes */{len(BODY)}"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "lines",
    [
        ("Range: items=0-9",),
        ("Range: bytes=0-9,20-29",),
        ("Range: bytes=9-0",),
        ("Range: bytes=0-9", 'If-Range: "old"'),
        ("Range: bytes=0-9", 'If-Range: W/"v1"'),
    ],
)
async def test_a_range_that_cannot_be_served_gets_the_whole(gallery: Gallery, lines: tuple[str, ...]) -> None:
    """Rows 15 to 17 and 19."""
    image_id = await gallery.store(etag="v1")
    answer = await gallery.image(image_id, *lines)
    assert (answer.status, answer.body) == (200, BODY)
    assert "content-range" not in answer.headers


async def test_a_matching_if_range_is_206(gallery: Gallery) -> None:
    """Row 18."""
    image_id = await gallery.store(etag="v1")
    assert (await gallery.image(image_id, "Range: bytes=0-9", 'If-Range: "v1"')).status == 206


async def test_pictures_are_never_compressed_again(gallery: Gallery) -> None:
    """Row 22."""
    image_id = await gallery.store()
    answer = await gallery.image(image_id, "Accept-Encoding: gzip, br")
    assert answer.body == BODY
    assert not {"content-encoding", "vary"} & set(answer.headers)


# Who gets nothing


async def test_an_unknown_picture_is_404(gallery: Gallery) -> None:
    """Row 24: problem+json that no cache stores."""
    for target in (f"/image/{UNKNOWN}", f"/generated/{UNKNOWN}.png"):
        answer = await gallery.ask(target)
        assert (answer.status, answer.code) == (404, "not_found")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"


async def test_a_picture_expires_at_its_moment(gallery: Gallery) -> None:
    """One microsecond before `expires_at` it is served, at `expires_at` it is 410, for good."""
    image_id = await gallery.store(expires_in=60)
    gallery.now = START + timedelta(seconds=60, microseconds=-1)
    last = await gallery.image(image_id)
    assert (last.status, last.headers["cache-control"]) == (200, "public, max-age=0, must-revalidate")
    gallery.now = START + timedelta(seconds=60)
    answer = await gallery.image(image_id)
    assert (answer.status, answer.code, answer.headers["cache-control"]) == (410, "expired", "no-store")
    assert "etag" not in answer.headers


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=1)])
async def test_a_picture_swept_while_the_clock_was_ahead_is_410_for_good(
    gallery: Gallery, ahead: timedelta
) -> None:
    """Its bytes are gone: once the clock is back the answer is 410, not an error of the server."""
    looked_at, other = await gallery.store(expires_in=600), await gallery.store(expires_in=600)
    assert (await gallery.image(looked_at)).status == 200  # and is remembered as it was
    gallery.now = START + ahead
    assert (await gallery.image(looked_at)).status == 410
    upkeep = Upkeep(gallery.records, gallery.blobs, every_s=60, now=lambda: gallery.now)
    assert await upkeep.sweep() == 2
    gallery.now = START
    for image_id in (looked_at, other):
        for method in ("GET", "HEAD"):
            answer = await gallery.image(image_id, method=method)
            assert (answer.status, answer.headers["cache-control"]) == (410, "no-store")


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=1)])
async def test_a_picture_made_while_the_clock_was_ahead_is_served(gallery: Gallery, ahead: timedelta) -> None:
    """It is not modified in the future, and the conditions of viewers who have it hold."""
    gallery.now = START + ahead
    image_id = await gallery.store(created_at=gallery.now)
    gallery.now = START
    answer = await gallery.image(image_id)
    assert (answer.status, answer.headers["last-modified"]) == (200, DATE)
    for line in (f"If-None-Match: {answer.headers['etag']}", f"If-Modified-Since: {DATE}"):
        assert (await gallery.image(image_id, line)).status == 304
    assert (await gallery.image(image_id, f"If-Unmodified-Since: {DATE}")).status == 200


async def test_a_deleted_picture_is_410_though_its_bytes_are_in_memory(gallery: Gallery) -> None:
    """The record decides on every request; the bytes kept hot do not outlive it."""
    image_id = await gallery.store()
    assert (await gallery.image(image_id)).status == 200
    await gallery.records.delete(image_id, gallery.now)  # as another process would
    gallery.seconds += RECHECK_S
    for method in ("GET", "HEAD"):
        assert (await gallery.image(image_id, method=method)).status == 410


async def test_another_extension_is_404(gallery: Gallery) -> None:
    """`/generated/{id}.{ext}` exists for the stored format only."""
    image_id = await gallery.store(format="webp")
    for extension in ("png", "jpg", "gif", "WEBP", "webp.webp", ""):
        assert (await gallery.ask(f"/generated/{image_id}.{extension}")).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
async def test_other_methods_are_405_and_say_which_are_allowed(gallery: Gallery, method: str) -> None:
    """Row 23."""
    image_id = await gallery.store()
    answer = await gallery.image(image_id, method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET,HEAD,OPTIONS"
    assert answer.headers["cache-control"] == "no-store"


async def test_options_says_which_methods_there_are(gallery: Gallery) -> None:
    """OPTIONS is 204 with Allow, for known and unknown pictures alike."""
    for image_id in (await gallery.store(), UNKNOWN):
        answer = await gallery.image(image_id, method="OPTIONS")
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    "query",
    ["?", "?fbclid=IwAR0", "?utm_source=a&utm_id=b", "?v=2", "?width=9", "?a;b", "??", "?/image/x"],
)
async def test_what_others_append_to_a_url_changes_nothing(gallery: Gallery, query: str) -> None:
    """The answer is that of the plain URL, with the same validators and the same life."""
    image_id = await gallery.store()
    plain, appended = await gallery.image(image_id), await gallery.image(image_id + query)
    assert (appended.status, appended.body) == (200, plain.body)
    for name in ("etag", "cache-control", "last-modified"):
        assert appended.headers[name] == plain.headers[name]


@pytest.mark.parametrize(
    "query",
    ["?exp=1&sig=x", "?sig=x", "?v&exp=1", "?%73ig=x", "?EXP=1", "?a;sig=1", "?%26sig=x", "?exp[]="],
)
async def test_a_broken_signature_is_400(gallery: Gallery, query: str) -> None:
    """Also for a public picture: a signed URL works exactly as it was issued, or not at all."""
    image_id = await gallery.store()
    answer = await gallery.image(image_id + query)
    assert (answer.status, answer.code) == (400, "malformed_query")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "pattern",
    [
        "/image//{id}",
        "//image/{id}",
        "/image/{id}/",
        "/Image/{id}",
        "/image/{id}%00",
        "/image/{id}%0a",
        "/image/{id}%20",
        "/image/{id}.png",
        "/image/%2e%2e/image/{id}",
        "/image/../image/{id}",
        "/image/./{id}",
        "/image%2f{id}",
        "/image/x%2f..%2f{id}",
        "/image/%2e%2e%2fetc%2fpasswd",
        "/image/{escaped}",
        "/%69mage/{id}",
        "/image/{id};v=1",
        "/image/{id}#top",
        "/image/%c0%af{id}",
        "/image/%ef%bc%91{id}",
        "/image/{short}",
        "/image/{id}a",
        "/image/",
        "/image",
        "/generated/{id}",
        "/generated/{id}.",
        "/generated/{id}%2epng",
        "/generated/x/{id}.png",
        "/generated/{id}.png/",
        "/generated/{id}.png%00",
        "/",
    ],
)
async def test_only_the_exact_path_is_a_picture(gallery: Gallery, pattern: str) -> None:
    """The path is compared as it was sent: every other spelling is 404, never a file and never a 500."""
    image_id = await gallery.store()
    escaped = f"%{ord(image_id[0]):02x}{image_id[1:]}"
    answer = await gallery.ask(pattern.format(id=image_id, escaped=escaped, short=image_id[:-1]))
    assert answer.status == 404


@pytest.mark.parametrize(
    "path", ["/image/\xc0\xaf{id}", "/image/\xef\xbc\x91{id}", "/image/ {id}", "/image/\0{id}"]
)
async def test_bytes_that_no_path_may_hold_never_get_as_far(gallery: Gallery, path: str) -> None:
    """Raw bytes beyond visible ASCII are refused by the parser: 400 before any handler runs."""
    image_id = await gallery.store()
    assert (await gallery.ask(path.format(id=image_id))).status == 400


async def test_a_full_url_in_the_request_line_is_understood(gallery: Gallery) -> None:
    """Servers accept the absolute form (9112, 3.2.2), and check it as strictly."""
    image_id = await gallery.store()
    assert (await gallery.ask(f"http://x/image/{image_id}")).body == BODY
    assert (await gallery.ask(f"http://x/image/{image_id}?exp=1")).status == 400
    assert (await gallery.ask(f"http://x/image//{image_id}")).status == 404


CONDITIONS = ("If-None-Match: *", "Range: bytes=0-9")


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", "/image/x?exp=1", 405),
        ("GET", "/image/x?exp=1", 404),
        ("GET", f"/image/{UNKNOWN}?exp=1", 400),
        ("GET", "/image/{expired}?exp=1", 400),
        ("GET", f"/generated/{UNKNOWN}.png", 404),
        ("GET", "/generated/{expired}.jpg", 410),
        ("GET", "/generated/{deleted}.jpg", 410),
        ("GET", "/generated/{live}.jpg", 404),
        ("HEAD", "/image/{deleted}", 410),
        ("GET", "/generated/{live}.png", 304),
    ],
)
async def test_the_checks_come_in_their_order(
    gallery: Gallery, method: str, target: str, status: int
) -> None:
    """Method, path, query, record, expiry, extension - and only then what the conditions say (row 11)."""
    live, expired, deleted = await gallery.store(), await gallery.store(expires_in=1), await gallery.store()
    await gallery.records.delete(deleted, gallery.now)
    target = target.format(live=live, expired=expired, deleted=deleted)
    assert (await gallery.ask(target, *CONDITIONS, method=method)).status == status


# The bytes


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_picture_deleted_while_it_is_asked_for_is_410(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A delete between the look-up and the file is the caller's news, not our failure."""
    image_id = await gallery.store()

    def overtaken(work: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        async def after_the_delete(*arguments: object) -> object:
            await gallery.records.delete(image_id, gallery.now)
            await gallery.blobs.delete(image_id, "png")
            return await work(*arguments)

        return after_the_delete

    for name in ("read", "size"):  # patched, since the moment between the two cannot be hit from outside
        monkeypatch.setattr(gallery.blobs, name, overtaken(getattr(gallery.blobs, name)))
    answer = await gallery.image(image_id, method=method)
    assert (answer.status, answer.headers["cache-control"]) == (410, "no-store")


async def test_a_missing_file_is_our_failure(gallery: Gallery) -> None:
    """A row without its file is 500 `bytes_missing` for GET, HEAD and ranges, never a 404 or a short 200."""
    image_id = await gallery.store()
    await gallery.blobs.delete(image_id, "png")
    for lines in ((), ("Range: bytes=0-9",)):
        answer = await gallery.image(image_id, *lines)
        assert (answer.status, answer.code) == (500, "bytes_missing")
        assert answer.headers["cache-control"] == "no-store"
    assert (await gallery.image(image_id, method="HEAD")).status == 500


@hot_bytes(0, 1 << 20)
async def test_a_file_of_another_length_is_our_failure(gallery: Gallery) -> None:
    """Bytes that were cut or grew are not sent under the record's ETag."""
    for data in (BODY[:-1], BODY + b"x"):
        image_id = await gallery.store(data, file_size=len(BODY))
        answer = await gallery.image(image_id)
        assert (answer.status, answer.code) == (500, "bytes_missing")


@hot_bytes(0)
async def test_a_picture_too_big_for_memory_is_sent_from_its_file(gallery: Gallery) -> None:
    """Whole, in ranges across pieces, and for several viewers at once."""
    data = secrets.token_bytes(1_500_000)
    image_id = await gallery.store(data)
    answers = await asyncio.gather(*(gallery.image(image_id) for _ in range(8)))
    assert all(answer.body == data for answer in answers)
    part = await gallery.image(image_id, "Range: bytes=250000-1400000")
    assert (part.status, part.body) == (206, data[250_000:1_400_001])


@hot_bytes(64 << 20)
async def test_a_big_picture_in_memory_is_sent_whole(gallery: Gallery) -> None:
    """Also what is kept in memory goes out in pieces, all of them."""
    data = secrets.token_bytes(3_000_000)
    image_id = await gallery.store(data)
    for _ in range(2):
        assert (await gallery.image(image_id)).body == data


async def test_a_viewer_with_little_room_gets_every_byte_of_what_is_ready(gallery: Gallery) -> None:
    """What its system does not take at once follows as it reads, and in order."""
    data = secrets.token_bytes(256 << 10)
    image_id = await gallery.store(data)
    assert (await gallery.image(image_id)).body == data
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", gallery.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    writer.write(f"GET /image/{image_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 3)
    for _ in range(3):
        assert (await next_answer(reader)).body == data
    writer.write(f"GET /image/{image_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await next_answer(reader)).body == data
    writer.close()
    assert gallery.at_once == 1


@hot_bytes(8 * len(BODY))
async def test_the_pictures_used_last_stay_in_memory_and_no_more_than_fit(gallery: Gallery) -> None:
    """With room for eight, the one used longest ago is the one that is read from disk again."""
    ids = [await gallery.store() for _ in range(9)]
    condition = 'If-None-Match: "another"'  # to whoever asks so, no file is sent without being read
    for image_id in [*ids[:8], ids[0], ids[8]]:
        assert (await gallery.image(image_id, condition)).status == 200
    for image_id in ids:
        await gallery.blobs.delete(image_id, "png")
    statuses = [(await gallery.image(image_id, condition)).status for image_id in ids]
    assert statuses == [200, 500, *[200] * 7]


@hot_bytes(0)
async def test_a_read_that_fails_midway_cuts_the_connection(
    gallery: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 38: the viewer gets fewer bytes than promised and a broken connection, never a short success."""
    size = 64 << 20
    image_id = await gallery.store(bytes(size))
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", gallery.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(f"GET /image/{image_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"200 OK" in head
    assert f"Content-Length: {size}".encode() in head
    with gallery.blobs.path(image_id, "png").open("r+b") as file:
        file.truncate(1 << 20)
    with (
        caplog.at_level(logging.ERROR, "blossom_async.gateway"),
        pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)),
    ):
        await reader.readexactly(size)
    writer.close()
    assert "cut off while it was being sent" in caplog.text


@hot_bytes(0)
async def test_a_viewer_that_leaves_midway_is_no_error(
    gallery: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    """Someone closing the tab logs nothing, and the next request is served."""
    image_id = await gallery.store(bytes(32 << 20))
    reader, writer = await asyncio.open_connection("127.0.0.1", gallery.port)
    writer.write(f"GET /image/{image_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readexactly(1000)
    writer.transport.abort()
    assert (await gallery.image(image_id, "Range: bytes=0-9")).status == 206
    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []

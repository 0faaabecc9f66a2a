"""Good pictures in all the forms of compatible servers' answers: each is paid once and delivered."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import attrs
import pytest
from aiohttp import web
from yarl import URL

from blossom_async.gateway.providers.answers import fields_of, picture_of
from blossom_async.gateway.providers.downloads import Downloads, exact_url
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.gateway.providers.openai import OpenAI
from blossom_async.gateway.providers.wire import Secret, provider_session
from blossom_async.models import ImageRequest
from blossom_async.testing import FakeOpenAI
from blossom_async.testing.exchange import Answer, Order, SeenRequest
from blossom_async.testing.servers import Made

REQUEST = ImageRequest("a red fox & an owl?", width=256, height=192)

_Form = Callable[[Answer], Answer]


class Dialect(FakeOpenAI):
    """The fake server, whose answers are put into another form."""

    def __init__(self, form: _Form, **options: Any) -> None:
        super().__init__(**options)
        self._form = form
        self.picture = b""
        """What is fetched."""
        self.fetched: list[str] = []
        """The targets of requests for the picture, as they were sent."""

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/pictures/{rest:.*}", self._fetch)
        router.add_get("/moved/{rest:.*}", self._moved)
        super()._add_routes(router)

    def _show(self, seen: SeenRequest, order: Order, made: Made) -> Answer:
        self.picture = made.pictures[0].data
        return self._form(super()._show(seen, order, made))

    async def _fetch(self, request: web.Request) -> web.StreamResponse:
        self.fetched.append(request.raw_path)
        assert not {"Authorization", "Idempotency-Key"} & request.headers.keys()
        return web.Response(body=self.picture, headers={"Content-Type": "binary/octet-stream"})

    async def _moved(self, request: web.Request) -> web.StreamResponse:
        status = int(request.query.get("status", 307))
        location = request.raw_path.replace("moved", "pictures")
        return web.Response(status=status, headers={"Location": location})


async def delivered(form: _Form) -> list[str]:
    """Has a server that answers in this form draw and deliver; what was fetched from it then."""
    async with Dialect(form) as server, provider_session() as session:
        provider = OpenAI(session, session, base_url=server.base_url, model="generic-1", key=Secret("k" * 20))
        delivery = await provider.generate(REQUEST, 7, key="k")
        assert len(server.ledger.charges) == 1
    assert (delivery.format, delivery.width, delivery.height) == ("png", 256, 192)
    return server.fetched


def changed(change: Callable[[dict[str, Any]], object]) -> _Form:
    """The answer with another document in its body, made of the one that OpenAI would send."""
    return lambda answer: attrs.evolve(answer, body=json.dumps(change(json.loads(answer.body))).encode())


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 299])
async def test_any_status_of_success_carries_a_picture(status: int) -> None:
    """Frameworks answer a POST with 201 or 202 as readily as with 200."""
    await delivered(lambda answer: attrs.evolve(answer, status=status))


def wrapped(text: str) -> str:
    """With the line breaks of MIME."""
    return base64.encodebytes(base64.b64decode(text)).decode()


BASE64: dict[str, Callable[[str], str]] = {
    "line breaks": wrapped,
    "line breaks of Windows": lambda text: wrapped(text).replace("\n", "\r\n"),
    "line breaks escaped twice": lambda text: wrapped(text).replace("\n", "\\n"),
    "a line break at the end": lambda text: text + "\n",
    "blanks around it": lambda text: f"  {text}\t ",
    "no padding": lambda text: text.rstrip("="),
    "too much padding": lambda text: text.rstrip("=") + "====",
    "the alphabet of URLs": lambda text: text.translate(str.maketrans("+/", "-_")),
    "the alphabet of URLs, unpadded": lambda text: text.translate(str.maketrans("+/", "-_")).rstrip("="),
    "a data URL": lambda text: f"data:image/png;base64,{text}",
    "a data URL without its beginning": lambda text: f"image/png;base64,{text}",
    "the end of a data URL": lambda text: f"base64,{text}",
    "in quotes": lambda text: f'"{text}"',
    "bytes as Python shows them": lambda text: str(text.encode()),
    "a data URL of no type": lambda text: f"data:;base64,{text}",
    "a data URL of several parameters": lambda text: f"data:image/png;name=a.png;charset=utf-8;base64,{text}",
    "a data URL in capitals": lambda text: f"DATA:IMAGE/PNG;BASE64,{text}",
    "a data URL with blanks": lambda text: f"\n data:image/png;base64, {text}\n",
    "a data URL with line breaks": lambda text: f"data:image/png;base64,{wrapped(text)}",
    "a data URL with escapes": lambda text: "data:image/png;base64," + quote(text, safe=""),
    "a data URL in the alphabet of URLs": lambda text: f"data:image/png;base64,{BASE64[_URLS](text)}",
}
_URLS = "the alphabet of URLs, unpadded"


@pytest.mark.parametrize("written", BASE64.values(), ids=BASE64)
@pytest.mark.parametrize("name", ["b64_json", "base64"])
async def test_base64_is_read_however_it_is_written(written: Callable[[str], str], name: str) -> None:
    """RFC 4648 and RFC 2397, and what encoders make of them."""
    await delivered(changed(lambda told: {"data": [{name: written(told["data"][0]["b64_json"])}]}))


@pytest.mark.parametrize(
    "text", ["no base64!", "aGVsbG8", "data:image/png,plain", "data:image/png;base64,é", "="]
)
def test_what_is_no_base64_of_a_picture_is_none(text: str) -> None:
    """Nothing is guessed: other letters are not skipped, and what was not a picture is refused later."""
    found = picture_of({"data": [{"b64_json": text}]})
    assert found in {None, b"hello", b""}


def as_text(change: Callable[[str], str], charset: str = "utf-8", content_type: str = "") -> _Form:
    """The answer with its text changed, and encoded in this charset."""

    def form(answer: Answer) -> Answer:
        headers = {"Content-Type": content_type or f"application/json; charset={charset}"}
        return attrs.evolve(answer, body=change(answer.body.decode()).encode(charset), headers=headers)

    return form


def with_field(text: str) -> Callable[[str], str]:
    """A document with one more field."""
    return lambda told: f"{{{text}, {told[1:]}"


DOCUMENTS = {
    "NaN and Infinity": as_text(with_field('"score": NaN, "least": -Infinity')),
    "a byte order mark": as_text(lambda told: "\ufeff" + told),
    "raw control characters": as_text(with_field('"words": "one\ntwo\x07"')),
    "half a surrogate pair": as_text(with_field(r'"words": "\ud83d"')),
    "a huge number": as_text(with_field('"seed": 1e999, "id": ' + "9" * 40)),
    "a second document": as_text(lambda told: f"{told}\n{told}"),
    "NULs at its end": as_text(lambda told: told + "\0\0"),
    "UTF-16": as_text(str, "utf-16"),
    "UTF-16 without a mark": as_text(str, "utf-16-le", "application/json"),
    "UTF-32": as_text(str, "utf-32"),
    "Latin-1": as_text(with_field('"words": "grün"'), "iso-8859-1"),
    "undeclared Latin-1": as_text(with_field('"words": "grün"'), "iso-8859-1", "application/json"),
    "GB 18030": as_text(with_field('"words": "鬨"'), "gb18030"),
    "a charset that is none": as_text(lambda told: "\ufeff" + told, "utf-8", "text/json; charset=utf-none"),
    "no content type": as_text(str, "utf-8", "application/octet-stream"),
    "one line of lines of JSON": as_text(lambda told: f"{told}\n", "utf-8", "application/x-ndjson"),
    "in a JSON string": as_text(json.dumps),
    "after lines that tell of the work": as_text(lambda told: f'{{"status": "drawing"}}\n{told}\n'),
    "after warnings of a script": as_text(lambda told: f"<br />\n<b>Warning</b>: line [3]\n{told}"),
    "after a prefix against scripts": as_text(lambda told: f")]}}',\n{told}"),
    "after a comment of events": as_text(lambda told: f": PROCESSING\n\n{told}"),
    "events that are not said to be": as_text(lambda told: f"data: {told}\n\ndata: [DONE]\n\n"),
    "one event": as_text(lambda told: f"\ufeffdata: {told}\n\n", content_type="text/event-stream"),
    "events after the picture": as_text(
        lambda told: f'data: {told}\n\ndata: {{"usage": {{}}}}\n\ndata: {{}}\n\n',
        content_type="text/event-stream",
    ),
}


@pytest.mark.parametrize("form", DOCUMENTS.values(), ids=DOCUMENTS)
async def test_json_is_read_however_it_is_written(form: _Form) -> None:
    """Python writes NaN, .NET a byte order mark, and some servers have a charset of their own."""
    await delivered(form)


@pytest.mark.parametrize("body", [b"[" * 100_000, b"{" * 9, b"\xff\xfe", b"", b"NaN", b'"text"', b"9" * 9999])
def test_what_is_no_json_object_has_no_fields(body: bytes) -> None:
    """And raises nothing."""
    assert fields_of(body) == {}


URLS = {
    "/pictures/1.png?type=image%2Fpng&until=2027-01-01T00%3A00%3A00Z&sig=abc%2Fdef%3D": None,
    "/pictures/a%2fb%2Fc%7Ed+e%20f.png?x=%7e&y&z=": None,
    "/pictures//2.png?sig=a/b+c==&x=[1]|{2}^`": None,
    "/pictures/a red fox.png?name=grün": "/pictures/a%20red%20fox.png?name=gr%C3%BCn",
    " /pictures/3.png\n": "/pictures/3.png",
    "/pictures/4.png#part": "/pictures/4.png",
    "/moved/5.png?sig=a%2Fb%3D": "/pictures/5.png?sig=a%2Fb%3D",
    "/moved/6.png?status=300": "/pictures/6.png?status=300",  # RFC 9110, 15.4.1: the preferred choice
}
"""What is given -> what is asked for, where it is not the same."""


@pytest.mark.parametrize(("given", "asked"), URLS.items(), ids=URLS)
@pytest.mark.parametrize("relative", [False, True])
async def test_a_url_is_fetched_as_it_was_given(given: str, asked: str | None, relative: bool) -> None:
    """A signature is of the URL as it is written; only what cannot be sent is escaped."""

    def form(answer: Answer) -> Answer:
        return attrs.evolve(answer, body=json.dumps({"data": [{"url": start + given.strip(" ")}]}).encode())

    start = ""
    async with Dialect(form) as server, provider_session() as session:
        start = "" if relative else server.base_url.removesuffix("/v1")
        provider = OpenAI(session, session, base_url=server.base_url, model="generic-1", key=Secret("k" * 20))
        await provider.generate(REQUEST, 7, key="k")
    assert server.fetched == [given if asked is None else asked]


@pytest.mark.parametrize(
    "given", ["../../pictures/6.png", "pictures/6.png", "./../../pictures/6.png", "/pictures/6.png"]
)
async def test_a_relative_url_starts_from_the_request_or_the_root(given: str) -> None:
    """The first is the standard's way (RFC 3986, 5), the other what some servers mean."""
    assert await delivered(changed(lambda _: {"data": [{"url": given}]})) == ["/pictures/6.png"]


MEANT = {
    "escaped for HTML": "http://{host}/pictures/7.png?a=1&amp;sig=x%2Fy",
    "escaped for JSON twice": "http:\\/\\/{host}\\/pictures\\/7.png?a=1\\u0026sig=x%2Fy",
    "in Markdown": "![a fox](http://{host}/pictures/7.png?a=1&sig=x%2Fy)",
    "in quotes": '"http://{host}/pictures/7.png?a=1&sig=x%2Fy"',
    "without a scheme": "{host}/pictures/7.png?a=1&sig=x%2Fy",
}


@pytest.mark.parametrize("written", MEANT.values(), ids=MEANT)
async def test_a_url_is_tried_as_it_was_meant_where_it_fails_as_written(written: str) -> None:
    """The picture is paid for."""

    async def fetch(request: web.Request) -> web.StreamResponse:
        good = request.raw_path == "/pictures/7.png?a=1&sig=x%2Fy"
        return web.Response(body=b"a picture") if good else web.Response(status=403)

    app = web.Application()
    app.router.add_get("/{rest:.*}", fetch)
    async with serving(app) as url, provider_session() as session:
        downloads = Downloads("p", session, timeout_s=5, connect_s=5)
        given = written.format(host=f"{url.host}:{url.port}")
        assert (await downloads.picture(given, url, None)).body == b"a picture"


@pytest.mark.parametrize(
    "text",
    ["", "http://", "ftp://a.example/1.png", "file:///etc/passwd", "http://u:p@a.example/", "http://[::1"],
)
def test_what_is_no_http_url_is_not_fetched(text: str) -> None:
    """Neither from an answer nor from a redirect."""
    assert exact_url(text, URL("data:x")) is None


SHAPES: dict[str, Callable[[str], object]] = {
    "an object for data": lambda text: {"data": {"b64_json": text}},
    "a text for data": lambda text: {"data": text},
    "texts in data": lambda text: {"data": [text]},
    "images": lambda text: {"images": [{"b64_json": text}]},
    "texts in images": lambda text: {"images": [text], "parameters": {"seed": 7}, "info": "{}"},
    "a text for images": lambda text: {"images": text},
    "image": lambda text: {"image": text},
    "output": lambda text: {"output": [text], "status": "succeeded"},
    "a text for output": lambda text: {"output": text},
    "an object for output": lambda text: {"id": "p", "output": {"url": f"data:image/png;base64,{text}"}},
    "objects in output": lambda text: {"output": [{"type": "image_generation_call", "result": text}]},
    "artifacts": lambda text: {"artifacts": [{"base64": text, "finishReason": "SUCCESS", "seed": 7}]},
    "predictions": lambda text: {"predictions": [{"mimeType": "image/png", "bytesBase64Encoded": text}]},
    "a result around it": lambda text: {"code": 0, "result": {"images": [{"image": text}]}},
    "data around data": lambda text: {"success": True, "data": {"data": [{"b64_json": text}]}},
    "a list": lambda text: [{"b64_json": text}],
    "nothing around it": lambda text: {"b64_json": text},
    "another way to write a name": lambda text: {"Images": [{"imageBase64": text}]},
    "a URL for a data URL": lambda text: {
        "images": [{"image_url": {"url": f"data:image/png;base64,{text}"}}]
    },
    "texts in image_urls": lambda text: {"data": {"image_urls": [f"data:image/png;base64,{text}"]}},
    "img": lambda text: {"img": text, "time": 3.2},
    "base64 where a URL belongs": lambda text: {"data": [{"url": text}]},
    "something else before it": lambda text: {
        "data": [{"b64_json": None, "text": "a fox"}, {"b64_json": text}]
    },
    "JSON in a text": lambda text: {"output": json.dumps([{"b64_json": text}])},
    "no picture beside it": lambda text: {"data": [{"b64_json": "aGVsbG8=", "image": text}]},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_a_picture_is_found_under_the_names_that_servers_have_for_it(
    shape: Callable[[str], object],
) -> None:
    """As the Images API has it, and as others that claim to be compatible with it do."""
    await delivered(changed(lambda told: shape(told["data"][0]["b64_json"])))


URL_SHAPES: dict[str, Callable[[str], object]] = {
    "texts in images": lambda url: {"images": [url]},
    "output": lambda url: {"output": url},
    "texts in output": lambda url: {"output": [url, f"{url}?second"]},
    "an object for data": lambda url: {"data": {"url": url}},
    "objects in images": lambda url: {"images": [{"url": url, "width": 256, "content_type": "image/png"}]},
    "a URL in a URL": lambda url: {"images": [{"type": "image_url", "image_url": {"url": url}}]},
}


@pytest.mark.parametrize("shape", URL_SHAPES.values(), ids=URL_SHAPES)
async def test_a_url_is_found_under_the_names_that_servers_have_for_it(
    shape: Callable[[str], object],
) -> None:
    """The first of them is fetched."""
    assert await delivered(changed(lambda _: shape("pictures/7.png"))) == ["/pictures/7.png"]


@pytest.mark.parametrize("name", ["data", "images", "output"])
async def test_what_is_neither_a_picture_nor_a_url_was_perhaps_not_paid(name: str) -> None:
    """Only ``data`` and a picture say that one was made."""
    async with Dialect(changed(lambda _: {name: "failed"})) as server, provider_session() as session:
        provider = OpenAI(session, session, base_url=server.base_url, model="generic-1")
        with pytest.raises(ProviderFault) as caught:
            await provider.generate(REQUEST, 7, key="k")
    assert (caught.value.kind, caught.value.charged) == (
        Kind.BAD_CONTENT,
        "yes" if name == "data" else "unknown",
    )


async def test_an_answer_without_a_picture_says_why() -> None:
    """Some servers answer 200 and put the error into the body."""
    told = {"error": {"code": "no_worker", "message": "The queue is paused."}}
    async with Dialect(changed(lambda _: told)) as server, provider_session() as session:
        provider = OpenAI(session, session, base_url=server.base_url, model="generic-1")
        with pytest.raises(ProviderFault, match="no_worker: The queue is paused") as caught:
            await provider.generate(REQUEST, 7, key="k")
    assert (caught.value.kind, caught.value.charged) == (Kind.BAD_CONTENT, "unknown")


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "application/json", ""])
async def test_the_body_may_be_the_picture_itself(content_type: str) -> None:
    """Whatever it is said to be."""

    def form(answer: Answer) -> Answer:
        data = base64.b64decode(json.loads(answer.body)["data"][0]["b64_json"])
        return attrs.evolve(answer, body=data, headers={"Content-Type": content_type})

    await delivered(form)


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\r\n\r\n"], ids=["mark", "line ends"])
@pytest.mark.parametrize("encoded", [False, True])
async def test_a_picture_may_come_after_what_scripts_write_first(before: bytes, encoded: bool) -> None:
    """A file of a script that was saved with a byte order mark, or with lines after its last bracket."""

    def form(answer: Answer) -> Answer:
        data = before + base64.b64decode(json.loads(answer.body)["data"][0]["b64_json"])
        told = json.dumps({"data": [{"b64_json": base64.b64encode(data).decode()}]}).encode()
        return attrs.evolve(answer, body=told if encoded else data, headers={"Content-Type": "image/png"})

    await delivered(form)


BARE: dict[str, Callable[[str], str]] = {
    "base64": str,
    "base64 with line breaks": wrapped,
    "a data URL": lambda text: f"data:image/png;base64,{text}\n",
    "JSON": lambda text: json.dumps({"data": [{"b64_json": text}]}),
}


@pytest.mark.parametrize("written", BARE.values(), ids=BARE)
@pytest.mark.parametrize("behind_a_url", [False, True])
async def test_the_body_may_be_the_picture_in_text(written: Callable[[str], str], behind_a_url: bool) -> None:
    """Also that of the answer from the picture's URL, which may be in JSON, too."""

    def form(answer: Answer) -> Answer:
        text = written(json.loads(answer.body)["data"][0]["b64_json"])
        if not behind_a_url:
            return attrs.evolve(answer, body=text.encode(), headers={"Content-Type": "text/plain"})
        server.picture = text.encode()
        return attrs.evolve(answer, body=f"{server.base_url.removesuffix('v1')}pictures/8".encode())

    async with Dialect(form) as server, provider_session() as session:
        provider = OpenAI(session, session, base_url=server.base_url, model="generic-1", key=Secret("k" * 20))
        delivery = await provider.generate(REQUEST, 7, key="k")
    assert (delivery.format, delivery.width) == ("png", 256)


async def test_a_url_may_lead_to_a_document_with_the_url_of_the_picture() -> None:
    """As some queues answer. A document that only names itself is asked for again, and is no picture."""
    asked: list[str] = []

    async def document(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"images": [{"url": "/1.png" if request.path == "/done" else "/busy"}]})

    async def picture(_: web.Request) -> web.Response:
        return web.Response(body=b"\x89PNG\r\n\x1a\n")

    async def sleep(_: float) -> None:
        asked.append("")

    app = web.Application()
    app.add_routes([web.get("/1.png", picture), web.get("/{name}", document)])
    async with serving(app) as url, provider_session() as session:
        downloads = Downloads("p", session, timeout_s=5, connect_s=5, sleep=sleep)
        assert (await downloads.picture("/done", url, None)).body.startswith(b"\x89PNG")
        assert (await downloads.picture("/busy", url, None)).body.startswith(b"{")
    assert asked == ["/done", *["/busy"] * 2, "", *["/busy"] * 2, "", *["/busy"] * 2]


@pytest.mark.parametrize(
    "body",
    [
        *(b"done", b"see https://a.example/1.png", b"<a href=1.png>", b"aGVsbG8="),
        b"\n" * 300_000,
        b'<!doctype html>\n<script>\n{"url": "/pictures/1.png"}\n</script>',
    ],
)
async def test_a_text_that_is_no_picture_was_perhaps_not_paid(body: bytes) -> None:
    """Nothing in it is guessed at."""
    async with (
        Dialect(lambda answer: attrs.evolve(answer, body=body)) as server,
        provider_session() as session,
    ):
        provider = OpenAI(session, session, base_url=server.base_url, model="generic-1")
        with pytest.raises(ProviderFault) as caught:
            await provider.generate(REQUEST, 7, key="k")
    assert (caught.value.kind, caught.value.charged, server.fetched) == (Kind.BAD_CONTENT, "unknown", [])


@pytest.mark.parametrize(
    ("statuses", "waits"),
    [
        ([404, 503], [0.5, 2.0]),
        ([429], [0.5]),
        ([204, 202], [0.5, 2.0]),
        ([], []),
        ([403], None),
        ([404] * 3, None),
    ],
)
async def test_a_picture_that_is_not_there_yet_is_asked_for_again(
    statuses: list[int], waits: list[float] | None
) -> None:
    """It is paid for; some services give its URL before it is stored. What is forbidden stays so."""
    left, waited = list(statuses), []

    async def fetch(request: web.Request) -> web.StreamResponse:
        return web.Response(status=left.pop(0)) if left else web.Response(body=b"a picture")

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    app = web.Application()
    app.router.add_get("/1.png", fetch)
    async with serving(app) as url, provider_session() as session:
        downloads = Downloads("p", session, timeout_s=5, connect_s=5, sleep=sleep)
        if waits is None:
            with pytest.raises(ProviderFault, match=f"answered {statuses[0]}") as caught:
                await downloads.picture("/1.png", url, None)
            assert caught.value.charged == "yes"
        else:
            assert (await downloads.picture("/1.png", url, None)).body == b"a picture"
            assert waited == waits


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[URL]:
    """The address of an application."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, sock).start()
    try:
        yield URL(f"http://127.0.0.1:{sock.getsockname()[1]}/")
    finally:
        await runner.cleanup()

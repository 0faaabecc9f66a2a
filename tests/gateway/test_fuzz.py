"""Hostile text in every field, header and path segment of every route: a clean answer each time.

``BLOSSOM_TEST_FUZZ=100000 pytest -s -o faulthandler_timeout=0 tests/gateway/test_fuzz.py`` sends that many,
and others each time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import KEY, RunningGateway, running_gateway
from tests.waiting import LIMIT_S

REQUESTS = int(os.environ.get("BLOSSOM_TEST_FUZZ", "2000"))
AT_ONCE = 20  # requests of one example, on one connection

NAUGHTY = (
    # nothing, blanks and words that programs read
    "", " ", "\t", "\u00a0", "\u3000", "\u2028", "\u2029", "\u200b", "\ufeff", "\u180e", "null", "None",
    "undefined", "NaN",
    "true", "false", "__proto__", "constructor", "self", "hasOwnProperty", "CON", "NUL", "COM1",
    # numbers
    "0", "-1", "-0", "+1", "1e3", "1_000", "0x10", "0b1", "1.0", "1,000", "١٢٣", "１７９５３５６０００", "²",
    "9" * 30,
    "2147483648", "9223372036854775808", "-9223372036854775809", "1e999", "Infinity", "-Infinity", "9" * 5000,
    # control characters and what ends a line somewhere
    "\x00", "a\x00b", "\x01\x02\x1b[31m", "\x7f", "\x80\x85\x9f", "\r\nSet-Cookie: a=b",
    "\n\nGET / HTTP/1.1", "\r", "\x0b\x0c",
    # scripts, directions, marks, look-alikes
    "田中さん", "🎑🏳️‍🌈👩‍👩‍👧‍👦", "مُنَاقَشَةُ", "\u202etest\u202c", "Ṱ̺̺̕o͞ ̷i̲̬", "ﬁ", "İ", "ß", "ı", "ſ", "Å",
    "A\u030a", "ａｄｍｉｎ", "\ue000",
    "\ufffe\uffff", "\U0010ffff", "\U000e0041", "💣" * 50, "℀", "℡",
    # markup and templates
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "</td></textarea><svg/onload=alert(1)>",
    "javascript:alert(1)",
    "{{7*7}}", "{% include 'base.html' %}", "${7*7}", "#{7*7}", "%s%s%n", "%(a)s", "{0.__class__}",
    "&lt;&#x0;", "]]>", "<!--",
    # SQL, shells, formulas, logs
    "' OR 1=1 --", "'; DROP TABLE images; --", "\" OR \"\"=\"", "%' ESCAPE '", "_%", "\\", "\\0", "$(id)",
    "`id`", "|id", "=1+1",
    "@SUM(1)", "${jndi:ldap://127.0.0.1/a}", "*", "()[]{}?+^$", "(?:a+)+$", "a" * 200, "(" * 60, "[" * 60,
    # paths and URLs
    ".", "..", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/", "....//", "/", "//",
    "///etc/passwd", "a/b", "a\\b", "C:\\x",
    "file:///etc/passwd", "%00", "%", "%%", "%zz", "%c0%af", "%ED%A0%80", "%ff", "?a=b", "#a", ";a", "&a=b",
    "a=b&a=b", "?", "&&", "=",
    "http://", "http://[", "http://[::1", "http://a]", "//[", "http://user:pw@127.0.0.1:99999/",
    "http://℀/", "https://myapp.com@evil.test",
    "http://①②⑦.⓪.⓪.①/", "127.0.0.1", "::1", "::ffff:1.2.3.4", "fe80::1%lo", "0/0", "10.0.0.0/8",
    "1.2.3.4/33", "010.0.0.1", "*.com", "*.*",
    "xn--", "xn--a", "a..b", "-a.test", "a" * 64 + ".test", ".test", "localhost", "[::1]", "[", "]",
    # what headers of this gateway look like
    "bytes=0-0", "bytes=-0", "bytes=0-,0-,0-", "bytes=" + "9" * 400 + "-", "bytes=a-b", "W/\"a\"", "\"",
    "\"a\", \"b", "*;q=2", "image/webp;q=nan",
    "image/webp;q=1,*/*;q=0", "Bearer", "Bearer ", "bearer é", "Basic Og==",
    "Sun, 31 Feb 2026 99:99:99 GMT", "Sun, 06 Nov 0000 08:49:37 GMT",
    "max-age=-1", "max-age=\"1", "public, private, no-store", "u=9", "u=7,i", "0001-01-01", "9999-12-31",
    "2026-02-30",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-22T14:00:00", "exp=1&sig=a",
    "exp=9999999999&sig=" + "A" * 60,
)  # fmt: skip
"""Of our own choice, after the kinds that lists such as the Big List of Naughty Strings have."""

NUMBERS = (
    0,
    -1,
    1,
    15,
    16.0,
    17.5,
    4097,
    2**31,
    2**53 + 1,
    2**63,
    -(2**63) - 1,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
)
SHAPES: tuple[Any, ...] = (True, None, [], {}, ["a"], [[]], {"a": 1}, [None], "\ud800")
OPTIONS = (
    "prompt", "width", "height", "quality", "format", "transparency", "compression", "quality_preset",
    "model", "seed",
    "negative_prompt", "expires_in", "cache_control", "etag", "tracking_id", "metadata", "allowed_domains",
    "ip_whitelist",
    "require_auth", "require_signature", "use_custom_cdn", "defer", "sign",
)  # fmt: skip
THEIRS = ("n", "size", "response_format", "output_format", "background", "user", "stream")
HEADERS = (
    "Accept", "Accept-Encoding", "Accept-Language", "Access-Control-Request-Headers",
    "Access-Control-Request-Method",
    "Authorization", "Content-Encoding", "Content-Type", "Cookie", "Date", "Forwarded", "If-Match",
    "If-Modified-Since",
    "If-None-Match", "If-Range", "If-Unmodified-Since", "Idempotency-Key", "Origin", "Priority", "Purpose",
    "Range", "Referer",
    "Sec-Fetch-Site", "Sec-Purpose", "User-Agent", "Via", "X-Forwarded-For", "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-HTTP-Method-Override", "X-Original-URL", "X-Real-IP", "X-Request-Id",
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


@attrs.frozen
class Route:
    """A way into the gateway: ``{}`` stands for what is hostile, or for a picture's id.

    ``names`` are those of the body's options, ``headers`` those that its handler reads.
    """

    method: str
    path: str
    names: tuple[str, ...] = ()
    body: dict[str, object] | None = None
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


OF_A_CALL = ("Authorization", "Content-Type", "Idempotency-Key", "Priority")
OF_A_PICTURE = (
    "Accept", "Authorization", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range",
    "If-Unmodified-Since", "Origin",
    "Range", "Referer", "Sec-Purpose", "User-Agent",
)  # fmt: skip
OF_A_FORM = ("Cookie", "Origin", "Sec-Fetch-Site")
CREATE = {"prompt": "a lake", "width": 16, "height": 16}
ROUTES = (
    Route("POST", "/v1/images", OPTIONS, CREATE, headers=OF_A_CALL),
    Route("POST", "/v1/images/generations", THEIRS, {"prompt": "a lake", "size": "16x16"}, headers=OF_A_CALL),
    Route(
        "POST", "/v1/images/generations", OPTIONS, {"prompt": "a lake", "size": "16x16"}, headers=OF_A_CALL
    ),
    Route("GET", "/v1/images/{}"),
    Route("DELETE", "/v1/images/{}"),
    Route("POST", "/v1/images/{}/regenerate", OPTIONS, {}),
    Route("POST", "/v1/images/{}/signed-url", ("signature_ttl", "access_key", "stable", "cdn"), {}),
    Route("POST", "/v1/images/{}/explain", ("url", "address", "referer", "origin", "authorized", "at"), {}),
    Route("POST", "/v1/access-keys/{}/revoke"),
    Route("GET", "/v1/stats", query=("tracking_id", "from", "to")),
    Route("GET", "/v1/models"),
    Route("GET", "/v1/models/{}"),
    Route("GET", "/image/{}", query=("exp", "sig"), headers=OF_A_PICTURE),
    Route("GET", "/generated/{}.png", query=("exp", "sig"), headers=OF_A_PICTURE),
    Route("GET", "/generated/{}", query=("exp", "sig"), headers=OF_A_PICTURE),
    Route("GET", "/", query=("q", "state", "before")),
    Route("GET", "/pictures/{}"),
    Route("GET", "/campaigns"),
    Route("GET", "/campaigns/{}", query=("from", "to")),
    Route("GET", "/campaigns/seen", query=("from", "to")),
    Route("GET", "/spend"),
    Route("GET", "/storage"),
    Route("GET", "/traffic"),
    Route("GET", "/login", query=("next",)),
    Route("POST", "/login", ("key", "next"), {}, headers=OF_A_FORM),
    Route("POST", "/logout", ("key",), {}, headers=OF_A_FORM),
    Route("GET", "/dashboard/pictures/{}"),
    Route("GET", "/dashboard/thumbnails/{}"),
    Route("GET", "/healthz"),
    Route("GET", "/readyz"),
    Route("GET", "/metrics"),
    Route("GET", "/openapi.json"),
    Route("GET", "/{}"),
)
FORMS = {"/login", "/logout"}
FRONT_DOOR = ("/v1/images/generations", "/v1/models")
PAGES = ("/", "/pictures", "/campaigns", "/spend", "/storage", "/traffic", "/login", "/logout")

texts = st.sampled_from(NAUGHTY) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
scalars = texts | st.sampled_from(NUMBERS) | st.booleans() | st.none()
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(texts, scalars, max_size=3)


@attrs.frozen
class Sent:
    """One request, with the id of a picture still to be put in its place where ``picture`` is set."""

    method: str
    route: Route
    segment: str
    picture: int | None
    encoded: bool
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes | None
    known: bool


def one_at_a_time() -> Iterator[tuple[Route, str, str, object]]:
    """Every place of every route, with each hostile value in turn: the route, the place and its name."""
    for route in ROUTES:
        places = [("segment", "")] if "{}" in route.path else []
        places += [("query", name) for name in route.query]
        places += [("header", name) for name in route.headers or HEADERS[:1]]
        for place, name in places:
            yield from ((route, place, name, text) for text in NAUGHTY)
        for name in route.names:
            yield from ((route, "field", name, value) for value in (*NAUGHTY, *NUMBERS, *SHAPES))


def one(route: Route, place: str, name: str, value: object) -> Sent:
    """A request that is as it should be but for one thing."""
    return Sent(
        method=route.method,
        route=route,
        segment=str(value) if place == "segment" else "a",
        picture=None if place == "segment" else 0,
        encoded=True,
        query=((name, str(value)),) if place == "query" else (),
        headers=((name, str(value)),) if place == "header" else (),
        body=None if route.body is None else _body(route, {name: value} if place == "field" else {}),
        known=True,
    )


def _body(route: Route, wrong: dict[str, object]) -> bytes:
    if route.path in FORMS:
        text = "&".join(f"{_quoted(name)}={_quoted(str(value))}" for name, value in wrong.items())
    else:
        text = json.dumps({**(route.body or {}), **wrong})
    return text.encode("utf-8", "surrogatepass")


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


SINGLE = tuple(one_at_a_time())


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    """Any route: as it should be but for one thing, or hostile in several places."""
    if draw(st.booleans()):
        return one(*SINGLE[draw(st.integers(0, len(SINGLE) - 1))])
    route = draw(st.sampled_from(ROUTES))
    names = st.sampled_from(route.headers or HEADERS) | st.sampled_from(HEADERS)
    headers = draw(st.lists(st.tuples(names, texts), max_size=2))
    body = None
    if route.body is not None:
        wrong: dict[str, object] = draw(
            st.dictionaries(st.sampled_from(route.names) | texts, values, max_size=2)
        )
        whole = draw(st.sampled_from((True, True, True, False)))
        body = _body(route, wrong) if whole else draw(texts).encode("utf-8", "surrogatepass")
    return Sent(
        method=draw(st.just(route.method) | st.just(route.method) | st.sampled_from(METHODS)),
        route=route,
        segment=draw(texts),
        picture=draw(st.none() | st.integers(0, 30)),
        encoded=draw(st.sampled_from((True, True, True, False))),
        query=tuple(draw(st.lists(st.tuples(st.sampled_from(("q", *route.query)), texts), max_size=2))),
        headers=tuple(headers),
        body=body,
        known=draw(st.sampled_from((True, True, True, False))),
    )


class Caller:
    """One keep-alive connection, opened anew where the gateway has closed it; and what came back."""

    def __init__(self, running: RunningGateway, cookie: str, ids: list[str]) -> None:
        self._port = int(running.base_url.rpartition(":")[2])
        self._cookie = cookie
        self._ids = ids
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.statuses: Counter[int] = Counter()

    async def ask(self, sent: Sent) -> None:
        """Sends it, and asserts that what comes back is an answer of this gateway's."""
        wire = self._written(sent)
        answer = await self._exchange(wire, sent.method)
        if answer is None:  # closed while it was idle
            answer = await self._exchange(wire, sent.method)
        assert answer is not None, f"no answer to {wire!r}"
        status, headers, body = answer
        self.statuses[status] += 1
        told = f"{wire[:3000]!r} -> {status} {headers} {body[:500]!r}"
        assert status < 500, told
        assert headers.get("server") == "blossom", told
        if status >= 400:
            _check_refusal(sent, status, headers, body, told)

    async def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            await self._open[1].wait_closed()
            self._open = None

    def _written(self, sent: Sent) -> bytes:
        kept = sent.method == "DELETE" or sent.picture is None
        segment = sent.segment if kept else self._ids[(sent.picture or 0) % len(self._ids)]
        target = sent.route.path.replace("{}", _quoted(segment) if sent.encoded else _on_one_line(segment))
        parts = [
            f"{name}={_quoted(text) if sent.encoded else _on_one_line(text)}" for name, text in sent.query
        ]
        lines = [
            f"{sent.method} {target}{'?' if parts else ''}{'&'.join(parts)} HTTP/1.1",
            "Host: gateway.test",
        ]
        fields = dict(sent.headers)
        if sent.known:
            fields.setdefault("Authorization", f"Bearer {KEY}")
            fields.setdefault("Origin", "http://gateway.test")
            if sent.route.path != "/logout":
                fields.setdefault("Cookie", self._cookie)
        if sent.body is not None:
            usual = "application/x-www-form-urlencoded" if sent.route.path in FORMS else "application/json"
            fields.setdefault("Content-Type", usual)
            fields["Content-Length"] = str(len(sent.body))
        lines += [f"{name}: {_on_one_line(value)}" for name, value in fields.items()]
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + (sent.body or b"")

    async def _exchange(self, wire: bytes, method: str) -> tuple[int, dict[str, str], bytes] | None:
        if self._open is None:
            self._open = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._open
        try:
            async with asyncio.timeout(LIMIT_S):
                writer.write(wire)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                status, *fields = head.rstrip().split("\r\n")
                headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
                body = b""
                if method != "HEAD" and "content-length" in headers:
                    body = await reader.readexactly(int(headers["content-length"]))
        except (asyncio.IncompleteReadError, ConnectionError):
            await self.close()
            return None
        if headers.get("connection") == "close":
            await self.close()
        return int(status.split()[1]), headers, body


def _on_one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def _check_refusal(sent: Sent, status: int, headers: dict[str, str], body: bytes, told: str) -> None:
    """A refusal is never stored, and is a problem, or what the front door or the dashboard says instead."""
    assert headers.get("cache-control") == "no-store", told
    assert "etag" not in headers, told
    kind = headers.get("content-type", "").partition(";")[0]
    path = sent.route.path
    if kind == "text/html":
        assert path.startswith(PAGES), told
    elif sent.method == "HEAD":
        assert kind in {"application/problem+json", "application/json"}, told
    elif kind == "application/json":
        assert path.startswith(FRONT_DOOR), told
        assert set(orjson.loads(body)["error"]) == {"message", "type", "param", "code"}, told
    else:
        assert kind == "application/problem+json", told
        problem: dict[str, Any] = orjson.loads(body)
        assert problem["status"] == status, told
        assert len(problem["detail"]) <= 500, told


async def _prepared(running: RunningGateway) -> tuple[str, list[str]]:
    """A session's cookie, and the ids of pictures of every kind."""
    from blossom_async.transport import http_session

    kinds: tuple[dict[str, object], ...] = (
        {"tracking_id": "seen", "metadata": {"<b>": "'\""}},
        {"format": "auto"},
        {"require_auth": True},
        {"require_signature": True},
        {"ip_whitelist": ["127.0.0.1"]},
        {"allowed_domains": ["*.myapp.com"]},
        {"defer": True},
        {"expires_in": 1},
    )
    ids = []
    async with http_session(30.0) as session:
        authorized = {"Authorization": f"Bearer {KEY}"}
        for kind in kinds:
            url = f"{running.base_url}/v1/images"
            async with session.post(url, json={**CREATE, **kind}, headers=authorized) as answer:
                ids.append((await answer.json())["id"])
            async with session.get(f"{running.base_url}/image/{ids[-1]}"):
                pass
        async with session.delete(f"{running.base_url}/v1/images/{ids[1]}", headers=authorized):
            pass
        form = {"key": KEY}
        origin = {"Origin": running.base_url}
        async with session.post(
            f"{running.base_url}/login", data=form, headers=origin, allow_redirects=False
        ) as answer:
            return answer.headers["Set-Cookie"].partition(";")[0], ids


@attrs.define
class Bench:
    """A gateway in a loop that runs only while somebody waits for something."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    caller: Caller
    sent: int = 0


@pytest.mark.campaign
def test_hostile_text_gets_a_clean_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No 5xx and nothing in the log; each refusal is a problem that no cache keeps."""
    caplog.set_level(logging.WARNING)
    with asyncio.Runner() as runner:
        stop = asyncio.Event()
        ready: asyncio.Future[RunningGateway] = runner.get_loop().create_future()

        async def serve() -> None:
            async with running_gateway(tmp_path / "data", failed_key_limit="1000000/s") as running:
                ready.set_result(running)
                await stop.wait()

        serving = runner.get_loop().create_task(serve())

        async def begin() -> Caller:
            either: list[asyncio.Future[Any]] = [ready, serving]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return Caller(ready.result(), *await _prepared(ready.result()))

        caller = runner.run(begin())

        async def end() -> None:
            await caller.close()
            stop.set()
            await serving

        bench = Bench(runner.run, caller)
        try:
            _fuzz(bench, caplog)
        finally:
            runner.run(end())
    assert bench.sent >= REQUESTS
    told = ", ".join(f"{status}: {number}" for status, number in sorted(caller.statuses.items()))
    print(f"{bench.sent} requests; {told}")  # noqa: T201 - with pytest -s


def _fuzz(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def ask(batch: list[Sent]) -> None:
        for sent in batch:
            await bench.caller.ask(sent)
            bench.sent += 1

    whole = len(SINGLE) if len(SINGLE) <= REQUESTS else 0  # then all of these first
    for start in range(0, whole, AT_ONCE):
        caplog.clear()
        bench.run(ask([one(*single) for single in SINGLE[start : start + AT_ONCE]]))
        assert not caplog.records, caplog.text

    # Without shrinking: the message has the request, and an earlier one may have had a part in it.
    @settings(
        max_examples=-(-(REQUESTS - whole) // AT_ONCE) or 1,
        deadline=None,
        database=None,
        derandomize="BLOSSOM_TEST_FUZZ" not in os.environ,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(requests(), min_size=AT_ONCE, max_size=AT_ONCE))
    def batches(batch: list[Sent]) -> None:
        caplog.clear()
        bench.run(ask(batch))
        assert not caplog.records, caplog.text

    batches()

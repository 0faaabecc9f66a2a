"""The caches of examples/cdn in front of a real gateway: what they keep, and what they must never show.

The numbers of rows are those of a table of attacks on picture services; each row is one kind of attack.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import pwd
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest

from blossom_async.gateway.callers.keys import digest
from blossom_async.gateway.counting import access_log
from blossom_async.gateway.storage.records import ApiKey, Records
from blossom_async.gateway.storage.records import keys as key_records
from tests.conftest import KEY
from tests.ports import reserved_port
from tests.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.campaign

EXAMPLES = Path(__file__).parents[3] / "examples" / "cdn"
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin"
TEMPORARY = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
NAMES = {"nginx": "nginx", "varnish": "varnishd"}

FRIEND, STRANGER = "127.0.0.5", "127.0.0.6"  # loopback has more than one address to come from
WEBP = "image/avif,image/webp,image/apng,*/*;q=0.8"
METHODS = ["GET", "HEAD", "Range"]

Headers = dict[str, str]


@attrs.frozen
class Answer:
    """One response; header names in lower case."""

    status: int
    headers: Headers
    body: bytes

    @property
    def hit(self) -> bool:
        return "hit" in self.headers.get("cache-status", "")


def exchange(
    port: int,
    target: str,
    headers: Headers | None = None,
    *,
    method: str = "GET",
    source: str = FRIEND,
    body: bytes | None = None,
) -> Answer:
    """The answer to one request; ``target`` goes out byte for byte. ``Range`` is a GET of the first bytes."""
    sent = {"Connection": "close", **(headers or {})}
    if method == "Range":
        method, sent["Range"] = "GET", "bytes=0-9"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20, source_address=(source, 0))
    connection.request(method, target, body, sent)
    answer = connection.getresponse()
    found = Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    connection.close()
    return found


class Relay(socketserver.ThreadingTCPServer):
    """Stands between cache and gateway, and writes down what the cache asks."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), RelayedConnection)
        self.behind = port
        self.asked = bytearray()  # which several threads may add to
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class RelayedConnection(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.behind)) as gateway, suppress(OSError):
            back = threading.Thread(target=self.answers, args=(gateway,), daemon=True)
            back.start()
            while data := self.request.recv(1 << 16):
                self.server.asked += data
                gateway.sendall(data)
            gateway.shutdown(socket.SHUT_WR)
            back.join()

    def answers(self, gateway: socket.socket) -> None:
        with suppress(OSError):
            while data := gateway.recv(1 << 16):
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_WR)


@attrs.frozen
class Cdn:
    """A cache that listens on ``port``, and the gateway behind it."""

    name: str
    port: int
    gateway_port: int
    folder: Path
    relay: Relay

    def ask(self, target: str, headers: Headers | None = None, **how: Any) -> Answer:
        return exchange(self.port, target, headers, **how)

    def call(self, method: str, path: str, **body: object) -> dict[str, Any]:
        """A call to the gateway's own API, past the cache."""
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        data = orjson.dumps(body)
        answer = exchange(self.gateway_port, path, headers, method=method, body=data)
        assert answer.status in {200, 201, 204}, answer.body
        return orjson.loads(answer.body) if answer.body else {}

    def make(self, **options: object) -> dict[str, Any]:
        return self.call("POST", "/v1/images", prompt="a lake", width=32, height=32, **options)

    def sign(self, image_id: str, **options: object) -> str:
        """The target of a signed URL, which is given out under the cache's address."""
        url: str = self.call("POST", f"/v1/images/{image_id}/signed-url", **options)["url"]
        assert url.startswith(f"http://127.0.0.1:{self.port}/")
        return url.removeprefix(f"http://127.0.0.1:{self.port}")

    def stored(self, image_id: str) -> bytes:
        (path,) = (self.folder / "data" / "images").glob(f"*/{image_id}.*")
        return path.read_bytes()


@contextmanager
def process(command: list[str | Path], port: int, folder: Path, **env: str) -> Iterator[None]:
    """A server while the block runs, from when it takes connections."""
    output = folder / f"{Path(command[0]).name}.out"
    with output.open("wb") as file:
        running = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **env}, cwd=folder)
    try:

        def listens() -> bool:
            assert running.poll() is None, output.read_text()
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        wait_until(listens)
        yield
    finally:
        running.terminate()
        running.wait(30)


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """The configuration with what it says may be replaced."""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def command_of(name: str, folder: Path, port: int, behind: int) -> list[str | Path]:
    binary = shutil.which(NAMES[name], path=SBIN)
    if binary is None:
        pytest.skip(f"{NAMES[name]} is not installed; on Debian: apt-get install nginx-light varnish")
    if name == "varnish":
        text = (EXAMPLES / "varnish.vcl").read_text()
        (folder / "varnish.vcl").write_text(replaced(text, ('"8765"', f'"{behind}"')))
        options: list[str | Path] = [
            "-a",
            f"127.0.0.1:{port}",
            "-n",
            folder / "varnish",
            "-s",
            "malloc,32m",
            "-p",
            "vsl_space=8m",
        ]
        return [binary, "-F", "-j", "none", "-f", folder / "varnish.vcl", *options]
    text = replaced(
        (EXAMPLES / "nginx.conf").read_text(),
        ("user www-data;", f"user {pwd.getpwuid(os.geteuid()).pw_name};"),
        ("127.0.0.1:8765", f"127.0.0.1:{behind}"),
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("/var/cache/blossom", str(folder / "nginx" / "cache")),
        ("/var/log/nginx", str(folder / "nginx")),
        ("/run/nginx.pid", str(folder / "nginx" / "pid")),
        # nginx makes these when it starts, where only root may unless told otherwise.
        ("http {", "http {" + "".join(f"{kind}_temp_path {folder}/nginx/{kind};" for kind in TEMPORARY)),
    )
    (folder / "nginx").mkdir()
    (folder / "nginx.conf").write_text(text)
    return [binary, "-e", folder / "nginx" / "start.log", "-c", folder / "nginx.conf", "-g", "daemon off;"]


@pytest.fixture(scope="module", params=list(NAMES))
def cdn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cdn]:
    """The gateway as `blossom serve` runs it, and one of the caches before it."""
    folder = tmp_path_factory.mktemp(request.param)
    with reserved_port() as port, reserved_port() as gateway_port:
        relay = Relay(gateway_port)
        command = command_of(request.param, folder, port, relay.server_address[1])
        serve = [sys.executable, "-m", "blossom_async.cli", "serve", "--port", str(gateway_port)]
        serve += ["--data-dir", str(folder / "data"), "--public-url", f"http://127.0.0.1:{port}"]
        environment = {
            "BLOSSOM_API_KEYS": KEY,
            "BLOSSOM_TRUSTED_PROXIES": "127.0.0.1",
            "BLOSSOM_FAILED_KEY_LIMIT": "100000/min",  # the tests send more wrong keys than a viewer may
        }
        with process([*serve], gateway_port, folder, **environment), process(command, port, folder):
            yield Cdn(request.param, port, gateway_port, folder, relay)
        relay.shutdown()
        relay.server_close()


# What the cache is for


def test_a_public_picture_is_asked_of_the_gateway_once(cdn: Cdn) -> None:
    """The first GET is a miss, all others are hits with the same bytes and headers."""
    for path in ("/image/{id}", "/generated/{id}.png"):
        image_id = cdn.make()["id"]
        target = path.format(id=image_id)
        answers = [cdn.ask(target) for _ in range(3)]
        assert [answer.hit for answer in answers] == [False, True, True]
        assert {answer.body for answer in answers} == {cdn.stored(image_id)}
        for answer in answers:
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert answer.headers["etag"] == answers[0].headers["etag"]
            assert answer.headers["content-type"] == "image/png"
            assert "x-request-id" not in answer.headers
        assert cdn.relay.asked.count(f"GET {target} ".encode()) == 1


def test_a_range_is_cut_from_the_picture_in_the_cache(cdn: Cdn) -> None:
    """Also when the range is the first that is asked for, and the whole picture after it is a hit."""
    image_id = cdn.make()["id"]
    picture = cdn.stored(image_id)
    for hit in (False, True, True):
        answer = cdn.ask(f"/image/{image_id}", method="Range")
        assert (answer.status, answer.body, answer.hit) == (206, picture[:10], hit)
        assert answer.headers["content-range"] == f"bytes 0-9/{len(picture)}"
    whole = cdn.ask(f"/image/{image_id}")
    assert (whole.status, whole.body, whole.hit) == (200, picture, True)
    late = cdn.ask(f"/image/{image_id}", {"Range": "bytes=0-9", "If-Range": '"another"'})
    assert (late.status, late.body) == (200, picture)
    beyond = cdn.ask(f"/image/{image_id}", {"Range": "bytes=99999999-"})
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{len(picture)}")
    assert cdn.ask(f"/image/{image_id}").body == picture


def test_a_picture_that_the_viewer_has_is_304_from_the_cache(cdn: Cdn) -> None:
    """If-None-Match is answered without the gateway."""
    image_id = cdn.make()["id"]
    etag = cdn.ask(f"/image/{image_id}").headers["etag"]
    answer = cdn.ask(f"/image/{image_id}", {"If-None-Match": etag, "Origin": "https://myapp.com"})
    assert (answer.status, answer.body, answer.hit) == (304, b"", True)
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("lines", [{}, {"Range": "bytes=0-9"}])
def test_head_reaches_the_gateway_as_head(cdn: Cdn, lines: Headers) -> None:
    """It is no view: it is not made a GET, and neither fills the cache nor is answered from it."""
    image_id = cdn.make()["id"]
    target = f"/image/{image_id}"
    first = cdn.ask(target, lines, method="HEAD")
    got = cdn.ask(target)
    second = cdn.ask(target, lines, method="HEAD")
    for head in (first, second):
        assert (head.status, head.body, head.hit) == (200, b"", False)
        assert head.headers["content-length"] == str(len(got.body))
        assert head.headers["etag"] == got.headers["etag"]
    assert not got.hit
    assert cdn.relay.asked.count(f"HEAD {target} ".encode()) == 2
    assert cdn.relay.asked.count(f"GET {target} ".encode()) == 1


def test_every_viewer_gets_the_format_it_takes(cdn: Cdn) -> None:
    """Row 39: a picture in several formats is cached in each; no viewer gets what another took."""
    target = f"/image/{cdn.make(format='auto')['id']}"
    kinds: dict[str, str] = {
        WEBP: "image/webp",
        "": "image/jpeg",
        "image/webp": "image/webp",
        "image/*": "image/jpeg",
        "image/webp;q=0, image/jpeg": "image/jpeg",
        "image/jpeg;q=0.1, IMAGE/WEBP;q=0.2": "image/webp",
        "text/html": "image/jpeg",
    }
    for turn in range(3):
        for accept, kind in kinds.items():
            answer = cdn.ask(target, {"Accept": accept} if accept else {})
            assert (answer.status, answer.headers["content-type"]) == (200, kind), accept
            assert "accept" in answer.headers["vary"].lower()
            assert answer.hit or turn == 0
    assert cdn.relay.asked.count(f"GET {target} ".encode()) <= len(kinds)


def test_path_and_query_reach_the_gateway_as_they_came(cdn: Cdn) -> None:
    """Byte for byte, since the signature is of the bytes."""
    for target in (
        "/image/%61?exp=1&&sig=%41;a=+b",
        "/image/a%2Fb?sig=x",
        "/generated//x.png?sig=2&exp=1",
        "/image/x?/image/y?z",
    ):
        assert cdn.ask(target).status in {400, 404}
        assert f"GET {target} HTTP/1.1\r\n".encode() in cdn.relay.asked


def test_what_a_viewer_says_of_itself_is_not_passed_on(cdn: Cdn) -> None:
    """The gateway is told the address that the cache sees, once, and no cookies."""
    lines = {"X-Forwarded-For": "203.0.113.9", "Cookie": "session=of-another-site"}
    cdn.ask("/image/asked-by-a-stranger", lines, source=STRANGER)
    asked = cdn.relay.asked.partition(b"GET /image/asked-by-a-stranger ")[2].partition(b"\r\n\r\n")[0].lower()
    assert asked.count(b"x-forwarded-for:") == 1
    assert f"x-forwarded-for: {STRANGER}".encode() in asked
    assert b"203.0.113.9" not in asked
    assert b"cookie" not in asked


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "PURGE"])
def test_other_methods_end_at_the_cache(cdn: Cdn, method: str) -> None:
    """405 with what is allowed; the gateway does not hear of it."""
    target = f"/image/{method}"
    answer = cdn.ask(target, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert answer.headers["cache-control"] == "no-store"
    assert target.encode() not in cdn.relay.asked


@pytest.mark.parametrize(
    "target", ["/", "/v1/images", "/v1/models", "/healthz", "/metrics", "/image", "/v1/../image/../v1/stats"]
)
def test_only_pictures_are_reached_through_the_cache(cdn: Cdn, target: str) -> None:
    """The gateway's own API and pages are 404 there, also with a key."""
    answer = cdn.ask(target, {"Authorization": f"Bearer {KEY}"})
    assert (answer.status, answer.headers["cache-control"]) == (404, "no-store")
    assert f" {target} ".encode() not in cdn.relay.asked


def test_options_is_answered_by_the_gateway(cdn: Cdn) -> None:
    """A browser's question before a script's request is never stored."""
    target = f"/image/{cdn.make(allowed_domains=['myapp.com'])['id']}"
    for origin, allowed in [("https://myapp.com", "https://myapp.com"), ("https://evil.com", None)] * 2:
        answer = cdn.ask(target, {"Origin": origin}, method="OPTIONS")
        assert (answer.status, answer.hit) == (204, False)
        assert answer.headers.get("access-control-allow-origin") == allowed


# What must never be shown


@attrs.frozen
class Class:
    """A kind of private picture; who may see it, who may not, and what they are told."""

    options: dict[str, object]
    refused: int
    good: Headers = attrs.field(factory=dict)
    bad: tuple[Headers, ...] = ({},)
    good_from: str = FRIEND
    bad_from: str = FRIEND
    signed: bool = False


CLASSES = {
    "require_auth": Class(
        {"require_auth": True},
        401,
        good={"Authorization": f"Bearer {KEY}"},
        bad=({}, {"Authorization": "Bearer another-key-0123456789"}, {"Authorization": ""}),
    ),
    "ip_whitelist": Class({"ip_whitelist": [FRIEND]}, 403, bad_from=STRANGER),
    "allowed_domains": Class(
        {"allowed_domains": ["myapp.com"]},
        403,
        good={"Referer": "https://myapp.com/page"},
        bad=({"Referer": "https://evil.com/"}, {"Referer": "https://myapp.com/", "Origin": "null"}, {}),
    ),
    "signed": Class({"require_signature": True}, 403, signed=True),
}


def private(cdn: Cdn, class_: Class, **options: object) -> tuple[str, list[str], bytes]:
    """A private picture: a target that opens it, those that must not, and its bytes."""
    image_id = cdn.make(**class_.options, **options)["id"]
    plain = f"/image/{image_id}"
    if not class_.signed:
        return plain, [plain], cdn.stored(image_id)
    target = cdn.sign(image_id)
    exp = int(target.partition("exp=")[2].partition("&")[0])
    last = "A" if target[-2] != "A" else "B"
    bad = [plain, f"{target[:-2]}{last}{target[-1]}", target.replace(f"exp={exp}", f"exp={exp + 1}")]
    return target, bad, cdn.stored(image_id)


def check_refused(answer: Answer, status: int, picture: bytes, method: str) -> None:
    assert answer.status == status
    assert answer.headers["cache-control"] == "no-store"
    assert picture[:10] not in answer.body  # not in a range of it either
    assert not {"etag", "content-range", "last-modified"} & set(answer.headers)
    assert not answer.hit
    if method == "HEAD":
        assert answer.body == b""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", list(CLASSES))
def test_what_one_may_see_another_never_gets_from_the_cache(cdn: Cdn, name: str, method: str) -> None:
    """Rows 34 and 36: good then bad, by every method, and the other way round; nothing of it is kept."""
    class_ = CLASSES[name]
    target, bad_targets, picture = private(cdn, class_)
    for _ in range(2):
        for _ in range(2):
            answer = cdn.ask(target, class_.good, method=method, source=class_.good_from)
            assert answer.status == (206 if method == "Range" and len(answer.body) == 10 else 200)
            assert answer.body == {"GET": picture, "HEAD": b"", "Range": picture[: len(answer.body)]}[method]
            assert "private" in answer.headers["cache-control"]
            assert not answer.hit
        for bad_target in bad_targets:
            for lines in class_.bad:
                for again in METHODS:
                    refused = cdn.ask(bad_target, lines, method=again, source=class_.bad_from)
                    check_refused(refused, class_.refused, picture, again)


@pytest.mark.parametrize("name", list(CLASSES))
def test_a_refusal_is_not_kept_either(cdn: Cdn, name: str) -> None:
    """Row 37: bad first, then good: nobody is locked out by what another was told."""
    class_ = CLASSES[name]
    target, bad_targets, picture = private(cdn, class_)
    for bad_target in bad_targets:
        refused = cdn.ask(bad_target, class_.bad[0], source=class_.bad_from)
        check_refused(refused, class_.refused, picture, "GET")
    answer = cdn.ask(target, class_.good, source=class_.good_from)
    assert (answer.status, answer.body) == (200, picture)


@pytest.mark.parametrize("name", list(CLASSES))
def test_requests_at_the_same_time_do_not_share_an_answer(cdn: Cdn, name: str) -> None:
    """Forty at once, every second of somebody who may not see it, on a picture the cache has never met."""
    class_ = CLASSES[name]
    target, bad_targets, picture = private(cdn, class_)

    def one(number: int) -> Answer:
        if number % 2:
            return cdn.ask(bad_targets[0], class_.bad[0], source=class_.bad_from)
        return cdn.ask(target, class_.good, source=class_.good_from)

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(one, range(40)))
    for number, answer in enumerate(answers):
        if number % 2:
            check_refused(answer, class_.refused, picture, "GET")
        else:
            assert (answer.status, answer.body) == (200, picture)


@pytest.mark.parametrize("name", ["require_auth", "signed"])
def test_a_viewer_with_a_key_or_a_signed_url_can_ask_whether_it_changed(cdn: Cdn, name: str) -> None:
    """Conditions and ranges of private pictures reach the gateway: 304 and 206; refusals stay refusals."""
    class_ = CLASSES[name]
    target, bad_targets, picture = private(cdn, class_)
    etag = {"If-None-Match": cdn.ask(target, class_.good).headers["etag"]}
    assert cdn.ask(target, {**class_.good, **etag}).status == 304
    part = cdn.ask(target, class_.good, method="Range")
    assert (part.status, part.body) == (206, picture[:10])
    for bad_target in bad_targets:
        for condition in (etag, {"If-None-Match": "*"}, {"If-Match": '"x"'}):
            refused = cdn.ask(bad_target, {**class_.bad[0], **condition})
            check_refused(refused, class_.refused, picture, "GET")


def short_lived(cdn: Cdn) -> tuple[str, datetime]:
    """A picture that the cache has, and will not have for long: its path, and when it expires."""
    for lasts_s in (3, 30):
        info = cdn.make(expires_in=lasts_s)
        target, expires = f"/image/{info['id']}", datetime.fromisoformat(info["expires_at"])
        hits = [cdn.ask(target).hit for _ in range(2)]
        if datetime.now(UTC) < expires:  # or the machine was too slow
            assert hits == [False, True]
            break
    return target, expires


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_that_expires_is_kept_until_then_and_no_longer(cdn: Cdn, method: str) -> None:
    """Row 35: a hit before, 410 from that moment on; viewers' own caches ask again or are told the Age."""
    target, expires = short_lived(cdn)
    picture = cdn.stored(target.removeprefix("/image/"))
    hits = 0

    def gone() -> bool:
        nonlocal hits
        before = datetime.now(UTC)
        answer = cdn.ask(target, method=method)
        if answer.status == 410:
            return True
        assert answer.status in {200, 206}
        assert before < expires, f"still shown {before - expires} after it expired"
        assert "immutable" not in answer.headers["cache-control"]
        if cdn.name == "nginx" and method != "HEAD":
            assert answer.headers["cache-control"] == "public, no-cache"
        hits += answer.hit
        return False

    wait_until(gone)
    assert datetime.now(UTC) >= expires
    assert bool(hits) == (method != "HEAD")
    for again in METHODS:
        check_refused(cdn.ask(target, method=again), 410, picture, again)


def test_an_expired_picture_is_gone_though_nobody_asked_for_it_in_between(cdn: Cdn) -> None:
    """Row 35: the first request after the end is 410, not one last time what is being replaced."""
    target, ends = short_lived(cdn)
    picture = cdn.stored(target.removeprefix("/image/"))
    wait_until(lambda: datetime.now(UTC) > ends)
    check_refused(cdn.ask(target), 410, picture, "GET")


def test_a_signed_url_ends_on_time(cdn: Cdn) -> None:
    """Row 35: of a public picture too, whose plain URL stays a hit."""
    info = cdn.make()
    cdn.ask(f"/image/{info['id']}")
    target = cdn.sign(info["id"], signature_ttl=1)
    ends = int(target.partition("exp=")[2].partition("&")[0])

    def over() -> bool:
        before = time.time()
        answer = cdn.ask(target)
        assert not answer.hit
        if answer.status == 410:
            return True
        assert answer.status == 200
        assert before < ends
        return False

    wait_until(over)
    assert time.time() >= ends
    assert cdn.ask(f"/image/{info['id']}").hit


def test_a_revoked_access_key_ends_its_urls_at_once(cdn: Cdn) -> None:
    """Row 24: the next request through the cache is 403, that of another name is not."""
    info = cdn.make(require_signature=True)
    picture = cdn.stored(info["id"])
    name = f"reader-{cdn.name}"
    target, other = cdn.sign(info["id"], access_key=name), cdn.sign(info["id"])
    assert [cdn.ask(target).status for _ in range(3)] == [200] * 3
    cdn.call("POST", f"/v1/access-keys/{name}/revoke")
    for method in METHODS:
        check_refused(cdn.ask(target, method=method), 403, picture, method)
    assert cdn.ask(other).body == picture


def test_a_revoked_api_key_opens_nothing_any_more(cdn: Cdn) -> None:
    """Row 35: revoked by another process, it is soon 401 through the cache."""
    info = cdn.make(require_auth=True)
    picture = cdn.stored(info["id"])
    key = "a-key-that-is-taken-back-0123456789"
    lines = {"Authorization": f"Bearer {key}"}
    made = ApiKey(name="passing", tenant="main", digest=digest(key), created_at=datetime.now(UTC))

    async def change(work: Callable[..., Any], *arguments: object) -> None:
        records = Records(cdn.folder / "data" / "records.sqlite")
        await records.open()
        await records.write(partial(work, *arguments))
        await records.close()

    asyncio.run(change(key_records.add_api_key, made))
    for _ in range(3):
        assert cdn.ask(f"/image/{info['id']}", lines).body == picture
    asyncio.run(change(key_records.revoke_api_key, "passing", datetime.now(UTC)))
    wait_until(lambda: cdn.ask(f"/image/{info['id']}", lines).status != 200)
    check_refused(cdn.ask(f"/image/{info['id']}", lines), 401, picture, "GET")


@pytest.mark.parametrize("name", ["require_auth", "signed"])
def test_a_deleted_private_picture_is_gone_at_once(cdn: Cdn, name: str) -> None:
    """Row 35: nothing has to be removed from the cache."""
    class_ = CLASSES[name]
    target, _, picture = private(cdn, class_)
    assert cdn.ask(target, class_.good).body == picture
    image_id = target.removeprefix("/image/").partition("?")[0]
    cdn.call("DELETE", f"/v1/images/{image_id}")
    for method in METHODS:
        check_refused(cdn.ask(target, class_.good, method=method), 410, picture, method)


def test_a_deleted_public_picture_goes_with_the_command_of_the_readme(cdn: Cdn) -> None:
    """Until then the cache, told a year, still has it: in each of its formats and under both URLs."""
    readme = (EXAMPLES / "README.md").read_text()
    (command,) = re.findall({"nginx": r"(?m)^grep .*$", "varnish": r"(?m)^varnishadm .*$"}[cdn.name], readme)
    info = cdn.make(format="auto")
    targets = [f"/image/{info['id']}", f"/generated/{info['id']}.webp"]
    for target in targets:
        for accept in (WEBP, "image/jpeg"):
            cdn.ask(target, {"Accept": accept})
    cdn.call("DELETE", f"/v1/images/{info['id']}")
    assert cdn.ask(targets[0], {"Accept": WEBP}).hit
    command = command.replace("/var/cache/blossom", str(cdn.folder / "nginx" / "cache")).replace(
        "{id}", info["id"]
    )
    command = command.replace("varnishadm", f"varnishadm -n {cdn.folder / 'varnish'}")
    subprocess.run(["sh", "-c", command], check=True, timeout=LIMIT_S, env={**os.environ, "PATH": SBIN})
    for target in targets:
        for accept in (WEBP, "image/jpeg"):
            assert cdn.ask(target, {"Accept": accept}).status == 410


# Attacks on the cache itself


@pytest.mark.parametrize(
    "spoof", ["X-Forwarded-For", "x-forwarded-for", "Forwarded", "X-Real-IP", "CF-Connecting-IP"]
)
def test_an_address_cannot_be_invented(cdn: Cdn, spoof: str) -> None:
    """Row 49: what a stranger puts in front counts for nothing, and takes nothing away from a friend."""
    target, _, picture = private(cdn, CLASSES["ip_whitelist"])
    for value in (FRIEND, f"{FRIEND}, 127.0.0.1", f"for={FRIEND}"):
        check_refused(cdn.ask(target, {spoof: value}, source=STRANGER), 403, picture, "GET")
    assert cdn.ask(target, {spoof: STRANGER}, source=FRIEND).body == picture


def test_a_repeated_parameter_is_400(cdn: Cdn) -> None:
    """Row 7: the cache leaves both, and the gateway refuses them, in either order."""
    target, _, picture = private(cdn, CLASSES["signed"])
    path, _, query = target.partition("?")
    exp, sig = query.split("&")
    for twice in (f"{exp}&{sig}&sig=x", f"sig=x&{exp}&{sig}", f"exp=1&{exp}&{sig}", f"{exp}&{exp}&{sig}"):
        check_refused(cdn.ask(f"{path}?{twice}"), 400, picture, "GET")
    assert cdn.ask(f"{path}?{sig}&{exp}").body == picture


def test_a_failure_of_the_gateway_is_not_kept(cdn: Cdn) -> None:
    """Row 37: 500 while the bytes are missing, then the picture, then a hit."""
    image_id = cdn.make()["id"]
    (path,) = (cdn.folder / "data" / "images").glob(f"*/{image_id}.*")
    picture = path.read_bytes()
    path.rename(path.with_suffix(".away"))
    for _ in range(2):
        answer = cdn.ask(f"/image/{image_id}")
        assert (answer.status, answer.headers["cache-control"]) == (500, "no-store")
    path.with_suffix(".away").rename(path)
    assert cdn.ask(f"/image/{image_id}").body == picture
    assert cdn.ask(f"/image/{image_id}").hit


@pytest.mark.parametrize("name", ["signed", "require_auth"])
@pytest.mark.parametrize(
    "spelling",
    [
        "{path};x.css",
        "{path}/x.png",
        "{path}.css",
        "/image//{id}",
        "/image/%2e/{id}",
        "/x/../image/{id}",
    ],
)
def test_another_spelling_is_another_page(cdn: Cdn, name: str, spelling: str) -> None:
    """Row 40: no file type, slash or dot makes the cache keep or find a picture under another name."""
    class_ = CLASSES[name]
    target, _, picture = private(cdn, class_)
    image_id = target.removeprefix("/image/").partition("?")[0]
    strange = spelling.format(path=f"/image/{image_id}", id=image_id)
    for _ in range(2):
        answer = cdn.ask(strange, class_.good)
        assert answer.status in {400, 404}
        assert not answer.hit
        assert picture not in answer.body


def test_a_public_picture_is_found_under_its_own_spelling_only(cdn: Cdn) -> None:
    """Row 40: a hit under the right name does not open others."""
    image_id = cdn.make()["id"]
    assert [cdn.ask(f"/image/{image_id}").hit for _ in range(2)] == [False, True]
    escaped = f"/image/%{ord(image_id[0]):02x}{image_id[1:]}"
    for strange in (escaped, f"/image//{image_id}", f"/image/./{image_id}", f"/image/{image_id}/"):
        assert cdn.ask(strange).status == 404


APPENDED = ["?", "?fbclid=IwAR0_x-1", "?utm_source=mail&utm_campaign=spring%20sale", "?v=2", "?v", "?v=2&"]


@pytest.mark.parametrize("appended", APPENDED)
def test_what_others_append_to_a_public_url_finds_the_same_copy(cdn: Cdn, appended: str) -> None:
    """One picture is in the cache once, whichever of its URLs is asked for first."""
    for first, then in (("", appended), (appended, "")):
        image_id = cdn.make()["id"]
        answers = [cdn.ask(f"/image/{image_id}{query}") for query in (first, then, first)]
        assert [answer.hit for answer in answers] == [False, True, True]
        assert {answer.body for answer in answers} == {cdn.stored(image_id)}
        assert cdn.relay.asked.count(f"GET /image/{image_id}".encode()) == 1


@pytest.mark.parametrize("name", ["signed", "require_auth", "ip_whitelist", "allowed_domains"])
@pytest.mark.parametrize("appended", ["fbclid=IwAR0", "v=2", "utm_source=mail&fbclid=x"])
def test_what_others_append_opens_and_keeps_nothing_private(cdn: Cdn, name: str, appended: str) -> None:
    """A private picture is asked of the gateway each time, and a stranger gets no copy of it."""
    class_ = CLASSES[name]
    target, _, picture = private(cdn, class_)
    image_id = target.removeprefix("/image/").partition("?")[0]
    longer = f"{target}{'&' if '?' in target else '?'}{appended}"
    for _ in range(3):
        answer = cdn.ask(longer, class_.good)
        assert not answer.hit
        assert answer.body == picture or (name == "signed" and answer.status == 400)
    for url in (f"/image/{image_id}", f"/image/{image_id}?{appended}"):
        answer = cdn.ask(url, source=STRANGER)
        assert (answer.hit, answer.status in {401, 403}, picture in answer.body) == (False, True, False)


@pytest.mark.parametrize(
    "query", ["exp=1&sig=x", "fbclid=x&sig=x", "EXP=1", "%73ig=x", "fbclid=x;sig=x", "v=2&exp", "a&%26sig=x"]
)
def test_a_query_that_may_be_a_signature_is_left_to_the_gateway(cdn: Cdn, query: str) -> None:
    """Also when the picture is public and in the cache."""
    image_id = cdn.make()["id"]
    assert [cdn.ask(f"/image/{image_id}").hit for _ in range(2)] == [False, True]
    answer = cdn.ask(f"/image/{image_id}?{query}")
    assert (answer.status, answer.hit) == (400, False)
    assert cdn.ask(f"/image/{image_id}").hit


def test_headers_that_are_not_part_of_the_key_change_nothing(cdn: Cdn) -> None:
    """Row 38: whoever asks first cannot choose what the others get."""
    image_id = cdn.make()["id"]
    evil = {
        "X-Forwarded-Host": "evil.com",
        "X-Forwarded-Proto": "gopher",
        "X-Original-URL": "/image/other",
        "X-Rewrite-URL": "/image/other",
        "X-HTTP-Method-Override": "DELETE",
        "Origin": "https://evil.com",
        "Referer": "https://evil.com",
        "Host": "evil.com",
        "Accept": "evil/evil",
    }
    first = cdn.ask(f"/image/{image_id}", evil)
    second = cdn.ask(f"/image/{image_id}")
    assert (first.hit, second.hit) == (False, True)
    assert first.body == second.body == cdn.stored(image_id)
    changing = {"date", "cache-status", "age"}
    assert {k: v for k, v in first.headers.items() if k not in changing} == {
        k: v for k, v in second.headers.items() if k not in changing
    }
    assert "evil" not in str(first.headers)


# What is written down


def test_the_log_has_what_statistics_need_and_no_signature(cdn: Cdn) -> None:
    """Only hits are views that the gateway has not seen; the query of a signed URL would open the picture."""
    image_id = cdn.make(require_signature=True)["id"]
    public = cdn.make()["id"]
    target = cdn.sign(image_id)
    agent = {"User-Agent": 'a "quoted" agent', "Referer": "https://myapp.com/page"}
    for path in (target, *[f"/image/{public}"] * 2):
        assert cdn.ask(path, agent).status == 200
    cdn.ask(f"/image/{public}", {**agent, "Sec-Purpose": "prefetch"})

    def written() -> list[bytes]:
        if cdn.name == "nginx":
            text = (cdn.folder / "nginx" / "access.log").read_bytes()
        else:
            readme = (EXAMPLES / "README.md").read_text()
            (form,) = re.findall(r"(?m)^varnishncsa .*-F '(.*)'$", readme)
            command = ["varnishncsa", "-n", cdn.folder / "varnish", "-d", "-F", form]
            text = subprocess.run(command, capture_output=True, check=True, timeout=LIMIT_S).stdout
        assert b"sig=" not in text
        return [
            line
            for line in text.splitlines(keepends=True)
            if image_id.encode() in line or public.encode() in line
        ]

    wait_until(lambda: len(written()) == 4)  # the log is written after the answer
    read = [
        access_log.read_line(line) for line in written()
    ]  # Varnish's threads write in an order of their own
    (hit,) = [line for line in read if isinstance(line, access_log.Hit)]
    rest = sorted(
        line for line in read if isinstance(line, str)
    )  # the signed one, the miss, and the prefetch
    assert rest == sorted([access_log.COUNTED_THERE, access_log.COUNTED_THERE, access_log.SPECULATIVE])
    assert hit.image_id == public
    assert hit.load_us is not None


def test_the_examples_say_what_is_to_be_replaced() -> None:
    """Each file names the gateway's address once, and the readme every setting it needs."""
    assert (EXAMPLES / "nginx.conf").read_text().count("server 127.0.0.1:8765;") == 1
    assert (EXAMPLES / "varnish.vcl").read_text().count('.port = "8765";') == 1
    readme = (EXAMPLES / "README.md").read_text()
    assert "BLOSSOM_TRUSTED_PROXIES" in readme
    assert "BLOSSOM_PUBLIC_URL" in readme

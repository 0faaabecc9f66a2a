"""The dashboard over HTTP: who may log in, what is shown to whom, and hostile text stays text."""

import base64
import hashlib
import io
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import attrs
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from yarl import URL

from blossom_async.gateway.callers.keys import digest
from blossom_async.gateway.counting.traffic import hour_number
from blossom_async.gateway.dashboard.rendering import money, size, span
from blossom_async.gateway.dashboard.sessions import LIFETIME_S, Sessions
from blossom_async.gateway.dashboard.timeline import views_by_day
from blossom_async.gateway.making.encoding import thumbhash
from blossom_async.gateway.making.orders import new_id
from blossom_async.gateway.server import listen, serving
from blossom_async.gateway.settings import Settings
from blossom_async.gateway.storage.lookups import Lookups
from blossom_async.gateway.storage.records import (
    ApiKey,
    ImageRecord,
    Records,
    StoredFile,
    overview,
    traffic,
)
from blossom_async.gateway.storage.records import keys as key_records
from blossom_async.models import DayStats, ImageRequest
from blossom_async.testing import FakePollinations
from tests.conftest import KEY, RunningGateway, running_gateway
from tests.thorough import thoroughly
from tests.waiting import LIMIT_S, until

START = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
OTHER_KEY = "the-key-of-another-tenant-0123456789"
SMALL: dict[str, Any] = {"width": 64, "height": 48}
OWN = {"Sec-Fetch-Site": "same-origin"}
CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "\"><svg/onload=alert(1)>' onmouseover='alert(1)",
    "{{7*7}}{% raw %}${7*7}<%= 7*7 %>#{7*7}",
    "</div></article></li></ol></main></body></html>",
    "<!--", "]]>", "&lt;b&gt;&#60;", "javascript:alert(1)", "`${1}`",
    "\u202eevil\u2066\u2069", "مرحبا שלום", "Z̮̞̠͙͔ͅḀ̗̞͈̻̗Ḷ͙͎̯̹̞͓G̻O̭̗̮", "😀👩‍👩‍👧\ufeff\u200b", "=HYPERLINK(\"http://x\")",
]  # fmt: skip


class _Tags(HTMLParser):
    """The tags of a page with the names of their attributes, and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}",))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> _Tags:
    tags = _Tags()
    tags.feed(page)
    tags.close()
    return tags


@attrs.frozen
class Visitor:
    """A browser without its looks: it keeps cookies and follows no redirect."""

    session: aiohttp.ClientSession
    base_url: str

    async def get(self, path: str, **options: Any) -> tuple[aiohttp.ClientResponse, str]:
        """The answer, and its body when that is a page."""
        url = URL(self.base_url + path, encoded=True)
        async with self.session.get(url, allow_redirects=False, **options) as answer:
            return answer, await answer.text() if answer.content_type == "text/html" else ""

    async def page(self, path: str) -> str:
        answer, text = await self.get(path)
        assert answer.status == 200, text
        return text

    async def post(
        self, path: str, headers: dict[str, str] | None = None, **form: str
    ) -> tuple[aiohttp.ClientResponse, str]:
        async with self.session.post(
            self.base_url + path,
            data=form,
            headers=OWN if headers is None else headers,
            allow_redirects=False,
        ) as answer:
            return answer, await answer.text()

    async def log_in(self, key: str = KEY) -> None:
        answer, _ = await self.post("/login", key=key)
        assert answer.status == 303


@asynccontextmanager
async def visiting(running: RunningGateway, key: str | None = KEY) -> AsyncIterator[Visitor]:
    """Someone who is logged in with the key, or without one has not logged in."""
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address, not a name
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        visitor = Visitor(session, running.base_url)
        if key is not None:
            await visitor.log_in(key)
        yield visitor


@asynccontextmanager
async def records_of(data_dir: Path) -> AsyncIterator[Records]:
    records = Records(data_dir / "records.sqlite")
    await records.open()
    try:
        yield records
    finally:
        await records.close()


async def add_tenant(running: RunningGateway, daily_budget: int | None = None) -> None:
    """Another tenant, with ``OTHER_KEY`` under the name of other."""
    key = ApiKey(
        name="other",
        tenant="other",
        digest=digest(OTHER_KEY),
        created_at=START,
        daily_budget=daily_budget,
    )
    async with records_of(running.data_dir) as records:
        await records.write(partial(key_records.add_api_key, key))


def picture(number: int = 0, *, tenant: str = "main", **changes: Any) -> ImageRecord:
    """A row without a file, made so many seconds after the start."""
    options = {name: changes.pop(name) for name in ("tracking_id", "metadata") if name in changes}
    words = changes.pop("prompt", f"picture {number}")
    known: dict[str, Any] = {
        "id": new_id(),
        "tenant": tenant,
        "request": ImageRequest(words, **options),
        "width": 64,
        "height": 48,
        "files": (StoredFile(format="png", sha256="0" * 64, file_size=1000),),
        "provider": "offline",
        "model": "m",
        "seed": 1,
        "cost": 1,
        "created_at": START + timedelta(seconds=number),
        "expires_at": None,
    }
    return ImageRecord(**{**known, **changes})


async def found(records: Records, *, words: str = "", state: str = "", limit: int = 100) -> list[str]:
    """The prompts of the first page, seen at the start."""
    page = await records.read(partial(overview.page, "main", words, state, None, limit, START))
    return [known.request.prompt for known in page.pictures]


PAGES = [
    "/", f"/pictures/{'0' * 22}", "/campaigns", "/campaigns/spring", "/storage", "/traffic?by=day", "/spend",
    "/?q=a&state=live",
]  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
async def test_who_has_not_logged_in_is_sent_to_the_form(
    gateway: AbstractAsyncContextManager[RunningGateway], path: str
) -> None:
    """A page without a session is a redirect to the form, which knows where to go on to."""
    async with gateway as running, visiting(running, None) as visitor:
        answer, _ = await visitor.get(path)
        target = URL(answer.headers["Location"])
    assert (answer.status, target.path) == (303, "/login")
    assert target.query.get("next", "/") == path


@pytest.mark.parametrize("kind", ["pictures", "thumbnails"])
async def test_bytes_need_a_session(gateway: AbstractAsyncContextManager[RunningGateway], kind: str) -> None:
    """Pictures and thumbnails of the dashboard answer 401 without a session, also a public picture's."""
    async with gateway as running, running.client() as client, visiting(running, None) as visitor:
        info = await client.image.generate_url_with_info("a lake", **SMALL)
        answer, _ = await visitor.get(f"/dashboard/{kind}/{info.id}")
    assert answer.status == 401


async def test_an_api_key_logs_in(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """A valid key gives a cookie that no script and no other site can use, and has nothing of the key."""
    async with gateway as running, visiting(running, None) as visitor:
        answer, _ = await visitor.post("/login", key=f" {KEY}\n")
        cookie = answer.headers["Set-Cookie"]
        page = await visitor.page("/")
    assert answer.status == 303
    assert answer.headers["Location"] == "/"
    assert {part.strip() for part in cookie.split(";")[1:]} == {
        "HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={LIFETIME_S}"
    }  # fmt: skip
    assert KEY not in cookie
    assert "No pictures yet" in page


async def test_the_cookie_is_secure_where_the_gateway_is(tmp_path: Path) -> None:
    """Under https the cookie is Secure and bound to the host by its name."""
    settings = Settings(data_dir=tmp_path, api_keys=(KEY,), public_url="https://pictures.example")
    sock = listen("127.0.0.1", 0)
    here = RunningGateway(f"http://127.0.0.1:{sock.getsockname()[1]}", tmp_path)
    async with serving(settings, sock), visiting(here, None) as visitor:
        answer, _ = await visitor.post("/login", {"Origin": "https://pictures.example"}, key=KEY)
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-blossom=")
    assert "; Secure" in cookie


async def test_a_wrong_key_does_not_log_in(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """A key that opens nothing gives the form again, which says so and does not repeat the key."""
    async with gateway as running, visiting(running, None) as visitor:
        answer, page = await visitor.post("/login", key="not-a-key-of-this-gateway")
    assert answer.status == 401
    assert "Set-Cookie" not in answer.headers
    assert "does not open" in page
    assert "not-a-key" not in page


async def test_wrong_keys_are_limited(tmp_path: Path) -> None:
    """Who guesses keys at the form is refused with 429 after a while, as at the API."""
    async with (
        running_gateway(tmp_path, failed_key_limit="3/min") as running,
        visiting(running, None) as visitor,
    ):
        statuses = [(await visitor.post("/login", key=f"guess number {n}"))[0].status for n in range(4)]
        answer, page = await visitor.post("/login", key="one guess more")
    assert statuses == [401, 401, 401, 429]
    assert int(answer.headers["Retry-After"]) > 0
    assert parsed(page).tags


@pytest.mark.parametrize("path", ["/login", "/logout"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
        {},
    ],
    ids=str,
)
async def test_forms_of_other_sites_are_refused(
    gateway: AbstractAsyncContextManager[RunningGateway], path: str, headers: dict[str, str]
) -> None:
    """A POST that did not come from a page of this gateway is 403 and changes nothing."""
    async with gateway as running, visiting(running) as visitor:
        answer, _ = await visitor.post(path, headers, key=KEY)
        assert answer.status == 403
        assert "Set-Cookie" not in answer.headers
        await visitor.page("/")


async def test_the_own_origin_is_enough(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """A browser that says only its Origin, as over plain http, may log in."""
    async with gateway as running, visiting(running, None) as visitor:
        answer, _ = await visitor.post("/login", {"Origin": running.base_url}, key=KEY)
    assert answer.status == 303


async def test_a_form_is_small(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """A body that is longer than any key is 413, one that is no form 415."""
    async with gateway as running, visiting(running, None) as visitor:
        answer, _ = await visitor.post("/login", key="k" * 5000)
        assert answer.status == 413
        async with visitor.session.post(f"{running.base_url}/login", json={}, headers=OWN) as other:
            assert other.status == 415


async def test_a_strange_form_is_a_wrong_key(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """A form of many fields, or of bytes that are no text, opens nothing and breaks nothing."""
    headers = {**OWN, "Content-Type": "application/x-www-form-urlencoded"}
    async with gateway as running, visiting(running, None) as visitor:
        for body in (b"key=%ff%ed%a0%80%00&" * 50, b"", b"\xff=\xfe&;&=", b"key=" + KEY.encode()[:-1]):
            async with visitor.session.post(
                f"{running.base_url}/login", data=body, headers=headers
            ) as answer:
                assert answer.status == 401


async def test_logging_out_ends_the_session(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """After logging out the cookie opens nothing, also for who has kept a copy of it."""
    async with gateway as running, visiting(running) as visitor:
        kept = {morsel.key: morsel.value for morsel in visitor.session.cookie_jar}
        answer, _ = await visitor.post("/logout")
        assert answer.headers["Location"] == "/login"
        assert not list(visitor.session.cookie_jar)
        async with visiting(running, None) as thief:
            thief.session.cookie_jar.update_cookies(kept, URL(running.base_url))
            again, _ = await thief.get("/")
    assert again.status == 303


async def test_a_revoked_key_ends_its_sessions(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """Once its API key is revoked, a session opens no page and no picture."""
    async with gateway as running:
        await add_tenant(running)
        async with visiting(running, OTHER_KEY) as visitor:
            await visitor.page("/")
            async with records_of(running.data_dir) as records:
                await records.write(partial(key_records.revoke_api_key, "other", START))

            async def sent_away() -> bool:
                return (await visitor.get("/"))[0].status == 303

            await until(sent_away)
            answer, _ = await visitor.get(f"/dashboard/pictures/{'0' * 22}")
    assert answer.status == 401


async def test_a_session_ends_after_12_hours(tmp_path: Path) -> None:
    """A session opens its tenant's things for 12 hours and not a moment longer."""
    seconds = 0.0
    async with records_of(tmp_path) as records:
        sessions = Sessions(Lookups(records), clock=lambda: seconds)
        token = await sessions.begin("main", KEY)
        seconds = LIFETIME_S - 1e-3
        assert await sessions.tenant(token) == "main"
        seconds = LIFETIME_S
        assert await sessions.tenant(token) is None
    assert timedelta(hours=12) == timedelta(seconds=LIFETIME_S)


async def test_sessions_are_bounded(tmp_path: Path) -> None:
    """Of more than a thousand sessions the one not used for longest ends."""
    async with records_of(tmp_path) as records:
        sessions = Sessions(Lookups(records))
        tokens = [await sessions.begin("main", KEY) for _ in range(1000)]
        assert await sessions.tenant(tokens[0]) == "main"
        newest = await sessions.begin("main", KEY)
        assert await sessions.tenant(tokens[1]) is None
        assert await sessions.tenant(tokens[0]) == "main"
        assert await sessions.tenant(newest) == "main"


@pytest.mark.parametrize("target", ["/storage", f"/pictures/{'0' * 22}", "/campaigns/a%2Fb?from=2026-11-01"])
async def test_logging_in_goes_on_to_the_page_that_was_asked_for(
    gateway: AbstractAsyncContextManager[RunningGateway], target: str
) -> None:
    """After logging in the browser is sent to the page it wanted."""
    async with gateway as running, visiting(running, None) as visitor:
        answer, _ = await visitor.post("/login", key=KEY, next=target)
    assert answer.headers["Location"] == target


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example/", "/\\evil.example", "/campaigns/..//evil.example",
     "/%0d%0aX: y", "/\r\nX-Injected: y", "javascript:alert(1)", "/logout", "/v1/images", "/?q=\n"],
)  # fmt: skip
async def test_logging_in_never_leads_elsewhere(
    gateway: AbstractAsyncContextManager[RunningGateway], target: str
) -> None:
    """A target that is no page of the dashboard is replaced by the first page."""
    async with gateway as running, visiting(running, None) as visitor:
        answer, _ = await visitor.post("/login", key=KEY, next=target)
        form = await visitor.page(f"/login?next={quote(target)}")
    assert answer.headers["Location"] == "/"
    assert 'name="next" value="/"' in form


async def test_every_page_is_strict(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """Every page has the strict headers, no inline script or style, and nothing from elsewhere."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        info = await client.image.generate_url_with_info(
            "a lake", tracking_id="spring", metadata={"variant": "A"}, **SMALL
        )
        paths = [
            "/",
            "/login",
            f"/pictures/{info.id}",
            "/campaigns",
            "/campaigns/spring",
            "/spend",
            "/traffic",
            "/storage",
            "/pictures/0",
        ]
        for path in paths:
            answer, page = await visitor.get(path)
            assert answer.headers["Content-Security-Policy"] == CSP, path
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Referrer-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            tags = parsed(page).tags
            assert [tag for tag in tags if tag[0] == "script"] == [("script", "type", "src")]
            assert not [tag for tag in tags if tag[0] in {"style", "iframe", "object", "base"}]
            assert not [
                name for _, *names in tags for name in names if name == "style" or name.startswith("on")
            ]
            assert not re.findall(r"(?:src|href|action)=\"(?!/(?!/)|#main|data:image/png;)[^\"]*", page)


async def test_the_stylesheet_never_changes_under_its_path(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """The stylesheet is named by its hash, kept for good by browsers, and open to all."""
    async with gateway as running, visiting(running, None) as visitor:
        path = re.findall(r'href="(/dashboard/style-[^"]+)"', await visitor.page("/login"))[0]
        async with visitor.session.get(running.base_url + path) as answer:
            data = await answer.read()
    assert path == f"/dashboard/style-{hashlib.sha256(data).hexdigest()[:16]}.css"
    assert answer.content_type == "text/css"
    assert "immutable" in answer.headers["Cache-Control"]


async def test_a_tenant_sees_its_own_only(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """Another tenant's pictures, campaigns and bytes do not exist; disk and errors are the main tenant's."""
    async with gateway as running, running.client() as client:
        info = await client.image.generate_url_with_info("a hidden lake", tracking_id="spring", **SMALL)
        await add_tenant(running)
        async with visiting(running, OTHER_KEY) as visitor:
            assert "No pictures yet" in await visitor.page("/")
            assert "No campaigns yet" in await visitor.page("/campaigns")
            storage = await visitor.page("/storage")
            assert "Nothing stored yet" in storage
            assert "Database" not in storage
            assert "Traffic" not in storage
            assert (await visitor.get("/traffic"))[0].status == 403
            for path in (
                f"/pictures/{info.id}", "/campaigns/spring",
                f"/dashboard/pictures/{info.id}", f"/dashboard/thumbnails/{info.id}",
            ):  # fmt: skip
                assert (await visitor.get(path))[0].status == 404, path


@pytest.mark.parametrize("words", [*HOSTILE[:5], *thoroughly(*HOSTILE[5:])])
async def test_hostile_words_stay_words(
    gateway: AbstractAsyncContextManager[RunningGateway], words: str
) -> None:
    """Words in prompt, campaign and metadata change no tag of any page and are shown as they are."""
    line = words.strip()
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        pages = []
        for text in ("harmless", line):
            info = await client.image.generate_url_with_info(
                text, tracking_id=text, metadata={text: text}, negative_prompt=text, seed=1, **SMALL
            )
            name = quote(text, safe="")
            paths = f"/?q={name}", f"/pictures/{info.id}", f"/campaigns/{name}"
            shown = [await visitor.page(path) for path in paths]
            pages.append([parsed(page) for page in shown])
            async with visitor.session.delete(
                f"{running.base_url}/v1/images/{info.id}", headers={"Authorization": f"Bearer {KEY}"}
            ) as gone:
                assert gone.status == 204
    for harmless, hostile in zip(*pages, strict=True):
        assert hostile.tags == harmless.tags
        assert line in "".join(hostile.text)


async def test_pages_have_a_reader_of_the_database_of_their_own(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """However long a page takes, it takes nothing from the readers that look up pictures for viewers."""
    asked: list[tuple[str, str]] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append((threading.current_thread().name, statement))

    async with gateway as running, running.client() as client, visiting(running) as visitor:
        await client.image.generate_url("a lake", tracking_id="spring", **SMALL)
        sa.event.listen(sa.Engine, "before_cursor_execute", note)
        try:
            for page in (
                "/",
                "/?q=lake",
                "/campaigns",
                "/campaigns/spring",
                "/storage",
                "/traffic",
                "/spend",
            ):
                await visitor.page(page)
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", note)
    readers = {name for name, statement in asked if statement.startswith("SELECT") and " images" in statement}
    assert readers == {"blossom-records-student"}


async def test_control_characters_are_told(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """What browsers drop is shown as an escape."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        info = await client.image.generate_url_with_info("start \x01 bell \x07", **SMALL)
        page = await visitor.page(f"/pictures/{info.id}")
        assert "start \\x01 bell \\x07" in page
        assert "\x01" not in page + await visitor.page("/")


async def test_long_words_are_cut(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """A prompt of 32,000 characters is cut in the list and shown in full on its own page."""
    words = "long " * 6399 + "ended"
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        info = await client.image.generate_url_with_info(words, **SMALL)
        assert len(await visitor.page("/")) < 10_000
        assert words in await visitor.page(f"/pictures/{info.id}")


async def test_a_restricted_picture_is_shown_to_its_owner(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """The session is enough for a picture whose URL refuses this viewer; its rules stand beside it."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        info = await client.image.generate_url_with_info(
            "a lake",
            allowed_domains=["myapp.com"],
            ip_whitelist=["10.0.0.0/8"],
            require_signature=True,
            **SMALL,
        )
        async with visitor.session.get(info.url) as refused:
            assert refused.status == 403
        async with visitor.session.get(f"{running.base_url}/dashboard/pictures/{info.id}") as answer:
            data = await answer.read()
        page = await visitor.page(f"/pictures/{info.id}")
    assert hashlib.sha256(data).hexdigest() == info.sha256
    assert answer.content_type == "image/png"
    assert answer.headers["Cache-Control"] == "private, no-store"
    for sentence in ("Only on pages of myapp.com.", "Only from 10.0.0.0/8.", "Only under a signed URL"):
        assert sentence in page


async def test_a_thumbnail_is_small(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """A thumbnail is a WebP of at most 512 pixels a side with the shape of its picture."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        info = await client.image.generate_url_with_info("a lake", width=1024, height=512)
        path = f"{running.base_url}/dashboard/thumbnails/{info.id}"
        seen = []
        for _ in range(2):  # made, and from memory
            async with visitor.session.get(path) as answer:
                seen.append(await answer.read())
    with Image.open(io.BytesIO(seen[0])) as small:
        assert (small.format, small.size) == ("WEBP", (512, 256))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(("solid", "shown"), [(True, 1), (False, 0)])
async def test_a_frame_shows_the_thumbhash_behind_the_picture(
    gateway: AbstractAsyncContextManager[RunningGateway], solid: bool, shown: int
) -> None:
    """In the colours and the shape of the picture, unless one would see it through the picture."""
    pixels = np.full((48, 64, 3 if solid else 4), 100, np.uint8)
    pixels[:, 32:, 0] = 200  # the right half is reddish
    async with gateway as running, visiting(running) as visitor:
        async with records_of(running.data_dir) as records:
            await records.add(picture(thumbhash=thumbhash(pixels)))
        page = await visitor.page("/")
    blurs = re.findall(r'class="blur" src="data:image/png;base64,([^"]+)"', page)
    assert len(blurs) == shown
    for blur in blurs:
        with Image.open(io.BytesIO(base64.b64decode(blur))) as small:
            assert small.size == (12, 9)
            left, right = (np.asarray(small)[:, place].mean(0) for place in (2, -3))
        assert left == pytest.approx([100, 100, 100], abs=25)
        assert right == pytest.approx([200, 100, 100], abs=25)
    assert 'width="64" height="48"' in page


async def test_looking_here_is_no_view(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """Pictures seen in the dashboard are not counted for their campaign."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        info = await client.image.generate_url_with_info("a lake", tracking_id="spring", **SMALL)
        for path in (
            f"/dashboard/pictures/{info.id}",
            f"/dashboard/thumbnails/{info.id}",
            f"/pictures/{info.id}",
        ):
            assert (await visitor.get(path))[0].status == 200
        stats = await client.image.get_url_stats("spring")
    assert stats.total_views == 0


async def test_a_deleted_picture_has_no_words(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """Of a deleted picture the dashboard shows that it was, and neither words nor bytes."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        info = await client.image.generate_url_with_info(
            "a secret lake", tracking_id="hush", metadata={"where": "nowhere"}, **SMALL
        )
        assert (await visitor.get(f"/dashboard/thumbnails/{info.id}"))[0].status == 200
        async with visitor.session.delete(
            f"{running.base_url}/v1/images/{info.id}", headers={"Authorization": f"Bearer {KEY}"}
        ) as gone:
            assert gone.status == 204
        pages = await visitor.page("/") + await visitor.page(f"/pictures/{info.id}")
        for kind in ("pictures", "thumbnails"):
            assert (await visitor.get(f"/dashboard/{kind}/{info.id}"))[0].status == 404
        assert "No picture matches" in await visitor.page("/?q=deleted")
    assert "was deleted" in pages
    assert not [word for word in ("secret", "hush", "nowhere", info.sha256) if word in pages]


async def test_expired_pictures_are_told_apart(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """An expired picture says so, with and without its bytes."""
    gone = picture(1, expires_at=START, swept_at=START, dominant_color="#608c68")
    async with gateway as running, visiting(running) as visitor:
        async with records_of(running.data_dir) as records:
            await records.add(gone)
        assert "expired" in await visitor.page("/?state=expired")
        page = await visitor.page(f"/pictures/{gone.id}")
    assert "Nobody: it expired" in page
    assert 'fill="#608c68"' in page
    assert "/dashboard/pictures/" not in page


async def test_words_are_looked_for_in_prompt_and_campaign(tmp_path: Path) -> None:
    """The filter takes words in any case, and no sign in them as a wildcard."""
    async with records_of(tmp_path) as records:
        await records.add(picture(1, prompt="A red Bicycle", tracking_id="spring"))
        await records.add(picture(2, prompt="100% blue_sky"))
        await records.add(picture(3, prompt="1000 bluexskies", tracking_id="Bicycles"))
        assert await found(records, words="bicycle") == ["1000 bluexskies", "A red Bicycle"]
        assert await found(records, words="100%") == ["100% blue_sky"]
        assert await found(records, words="blue_s") == ["100% blue_sky"]
        assert await found(records, words="spring") == ["A red Bicycle"]
        assert await found(records, words='"tracking_id"') == []


async def test_states_are_told_apart(tmp_path: Path) -> None:
    """Each picture is in one state: live, expired from its very moment on, or deleted."""
    async with records_of(tmp_path) as records:
        await records.add(picture(1, prompt="stays"))
        await records.add(picture(2, prompt="stays yet", expires_at=START + timedelta(microseconds=1)))
        await records.add(picture(3, prompt="has expired", expires_at=START))
        gone = picture(4, expires_at=START)
        await records.add(gone)
        await records.delete(gone.id, START)
        assert await found(records, state="live") == ["stays yet", "stays"]
        assert await found(records, state="expired") == ["has expired"]
        assert len(await found(records, state="deleted")) == 1


@pytest.mark.parametrize("sort", ["newest", "oldest"])
async def test_the_pages_have_every_picture_once(
    gateway: AbstractAsyncContextManager[RunningGateway], sort: str
) -> None:
    """Their links lead through all pictures by age, also those of one moment."""
    made = [picture(number // 10) for number in range(60)]
    async with gateway as running, visiting(running) as visitor:
        async with records_of(running.data_dir) as records:
            for known in made:
                await records.add(known)
        seen, path = [], f"/?sort={sort}"
        while path:
            page = await visitor.page(path)
            seen += re.findall(r'class="frame" href="/pictures/(\w+)"', page)
            following = re.findall(r'rel="next" href="([^"]+)"', page)
            path = unescape(following[0]) if following else ""
    made.sort(key=lambda known: (known.created_at, known.id), reverse=sort == "newest")
    assert seen == [known.id for known in made]


async def test_later_pages_lead_back(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """From the third page two steps back lead to the first, with filter and order kept."""
    async with gateway as running, visiting(running) as visitor:
        async with records_of(running.data_dir) as records:
            for number in range(60):
                await records.add(picture(number, prompt="a lake"))
        pages = [await visitor.page("/?q=lake&from=2020-01-01&sort=oldest")]
        for step in ("next", "next", "prev", "prev"):
            link = re.findall(rf'rel="{step}" href="([^"]+)"', pages[-1])[0]
            pages.append(await visitor.page(unescape(link)))
    shown = [re.findall(r'class="frame" href="/pictures/(\w+)"', page) for page in pages]
    assert [len(ids) for ids in shown] == [24, 24, 12, 24, 24]
    assert shown[3:] == [shown[1], shown[0]]
    assert all("q=lake" in page and 'value="2020-01-01"' in page for page in pages)
    assert all('value="oldest" selected' in page for page in pages)
    assert 'rel="prev"' not in pages[0] + pages[4]


@pytest.mark.parametrize("words", ["", "lake"])
@pytest.mark.parametrize("state", ["", "live"])
async def test_pictures_of_some_days_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, state: str
) -> None:
    """The days chosen hold for pages and their number alike, which is exact up to a limit."""
    async with records_of(tmp_path) as records:
        for number in range(6):
            await records.add(picture(number, prompt="a lake"))
        made = overview.Span(since=START + timedelta(seconds=1), until=START + timedelta(seconds=4))
        ask = partial(overview.page, "main", words, state, None, 10, START, made=made)
        for oldest in (False, True):
            assert len((await records.read(partial(ask, oldest=oldest))).pictures) == 3
        count = partial(overview.number, "main", words, state)
        assert await records.read(partial(count, made, START)) == (3, False)
        assert await records.read(partial(count, overview.Span(), START)) == (6, False)
        monkeypatch.setattr(overview, "_COUNTED", 4)
        assert await records.read(partial(count, overview.Span(), START)) == (4, True)


@pytest.mark.parametrize("words", ["", "lake"])
@pytest.mark.parametrize("oldest", [False, True])
async def test_a_filter_goes_on_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, oldest: bool
) -> None:
    """One question looks through a bounded number of pictures, and says where to go on."""
    monkeypatch.setattr(overview, "_LOOKED_THROUGH", 4)
    monkeypatch.setattr(overview, "_AT_ONCE", 4)
    async with records_of(tmp_path) as records:
        for number in range(10):
            await records.add(picture(number, prompt="a lake", expires_at=START if number == 1 else None))
        pages: list[overview.Page] = []
        past, now = None, START + timedelta(days=1)
        while not pages or past is not None:
            ask = partial(overview.page, "main", words, "expired", past, 2, now, oldest=oldest)
            pages.append(await records.read(ask))
            past = pages[-1].next
    assert [len(page.pictures) for page in pages] == ([1, 0, 0] if oldest else [0, 0, 1])


@pytest.mark.parametrize(
    "query",
    [
        "past=1",
        "past=99999999999999999999-x",
        "back=0.1",
        "state=lost",
        "sort=views",
        f"q={'w' * 201}",
        "from=tomorrow",
        "from=2026-02-02&to=2026-02-01",
    ],
)
async def test_a_bad_query_is_told(gateway: AbstractAsyncContextManager[RunningGateway], query: str) -> None:
    """A query that no page of ours makes is a page with 422 that says what is allowed."""
    async with gateway as running, visiting(running) as visitor:
        answer, page = await visitor.get(f"/?{query}")
    assert answer.status == 422
    assert "allowed" in page


@pytest.mark.parametrize(
    "path", ["/pictures/%ff", "/pictures/%00", "/campaigns/%ff", "/campaigns/%00", "/campaigns/%ed%a0%80"]
)
async def test_what_is_no_text_is_not_found(
    gateway: AbstractAsyncContextManager[RunningGateway], path: str
) -> None:
    """A path that is no UTF-8, or holds a NUL, names nothing."""
    async with gateway as running, visiting(running) as visitor:
        answer, _ = await visitor.get(path)
    assert answer.status == 404


async def test_a_campaign_shows_its_views(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """Views of a moment ago are in the totals, the chart and beside the variant they are of."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        infos = [
            await client.image.generate_url_with_info(
                "a lake", tracking_id="spring", metadata={"variant": variant}, **SMALL
            )
            for variant in ("A", "B")
        ]
        for number, info in zip((3, 1), infos, strict=True):
            for _ in range(number):
                async with visitor.session.get(info.url) as seen:
                    await seen.read()
        page = await visitor.page("/campaigns/spring")
        overviews = await visitor.page("/campaigns")
        one = await visitor.page(f"/pictures/{infos[0].id}")
    figures = dict(re.findall(r"<dt>(Views|Share|Load)</dt><dd>([^<]*)</dd>", page)[:1])
    assert figures == {"Views": "4"}
    assert re.findall(r'<td class="wide less">(\d+) %', page) == ["75", "25"]
    assert re.findall(r'<th scope="row" dir="auto">(.)</th>', page) == ["A", "B"]
    assert "The lead of <bdi>A</bdi> over <bdi>B</bdi> may be chance" in page
    assert "4 views, 1 viewer" in page
    assert "3 views, 1 viewer" in one
    assert '<td class="n">2</td><td class="n">4</td>' in overviews


async def test_days_of_a_campaign_can_be_chosen(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """``from`` and ``to`` are days that count; a wrong one is told."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        info = await client.image.generate_url_with_info("a lake", tracking_id="spring", **SMALL)
        async with visitor.session.get(info.url) as seen:
            await seen.read()
        today = info.created_at.date()
        within = await visitor.page(f"/campaigns/spring?from={today}&to={today + timedelta(days=1)}")
        before = await visitor.page(f"/campaigns/spring?to={today - timedelta(days=1)}")
        for query in ("from=yesterday", f"from={today}&to={today - timedelta(days=1)}"):
            assert (await visitor.get(f"/campaigns/spring?{query}"))[0].status == 422
    assert "1 view, 1 viewer" in within
    assert "No views on these days" in before


async def test_a_campaign_that_never_was_is_not_found(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """An unknown campaign is a page with 404."""
    async with gateway as running, visiting(running) as visitor:
        answer, page = await visitor.get("/campaigns/none")
    assert answer.status == 404
    assert "No picture was ever made for this campaign" in page


@pytest.mark.parametrize(
    "name", ["a/b", "../../etc/passwd", "{x}", "?x=1", "a%2Fb", "#top", "ä ö", "a+b&c;d", "..."]
)
async def test_every_campaign_can_be_reached(
    gateway: AbstractAsyncContextManager[RunningGateway], name: str
) -> None:
    """The link of a campaign leads to it, whatever its name has in it."""
    async with gateway as running, visiting(running) as visitor:
        async with records_of(running.data_dir) as records:
            await records.add(picture(tracking_id=name))
        link = unescape(re.findall(r'href="(/campaigns/[^"]+)"', await visitor.page("/campaigns"))[0])
        page = await visitor.page(link)
    assert f"<bdi>{name}</bdi>" in unescape(page)


async def test_storage_counts_what_is_on_the_disk(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """Files and bytes by format are those of the pictures whose files are there."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        png = await client.image.generate_url_with_info("a lake", **SMALL)
        await client.image.generate_url_with_info("a lake", format="auto", **SMALL)
        async with records_of(running.data_dir) as records:
            await records.add(picture(1, expires_at=START, swept_at=START))
            gone = picture(2)
            await records.add(gone)
            await records.delete(gone.id, START)
            stored = await records.read(partial(overview.stored, "main"))
        page = await visitor.page("/storage")
    files = {path.suffix[1:]: path.stat().st_size for path in (running.data_dir / "images").rglob("*.*")}
    assert stored == {name: (1, weight) for name, weight in files.items()}
    assert stored["png"] == (1, png.file_size)
    assert "<dt>Files</dt><dd>3</dd>" in page
    assert "Free on the disk" in page


async def test_traffic_is_counted_by_hour_and_by_day(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """Pictures, calls and errors of a moment ago and of hours before are on the page; probes are not."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        info = await client.image.generate_url_with_info("a lake", **SMALL)
        for path in (f"/image/{info.id}", f"/image/{'0' * 22}", "/healthz"):
            async with visitor.session.get(running.base_url + path) as answer:
                await answer.read()
        earlier = traffic.Answered(pictures=1000, calls=100, failed=7, bytes=12345)
        async with records_of(running.data_dir) as records:
            for hours_ago in (3, 24 * 59):
                hour = hour_number(datetime.now(UTC)) - hours_ago
                await records.write(partial(traffic.add, hour, earlier))
        shown = {by: await visitor.page(f"/traffic?by={by}") for by in ("hour", "day")}
        answer, page = await visitor.get("/traffic?by=week")
    assert "<dt>Pictures served</dt><dd>1,002</dd>" in shown["hour"]
    assert "<dt>Calls of the API</dt><dd>101</dd>" in shown["hour"]
    assert "<dt>Failed, 5xx</dt><dd>7 " in shown["hour"]
    assert "1,000 pictures, 100 calls</title>" in shown["hour"]
    assert "<dt>Pictures served</dt><dd>2,002</dd>" in shown["day"]
    assert shown["day"].count("<title>") == 2 * 60 + 1
    assert answer.status == 422
    assert "hour or day" in page


async def test_traffic_outlives_the_process_that_answered(tmp_path: Path) -> None:
    """What a gateway has answered is stored at its end, and the next one adds to it."""
    for _ in range(2):
        async with running_gateway(tmp_path / "data") as running, aiohttp.ClientSession() as session:
            async with session.get(f"{running.base_url}/image/{'0' * 22}"):
                pass
    async with records_of(tmp_path / "data") as records:
        hours = dict(await records.read(partial(traffic.between, 0, 2**31 - 1)))
    assert sum(answered.refused for answered in hours.values()) == 2


async def test_spending_is_shown_by_key_provider_and_day_against_budgets(tmp_path: Path) -> None:
    """The main tenant sees all keys, another one its own. A budget is the key's own, else the usual one."""
    async with FakePollinations(api_key="sk-1") as service:
        paid = {"providers": ("pollinations",), "pollinations_url": service.base_url}
        async with (
            running_gateway(tmp_path / "data", pollinations_key="sk-1", daily_budget=1.0, **paid) as running,
            running.client() as client,
            visiting(running) as visitor,
        ):
            assert "Nothing spent yet" in await visitor.page("/spend")
            await client.image.generate_url("a lake", **SMALL)
            await add_tenant(running, daily_budget=2_500_000)
            page = await visitor.page("/spend")
            async with visiting(running, OTHER_KEY) as other:
                of_other = await other.page("/spend")
    (charge,) = service.ledger.charges
    shown = money(round(charge.amount * 1_000_000))
    assert shown != money(0)
    assert f"<dt>Today, UTC</dt><dd>{shown}</dd>" in page
    assert f"<dt>30 days</dt><dd>{shown}</dd>" in page
    assert "<dt>Pictures paid</dt><dd>1</dd>" in page
    assert f": {shown} spent</title>" in page
    assert "<td>pollinations</td>" in page
    assert '<td class="n">$1.00</td>' in page
    assert '<td class="n">$2.50</td>' in page
    assert "<bdi>other</bdi>" in of_other
    assert '<td class="n">$2.50</td>' in of_other
    assert "of the settings" not in of_other
    assert "pollinations" not in of_other


def test_amounts_have_the_decimals_they_need() -> None:
    """Two, or as many as one below a dollar needs."""
    amounts = [0, 999_999, 12_345_678, 40_000, 1_200, 50, 1_234_567_890]
    assert [*map(money, amounts)] == ["$0.00", "$1.00", "$12.35", "$0.04", "$0.0012", "$0.0001", "$1,234.57"]


async def test_errors_are_shown_without_what_was_asked(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """Errors of this gateway are listed by code, route and request id, without anything of the caller's."""
    async with gateway as running, visiting(running) as visitor:
        async with visitor.session.get(f"{running.base_url}/image/secret-words") as answer:
            request_id = answer.headers["X-Request-Id"]
        async with visitor.session.get(f"{running.base_url}/other-secret"):
            pass
        page = await visitor.page("/traffic")
    assert "404 not found <b>2</b>" in page
    assert "<code>GET /image/{id}</code>" in page
    assert request_id in page
    assert "secret" not in page


async def test_the_page_of_an_unknown_picture_says_so(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """An unknown picture is a page with 404, in the looks of the others."""
    async with gateway as running, visiting(running) as visitor:
        answer, page = await visitor.get(f"/pictures/{'0' * 22}")
    assert answer.status == 404
    assert answer.content_type == "text/html"
    assert "no picture with this id" in page


@pytest.mark.campaign
def test_starting_does_not_import_jinja() -> None:
    """The templates' engine is imported by the first page, not by the start of the gateway."""
    code = "import blossom_async.gateway.app, sys; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=LIMIT_S).returncode == 0


days = st.dictionaries(
    st.integers(0, 800), st.tuples(st.integers(1, 10**9), st.integers(0, 10**6)), min_size=1
)


@given(days)
def test_a_chart_has_every_view_once(seen: dict[int, tuple[int, int]]) -> None:
    """Bars cover all days without a gap, at most 92; the ticks are even and the top holds every bar."""
    first = date(2026, 1, 1)
    given_days = [
        DayStats(
            date=first + timedelta(days=day), views=views, viewers=min(views, viewers), avg_load_time=None
        )
        for day, (views, viewers) in sorted(seen.items())
    ]
    last = given_days[-1].date
    drawn = views_by_day(given_days, first, last)
    assert sum(slot.values[0] for slot in drawn.slots) == sum(day.views for day in given_days)
    assert sum(slot.values[1] for slot in drawn.slots) == sum(day.viewers for day in given_days)
    assert len(drawn.slots) <= 92
    assert drawn.slots[0].name.startswith("1 Jan")
    assert f"{last.day} {last:%b}" in drawn.slots[-1].name
    assert drawn.top >= max(slot.values[0] for slot in drawn.slots)
    assert drawn.ticks[-1] == 0
    assert len({high - low for high, low in zip(drawn.ticks, drawn.ticks[1:], strict=False)}) == 1
    assert 2 <= len(drawn.ticks) <= 5


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (87_900, "87.9 kB"), (999_600, "1 MB"),
     (11_300_000, "11.3 MB"), (2_500_000_000_000, "2.5 TB")],
)  # fmt: skip
def test_bytes_are_told_in_the_unit_a_person_reads(number: int, told: str) -> None:
    """Sizes have three digits and a decimal unit."""
    assert size(number) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (-59, "59 seconds"),
        (3600, "1 hour"),
        (7199, "1 hour"),
        (172_800, "2 days"),
    ],
)
def test_times_are_told_in_their_greatest_unit(seconds: int, told: str) -> None:
    """Times have one number and a unit."""
    assert span(timedelta(seconds=seconds)) == told


async def test_the_page_of_a_picture_loads_it_in_a_width_that_fits(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """Whatever the rules of the picture say."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        info = await client.image.generate_url_with_info(
            "a lake", width=400, height=200, widths=[100], require_signature=True
        )
        source = f"/dashboard/pictures/{info.id}"
        assert f'srcset="{source}/w100 100w, {source} 400w"' in await visitor.page(f"/pictures/{info.id}")
        async with visitor.session.get(f"{running.base_url}{source}/w100") as answer:
            assert answer.headers["Cache-Control"] == "private, no-store"
            with Image.open(io.BytesIO(await answer.read())) as small:
                assert small.size == (100, 50)
        async with visitor.session.get(f"{running.base_url}{source}/w101") as answer:
            assert answer.status == 404


async def test_a_picture_is_deleted_by_its_page(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """Its page asks first; then the picture is gone for everybody."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        info = await client.image.generate_url_with_info("a lake", **SMALL)
        asked = await visitor.page(f"/pictures/{info.id}")
        answer, _ = await visitor.post(f"/pictures/{info.id}/delete")
        async with visitor.session.get(info.url) as gone:
            assert gone.status == 410
        thumbnail, _ = await visitor.get(f"/dashboard/thumbnails/{info.id}")
        page = await visitor.page(f"/pictures/{info.id}")
    assert "erased for good" in asked
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert thumbnail.status == 404
    assert "This picture was deleted" in page
    assert "/delete" not in page


@pytest.mark.parametrize("seed", ["same", "other"])
async def test_a_picture_is_made_again(
    gateway: AbstractAsyncContextManager[RunningGateway], seed: str
) -> None:
    """The new picture has the same request, and the seed that was asked for. Sent twice, one is made."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        info = await client.image.generate_url_with_info("a lake", tracking_id="spring", **SMALL)
        form: dict[str, Any] = {"seed": seed, "once": "a-form"}
        sent = [(await visitor.post(f"/pictures/{info.id}/again", **form))[0] for _ in range(2)]
        assert [answer.status for answer in sent] == [303, 303]
        assert sent[0].headers["Location"] == sent[1].headers["Location"]
        made = await client.image.get(sent[0].headers["Location"].removeprefix("/pictures/"))
        await visitor.post(f"/pictures/{info.id}/delete")
        after, _ = await visitor.post(f"/pictures/{info.id}/again")
    assert made.id != info.id
    assert made.tracking_id == "spring"
    assert (made.seed == info.seed) == (seed == "same")
    assert after.status == 404


async def test_making_again_counts_as_a_call_of_the_key(tmp_path: Path) -> None:
    """The button gives no picture that the key may not have, and says when it may."""
    async with running_gateway(tmp_path, key_rate_limit="2/hour") as running, visiting(running) as visitor:
        async with running.client() as client:
            info = await client.image.generate_url_with_info("a lake", **SMALL)
        sent = [await visitor.post(f"/pictures/{info.id}/again", once=str(form)) for form in range(2)]
    assert [answer.status for answer, _ in sent] == [303, 429]
    assert "this API key has no calls left" in sent[1][1]


@pytest.mark.parametrize("act", ["delete", "again"])
async def test_acts_are_for_the_owner_on_a_page_of_ours(
    gateway: AbstractAsyncContextManager[RunningGateway], act: str
) -> None:
    """Another site's form is refused, another tenant's finds nothing, and nobody sees the login."""
    async with gateway as running, running.client() as client, visiting(running) as visitor:
        await add_tenant(running)
        info = await client.image.generate_url_with_info("a lake", **SMALL)
        path = f"/pictures/{info.id}/{act}"
        foreign, _ = await visitor.post(path, {"Origin": "https://evil.example"})
        async with visiting(running, OTHER_KEY) as other, visiting(running, None) as nobody:
            theirs, _ = await other.post(path)
            unknown, _ = await nobody.post(path)
        assert len(await client.image.list()) == 1
    assert (foreign.status, theirs.status, unknown.status) == (403, 404, 303)
    assert URL(unknown.headers["Location"]).path == "/login"


async def test_links_keep_the_path_that_the_gateway_is_under(tmp_path: Path) -> None:
    """Behind https://host/pics every link, form, file and redirect begins with /pics."""
    settings = Settings(data_dir=tmp_path, api_keys=(KEY,), public_url="http://pictures.example/pics/")
    sock = listen("127.0.0.1", 0)
    here = RunningGateway(f"http://127.0.0.1:{sock.getsockname()[1]}", tmp_path)
    async with serving(settings, sock), visiting(here) as visitor:
        info = await here.client().image.generate_url_with_info("a lake", tracking_id="spring", **SMALL)
        places = (
            "/",
            f"/pictures/{info.id}",
            "/campaigns",
            "/spend",
            "/traffic",
            "/traffic?by=day",
            "/storage",
        )
        pages = [await visitor.page(path) for path in places]
        answer, _ = await visitor.post("/logout")
    found = re.findall(r'(?:href|src|action)="(/[^"]*)"', "".join(pages))
    assert len(found) > 20
    assert [path for path in found if not path.startswith("/pics/")] == []
    assert answer.headers["Location"] == "/pics/login"


async def test_the_calls_are_a_page(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """Anybody may read it; it has every call, OpenAI's too, and its links lead to places on it."""
    async with gateway as running, visiting(running, None) as visitor:
        answer, page = await visitor.get("/docs")
        async with visitor.session.get(f"{running.base_url}/openapi.json") as told:
            document = await told.json()
    assert (answer.status, answer.headers["Content-Security-Policy"]) == (200, CSP)
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<b>{method.upper()}</b> <code>{path}</code>" in page
    places = set(re.findall(r' id="([^"]+)"', page))
    assert {"OpenAI", "Pictures", "ImageInfo"} <= places
    assert set(re.findall(r'href="#([^"]+)"', page)) <= places

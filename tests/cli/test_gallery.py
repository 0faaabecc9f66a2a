"""The gallery page: what it shows, and what hostile text cannot do in it."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright import async_api as playwright

from blossom_async import ImageInfo
from blossom_async.cli.gallery import Gallery, Thumbnail, thumbnail
from blossom_async.cli.results import Result
from blossom_async.cli.thumbs import Thumbs
from blossom_async.cli.words import CannotStart
from tests.waiting import LIMIT_MS

WHEN = datetime(2026, 11, 22, 14, 23, tzinfo=UTC)
ID = "0123456789abcdefABCDEF"
MOVED, STREAMED = "moved" + "0" * 17, "streamed" + "0" * 14
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</span></summary></details></article></li></ol></main><h1>mine</h1>",
    "{title} {0} {{}} %s &amp; &lt;",
    "<!-- -->]]><style>*{display:none}</style>",
    "שקיעה מעל הים",
    "🌸 a branch 👩‍🚀 at night",
    "x" * 400,
    "two\nlines",
]


def info(**changes: object) -> ImageInfo:
    known: dict[str, object] = {
        "url": f"http://127.0.0.1:8765/image/{ID}",
        "id": ID,
        "width": 1024,
        "height": 1024,
        "format": "png",
        "file_size": 123_456,
        "quality": "standard",
        "cost": 1,
        "created_at": WHEN,
        "expires_at": None,
        "time_remaining": None,
        "tracking_id": None,
        "metadata": {},
        "sha256": "0" * 64,
        "provider": "offline",
        "model": "scenery-1",
        "seed": 7,
    }
    with attrs.validators.disabled():  # what no client lets through shall do no harm either
        return ImageInfo(**{**known, **changes})  # type: ignore[arg-type]


def made(index: int = 0, prompt: str = "a lake", **changes: object) -> Result:
    return Result(index, f"prompts.txt:{index + 1}", prompt, info(**changes), None, reused=False)


def failed(index: int = 0, prompt: str | None = "a lake", error: str = "prompts.txt:1: no") -> Result:
    return Result(index, f"prompts.txt:{index + 1}", prompt, None, error, reused=False)


SMALL = Thumbnail("data:image/webp;base64,AAAA", 480, 480, clear=False)


def picture(mode: str = "RGB", size: tuple[int, int] = (1024, 512), kind: str = "PNG") -> bytes:
    data = BytesIO()
    Image.new(mode, size, (200, 80, 120, 128) if mode == "RGBA" else (200, 80, 120)).save(data, kind)
    return data.getvalue()


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.prompts: list[str] = []
        self.text = ""
        self._in_prompt = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if ("class", "prompt") in attrs:
            self._in_prompt = tag
            self.prompts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._in_prompt:
            self._in_prompt = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_prompt:
            self.prompts[-1] += data


def policy(found: Page) -> str:
    """The page's Content-Security-Policy."""
    return next(a["content"] or "" for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., str]:
    """``page(results)`` is the text of a finished page."""

    def write(
        results: list[tuple[Result, Thumbnail | None]], note: str = "", source: str = "prompts.txt"
    ) -> str:
        path = tmp_path / "gallery.html"
        gallery = Gallery(path)
        for result, thumb in results:
            gallery.add(result, thumb)
        gallery.finish("2 pictures", source, [("Time", "1.9 s")], note, WHEN)
        gallery.close()
        return path.read_text("utf-8")

    return write


PageOf = Callable[..., str]


@pytest.mark.parametrize("prompt", HOSTILE)
def test_a_hostile_prompt_stays_text(page: PageOf, prompt: str) -> None:
    """It adds no tag and no attribute, in a picture's card and in a failure's."""
    plain = re.sub(r"[^\n]", "x", prompt)
    harmless, hostile = (
        Page(page([(made(prompt=text), SMALL), (failed(1, text, f"{text} failed"), None)]))
        for text in (plain, prompt)
    )
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in harmless.tags]
    assert not [name for _, attrs in hostile.tags for name in attrs if name.startswith("on")]
    assert hostile.prompts == [prompt, prompt]
    assert f"{prompt} failed" in hostile.text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1))
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_every_prompt_is_shown_as_it_is(page: PageOf, prompt: str) -> None:
    """Whatever its characters."""
    found = Page(page([(made(prompt=prompt), SMALL)]))
    assert found.prompts == [prompt]
    assert next(attrs["alt"] for tag, attrs in found.tags if tag == "img") in {prompt, prompt[:199] + "…"}


def test_a_hostile_file_name_or_folder_stays_text(page: PageOf) -> None:
    """They are not the page's own words either."""
    found = Page(page([(made(), SMALL)], note="in <b>/x</b>; `a&b` runs", source="<i>.txt"))
    assert "<i>.txt" in found.text
    assert "In <b>/x</b>; a&b runs." in found.text
    assert not [tag for tag, _ in found.tags if tag in {"b", "i"}]


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//x/y", "http://["]
)
def test_only_web_addresses_become_links(page: PageOf, url: str) -> None:
    """A gateway cannot put a script behind a picture."""
    found = Page(page([(made(url=url), SMALL)]))
    assert not [attrs for tag, attrs in found.tags if tag == "a" and "href" in attrs]


@pytest.mark.parametrize(("width", "height"), [(1024, 0), (0, 0), (-5, 3), (1024, -1)])
def test_sizes_no_picture_has_break_nothing(page: PageOf, width: int, height: int) -> None:
    """A gateway may say anything; the card says it on."""
    assert f"{width} × {height}" in Page(page([(made(width=width, height=height), None)])).text


@pytest.mark.parametrize(
    ("providers", "said"),
    [
        (["offline", "offline"], "The pictures were drawn by the built-in offline renderer, a stand-in"),
        (["offline", "openai"], "Some pictures were drawn by the built-in offline renderer, a stand-in"),
        (["openai"], None),
    ],
)
def test_the_offline_renderer_is_named_as_a_stand_in(
    page: PageOf, providers: list[str], said: str | None
) -> None:
    """Nobody takes its drawings for those of a model."""
    text = Page(page([(made(provider=provider), SMALL) for provider in providers])).text
    assert said in text if said else "renderer" not in text


def test_the_page_is_self_contained(page: PageOf) -> None:
    """Nothing is loaded from elsewhere, and a policy refuses that, and every script but its own."""
    text = page([(made(), SMALL), (failed(1), None)])
    found = Page(text)
    assert {attrs["src"] for tag, attrs in found.tags if "src" in attrs} == {SMALL.data_uri}
    assert not [tag for tag, _ in found.tags if tag in {"link", "iframe", "object", "base"}]
    assert [attrs for tag, attrs in found.tags if tag == "script"] == [{"type": "module"}]
    assert not [attrs for _, attrs in found.tags if "style" in attrs]
    style = re.search("<style>(.*?)</style>", text, re.DOTALL)
    script = re.search('<script type="module">(.*?)</script>', text, re.DOTALL)
    assert style
    assert script
    style_digest, script_digest = (
        base64.b64encode(hashlib.sha256(part[1].encode()).digest()).decode() for part in (style, script)
    )
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{style_digest}'" in policy(found)
    assert f"script-src 'sha256-{script_digest}';" in policy(found)
    assert "url(" not in style[1]
    assert "@import" not in style[1]


@pytest.mark.parametrize(
    ("url", "narrow"),
    [
        (f"https://cdn.example:8443/image/{ID}", f"https://cdn.example:8443/image/{ID}/w320"),
        (f"https://cdn.example:8443/generated/{ID}.png", f"https://cdn.example:8443/generated/{ID}/w320.png"),
        (
            f"https://cdn.example:8443/image/{ID}?exp=9&sig=a",
            f"https://cdn.example:8443/image/{ID}/w320?exp=9&sig=a",
        ),
    ],
)
def test_a_large_view_may_fetch_the_width_that_fits(page: PageOf, url: str, narrow: str) -> None:
    """A signature stays with each width. The policy allows the picture's own origin besides the page."""
    found = Page(page([(made(url=url, width=1024, height=768, widths=(320,)), SMALL)]))
    (frame,) = [attrs for tag, attrs in found.tags if attrs.get("class") == "frame"]
    assert frame["data-srcset"] == f"{narrow} 320w, {url} 1024w"
    assert frame["data-sizes"] == "min(1024px, 932px, 100vw - 66px, 96.0vh)"
    assert "img-src data: https://cdn.example:8443; " in policy(found)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"url": f"http://[::1]:8765/image/{ID}", "widths": (320,)},
        {"url": f"http://x;script-src/image/{ID}", "widths": (320,)},
        {"url": f"http://user@x/image/{ID}", "widths": (320,)},
        {"url": f"javascript:alert(1)//image/{ID}", "widths": (320,)},
        {"height": 0, "widths": (320,)},
    ],
)
def test_a_large_view_fetches_nothing_that_a_policy_cannot_name(
    page: PageOf, changes: dict[str, Any]
) -> None:
    """Nor of a picture that is served in no other width, or has none."""
    found = Page(page([(made(**changes), SMALL)]))
    assert not [attrs for _, attrs in found.tags if "data-srcset" in attrs]
    assert "img-src data:; " in policy(found)


def test_a_card_says_what_the_picture_is(page: PageOf) -> None:
    """Prompt, size, format, quality, weight and seed, and a link to it."""
    found = Page(page([(made(prompt="a lake", quality="hd"), SMALL)]))
    for fact in ("1024 × 1024", "png", "hd", "123 kB", "seed 7", f"127.0.0.1:8765/image/{ID}"):
        assert fact in found.text
    links = [attrs for tag, attrs in found.tags if tag == "a"]
    assert {link["href"] for link in links} == {f"http://127.0.0.1:8765/image/{ID}"}
    assert {link["rel"] for link in links} == {"noreferrer"}


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright.expect.set_options(timeout=LIMIT_MS)


async def launched(engine: playwright.Playwright) -> playwright.Browser:
    return await engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=LIMIT_MS)


@pytest.mark.campaign
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; install Debian's package chromium")
async def test_a_picture_is_shown_large_in_place(page: PageOf, tmp_path: Path) -> None:
    """The arrow keys lead to the next and the previous one; its link is copied; nothing of it is printed."""
    urls = [f"http://127.0.0.1:8765/image/{letter * 22}" for letter in "abc"]
    page([(made(at, f"lake {at}", url=url), thumbnail(picture())) for at, url in enumerate(urls)])
    async with playwright.async_playwright() as engine:
        browser = await launched(engine)
        context = await browser.new_context(permissions=["clipboard-read", "clipboard-write"])
        context.set_default_timeout(LIMIT_MS)
        shown = await context.new_page()
        await shown.goto((tmp_path / "gallery.html").as_uri())
        await shown.locator("a.frame").first.click()
        large = shown.locator("dialog p")
        for key, words in (("ArrowRight", "lake 1"), ("ArrowLeft", "lake 0"), ("ArrowLeft", "lake 2")):
            await shown.keyboard.press(key)
            await playwright.expect(large).to_have_text(words)
        await shown.locator("dialog button[name=copy]").click()
        await shown.get_by_role("button", name="Copied").wait_for()
        assert await shown.evaluate("navigator.clipboard.readText()") == urls[2]
        await shown.keyboard.press("Escape")
        await playwright.expect(shown.locator("a.frame").nth(2)).to_be_focused()
        await shown.emulate_media(media="print")
        assert await shown.locator("button:visible").count() == 0
        await browser.close()


@pytest.mark.campaign
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; install Debian's package chromium")
async def test_the_large_view_is_as_sharp_as_the_window_allows(page: PageOf, tmp_path: Path) -> None:
    """From the gateway; the page's own picture is shown as large while there is no answer."""

    async def answer(request: web.Request) -> web.Response:
        fetched.append(request.path)
        return web.Response(body=picture(size=(1400, 1000))) if there else web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/image/{ID}"
    changes: dict[str, Any] = {"url": url, "width": 1400, "height": 1000, "widths": (320, 640, 1280)}
    page([(made(**changes), thumbnail(picture(size=(1400, 1000))))])
    async with playwright.async_playwright() as engine:
        browser = await launched(engine)
        for there in (True, False):
            fetched: list[str] = []
            shown_at: list[int] = []
            for wide in (320, 680, 1600):
                window = await browser.new_page(viewport={"width": wide, "height": 1000})
                window.set_default_timeout(LIMIT_MS)
                await window.goto((tmp_path / "gallery.html").as_uri())
                assert len(fetched) == len(shown_at)
                async with window.expect_response(f"{url}**"):
                    await window.locator("a.frame").click()
                own = window.locator(f"dialog img[{'srcset' if there else 'src'}]")
                await own.wait_for()
                shown_at.append(round(await own.evaluate("image => image.clientWidth")))
                await window.close()
            assert fetched == [f"/image/{ID}/w{width}" for width in (320, 640, 1280)]
            assert shown_at == [254, 614, 932]
        await browser.close()
    await runner.cleanup()


def test_failures_are_cards_and_are_found_from_the_top(page: PageOf) -> None:
    """Each has its error in its place, and a link at the head of the page."""
    text = page([(made(), SMALL), (failed(1, None, "prompts.csv:3: the line is not CSV"), None)])
    found = Page(text)
    assert "prompts.csv:3: the line is not CSV" in found.text
    assert "1 prompt failed: #2" in found.text
    assert "#p2" in {attrs.get("href") for tag, attrs in found.tags if tag == "a"}
    assert 'id="p2"' in text


def test_many_failures_do_not_fill_the_head(page: PageOf) -> None:
    """The first forty are linked, the rest counted."""
    assert "#40 and 60 more" in Page(page([(failed(number), None) for number in range(100)])).text


def test_a_picture_without_a_thumbnail_is_linked_to(page: PageOf) -> None:
    """The picture is there all the same."""
    found = Page(page([(made(), None)]))
    assert "The picture was made, its thumbnail was not." in found.text
    assert f"http://127.0.0.1:8765/image/{ID}" in {attrs.get("href") for _, attrs in found.tags}


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ([(1024, 1024)], "square"),
        ([(1280, 720), (1920, 1080)], "wide"),
        ([(600, 900)], "tall"),
        ([(1280, 720), (600, 900)], "square"),
        ([], "square"),
    ],
)
def test_frames_have_the_shape_of_the_pictures(
    page: PageOf, sizes: list[tuple[int, int]], shape: str
) -> None:
    """Of all of them if they have one, else they are square."""
    results = [(made(width=width, height=height), SMALL) for width, height in sizes]
    assert {attrs.get("class") for tag, attrs in Page(page(results)).tags if tag == "ol"} == {shape}


def test_the_page_takes_its_place_in_one_step(tmp_path: Path) -> None:
    """Until it is finished the old page stays, and nothing else is ever left in the folder."""
    path = tmp_path / "gallery.html"
    path.write_text("old", "utf-8")
    gallery = Gallery(path)
    gallery.add(made(), SMALL)
    assert path.read_text("utf-8") == "old"
    gallery.finish("1 picture", "prompts.txt", [], "", WHEN)
    gallery.close()
    assert path.read_text("utf-8").startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    """As after a kill."""
    gallery = Gallery(tmp_path / "gallery.html")
    gallery.add(made(), SMALL)
    gallery.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["missing/gallery.html", "."])
def test_a_place_that_cannot_be_written_is_found_at_once(tmp_path: Path, place: str) -> None:
    """Before any picture is made."""
    with pytest.raises(CannotStart, match="--gallery"):
        Gallery(tmp_path / place)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_every_format_has_a_thumbnail(name: str) -> None:
    """As the gateway makes them."""
    small = thumbnail(picture(size=(64, 32), kind=name))
    assert (small.width, small.height) == (64, 32)


def test_thumbnails_are_small_and_keep_their_shape() -> None:
    """At most 480 pixels wide, in a format of the web."""
    small = thumbnail(picture(size=(2048, 1024)))
    assert (small.width, small.height, small.clear) == (480, 240, False)
    kind, _, encoded = small.data_uri.partition(",")
    assert kind == "data:image/webp;base64"
    with Image.open(BytesIO(base64.b64decode(encoded))) as again:
        assert (again.format, again.size) == ("WEBP", (480, 240))


def test_dense_screens_get_twice_the_pixels(page: PageOf) -> None:
    """In the page itself, and only of a picture that has them."""
    small = thumbnail(picture(size=(1024, 512)))
    with Image.open(BytesIO(base64.b64decode(small.dense_uri.partition(",")[2]))) as dense:
        assert dense.size == (960, 480)
    (image,) = [attrs for tag, attrs in Page(page([(made(), small)])).tags if tag == "img"]
    assert (image["src"], image["srcset"]) == (small.data_uri, f"{small.dense_uri} 2x")
    assert thumbnail(picture(size=(900, 450))).dense_uri == ""


def test_small_pictures_are_not_enlarged() -> None:
    """The browser can do that."""
    assert (thumbnail(picture(size=(16, 16))).width) == 16


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_transparent_ground_stays_transparent(kind: str) -> None:
    """And the page is told, to put a pattern behind it."""
    assert thumbnail(picture("RGBA", kind=kind)).clear


def test_jpg_is_read() -> None:
    """In less detail than it has, for speed."""
    assert thumbnail(picture(kind="JPEG", size=(2048, 2048))).width == 480


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(40)])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    """A card can do without."""
    with pytest.raises((OSError, ValueError)):
        thumbnail(data)


def test_a_picture_of_more_pixels_than_a_gateway_makes_is_refused() -> None:
    """A few kilobytes of png can unfold to gigabytes."""
    data = BytesIO()
    Image.new("1", (4097, 4097)).save(data, "PNG")
    with pytest.raises(ValueError, match="4097 x 4097 pixels"):
        thumbnail(data.getvalue())


class TestThumbs:
    """Fetching the pictures."""

    @staticmethod
    async def page_of(folder: Path, *results: Result) -> str:
        """The page of these results, from a server with a picture, a redirect to it, and one that streams."""

        async def answer(request: web.Request) -> web.StreamResponse:
            if request.path.endswith(MOVED):
                raise web.HTTPFound(f"/image/{ID}")
            if request.path.endswith(STREAMED):
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(picture())
                return response
            return web.Response(body=picture())

        app = web.Application()
        app.router.add_get("/{tail:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        gallery = Gallery(folder / "gallery.html")
        try:
            async with aiohttp.ClientSession() as session:
                base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
                async with Thumbs(gallery, session, base_url) as thumbs:
                    for result in results:
                        await thumbs.add(result)
            gallery.finish("1 picture", "prompts.txt", [], "", WHEN)
        finally:
            gallery.close()
            await runner.cleanup()
        return (folder / "gallery.html").read_text("utf-8")

    async def test_a_picture_becomes_a_thumbnail(self, tmp_path: Path) -> None:
        """Whether or not the server says how long it is."""
        text = await self.page_of(tmp_path, made(), made(1, id=STREAMED))
        assert text.count('src="data:image/webp') == 2

    async def test_a_redirect_is_not_followed(self, tmp_path: Path) -> None:
        """A gateway does not choose which other servers are asked."""
        text = await self.page_of(tmp_path, made(id=MOVED))
        assert "The picture was made, its thumbnail was not." in text

    @pytest.mark.parametrize("image_id", ["../secret", "", "x" * 21, f"{ID}/../../secret", f"{ID}?x=1"])
    async def test_an_id_that_is_none_is_not_asked_for(self, tmp_path: Path, image_id: str) -> None:
        """Nor which paths of its own."""
        text = await self.page_of(tmp_path, made(id=image_id))
        assert "The picture was made, its thumbnail was not." in text

    async def test_a_body_without_end_is_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Bytes are counted as they come, not as they are announced."""
        monkeypatch.setattr("blossom_async.cli.thumbs._MAX_PICTURE", 100)
        text = await self.page_of(tmp_path, made(id=STREAMED))
        assert "The picture was made, its thumbnail was not." in text

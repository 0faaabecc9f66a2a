"""The dashboard as a person uses it: a real browser logs in, looks, filters and leaves."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright import async_api as playwright

from tests.conftest import KEY, RunningGateway
from tests.waiting import LIMIT_MS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on this machine; install Debian's package chromium"
    ),
]

playwright.expect.set_options(timeout=LIMIT_MS)

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP blossom.test 127.0.0.1",
]
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script><svg onload=alert(3)>",
    "\" autofocus onfocus=alert(4) x=\"' onmouseover='alert(5)",
    "{{7*7}} ${alert(6)}",
    "\u202eevil\u2066 start \x01 \x1b[31m",
    "<style>*{display:none}</style><base href=//evil.example>",
    "W" * 32_000,
]
FOCUSED = "[document.activeElement.innerText, getComputedStyle(document.activeElement).outlineWidth]"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 800}
SMALL: dict[str, Any] = {"width": 64, "height": 48}


@attrs.define
class Looker:
    """A browser's page, and what went wrong on it."""

    page: playwright.Page
    base_url: str
    troubles: list[str] = attrs.field(factory=list)

    async def open(self, path: str) -> None:
        await self.page.goto(self.base_url + path)
        await self.page.wait_for_load_state("networkidle")

    async def log_in(self) -> None:
        await self.open("/")
        await self.page.get_by_label("API key").fill(KEY)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.get_by_role("heading", name="Pictures", exact=True).wait_for()
        await self.page.wait_for_load_state("networkidle")  # thumbnails that are left behind count as failed

    async def too_wide(self) -> int:
        """Pixels by which the page can be scrolled to the side."""
        over: int = await self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return over

    async def colour(self, name: str) -> str:
        colour: str = await self.page.evaluate(f"getComputedStyle(document.body).{name}")
        return colour


@asynccontextmanager
async def looking(base_url: str, **context: Any) -> AsyncIterator[Looker]:
    """A browser that has not been anywhere yet. What it complains of is an error at the end of the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        async with playwright.async_playwright() as engine:
            browser = await engine.chromium.launch_persistent_context(
                Path(folder), executable_path=CHROMIUM, args=FLAGS, timeout=LIMIT_MS,
                **{"viewport": DESK, **context},
            )  # fmt: skip
            browser.set_default_timeout(LIMIT_MS)
            looker = Looker(await browser.new_page(), base_url)

            async def dismissed(dialog: playwright.Dialog) -> None:
                looker.troubles.append(f"dialog: {dialog.message}")
                await dialog.dismiss()

            def told(message: playwright.ConsoleMessage) -> None:
                if message.type in {"error", "warning"}:
                    looker.troubles.append(f"console: {message.text}")

            looker.page.on("dialog", dismissed)
            looker.page.on("console", told)
            looker.page.on("pageerror", lambda error: looker.troubles.append(f"page: {error}"))
            looker.page.on("requestfailed", lambda request: looker.troubles.append(f"failed: {request.url}"))
            try:
                yield looker
            finally:
                await browser.close()
        assert looker.troubles == []


async def test_a_person_logs_in_looks_and_leaves(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """With a key a person sees the pictures, opens one, finds it by its words, and logs out again."""
    async with gateway as running, running.client() as client:
        await client.image.generate_url("a red bicycle", **SMALL)
        info = await client.image.generate_url_with_info("a quiet lake", require_auth=True, **SMALL)
        async with looking(running.base_url) as looker:
            page = looker.page
            await looker.log_in()
            assert await page.title() == "Blossom"
            images = page.locator(".grid img.whole")
            await playwright.expect(images).to_have_count(2)
            assert await images.evaluate_all("all => all.every(image => image.naturalWidth > 0)")
            await page.get_by_label("Prompt or campaign").fill("lake")
            await page.get_by_role("button", name="Show").click()
            await playwright.expect(images).to_have_count(1)
            await page.get_by_role("link", name="Picture of: a quiet lake").click()
            await playwright.expect(page.get_by_text("Only with one of your API keys.")).to_be_visible()
            await page.get_by_text(info.url).click()
            assert await page.evaluate("String(getSelection())") == info.url
            await page.get_by_role("button", name="Log out").click()
            await playwright.expect(page.get_by_label("API key")).to_be_visible()
            await looker.open("/")
            assert page.url == f"{running.base_url}/login"


async def test_a_wrong_key_is_told(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """The form says that a key is wrong, and works with the right one."""
    async with gateway as running, looking(running.base_url) as looker:
        await looker.open("/storage")
        await looker.page.get_by_label("API key").fill("a-wrong-key-of-nobody")
        await looker.page.keyboard.press("Enter")
        await playwright.expect(looker.page.get_by_role("alert")).to_contain_text("does not open")
        assert [trouble for trouble in looker.troubles if "401" not in trouble] == []
        looker.troubles.clear()  # browsers report the 401 that this is about
        await looker.page.get_by_label("API key").fill(KEY)
        await looker.page.keyboard.press("Enter")
        await playwright.expect(looker.page.get_by_role("heading", name="Storage")).to_be_visible()


async def test_a_campaign_is_drawn(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """A person gets from the campaigns to one of them, sees its bars and its variants, and chooses days."""
    async with gateway as running, running.client() as client:
        for variant, views in (("A", 3), ("B", 1)):
            info = await client.image.generate_url_with_info(
                "a lake", tracking_id="spring", metadata={"variant": variant}, **SMALL
            )
            async with aiohttp.ClientSession() as session:
                for _ in range(views):
                    async with session.get(info.url) as seen:
                        await seen.read()
        async with looking(running.base_url) as looker:
            page = looker.page
            await looker.log_in()
            await page.get_by_role("link", name="Campaigns").click()
            await page.get_by_role("link", name="spring").click()
            bars = page.locator(".plot rect.views")
            heights = await bars.evaluate_all("all => all.map(bar => bar.getBoundingClientRect().height)")
            variants = await page.locator(".variants tbody th").all_inner_texts()
            assert max(heights) > 100
            assert variants == ["A", "B"]
            await page.get_by_label("To").fill("2020-01-01")
            await page.get_by_role("button", name="Show").click()
            await playwright.expect(page.get_by_text("No views on these days")).to_be_visible()


async def test_a_link_is_copied_and_a_picture_deleted(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """One click copies the URL; deleting takes two, and ends at the pictures."""
    async with gateway as running, running.client() as client:
        url = await client.image.generate_url("a lake", **SMALL)
        async with looking(running.base_url, permissions=["clipboard-read", "clipboard-write"]) as looker:
            page = looker.page
            await looker.log_in()
            await page.locator("a.frame").click()
            await page.get_by_role("button", name="Copy link").click()
            await page.get_by_role("button", name="Copied").wait_for()
            assert await page.evaluate("navigator.clipboard.readText()") == url
            await page.get_by_text("Delete …").click()
            await page.get_by_role("button", name="Delete this picture").click()
            await page.get_by_text("Its prompt was erased.").wait_for()
            assert await looker.too_wide() == 0


async def test_hostile_words_do_nothing(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """Words that attack pages are shown as words: no dialog, no complaint, no element of theirs."""
    async with gateway as running, running.client() as client:
        for words in HOSTILE:
            line = words.translate(dict.fromkeys(range(32)))[:60]
            await client.image.generate_url(
                words, tracking_id=line, metadata={line: line}, negative_prompt=words, **SMALL
            )
        async with looking(running.base_url, viewport=PHONE) as looker:
            page = looker.page
            await looker.log_in()
            links = await page.locator(".grid a").evaluate_all(
                "all => all.map(link => new URL(link.href).pathname)"
            )
            assert len(links) == 2 * len(HOSTILE)
            for path in ("/", "/campaigns", *links):
                await looker.open(path)
                added = "script:not([src^='/dashboard/copy-']), style, base, [onerror], [onload], [onfocus]"
                assert await page.locator(added).count() == 0
                assert await looker.too_wide() <= 0, path
            await looker.open("/?q=%3Cimg")
            await playwright.expect(page.locator(".prompt").get_by_text(HOSTILE[0])).to_be_visible()


@pytest.mark.parametrize(("viewport", "scheme"), [(PHONE, "dark"), (DESK, "light")], ids=["phone", "desk"])
async def test_pages_fit_and_everybody_can_read_them(
    gateway: AbstractAsyncContextManager[RunningGateway], viewport: playwright.ViewportSize, scheme: Any
) -> None:
    """No page scrolls to the side, not even 390 pixels wide, and axe finds nothing."""
    async with gateway as running, running.client() as client:
        info = await client.image.generate_url_with_info(
            "a lake with a long name " * 9,
            tracking_id="spring",
            metadata={"variant": "v" * 200, "a" * 64: "B"},
            allowed_domains=["*.example.com"],
            expires_in=999,
            **SMALL,
        )
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{info.url}", headers={"Referer": "https://a.example.com/"}) as seen:
                assert seen.status == 200
        async with looking(
            running.base_url, viewport=viewport, color_scheme=scheme, bypass_csp=True
        ) as looker:
            await looker.open("/login")
            assert await looker.too_wide() <= 0
            await looker.log_in()
            for path in (
                "/", "/?q=none", f"/pictures/{info.id}", "/campaigns", "/campaigns/spring", "/spend",
                "/traffic", "/traffic?by=day", "/storage", "/docs",
            ):  # fmt: skip
                await looker.open(path)
                assert await looker.too_wide() <= 0, path
                found = await Axe().run(looker.page)
                assert found.violations_count == 0, f"{path}: {found.generate_report()}"


async def test_there_is_a_dark_mode(gateway: AbstractAsyncContextManager[RunningGateway]) -> None:
    """Who prefers dark colours gets light words on a dark ground, others the reverse."""
    grounds = {}
    async with gateway as running:
        for scheme in ("light", "dark"):
            async with looking(running.base_url, color_scheme=scheme) as looker:
                await looker.log_in()
                grounds[scheme] = (
                    await brightness(looker, "backgroundColor"),
                    await brightness(looker, "color"),
                )
    assert grounds["light"][0] > 220 > 80 > grounds["light"][1]
    assert grounds["dark"][0] < 40 < 200 < grounds["dark"][1]


async def brightness(looker: Looker, name: str) -> float:
    """The mean of red, green and blue, 0 to 255."""
    numbers = [int(part) for part in (await looker.colour(name)).removeprefix("rgb(").rstrip(")").split(",")]
    return sum(numbers) / len(numbers)


async def test_logging_in_works_over_plain_http(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """Also under a name without https, where browsers say less of where a form comes from."""
    async with gateway as running:
        address = running.base_url.replace("127.0.0.1", "blossom.test")
        async with looking(address) as looker:
            await looker.log_in()
            await looker.page.get_by_role("button", name="Log out").click()
            await playwright.expect(looker.page.get_by_label("API key")).to_be_visible()
            # The browser says that it cannot isolate a page that came without https.
            assert [
                trouble for trouble in looker.troubles if "Cross-Origin-Opener-Policy" not in trouble
            ] == []
            looker.troubles.clear()


async def test_the_whole_page_is_reached_by_keyboard(
    gateway: AbstractAsyncContextManager[RunningGateway],
) -> None:
    """The first stop of the Tab key leads past the navigation, and each stop can be seen."""
    async with gateway as running, running.client() as client:
        await client.image.generate_url("a lake", **SMALL)
        async with looking(running.base_url) as looker:
            await looker.log_in()
            outlines = []
            for _ in range(10):
                await looker.page.keyboard.press("Tab")
                outlines.append(await looker.page.evaluate(FOCUSED))
    assert outlines[0][0] == "Skip to the content"
    assert {width for _, width in outlines} == {"3px"}

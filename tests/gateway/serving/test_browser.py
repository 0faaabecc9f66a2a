"""Pictures in pages of other sites, as a real browser shows and reads them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright import async_api as playwright

from tests.conftest import running_gateway
from tests.waiting import LIMIT_MS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on this machine; install Debian's package chromium"
    ),
]

FLAGS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCRIPTS = """
const loaded = (url, crossOrigin) => new Promise((resolve, reject) => {
  const image = new Image();
  if (crossOrigin !== undefined) image.crossOrigin = crossOrigin;
  image.onload = () => resolve(image);
  image.onerror = () => reject(new Error("not loaded"));
  image.src = url;
});
window.ways = {
  async shown(url) { return (await loaded(url)).naturalWidth; },
  async crossorigin(url) { return (await loaded(url, "anonymous")).naturalWidth; },
  async canvas(url) {
    const image = await loaded(url, "anonymous"), canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    canvas.getContext("2d").drawImage(image, 0, 0);
    if (!canvas.toDataURL().startsWith("data:image/png")) throw new Error("no data");
    return canvas.getContext("2d").getImageData(0, 0, 64, 48).width;
  },
  async webgl(url) {
    const image = await loaded(url, "anonymous");
    const gl = document.createElement("canvas").getContext("webgl");
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, image);
    if (gl.getError()) throw new Error("no texture");
    return image.naturalWidth;
  },
  async fetched(url) { return (await createImageBitmap(await (await fetch(url)).blob())).width; },
  async revalidated(url) {
    for (let turn = 0; turn < 2; turn++) {
      const answer = await fetch(url, {cache: "no-cache"});
      if (!answer.headers.get("ETag")) throw new Error("no ETag");
      await answer.blob();
    }
    return (await loaded(url, "anonymous")).naturalWidth;
  },
  async in_part(url) {
    const answer = await fetch(url, {headers: {"Range": "bytes=0-9", "If-None-Match": '"another"'}});
    return (await answer.arrayBuffer()).byteLength === 10 ? 64 : answer.status;
  },
};
"""
WAYS = ["shown", "crossorigin", "canvas", "webgl", "fetched", "revalidated", "in_part"]


@asynccontextmanager
async def page_of_another_site() -> AsyncIterator[playwright.Page]:
    """A page of its own origin, whose scripts try the ways in which pages use pictures."""

    async def index(_: web.Request) -> web.Response:
        return web.Response(text=f"<!doctype html><script>{SCRIPTS}</script>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", index)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            async with playwright.async_playwright() as engine:
                browser = await engine.chromium.launch_persistent_context(
                    Path(folder), executable_path=CHROMIUM, args=FLAGS, timeout=LIMIT_MS
                )
                browser.set_default_timeout(LIMIT_MS)
                page = await browser.new_page()
                await page.goto(f"http://127.0.0.1:{runner.addresses[0][1]}/")
                yield page
                await browser.close()
    finally:
        await runner.cleanup()


async def outcome(page: playwright.Page, way: str, url: str) -> Any:
    """The width of the picture as the page saw it, or the name of the browser's error."""
    return await page.evaluate("([way, url]) => ways[way](url).catch(error => error.name)", [way, url])


async def test_a_public_picture_may_be_used_in_every_way(tmp_path: Path) -> None:
    """Shown, on a canvas that stays readable, as a texture, fetched, in part, and again after a 304."""
    async with running_gateway(tmp_path) as running, running.client() as client:
        size: dict[str, Any] = {"width": 64, "height": 48}
        kept = await client.image.generate_url("a lake", **size)
        expiring = await client.image.generate_url("a lake", expires_in=600, format="auto", **size)
        async with page_of_another_site() as page:
            for url in (kept, f"{expiring}?fbclid=IwAR0&v=2"):
                found = {way: await outcome(page, way, url) for way in WAYS}
                assert found == dict.fromkeys(WAYS, 64)


async def test_scripts_of_other_sites_read_no_restricted_picture(tmp_path: Path) -> None:
    """It may be shown where its rules allow that; its pixels are for pages of ``allowed_domains`` alone."""
    async with running_gateway(tmp_path) as running, running.client() as client:
        size: dict[str, Any] = {"width": 64, "height": 48}
        here = await client.image.generate_url("one", allowed_domains=["127.0.0.1"], **size)
        known = await client.image.generate_url("two", ip_whitelist=["127.0.0.1"], **size)
        keyed = await client.image.generate_url("three", require_auth=True, **size)
        async with page_of_another_site() as page:
            for way in ("crossorigin", "canvas", "webgl", "fetched", "revalidated"):
                assert await outcome(page, way, here) == 64
                assert await outcome(page, way, known) in {"Error", "TypeError"}
                assert await outcome(page, way, keyed) in {"Error", "TypeError"}
            assert await outcome(page, "shown", known) == 64
            assert await outcome(page, "shown", keyed) == "Error"


async def test_a_deferred_picture_may_be_awaited_by_scripts(tmp_path: Path) -> None:
    """The URL is there before the picture, and a page may fetch it at once."""
    async with running_gateway(tmp_path) as running, running.client() as client:
        url = await client.image.generate_url("a lake", width=64, height=48, defer=True)
        async with page_of_another_site() as page:
            assert await outcome(page, "in_part", url) == 64
            assert await outcome(page, "fetched", url) == 64

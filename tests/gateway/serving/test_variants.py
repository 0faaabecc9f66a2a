"""Pictures in fewer pixels over HTTP: under the rules, expiry and headers of the whole ones."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from PIL import Image

from blossom_async.errors import InvalidRequest
from blossom_async.models import ImageRequest
from tests.conftest import RunningGateway, running_gateway

Gateway = AbstractAsyncContextManager[RunningGateway]
CDN = "https://cdn.example.com/pictures.v1"


@attrs.frozen
class Answer:
    """What a viewer got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def size(self) -> tuple[int, int]:
        with Image.open(io.BytesIO(self.body)) as image:
            return image.size


async def ask(url: str, method: str = "GET", **headers: str) -> Answer:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, url, headers={name.replace("_", "-"): headers[name] for name in headers}
        ) as got,
    ):
        return Answer(got.status, got.headers, await got.read())


def files(gateway: RunningGateway) -> list[Path]:
    return [file for file in (gateway.data_dir / "images").rglob("*") if file.is_file()]


async def test_a_picture_in_a_listed_width(gateway: Gateway) -> None:
    """Kept after the first request, with the headers of the whole picture and bytes of its own."""
    async with gateway as running, running.client() as client:
        url = await client.image.generate_url("a lake", format="webp", width=400, height=200)
        whole, first = await ask(url), await ask(f"{url}/w320")
        assert (first.status, first.size, len(files(running))) == (200, (320, 160), 2)
        again = await ask(f"{url}/w320")
        assert (again.body, again.headers["ETag"]) == (first.body, first.headers["ETag"])
        assert len(files(running)) == 2
        assert first.headers["ETag"] != whole.headers["ETag"]
        for name in ("Content-Type", "Cache-Control", "Last-Modified", "Accept-Ranges"):
            assert first.headers[name] == whole.headers[name]
        assert first.headers["Content-Disposition"].endswith('-w320.webp"')
        assert (await ask(f"{url}/w320", If_None_Match=first.headers["ETag"])).status == 304
        head = await ask(f"{url}/w320", "HEAD")
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(first.body)))
        part = await ask(f"{url}/w320", Range="bytes=10-19")
        assert (part.status, part.body) == (206, first.body[10:20])
        cdn = await ask(f"{url.replace('/image/', '/generated/')}/w320.webp")
        assert cdn.body == first.body


async def test_a_picture_is_never_widened(gateway: Gateway) -> None:
    """A listed width above its own gets the picture as it is, and nothing is stored."""
    async with gateway as running, running.client() as client:
        url = await client.image.generate_url("a lake", format="jpg", width=400, height=200)
        whole, wider = await ask(url), await ask(f"{url}/w640")
        assert (wider.body, wider.headers["ETag"]) == (whole.body, whole.headers["ETag"])
        assert len(files(running)) == 1


@pytest.mark.parametrize(
    "end", ["/w321", "/w0320", "/w320/", "/w320.webp", "/w", "/w-320", "/W320", "/w320/w320"]
)
async def test_any_other_width_is_not_found(gateway: Gateway, end: str) -> None:
    """Nobody fills the disk with widths of their own."""
    async with gateway as running, running.client() as client:
        url = await client.image.generate_url("a lake", format="webp", width=400, height=200)
        assert (await ask(url + end)).status == 404
        assert len(files(running)) == 1


async def test_the_widths_of_the_settings(tmp_path: Path) -> None:
    """Others than by default."""
    async with running_gateway(tmp_path, widths=(100,)) as running, running.client() as client:
        url = await client.image.generate_url("a lake", format="jpg", width=400, height=200)
        assert (await ask(f"{url}/w100")).size == (100, 50)
        assert (await ask(f"{url}/w320")).status == 404


async def test_the_widths_of_a_request(gateway: Gateway) -> None:
    """They take the place of those of the settings."""
    async with gateway as running, running.client() as client:
        url = await client.image.generate_url("a lake", format="jpg", width=400, height=200, widths=[99, 200])
        assert (await ask(f"{url}/w99")).size == (99, 50)
        assert (await ask(f"{url}/w200")).size == (200, 100)
        assert (await ask(f"{url}/w320")).status == 404


async def test_a_srcset_of_what_is_served(gateway: Gateway) -> None:
    """Each of its URLs has the width it says; under a CDN they end with the format."""
    async with gateway as running, running.client(cdn_prefix=CDN) as client:
        info = await client.image.generate_url_with_info(
            "a lake", width=400, height=200, widths=[100, 200, 800]
        )
        assert info.widths == (100, 200)
        for candidate in info.srcset().split(", "):
            url, described = candidate.split()
            assert f"{(await ask(url)).size[0]}w" == described
        assert info.srcset([800, 100]) == f"{info.url}/w100 100w, {info.url} 400w"
        assert info.variant_url(400) == info.variant_url(800) == info.url
        with pytest.raises(InvalidRequest, match=r"100, 200, or 400 and above"):
            info.srcset([320])
        info = await client.image.generate_url_with_info(
            "a lake", format="webp", width=400, height=200, use_custom_cdn=True
        )
        assert info.srcset() == f"{CDN}/generated/{info.id}/w320.webp 320w, {info.url} 400w"
        signed = f"{info.url}?exp=1&sig=2.3"
        assert info.variant_url(320, url=signed) == f"{CDN}/generated/{info.id}/w320.webp?exp=1&sig=2.3"


async def test_one_signature_covers_all_widths(gateway: Gateway) -> None:
    """Of its picture, whichever of its URLs was signed, and none that is not listed."""
    async with gateway as running, running.client() as client:
        info = await client.image.generate_url_with_info(
            "a lake", width=400, height=200, format="webp", widths=[100, 200], require_signature=True
        )
        assert (await ask(info.variant_url(100))).status == 403
        for url in (info.url, info.variant_url(100)):
            signed = await client.image.sign_url(url)
            assert signed.startswith(f"{url}?exp=")
            assert (await client.image.explain_url(signed)).status == 200
            whole = signed.replace("/w100", "")
            for candidate in info.srcset(url=whole).split(", "):
                got = await ask(candidate.split()[0])
                assert (got.status, got.headers["Cache-Control"][:7]) == (200, "private")
            assert (await ask(whole.replace("?", "/w300?"))).status == 404
        again = await client.image.regenerate_from_url(info.variant_url(200))
        assert (await client.image.get(again)).widths == (100, 200)


@pytest.mark.parametrize(
    "widths", [[], [15], [4097], ["640"], [640.5], [True], 640, "640", [[640]], range(16, 33)]
)
def test_widths_that_cannot_be(widths: Any) -> None:
    """Refused before anything is sent."""
    with pytest.raises(InvalidRequest, match="a list of 1 to 16 whole numbers"):
        ImageRequest("a lake", widths=widths)


@pytest.mark.parametrize(
    ("rule", "status"),
    [
        ({"require_auth": True}, 401),
        ({"ip_whitelist": ["192.0.2.1"]}, 403),
        ({"allowed_domains": ["myapp.com"]}, 403),
        ({"require_signature": True}, 403),
    ],
)
async def test_the_rules_of_the_picture_hold(gateway: Gateway, rule: dict[str, Any], status: int) -> None:
    """Nothing is made for a viewer who may not see it."""
    async with gateway as running, running.client() as client:
        url = await client.image.generate_url("a lake", width=400, height=200, **rule)
        refused = await ask(f"{url}/w320", If_None_Match="*")
        assert (refused.status, refused.headers["Cache-Control"]) == (status, "no-store")
        assert len(files(running)) == 1


async def test_it_ends_with_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is fresh for no longer, answers 410 from then on, and a delete removes its file."""
    now = [datetime.now(UTC)]
    monkeypatch.setattr("blossom_async.gateway.app._now", lambda: now[0])
    async with running_gateway(tmp_path) as running, running.client() as client:
        ending = await client.image.generate_url("a lake", width=400, height=200, expires_in=600)
        deleted = await client.image.generate_url("a pond", width=400, height=200)
        assert (await ask(f"{ending}/w320")).headers[
            "Cache-Control"
        ] == "public, max-age=599, must-revalidate"
        assert (await ask(f"{deleted}/w320")).status == 200
        assert len(files(running)) == 4
        await client.image.delete(f"{deleted}/w320")
        now[0] += timedelta(seconds=600)
        assert [(await ask(f"{url}/w320")).status for url in (ending, deleted)] == [410, 410]
        assert len(files(running)) == 2


async def test_a_deferred_picture_in_fewer_pixels(gateway: Gateway) -> None:
    """Its first viewer waits for it, whatever the width."""
    async with gateway as running, running.client() as client:
        info = await client.image.generate_url_with_info("a lake", width=400, height=200, defer=True)
        assert (await ask(info.variant_url(320))).size == (320, 160)
        assert (await ask(f"{info.url}/w321")).status == 404


async def test_a_view_of_it_is_a_view_of_the_picture(gateway: Gateway) -> None:
    """Under the same tracking_id."""
    async with gateway as running, running.client() as client:
        url = await client.image.generate_url("a lake", width=400, height=200, tracking_id="spring")
        await ask(url)
        await ask(f"{url}/w320")
        await ask(f"{url}/w320", "HEAD")
        stats = await client.image.get_url_stats("spring")
        assert (stats.total_views, stats.unique_viewers) == (2, 1)


async def test_each_viewer_gets_the_format_it_accepts(gateway: Gateway) -> None:
    """As of the whole picture, with a tag for each."""
    async with gateway as running, running.client() as client:
        url = await client.image.generate_url("a lake", width=400, height=200, format="auto", etag="v1")
        plain, modern = await ask(f"{url}/w320"), await ask(f"{url}/w320", Accept="image/webp")
        assert (plain.headers["ETag"], modern.headers["ETag"]) == ('"v1-w320-jpg"', '"v1-w320-webp"')
        assert modern.headers["Content-Type"] == "image/webp"
        assert "Accept" in plain.headers["Vary"]
        assert len(modern.body) < len(plain.body)

"""The guide's own calls run as it writes them; only the import differs."""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from blossom_async import BlossomClient, ImageInfo, UrlBatch

GUIDE = (Path(__file__).parent / "guide" / "IMAGE_URLS.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"^# (.*?)\n\n```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))
OWN_CLIENT = {"Basic URL Generation", "Custom CDN Prefix"}
DRAWS_MANY = {
    "Batch with Different Settings",
    "E-commerce Product Images",
    "Multiple URLs at Once",
    "Quality Settings",
    "URL Compression",
}
AWAITING = {name for name, code in BLOCKS.items() if "await " in code}

EARLIER = {"Get URL Statistics": ("Track URL Usage",)}


def signed(client: Any, names: dict[str, Any]) -> None:
    """The URL has the form the guide shows, opens, and is protected."""
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/image/[0-9A-Za-z]{22}\?exp=\d+&sig=[\w.-]+", names["url"])
    assert client.image.validate_url(names["url"])
    assert not client.image.validate_url(names["url"].partition("?")[0])


def restricted(client: Any, names: dict[str, Any]) -> None:
    """Each of the three rules refuses by itself; together they let the right viewer in."""
    right = {"authorized": True, "address": "192.168.1.7", "referer": "https://cdn.myapp.com/"}
    wrong = {"authorized": False, "address": "192.168.2.7", "referer": "https://myapp.com.evil.com/"}
    assert client.image.explain_url(names["url"], **right).status == 200
    for name, value in wrong.items():
        assert client.image.explain_url(names["url"], **{**right, name: value}).status in {401, 403}


def lighter(client: Any, names: dict[str, Any]) -> None:
    """The file is at most half of what it is without the preset."""
    path = names["url"].rpartition("/")[2]
    light = client.image.generate_url_with_info("detailed image", seed=1, quality_preset="web_optimized")
    plain = client.image.generate_url_with_info("detailed image", seed=1)
    assert light.file_size <= plain.file_size / 2
    assert len(path) == 22


def counted(_: Any, names: dict[str, Any]) -> None:
    """The campaign is known and has not been seen yet."""
    assert names["stats"].tracking_id == "campaign-summer-2024"
    assert (names["stats"].total_views, names["stats"].unique_viewers) == (0, 0)


CHECKS = {
    "Signed URLs": signed,
    "Access Control": restricted,
    "URL Compression": lighter,
    "Get URL Statistics": counted,
}

pytestmark = pytest.mark.filterwarnings("ignore:BlossomClient has no base_url:UserWarning")


def compiled(name: str) -> types.CodeType:
    code: types.CodeType = compile(BLOCKS[name], name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert bool(code.co_flags & inspect.CO_COROUTINE) == (name in AWAITING)
    return code


def quick_first(names: Iterable[str]) -> list[Any]:
    """In order; blocks that draw several large pictures only in the campaigns."""
    late = pytest.mark.campaign
    return [pytest.param(name, marks=late) if name in DRAWS_MANY else name for name in sorted(names)]


@pytest.mark.parametrize("name", sorted(OWN_CLIENT))
def test_blocks_with_a_client_of_their_own(name: str) -> None:
    """They run as a plain script would run them."""
    names: dict[str, Any] = {"BlossomClient": BlossomClient}
    exec(compiled(name), names)  # noqa: S102 - the guide's own code
    assert isinstance(names["url"], str)
    if name == "Custom CDN Prefix":
        assert re.fullmatch(r"https://cdn\.myapp\.com/generated/[0-9A-Za-z]{22}\.png", names["url"])
        names["client"].close()


@pytest.mark.parametrize("name", quick_first(BLOCKS.keys() - OWN_CLIENT - AWAITING))
def test_blocks_without_await(name: str) -> None:
    """They run inside ``with BlossomClient() as client``."""
    with BlossomClient() as client:
        names: dict[str, Any] = {"client": client}
        for first in EARLIER.get(name, ()):
            exec(compiled(first), names)  # noqa: S102 - the guide's own code
        exec(compiled(name), names)  # noqa: S102 - the guide's own code
        assert isinstance(names.get("url", ""), str)
        if name in CHECKS:
            CHECKS[name](client, names)
        assert isinstance(names.get("result"), ImageInfo | None)
        if "ProductImageService" in names:
            images = names["ProductImageService"](client).generate_product_images({"name": "Teapot"})
            assert len({images["main"], images["lifestyle"], *images["details"]}) == 5
        if "SocialMediaGenerator" in names:
            urls = names["SocialMediaGenerator"](client).generate_post_images("news", "spring")
            assert len(set(urls.values())) == 3


@pytest.mark.parametrize("name", quick_first(AWAITING))
async def test_blocks_with_await(name: str) -> None:
    """They run inside ``async with BlossomClient() as client``."""
    async with BlossomClient() as client:
        url = await client.image.generate_url("test image", width=32, height=32)
        names: dict[str, Any] = {"client": client, "url": url}
        # The guide's host is made up; asked for real, these requests would leave this machine.
        BLOCKS[name] = BLOCKS[name].replace("https://api.blossom-ai.com", str(client.base_url))
        await types.FunctionType(compiled(name), names)()
        if "urls" in names:
            assert isinstance(names["urls"], UrlBatch)
            assert None not in names["urls"]
        assert names.get("is_valid", True)

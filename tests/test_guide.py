"""The guide's own calls run as it writes them; only the import differs."""

from __future__ import annotations

import ast
import inspect
import re
import types
from pathlib import Path
from typing import Any

import pytest

from blossom_async import BlossomClient, ImageInfo, UrlBatch

GUIDE = (Path(__file__).parent / "guide" / "IMAGE_URLS.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"^# (.*?)\n\n```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))
OWN_CLIENT = {"Basic URL Generation", "Custom CDN Prefix"}
AWAITING = {name for name, code in BLOCKS.items() if "await " in code}

pytestmark = pytest.mark.filterwarnings("ignore:BlossomClient has no base_url:UserWarning")


def compiled(name: str) -> types.CodeType:
    code = compile(BLOCKS[name], name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert bool(code.co_flags & inspect.CO_COROUTINE) == (name in AWAITING)
    return code


@pytest.mark.parametrize("name", sorted(OWN_CLIENT))
def test_blocks_with_a_client_of_their_own(name: str) -> None:
    """They run as a plain script would run them."""
    names: dict[str, Any] = {"BlossomClient": BlossomClient}
    exec(compiled(name), names)  # noqa: S102 - the guide's own code
    assert isinstance(names["url"], str)
    if name == "Custom CDN Prefix":
        assert re.fullmatch(r"https://cdn\.myapp\.com/generated/[0-9A-Za-z]{22}\.png", names["url"])
        names["client"].close()


@pytest.mark.parametrize("name", sorted(BLOCKS.keys() - OWN_CLIENT - AWAITING))
def test_blocks_without_await(name: str) -> None:
    """They run inside ``with BlossomClient() as client``."""
    with BlossomClient() as client:
        names: dict[str, Any] = {"client": client}
        exec(compiled(name), names)  # noqa: S102 - the guide's own code
        assert isinstance(names.get("url", ""), str)
        assert isinstance(names.get("result"), ImageInfo | None)
        if "ProductImageService" in names:
            images = names["ProductImageService"](client).generate_product_images({"name": "Teapot"})
            assert len({images["main"], images["lifestyle"], *images["details"]}) == 5
        if "SocialMediaGenerator" in names:
            urls = names["SocialMediaGenerator"](client).generate_post_images("news", "spring")
            assert len(set(urls.values())) == 3


@pytest.mark.parametrize("name", sorted(AWAITING))
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

"""``GET /v1/images``, ``client.image.list()`` and ``blossom list``: an owner's pictures, page by page."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from blossom_async import BlossomClient, Rejected
from blossom_async.models import ImagePage
from tests.cli.test_cli import blossom
from tests.conftest import running_gateway
from tests.waiting import until

TINY: Any = {"width": 32, "height": 32}


async def filled(client: BlossomClient) -> list[str]:
    """The ids of five pictures, the newest first: three lakes, one of which has expired, and two seas."""
    made = [
        await client.image.generate_url_with_info("a lake", tracking_id="spring", **TINY),
        await client.image.generate_url_with_info("a sea", **TINY),
        await client.image.generate_url_with_info("a LAKE at dawn", **TINY),
        await client.image.generate_url_with_info("a sea", tracking_id="lake", **TINY),
        await client.image.generate_url_with_info("a lake", expires_in=1, **TINY),
    ]
    return [info.id for info in reversed(made)]


async def test_pages_follow_each_other(tmp_path: Path) -> None:
    """The newest first, each picture once; the last page has no next."""
    async with running_gateway(tmp_path) as running, running.client() as client:
        ids = await filled(client)
        pages: list[ImagePage] = [await client.image.list(state="all", limit=2)]
        while pages[-1].next is not None:
            pages.append(await client.image.list(state="all", limit=2, cursor=pages[-1].next))
        looked_up = await client.image.get(ids[1])
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [info.id for page in pages for info in page] == ids
    assert pages[0][1] == looked_up
    assert json.loads(pages[0].to_json())["images"][1]["id"] == ids[1]


async def test_filters(tmp_path: Path) -> None:
    """Words in prompts and tracking ids, a tracking id, and the state."""
    async with running_gateway(tmp_path) as running, running.client() as client:
        ids = await filled(client)

        async def found(words: str = "", **given: Any) -> list[int]:
            return [ids.index(info.id) for info in await client.image.list(words, **given)]

        async def first_has_expired() -> bool:
            return 0 not in await found()

        await until(first_has_expired)
        assert await found("lake") == [1, 2, 4]
        assert await found("lake", state="all") == [0, 1, 2, 4]
        assert await found(state="expired") == [0]
        assert await found(tracking_id="spring") == [4]
        assert await found(tracking_id="nobody's") == []
        await client.image.delete(ids[4])
        assert await found("lake", state="all") == [0, 1, 2]


async def test_nobody_sees_anothers(tmp_path: Path) -> None:
    """Each key its tenant's."""
    data = tmp_path / "data"
    create = ("keys", "create", "other", "--tenant", "other", "--data-dir", data)
    other = (await asyncio.to_thread(blossom, *create)).stdout.split()[-1]
    async with running_gateway(data) as running, running.client() as client:
        await client.image.generate_url("a lake", **TINY)
        async with BlossomClient(running.base_url, api_key=other) as stranger:
            assert len(await stranger.image.list(state="all")) == 0
        assert len(await client.image.list()) == 1


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"state": "deleted"}, "state"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"cursor": "1"}, "cursor"),
        ({"words": "x" * 201}, "q"),
    ],
)
async def test_what_cannot_be_asked(given: Any, field: str, tmp_path: Path) -> None:
    """The field is named, and what is allowed."""
    async with running_gateway(tmp_path) as running, running.client() as client:
        with pytest.raises(Rejected, match="allowed: ") as refused:
            await client.image.list(**given)
    assert refused.value.field == field


def test_the_command(tmp_path: Path) -> None:
    """Over pages of the gateway; a line for each, or all about it as JSON."""
    data = {"BLOSSOM_DATA_DIR": str(tmp_path / "data")}
    for prompt in ("a lake", "a sea"):
        assert blossom("url", prompt, "--width", 32, "--height", 32, **data).status == 0
    shown = blossom("list", **data).stdout.splitlines()
    assert len(shown) == 2
    assert "  32x32 png  " in shown[0]
    (info,) = [json.loads(line) for line in blossom("list", "lake", "--json", **data).stdout.splitlines()]
    assert shown[1].endswith(info["id"])
    first = blossom("list", "--limit", 1, **data)
    assert len(first.stdout.splitlines()) == 1
    assert first.stderr == "blossom: these are the newest 1; list more with --limit\n"

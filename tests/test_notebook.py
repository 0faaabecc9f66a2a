"""Pictures, batches and progress in a notebook."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbclient
import nbformat
import pytest
from traitlets.config import Config

from blossom_async import BlossomClient, ConfigurationError, UrlBatch
from blossom_async.notebook import Bar
from tests.waiting import LIMIT_S

HOSTILE = "<script>alert('a fox')</script>"
SMALL: dict[str, Any] = {"width": 64, "height": 64}
v4: Any = nbformat.v4  # without types


async def made(prompts: list[str]) -> UrlBatch:
    async with BlossomClient("embedded") as client:
        return await client.image.generate_urls_batch(prompts, **SMALL)


async def test_a_batch_shows_pictures_and_failures() -> None:
    """The prompts are text there, whatever they hold."""
    batch = await made([HOSTILE, "", "a lake" + " at dusk" * 1000])
    shown = batch._repr_html_()
    assert "2 of 3 ok" in shown
    assert shown.count("<img") == 2
    assert "<script" not in shown
    assert len(shown) < 4000
    assert "prompt: empty text cannot be used" in shown
    assert str(batch[2]) in shown


async def test_a_long_batch_shows_its_first_pictures() -> None:
    """And how many more there are."""
    shown = (await made([f"lake {n}" for n in range(26)]))._repr_html_()
    assert shown.count("<img") == 24
    assert "and 2 more" in shown


async def test_a_picture_is_shown_small_and_leads_to_the_whole() -> None:
    """In the smallest of its widths; one that is not ready says so."""
    async with BlossomClient("embedded") as client:
        info = await client.image.generate_url_with_info("a lake", width=640, height=64)
        later = await client.image.generate_url_with_info("a sea", defer=True, **SMALL)
    assert f'src="{info.url}/w320"' in info._repr_html_()
    assert f'href="{info.url}"' in info._repr_html_()
    assert "pending" in later._repr_html_()


async def test_a_report_lists_failures_first() -> None:
    """Each URL with its status."""
    async with BlossomClient("embedded") as client:
        url = await client.image.generate_url("a lake", **SMALL)
        report = await client.image.preload_urls([url, f"{client.base_url}/image/nothing"])
    shown = report._repr_html_()
    assert "1 of 2 ok" in shown
    assert shown.index("404") < shown.index("200")


def test_without_ipython_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the error says so before anything is paid."""
    monkeypatch.setitem(__import__("sys").modules, "IPython.display", None)
    with pytest.raises(ConfigurationError, match="IPython is not installed"):
        Bar()


@pytest.mark.campaign
def test_a_notebook_is_executed(tmp_path: Path) -> None:
    """With top-level await; the bar is one output that was redrawn, the batch another."""
    code = (
        "from blossom_async import BlossomClient\n"
        "from blossom_async.notebook import Bar\n"
        "async with BlossomClient('embedded') as client:\n"
        "    batch = await client.image.generate_urls_batch(\n"
        "        ['a fox', '', 'a lake'], width=64, height=64, on_progress=Bar())\n"
        "batch"
    )
    page = v4.new_notebook(cells=[v4.new_code_cell(code)])
    with TemporaryDirectory(prefix="blossom-") as folder:  # a short name, as those of sockets are limited
        # Its ports would be chosen before the kernel listens there, and another program could take them.
        sockets = Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"})
        client = nbclient.NotebookClient(
            page,
            config=sockets,
            timeout=int(LIMIT_S),
            startup_timeout=int(LIMIT_S),
            resources={"metadata": {"path": tmp_path}},
        )
        client.execute(env=dict(os.environ))
    bar, batch = page.cells[0].outputs
    assert '<progress max="3" value="3"></progress> 2 of 3, <b>1 failed</b>' in bar["data"]["text/html"]
    assert batch["data"]["text/html"].count("<img") == 2

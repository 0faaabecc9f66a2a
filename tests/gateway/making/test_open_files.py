"""If few files may be open, fewer pictures are made at once, and each paid one is delivered."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path

import orjson
import pytest

from blossom_async.testing import Ledger
from tests.gateway.making.test_paying_kills import process

PICTURES = 150


@pytest.mark.campaign
async def test_all_that_is_paid_is_delivered(tmp_path: Path) -> None:
    """A batch of a hundred at once, with the gateway in its process, where 128 files may be open."""
    ledger, out, prompts = (tmp_path / name for name in ("charges.jsonl", "urls.jsonl", "prompts.txt"))
    prompts.write_text("".join(f"a fox {number}\n" for number in range(PICTURES)))
    service = ("-m", "blossom_async.testing", "openai", "--ledger", str(ledger))

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    async with process(*service) as provider:
        settings = {
            "BLOSSOM_PROVIDERS": "openai",
            "BLOSSOM_OPENAI_URL": provider.base_url,
            "BLOSSOM_OPENAI_MODEL": "flux.1-schnell",
            "BLOSSOM_PROVIDER_AT_ONCE": "100",
        }
        options = ("--width", "64", "--height", "64", "--max-concurrency", "100", "--out", str(out))
        batch = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "blossom_async.cli", "batch", str(prompts), *options,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **settings}, preexec_fn=few,
        )  # fmt: skip
        _, told = await batch.communicate()
    assert batch.returncode == 0, told.decode()
    made = [orjson.loads(line)["url"] for line in out.read_bytes().splitlines()]
    assert len(set(made)) == len(Ledger.read(ledger).charges) == PICTURES

"""Clients that people use instead of OpenAI's own, with default settings: each pays once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from blossom_async.testing.pictures import draw
from tests.conftest import KEY
from tests.gateway.calls.test_repeats import MODEL, paid_gateway

pytestmark = pytest.mark.campaign  # they are downloaded

UV = shutil.which("uv") or shutil.which(Path(__file__).parents[3] / ".uv" / "bin" / "uv")
NPM = shutil.which("npm")

LITELLM = f"""
import os, litellm
litellm.image_generation(
    model="openai/{MODEL}", prompt="a fox", size="1024x1024",
    api_base=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"],
)
"""
LANGCHAIN = """
from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper
DallEAPIWrapper(model="flux.1-schnell", size="1024x1024").run("a fox")  # one that is answered with URLs
"""
LLAMAINDEX = """
from llama_index.tools.openai.image_generation.base import OpenAIImageGenerationToolSpec
spec = OpenAIImageGenerationToolSpec()
assert spec.image_generation("a fox").startswith("http")  # with a model of its own list, and style="vivid"
"""
LITELLM_EDIT = f"""
import os, litellm
answer = litellm.image_edit(
    model="openai/{MODEL}", image=open("photo.png", "rb"), prompt="a fox", size="1024x1024",
    api_base=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"],
)
assert answer.data[0].b64_json
"""
OPENAI_NODE = f"""
import OpenAI from "openai";
await new OpenAI().images.generate({{ model: "{MODEL}", prompt: "a fox", size: "1024x1024" }});
"""
AI_SDK = f"""
import * as ai from "ai";
import {{ createOpenAI }} from "@ai-sdk/openai";
const openai = createOpenAI({{ baseURL: process.env.OPENAI_BASE_URL, apiKey: process.env.OPENAI_API_KEY }});
const generate = ai.generateImage ?? ai.experimental_generateImage;
await generate({{ model: openai.image("{MODEL}"), prompt: "a fox", size: "1024x1024" }});
"""
AI_SDK_EDIT = f"""
import {{ readFileSync }} from "node:fs";
import * as ai from "ai";
import {{ createOpenAI }} from "@ai-sdk/openai";
const openai = createOpenAI({{ baseURL: process.env.OPENAI_BASE_URL, apiKey: process.env.OPENAI_API_KEY }});
const prompt = {{ text: "a fox", images: [readFileSync("photo.png")] }};
await ai.generateImage({{ model: openai.image("{MODEL}"), prompt, size: "1024x1024" }});
"""


async def ran(*command: str, cwd: Path | str = ".", **env: str) -> tuple[int, str]:
    """Exit status and output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode(errors="replace")


def written(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


async def python_with(folder: Path, packages: Sequence[str], script: str) -> list[str]:
    """A command that runs the script with these packages. Skips the test where they cannot be had."""
    if UV is None:
        pytest.skip("uv is not installed, which installs the clients")
    status, said = await ran(UV, "venv", "-q", str(folder / "venv"))
    python = str(folder / "venv" / "bin" / "python")
    if status == 0:
        status, said = await ran(UV, "pip", "install", "-q", "--python", python, *packages)
    if status != 0:
        pytest.skip(f"{', '.join(packages)} cannot be installed: {said[-300:]}")
    return [python, written(folder / "script.py", script)]


async def node_with(folder: Path, packages: Sequence[str], script: str) -> list[str]:
    """As ``python_with``."""
    if NPM is None:
        pytest.skip("npm is not installed, which installs the clients")
    path = written(folder / "script.mjs", script)
    status, said = await ran(NPM, "install", "--silent", "--prefix", str(folder), *packages)
    if status != 0:
        pytest.skip(f"{', '.join(packages)} cannot be installed: {said[-300:]}")
    return ["node", path]


@pytest.mark.parametrize(
    ("installed", "packages", "script"),
    [
        (python_with, ["litellm"], LITELLM),
        (python_with, ["langchain-community", "openai"], LANGCHAIN),
        (python_with, ["llama-index-tools-openai-image-generation", "openai"], LLAMAINDEX),
        (node_with, ["openai"], OPENAI_NODE),
        (node_with, ["ai", "@ai-sdk/openai"], AI_SDK),
    ],
    ids=["litellm", "langchain", "llamaindex", "openai-node", "ai-sdk"],
)
async def test_a_client_with_default_settings_pays_once(
    tmp_path: Path, installed: object, packages: Sequence[str], script: str
) -> None:
    """It gets a picture; and of a call that was charged and lost it makes no second one."""
    command = await installed(tmp_path / "client", packages, script)  # type: ignore[operator]
    async with paid_gateway(tmp_path / "data") as (running, service):
        env = {"OPENAI_BASE_URL": f"{running.base_url}/v1", "OPENAI_API_KEY": KEY}
        status, said = await ran(*command, **env)
        assert (status, len(service.ledger.charges)) == (0, 1), said
        service.fail_next("charge_then_reset", times=5)
        status, said = await ran(*command, **env)
        assert (status != 0, len(service.ledger.charges)) == (True, 2), said


@pytest.mark.parametrize(
    ("installed", "packages", "script"),
    [(python_with, ["litellm"], LITELLM_EDIT), (node_with, ["ai", "@ai-sdk/openai"], AI_SDK_EDIT)],
    ids=["litellm", "ai-sdk"],
)
async def test_a_client_edits(
    tmp_path: Path, installed: object, packages: Sequence[str], script: str
) -> None:
    """Its form is understood, and what it sends is what the provider draws from."""
    command = await installed(tmp_path / "client", packages, script)  # type: ignore[operator]
    photo = draw("a lake", width=64, height=64, format="png", transparent=False).data
    (tmp_path / "photo.png").write_bytes(photo)
    async with paid_gateway(tmp_path / "data") as (running, service):
        env = {"OPENAI_BASE_URL": f"{running.base_url}/v1", "OPENAI_API_KEY": KEY}
        status, said = await ran(*command, cwd=tmp_path, **env)
        assert (status, len(service.ledger.charges)) == (0, 1), said
        (given,) = service.requests[-1].body["image"]
    assert given["sha256"] == hashlib.sha256(photo).hexdigest()

"""The path of a real picture: our front door next to LiteLLM's proxy, before the same fake provider.

Run: uv run --extra all python benchmarks/real_picture.py [--litellm FOLDER] [--json FILE]
LiteLLM's proxy is installed with uv into a temporary environment, or into FOLDER, where it is found again.
The fake provider answers at once, with another picture each time: a png of about 757 kB or a jpg of
1024x1024, as base64. Both gateways are one process each and answer with base64; LiteLLM passes the bytes on,
ours verifies them, stores them durably and owns a URL. Rounds are interleaved, eight calls at once, on
whatever processors there are, which the provider and the callers share. The processor time of the server for
a picture is the steadier figure on a machine that does something else, too. At last each takes 64 pictures of
4 MB at once.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import os
import platform
import secrets
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pybase64
from aiohttp import web
from PIL import Image

KEY = "sk-" + secrets.token_urlsafe(24)
AT_ONCE = 8
ROUNDS = 4
EACH = 48  # pictures of a round
LARGE = 64
THEIRS = "as LiteLLM's proxy gives it"  # which refuses these options for a model it does not know
KINDS = {"png": (1024, 1024), "jpg": (1024, 1024), "large": (1280, 1088)}
CONFIG = """
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
    model_info: {{mode: image_generation}}
general_settings: {{master_key: "{key}"}}
litellm_settings: {{telemetry: false}}
"""


def pictures() -> dict[str, bytes]:
    """A painted scene with the grain of a model's pictures as png and jpg, and one of noise of 4 MB."""
    from blossom_async.scenery import paint

    pixels = paint("a forest lake at dawn", width=1024, height=1024, seed=3)
    noise = np.random.default_rng(1).integers(0, 256, (1088, 1280, 3), np.uint8)
    files = {}
    for kind, shown, file_format in (
        ("png", pixels, "PNG"),
        ("jpg", pixels, "JPEG"),
        ("large", noise, "PNG"),
    ):
        out = io.BytesIO()
        Image.fromarray(shown).save(out, file_format, **({"quality": 90} if file_format == "JPEG" else {}))
        files[kind] = out.getvalue()
    return files


def made_unique(data: bytes, number: int) -> bytes:
    """Another file of the same pixels: no provider sends the same bytes for two prompts."""
    said = f"picture {number}".encode()
    if data.startswith(b"\x89PNG"):
        body = b"tEXtComment\0" + said
        return (
            data[:33]
            + struct.pack(">I", len(body) - 4)
            + body
            + struct.pack(">I", zlib.crc32(body))
            + data[33:]
        )
    return data[:2] + struct.pack(">BBH", 0xFF, 0xFE, len(said) + 2) + said + data[2:]


def serve_provider(port: int) -> None:
    """Answers every prompt at once; its first word says with what."""
    files, numbers = pictures(), itertools.count()

    async def generate(request: web.Request) -> web.Response:
        kind = (await request.json())["prompt"].split()[0]
        text = pybase64.b64encode(made_unique(files[kind], next(numbers)))
        body = b'{"created":1,"data":[{"b64_json":"' + text + b'"}]}'
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/images/generations", generate)
    app.router.add_get("/v1/models", lambda _: web.json_response({"data": [{"id": "bench"}]}))  # type: ignore[arg-type]
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


def serve_gateway(arguments: list[str]) -> None:
    """`blossom serve`, which also says how late its event loop was."""
    from blossom_async.cli import main
    from blossom_async.gateway import server

    create_app, late = server.create_app, [0.0]

    async def watched(_: web.Application) -> AsyncIterator[None]:
        async def watch() -> None:
            loop = asyncio.get_running_loop()
            while True:
                due = loop.time() + 0.005
                await asyncio.sleep(0.005)
                late.append(loop.time() - due)

        watching = asyncio.create_task(watch())
        yield
        watching.cancel()

    async def told(_: web.Request) -> web.Response:
        seen = sorted(late)
        late[:] = [0.0]
        return web.json_response({"most_ms": seen[-1] * 1000, "p99_ms": seen[len(seen) * 99 // 100] * 1000})

    def with_watch(*args: Any, **kwargs: Any) -> web.Application:
        app = create_app(*args, **kwargs)
        app.cleanup_ctx.append(watched)
        app.router.add_get("/late", told)
        return app

    server.create_app = with_watch
    sys.argv = ["blossom", "serve", *arguments]
    main()


def litellm_in(folder: Path) -> Path:
    """The command of LiteLLM's proxy, which is installed there unless it is there."""
    command = folder / "bin" / "litellm"
    if not command.exists():
        uv = [sys.executable, "-m", "uv"] if not which("uv") else ["uv"]
        subprocess.run([*uv, "venv", "-q", "--python", sys.executable, folder], check=True)
        subprocess.run(
            [*uv, "pip", "install", "-q", "--python", folder / "bin" / "python", "litellm[proxy]"], check=True
        )
    return command


def which(name: str) -> bool:
    return any((Path(folder) / name).exists() for folder in os.environ["PATH"].split(os.pathsep))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def server(command: list[str], port: int, ready: str, log: Path, **env: str) -> Iterator[int]:
    """A process while the block runs, from when ``ready`` answers; its number."""
    with log.open("wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **env})
    try:
        for _ in range(1200):
            asked = urllib.request.Request(
                f"http://127.0.0.1:{port}{ready}", headers={"Authorization": f"Bearer {KEY}"}
            )
            with suppress(OSError), urllib.request.urlopen(asked, timeout=5):  # noqa: S310 - on loopback
                break
            if running.poll() is not None:
                sys.exit(f"{command[0]} ended: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield running.pid
    finally:
        running.terminate()
        running.wait(40)


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """The most memory that a process has held."""
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 1024


async def load(port: int, kind: str, count: int, at_once: int, answer: str = "b64_json") -> list[float]:
    """Milliseconds of each of so many calls."""
    width, height = KINDS[kind]
    body = {"model": "bench", "size": f"{width}x{height}"}
    if answer != THEIRS:
        body |= {"response_format": answer, "output_format": "jpeg" if kind == "jpg" else "png"}
    numbers, took = iter(range(count)), []
    headers = {"Authorization": f"Bearer {KEY}"}
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers, timeout=timeout) as session:

        async def caller() -> None:
            for _ in numbers:
                asked = {**body, "prompt": f"{kind} {secrets.token_hex(8)}"}
                began = time.perf_counter()
                async with session.post("/v1/images/generations", json=asked) as response:
                    got = await response.read()
                took.append((time.perf_counter() - began) * 1000)
                if response.status != 200 or (answer != "url" and len(got) < 50_000):
                    sys.exit(f"port {port} answered {response.status}: {got[:300]!r}")

        await asyncio.gather(*(caller() for _ in range(at_once)))
    return took


def round_of(
    port: int, pid: int, kind: str, count: int, at_once: int, answer: str = "b64_json"
) -> dict[str, float]:
    used, began = cpu_s(pid), time.perf_counter()
    took = sorted(asyncio.run(load(port, kind, count, at_once, answer)))
    elapsed = time.perf_counter() - began
    return {
        "pictures_per_s": count / elapsed,
        "cpu_ms_per_picture": (cpu_s(pid) - used) / count * 1000,
        "p50_ms": statistics.median(took),
        "p99_ms": took[len(took) * 99 // 100],
    }


def lateness(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/late", timeout=5) as answer:
        told: dict[str, float] = json.load(answer)
        return told


def measured(litellm: Path, folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = {}
    with ExitStack() as opened:
        port = free_port()
        provider = [sys.executable, __file__, "--as", "provider", str(port)]
        opened.enter_context(server(provider, port, "/v1/models", folder / "provider.log"))
        ours, theirs = free_port(), free_port()
        (folder / "config.yaml").write_text(CONFIG.format(port=port, key=KEY))
        command = [
            str(litellm),
            "--config",
            str(folder / "config.yaml"),
            "--host",
            "127.0.0.1",
            "--port",
            str(theirs),
        ]
        their_pid = opened.enter_context(
            server(command, theirs, "/v1/models", folder / "litellm.log", LITELLM_LOCAL_MODEL_COST_MAP="True")
        )
        our_pid = opened.enter_context(
            server(
                [
                    sys.executable,
                    __file__,
                    "--as",
                    "gateway",
                    "--port",
                    str(ours),
                    "--data-dir",
                    str(folder / "data"),
                ],
                ours,
                "/readyz",
                folder / "gateway.log",
                BLOSSOM_API_KEYS=KEY,
                BLOSSOM_PROVIDERS="openai",
                BLOSSOM_OPENAI_URL=f"http://127.0.0.1:{port}/v1",
                BLOSSOM_OPENAI_MODEL="bench",
                BLOSSOM_PROVIDER_AT_ONCE="64",
            )
        )
        runs = {
            **{f"LiteLLM, {kind}": (theirs, their_pid, kind, THEIRS) for kind in ("png", "jpg")},
            **{f"blossom, {kind}": (ours, our_pid, kind, "b64_json") for kind in ("png", "jpg")},
            "blossom, png as a URL": (ours, our_pid, "png", "url"),
        }
        for at, pid, kind, answer in runs.values():  # warm
            round_of(at, pid, kind, 16, AT_ONCE, answer)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for turn in range(ROUNDS):
            for name in list(runs) if turn % 2 == 0 else list(reversed(runs)):
                at, pid, kind, answer = runs[name]
                rounds[name].append(round_of(at, pid, kind, EACH, AT_ONCE, answer))
        report["rounds"] = rounds
        lateness(ours)
        report["sixteen_at_once"] = round_of(ours, our_pid, "png", EACH, 16)
        report["loop"] = lateness(ours)
        report["large"] = {}
        for name, at, pid, answer in (
            ("LiteLLM", theirs, their_pid, THEIRS),
            ("blossom", ours, our_pid, "b64_json"),
        ):
            before = peak_mb(pid)
            found = round_of(at, pid, "large", LARGE, LARGE, answer)
            report["large"][name] = {**found, "peak_mb_before": before, "peak_mb": peak_mb(pid)}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="where to write the raw figures")
    parser.add_argument("--litellm", type=Path, help="environment with LiteLLM's proxy, made if missing")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = wanted.litellm or folder / "litellm"
        try:
            litellm = litellm_in(environment)
        except (OSError, subprocess.CalledProcessError) as exc:
            sys.exit(f"LiteLLM's proxy cannot be installed here, so there is nothing to compare with: {exc}")
        python = [
            environment / "bin" / "python",
            "-c",
            "import importlib.metadata as m; print(m.version('litellm'))",
        ]
        theirs = subprocess.run(python, capture_output=True, text=True, check=True).stdout.strip()
        report = {
            "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.python_version()}",
            "versions": {
                "litellm": theirs,
                **{each: version(each) for each in ("aiohttp", "pillow", "isal")},
            },
            "load": f"{AT_ONCE} at once, {ROUNDS} rounds of {EACH} pictures",
            **measured(litellm, folder),
        }
    print(f"{'':<24}{'best /s':>9}{'median':>9}{'p50 ms':>9}{'p99 ms':>9}{'p99/p50':>9}{'cpu ms':>9}")
    for run, turns in report["rounds"].items():
        rate = [one["pictures_per_s"] for one in turns]
        best = max(turns, key=lambda one: one["pictures_per_s"])
        print(
            f"{run:<24}{max(rate):>9.1f}{statistics.median(rate):>9.1f}{best['p50_ms']:>9.0f}{best['p99_ms']:>9.0f}"
            f"{best['p99_ms'] / best['p50_ms']:>9.1f}{min(one['cpu_ms_per_picture'] for one in turns):>9.1f}"
        )
    loop = report["loop"]
    print(f"loop, 16 under way: {loop['most_ms']:.1f} ms late at most, {loop['p99_ms']:.1f} at p99")
    for run, found in report["large"].items():
        print(
            f"{run}, {LARGE} of 4 MB at once: peak {found['peak_mb']:.0f} MB "
            f"({found['peak_mb_before']:.0f} before)"
        )
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:3] == ["--as", "provider"]:
        serve_provider(int(sys.argv[3]))
    elif sys.argv[1:3] == ["--as", "gateway"]:
        serve_gateway(sys.argv[3:])
    else:
        main()

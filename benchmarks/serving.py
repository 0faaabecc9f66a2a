"""The gateway under load: pictures, hot and cold, next to nginx and bare aiohttp; POST next to a bare route.

Run: uv run --extra all python benchmarks/serving.py [--json benchmarks/results/serving.json]
Needs nginx, wrk and taskset (Debian: nginx-light, wrk, util-linux) and two processors: the server that is
measured runs on the first, wrk on the second. The gateway is `blossom serve` as a user starts it, with
uvloop; for the POST its renderer gives one constant picture, so that not the drawing is measured. The bare
routes are aiohttp's with uvloop: one reads JSON and answers JSON, the other answers bytes like those of a
picture with as many headers as the gateway. Cold is one of 5,000 pictures in random order, ten times what the
gateway keeps in memory; nginx and the gateway find them in the page cache. Rounds are interleaved, and the
best of each is compared: a disturbance only ever makes a round slower. The processor time of the server for a
request is the steadier figure on a machine that does something else, too.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import pwd
import re
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

KEY = secrets.token_urlsafe(24)
PICTURE_BYTES = 120_000
COLD = 5000  # pictures
CONNECTIONS = 32
ROUNDS = 5
SECONDS = 4
ASKED = b'{"prompt": "a lake in the mountains", "width": 64, "height": 64}'

NGINX = """
user {user}; worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; open_file_cache max=100;
    types {{ image/png png; }}
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""
COLD_PATHS = """
local paths = {{}}
for path in io.lines("{paths}") do paths[#paths + 1] = path end
request = function() return wrk.format("GET", paths[math.random(#paths)]) end
"""
POST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
wrk.body = '{body}'
"""


class Run(NamedTuple):
    """What wrk asks, and of which process."""

    url: str
    pid: int
    script: Path | None = None
    least_bytes: int = 0


def serve_with_constant_picture(arguments: list[str]) -> None:
    """`blossom serve`, drawing nothing."""
    import numpy as np

    from blossom_async.cli import main
    from blossom_async.gateway.providers import Artwork
    from blossom_async.gateway.providers.offline import Offline

    artwork = Artwork(pixels=np.zeros((64, 64, 3), np.uint8), model="constant", notes="constant")

    async def generate(*_: object, **__: object) -> Artwork:
        return artwork

    Offline.generate = generate  # type: ignore[method-assign, assignment]
    sys.argv = ["blossom", "serve", *arguments]
    main()


def serve_bare_route(port: int) -> None:
    """The least that takes JSON and answers JSON of the same size."""
    import uvloop
    from aiohttp import web

    async def create(request: web.Request) -> web.Response:
        asked = await request.json()
        return web.json_response({"prompt": asked["prompt"], "filler": "x" * 600}, status=201)

    data = secrets.token_bytes(PICTURE_BYTES)
    headers = {f"X-Header-{number}": "x" * 20 for number in range(12)}

    async def picture(_: web.Request) -> web.Response:
        return web.Response(body=data, headers=headers)

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/images", create)
        app.router.add_get("/image", picture)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()

    uvloop.run(run())


async def store(data_dir: Path, data: bytes, tracking_ids: Sequence[str | None]) -> list[str]:
    """The ids of public pictures with these bytes, as a gateway on this folder would have stored them."""
    from blossom_async.gateway.making.generation import new_id
    from blossom_async.gateway.storage.folder import LocalBlobs
    from blossom_async.gateway.storage.records import ImageRecord, Records, StoredFile
    from blossom_async.models import ImageRequest

    records, blobs = Records(data_dir / "records.sqlite"), LocalBlobs(data_dir / "images")
    await blobs.open()
    await records.open()
    file = StoredFile(format="png", sha256=hashlib.sha256(data).hexdigest(), file_size=len(data))

    async def one(tracking_id: str | None) -> str:
        image_id = new_id()
        await blobs.put(image_id, "png", data)
        record = ImageRecord(
            id=image_id, tenant="main", width=1024, height=1024,
            request=ImageRequest("x", seed=1, tracking_id=tracking_id), files=(file,), provider="offline",
            model="m", seed=1, cost=1, created_at=datetime.now(UTC), expires_at=None,
        )  # fmt: skip
        await records.add(record)
        return image_id

    ids = await asyncio.gather(*map(one, tracking_ids))
    await records.close()
    await blobs.close()
    return ids


def tool(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        sys.exit(f"{name} is not installed; see the top of {__file__}")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def server(command: list[str], port: int, log: Path, **env: str) -> Iterator[int]:
    """A process on the first processor while the block runs, from when it takes connections; its number."""
    with log.open("wb") as out:
        running = subprocess.Popen(
            [tool("taskset"), "-c", "0", *command], stdout=out, stderr=out, env={**os.environ, **env}
        )
    try:
        for _ in range(300):
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            if running.poll() is not None:
                sys.exit(f"{command[0]} ended: {log.read_text()}")
            time.sleep(0.05)
        yield running.pid
    finally:
        running.terminate()
        running.wait(40)


def gateway(folder: Path, *, constant: bool) -> tuple[list[str], int, dict[str, str]]:
    port = free_port()
    options = ["--port", str(port), "--data-dir", str(folder)]
    start = [__file__, "--as", "constant"] if constant else ["-m", "blossom_async.cli", "serve"]
    return [sys.executable, *start, *options], port, {"BLOSSOM_API_KEYS": KEY}


def cpu_s(pid: int) -> float:
    """Processor time that a process and its children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_s(int(child)) for child in children)


def wrk(run: Run, seconds: int) -> dict[str, float]:
    """What one round measured. Any answer that is no 2xx, or too short, ends the benchmark."""
    command = [
        tool("taskset"),
        "-c",
        "1",
        tool("wrk"),
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "--latency",
    ]
    command += ["--timeout", "10s", run.url]
    command += ["-s", str(run.script)] if run.script is not None else []
    used = cpu_s(run.pid)
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = cpu_s(run.pid) - used
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"{run.url}: {said}")
    late, unit = re.findall(r"99%\s+([\d.]+)(us|ms|s)", said)[0]
    count, read, size = re.findall(r"(\d+) requests in [\d.]+s, ([\d.]+)(KB|MB|GB) read", said)[0]
    received = float(read) * {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}[size]
    assert received / int(count) > 0.98 * run.least_bytes, f"{run.url}: too few bytes: {said}"
    return {
        "requests_per_s": float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0]),
        "cpu_us_per_request": used / int(count) * 1e6,
        "p99_ms": float(late) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit],
    }


def measured(count: int, seconds: int) -> dict[str, list[dict[str, float]]]:
    data = secrets.token_bytes(PICTURE_BYTES)
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        folder = Path(name)
        folder.chmod(0o755)
        plain, tracked, *cold = asyncio.run(store(folder / "data", data, [None, "campaign", *[None] * COLD]))
        (folder / "gateway.txt").write_text("".join(f"/image/{one}\n" for one in cold))
        (folder / "nginx.txt").write_text(
            "".join(f"/data/images/{one[:2].lower()}/{one}.png\n" for one in cold)
        )
        scripts = {name: folder / f"{name}.lua" for name in ("gateway", "nginx")}
        for name, script in scripts.items():
            script.write_text(COLD_PATHS.format(paths=folder / f"{name}.txt"))
        (folder / "picture.png").write_bytes(data)
        (folder / "post.lua").write_text(POST.format(key=KEY, body=ASKED.decode()))
        command, port, env = gateway(folder / "data", constant=False)
        pid = opened.enter_context(server(command, port, folder / "gateway.log", **env))
        command, post_port, env = gateway(folder / "constant", constant=True)
        post_pid = opened.enter_context(server(command, post_port, folder / "constant.log", **env))
        bare_port, nginx_port = free_port(), free_port()
        command = [sys.executable, __file__, "--as", "bare", str(bare_port)]
        bare_pid = opened.enter_context(server(command, bare_port, folder / "bare.log"))
        user = pwd.getpwuid(os.geteuid()).pw_name
        (folder / "nginx.conf").write_text(NGINX.format(user=user, folder=folder, port=nginx_port))
        command = [tool("nginx"), "-e", str(folder / "start.log"), "-c", str(folder / "nginx.conf")]
        nginx_pid = opened.enter_context(server(command, nginx_port, folder / "nginx.log"))

        post = folder / "post.lua"
        pictures, made = f"http://127.0.0.1:{port}/image", "/v1/images"
        runs = {
            "nginx, a file": Run(
                f"http://127.0.0.1:{nginx_port}/picture.png", nginx_pid, least_bytes=PICTURE_BYTES
            ),
            "gateway, a picture": Run(f"{pictures}/{plain}", pid, least_bytes=PICTURE_BYTES),
            "aiohttp, the same bytes": Run(
                f"http://127.0.0.1:{bare_port}/image", bare_pid, least_bytes=PICTURE_BYTES
            ),
            "nginx, 5,000 files": Run(
                f"http://127.0.0.1:{nginx_port}/", nginx_pid, scripts["nginx"], PICTURE_BYTES
            ),
            "gateway, 5,000 pictures": Run(
                f"http://127.0.0.1:{port}/", pid, scripts["gateway"], PICTURE_BYTES
            ),
            "gateway, a tracked picture": Run(f"{pictures}/{tracked}", pid, least_bytes=PICTURE_BYTES),
            "aiohttp, bare JSON route": Run(f"http://127.0.0.1:{bare_port}{made}", bare_pid, post),
            "gateway, POST /v1/images": Run(f"http://127.0.0.1:{post_port}{made}", post_pid, post),
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for path in 2 * (folder / "gateway.txt").read_text().split():  # then records and heads are known
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                answer.read()
        for turn in range(count):
            order = list(runs) if turn % 2 == 0 else list(reversed(runs))
            for name in order:
                rounds[name].append(wrk(runs[name], seconds))
        return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="where to write the raw figures")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    wanted = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        sys.exit("there is one processor only; server and wrk need one each")
    rounds = measured(wanted.rounds, wanted.seconds)
    best = {name: max(one["requests_per_s"] for one in rounds[name]) for name in rounds}
    cpu = {name: min(one["cpu_us_per_request"] for one in rounds[name]) for name in rounds}
    pairs = {
        "picture / nginx": ("gateway, a picture", "nginx, a file"),
        "picture / bare aiohttp": ("gateway, a picture", "aiohttp, the same bytes"),
        "bare aiohttp / nginx": ("aiohttp, the same bytes", "nginx, a file"),
        "cold picture / nginx": ("gateway, 5,000 pictures", "nginx, 5,000 files"),
        "tracked / untracked": ("gateway, a tracked picture", "gateway, a picture"),
        "POST / bare route": ("gateway, POST /v1/images", "aiohttp, bare JSON route"),
    }
    ratios = {
        name: {"requests_per_s": best[one] / best[other], "cpu": cpu[other] / cpu[one]}
        for name, (one, other) in pairs.items()
    }
    nginx = subprocess.run([tool("nginx"), "-v"], capture_output=True, text=True, check=True).stderr
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "load_average": os.getloadavg(),
        "versions": {
            **{name: version(name) for name in ("aiohttp", "uvloop")},
            "nginx": nginx.strip().rpartition("/")[2],
        },
        "load": f"{CONNECTIONS} connections, {PICTURE_BYTES} bytes, "
        f"{wanted.rounds} rounds of {wanted.seconds} s",
        "ratios": ratios,
        "rounds": rounds,
    }
    print(f"{'':<30}{'best /s':>10}{'median':>10}{'p99 ms':>10}{'cpu us':>10}")
    for name, turns in rounds.items():
        median = statistics.median(one["requests_per_s"] for one in turns)
        late = min(one["p99_ms"] for one in turns)
        print(f"{name:<30}{best[name]:>10.0f}{median:>10.0f}{late:>10.2f}{cpu[name]:>10.0f}")
    for name, ratio in ratios.items():
        print(f"{name:<30}{ratio['requests_per_s']:>10.2f} by rate{ratio['cpu']:>10.2f} by processor time")
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:3] == ["--as", "constant"]:
        serve_with_constant_picture(sys.argv[3:])
    elif sys.argv[1:3] == ["--as", "bare"]:
        serve_bare_route(int(sys.argv[3]))
    else:
        main()

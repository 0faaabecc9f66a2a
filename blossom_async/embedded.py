"""The gateway inside this process: the only library module that imports ``gateway``."""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import os
import secrets
import socket
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs
import orjson

from blossom_async.errors import ConfigurationError
from blossom_async.locks import lock, unlock

if TYPE_CHECKING:
    from blossom_async.gateway.settings import Settings

__all__ = ["Gateway", "announced", "announcement", "claimed", "found_or_started", "own_key", "running"]

_FILE = "gateway.json"
_LOCK = "starting.lock"
_HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=5.0)


@attrs.frozen
class Gateway:
    """Where a gateway listens, its API key, and what its URLs start with.

    ``own`` is False if another process runs it.
    """

    base_url: str
    api_key: str = attrs.field(repr=False)
    public_url: str
    own: bool


async def found_or_started(session: aiohttp.ClientSession, resources: AsyncExitStack) -> Gateway:
    """A gateway for this process: the one that already serves the data folder, or a new one in this loop.

    A new one listens on loopback, at the usual port or, with a warning, at a free one if that is taken. It
    stops when ``resources`` are closed; its pictures stay in the data folder, and ``blossom serve`` serves
    their URLs again. Raises ``ConfigurationError`` if the extra is not installed or the data folder cannot be
    used.
    """
    try:  # in a thread, because the first import takes most of a second
        await asyncio.to_thread(importlib.import_module, "blossom_async.gateway.app")
    except ImportError as exc:
        raise ConfigurationError(
            f"the embedded gateway is not installed ({exc}): pip install '.[gateway]' in the checkout, "
            "or give the address of another gateway as base_url or BLOSSOM_BASE_URL"
        ) from exc
    from blossom_async.gateway.settings import load

    settings = load()
    async with claimed(settings.data_dir):
        gateway = await running(settings.data_dir, session)
        return gateway or await _in_its_own_task(_started(settings), resources)


async def _in_its_own_task(
    context: AbstractAsyncContextManager[Gateway], resources: AsyncExitStack
) -> Gateway:
    """The value of the context. One task enters it, and leaves it when ``resources`` are closed, as task
    groups demand.

    ``asyncio.run()`` cancels the task at its end, and so stops a gateway that was left open.
    """
    loop = asyncio.get_running_loop()
    entered: asyncio.Future[Gateway] = loop.create_future()
    entered.add_done_callback(lambda future: future.cancelled() or future.exception())
    leave = asyncio.Event()

    async def hold() -> None:
        try:
            async with context as gateway:
                entered.set_result(gateway)
                with suppress(asyncio.CancelledError):
                    await leave.wait()
        except BaseException as exc:
            if entered.done():
                raise
            entered.set_exception(exc)

    task = loop.create_task(hold(), name="blossom-gateway")

    async def stop() -> None:
        leave.set()
        if not loop.is_closed():
            await task

    resources.push_async_callback(stop)
    return await asyncio.shield(entered)


@asynccontextmanager
async def _started(settings: Settings) -> AsyncIterator[Gateway]:
    from blossom_async.gateway.server import serving

    sock = _loopback_socket(settings.port)
    keys = (own_key(settings.data_dir), *settings.api_keys)
    local = attrs.evolve(settings, host="127.0.0.1", api_keys=keys)
    instance = secrets.token_hex(8)
    async with serving(local, sock, instance=instance) as public_url:
        with announced(settings.data_dir, sock, keys[0], instance) as base_url:
            yield Gateway(base_url, keys[0], public_url, own=True)


@contextmanager
def announced(data_dir: Path, sock: socket.socket, api_key: str, instance: str) -> Iterator[str]:
    """Tells the owner's other processes where the gateway of this data folder listens.

    Writes a file that only the owner can read and removes it on leaving. Yields the address on this machine.
    """
    base_url = _address(sock)
    path = data_dir / _FILE
    told = {"base_url": base_url, "api_key": api_key, "instance": instance, "pid": os.getpid()}
    try:
        _write_private(path, orjson.dumps(told))
    except ConfigurationError as exc:  # it can still serve
        warnings.warn(f"other processes will not find this gateway: {exc}", stacklevel=2)
    try:
        yield base_url
    finally:
        if announcement(data_dir).get("instance") == instance:
            path.unlink(missing_ok=True)


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:  # listens on every address, including loopback
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def own_key(data_dir: Path) -> str:
    """The gateway's own API key, created on first use in a file that only its owner can read."""
    path = data_dir / "api_key"
    try:
        key = path.read_text("ascii").strip()
    except FileNotFoundError:
        key = ""
    except (OSError, ValueError) as exc:
        raise ConfigurationError(
            f"the gateway's key {path} cannot be read ({exc}); remove it for a new one"
        ) from exc
    if not key:
        key = secrets.token_urlsafe(32)
        _write_private(path, key.encode())
    return key


async def running(data_dir: Path, session: aiohttp.ClientSession) -> Gateway | None:
    """The gateway that serves this data folder now: the announced one, if it answers."""
    told = announcement(data_dir)
    base_url, key = told.get("base_url"), told.get("api_key")
    if base_url is None or key is None:
        return None
    try:
        async with session.get(
            f"{base_url}/healthz", timeout=_HEALTH_TIMEOUT, raise_for_status=False
        ) as response:
            health = orjson.loads(await response.read())
    except (aiohttp.ClientError, OSError, ValueError):  # the file holds no address, or nobody answers there
        return None
    if not isinstance(health, dict) or health.get("instance") != told.get("instance"):
        return None
    return Gateway(base_url, key, str(health.get("public_url", base_url)), own=False)


def announcement(data_dir: Path) -> dict[str, Any]:
    """The announcement of a data folder's gateway: base_url, api_key, instance and pid; empty if none."""
    try:
        told = orjson.loads((data_dir / _FILE).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return told if isinstance(told, dict) else {}


@asynccontextmanager
async def claimed(data_dir: Path) -> AsyncIterator[None]:
    """Prevents two processes from starting a gateway on one data folder at the same time."""
    try:
        descriptor = await asyncio.to_thread(_lock_file, data_dir)
    except OSError as exc:
        raise ConfigurationError(
            f"data folder {data_dir}: {exc.strerror}; choose another with BLOSSOM_DATA_DIR"
        ) from exc
    try:
        while True:
            try:
                lock(descriptor, data_dir / _LOCK)
                break
            except BlockingIOError:
                await asyncio.sleep(0.02)
        yield
    finally:
        unlock(descriptor)


def _lock_file(data_dir: Path) -> int:
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _loopback_socket(port: int) -> socket.socket:
    from blossom_async.gateway.server import listen

    try:
        return listen("127.0.0.1", port)
    except ConfigurationError:
        sock = listen("127.0.0.1", 0)
        warnings.warn(
            f"port {port} is taken: the embedded gateway listens on 127.0.0.1 port {sock.getsockname()[1]}",
            stacklevel=2,
        )
        return sock


def _write_private(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(
            f"{path} cannot be written ({exc.strerror}); make room, or choose another BLOSSOM_DATA_DIR"
        ) from exc

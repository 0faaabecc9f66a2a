"""``BlossomClient``: opens, owns and closes everything a call needs."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Collection
from contextlib import AsyncExitStack, suppress
from functools import partial
from hashlib import sha256
from types import TracebackType
from typing import Any, Self, cast

import aiohttp

from blossom_async import embedded
from blossom_async.batch import Gate, RetryPolicy
from blossom_async.batch.gate import RateLimitLike, rate_limits
from blossom_async.blocking import BlockingClient, BlockingImages, LoopThread
from blossom_async.cdn import Cdn
from blossom_async.images import Images
from blossom_async.transport import Transport, http_session, http_url
from blossom_async.warmup import warmup_hosts

__all__ = ["BlossomClient"]

_RETRY = RetryPolicy()


class BlossomClient:
    """A client of one gateway, for one event loop or for none.

    ``async with BlossomClient() as client`` gives coroutines, ``with BlossomClient() as client`` the same
    methods blocking. Without a ``with`` the client opens at the first call: coroutines inside a running
    event loop, blocking outside of one; close it with ``aclose()`` or ``close()``.

    ``base_url`` is the gateway's address, or ``"embedded"`` for one inside this process. Without it
    ``BLOSSOM_BASE_URL`` counts, and without that the embedded gateway is used, with a warning that says so.
    ``api_key`` is by default ``BLOSSOM_API_KEY``. ``cdn_prefix`` is what URLs begin with under
    ``use_custom_cdn``. At most ``max_concurrency`` calls are under way at once, and no window of a
    ``rate_limit`` holds more starts than it states ("600/min", "10/s", a number per second, a ``RateLimit``,
    or several). ``timeout_s`` is for one attempt, from its start to the last byte. ``retry`` says how often
    and when a call that failed in passing is made again, under the same ``Idempotency-Key``; None: never. A
    ``session`` that is given is used and left open.

    Raises ``ConfigurationError`` for an address that is none and ``ValueError`` for a bad limit.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        cdn_prefix: str | None = None,
        max_concurrency: int = 64,
        rate_limit: RateLimitLike | None = None,
        timeout_s: float = 300.0,
        retry: RetryPolicy | None = _RETRY,
        warmup: str | Collection[str] = "public",
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        if not (isinstance(timeout_s, int | float) and timeout_s > 0):
            raise ValueError(f"timeout_s: {timeout_s!r} cannot be used; allowed: seconds above 0")
        if not isinstance(retry, RetryPolicy | None):
            raise ValueError(
                f"retry: {retry!r} cannot be used; allowed: a RetryPolicy, or None for no retries"
            )
        asked_url = base_url or os.environ.get("BLOSSOM_BASE_URL") or None
        if asked_url not in {None, "embedded"}:
            http_url(str(asked_url), "base_url")
        gate = Gate(*rate_limits(rate_limit))
        self._asked_url = asked_url
        self._asked_key = api_key or os.environ.get("BLOSSOM_API_KEY") or None
        self._connection = _Connection(asked_url, self._asked_key, session, timeout_s, gate)
        self._thread: LoopThread | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._images = Images(
            self._connection.open,
            cdn=Cdn(cdn_prefix),
            max_concurrency=max_concurrency,
            gate=gate,
            retry=retry,
            timeout_s=timeout_s,
            warmup=warmup_hosts(warmup),
        )

    @property
    def image(self) -> Images:
        """The methods: coroutines inside a running event loop, blocking in a ``with`` or outside of one.

        The type is that of the coroutines; ``with BlossomClient() as client`` has the blocking one.
        """
        if self._thread is None and _in_event_loop():
            return self._images
        return cast(Images, BlockingImages(self, self._images, self._loop_thread()))

    @property
    def base_url(self) -> str | None:
        """The gateway's address, None before the client has opened an embedded one."""
        if self._connection.transport is not None:
            return self._connection.transport.base_url
        return None if self._asked_url == "embedded" else self._asked_url

    @property
    def api_key(self) -> str | None:
        """The API key in force, None while there is none."""
        transport = self._connection.transport
        return transport.api_key if transport is not None else self._asked_key

    def __repr__(self) -> str:
        return f"<BlossomClient {self.base_url or 'embedded'}>"

    async def __aenter__(self) -> Self:
        await self._connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes what the client opened: session and embedded gateway. Safe to call twice."""
        await self._connection.aclose()

    def __enter__(self) -> BlockingClient:
        if _in_event_loop():
            raise RuntimeError(
                "`with BlossomClient()` would block the running event loop; use `async with BlossomClient()`"
            )
        try:
            self._loop_thread().call(self._connection.open)
        except BaseException:
            self.close()
            raise
        return cast(BlockingClient, self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """As ``aclose()``, for a client that is used without an event loop."""
        if self._finalizer is not None:
            self._finalizer()
            self._thread = self._finalizer = None

    def _loop_thread(self) -> LoopThread:
        if self._thread is None:
            self._thread = LoopThread()
            self._finalizer = weakref.finalize(self, _end, self._thread, self._connection)
        return self._thread


class _Connection:
    """Session and gateway of a client, opened once and closed once, by a task of their own.

    The task belongs to the event loop of the first call. It closes everything when it is told to, and also
    when ``asyncio.run()`` ends with the client still open.
    """

    def __init__(
        self,
        asked_url: str | None,
        asked_key: str | None,
        session: aiohttp.ClientSession | None,
        timeout_s: float,
        gate: Gate,
    ) -> None:
        self._asked_url = asked_url
        self._asked_key = asked_key
        self._session = session
        self._timeout_s = timeout_s
        self._gate = gate
        self._keeper: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._opened: asyncio.Future[Transport]
        self.transport: Transport | None = None

    async def open(self) -> Transport:
        """The way to the gateway. Raises ``ConfigurationError`` or ``TransportError`` when there is none."""
        loop = asyncio.get_running_loop()
        if self._keeper is not None and self._keeper.get_loop() is not loop:
            raise RuntimeError(
                "this BlossomClient was opened in another event loop that still runs; make one for each loop"
            )
        if self.transport is not None:
            return self.transport
        if self._keeper is None:
            self._opened = loop.create_future()
            self._opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
            self._closing = asyncio.Event()
            self._keeper = loop.create_task(self._keep(), name="blossom-client")
        return await asyncio.shield(self._opened)  # others may wait for it too

    async def aclose(self) -> None:
        """Closes what was opened. Does nothing the second time."""
        if self._keeper is not None:
            self._closing.set()
            await asyncio.shield(self._keeper)

    async def _keep(self) -> None:
        try:
            async with AsyncExitStack() as resources:
                self.transport = await self._connect(resources)
                self._opened.set_result(self.transport)
                with suppress(asyncio.CancelledError):  # the loop ends: so does this, in good order
                    await self._closing.wait()
                self.transport = None
        except asyncio.CancelledError:
            self._opened.cancel()
            raise
        except Exception as exc:
            if self._opened.done():
                raise
            self._opened.set_exception(exc)
        finally:
            self.transport = None
            self._keeper = None

    async def _connect(self, resources: AsyncExitStack) -> Transport:
        session = self._session
        if session is None:
            session = await resources.enter_async_context(http_session())
        if self._asked_url in {None, "embedded"}:
            if self._asked_url is None:
                warnings.warn(
                    "BlossomClient has no base_url: using the gateway of this user's data folder, which runs "
                    "inside this process unless `blossom serve` runs there. Set BLOSSOM_BASE_URL for another "
                    "one, or say base_url='embedded'.",
                    stacklevel=2,
                )
            gateway = await resources.enter_async_context(embedded.found_or_started(session))
            # A key that is given says whose pictures are meant; a gateway of this process has only its own.
            key = gateway.api_key if gateway.own or self._asked_key is None else self._asked_key
            transport = Transport(gateway.base_url, key, session)
            transport.place = f"the data folder with key {sha256(gateway.api_key.encode()).hexdigest()[:12]}"
            if not gateway.own:
                transport.successor = partial(_successor, session, resources)
        else:
            transport = Transport(str(self._asked_url), self._asked_key, session)
            await transport.probe(self._timeout_s)
        transport.on_pause = self._gate.pause
        return transport


async def _successor(session: aiohttp.ClientSession, resources: AsyncExitStack) -> tuple[str, str]:
    """The process whose gateway this client used has ended: find another one, or become it."""
    gateway = await resources.enter_async_context(embedded.found_or_started(session))
    return gateway.base_url, gateway.api_key


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _end(thread: LoopThread, connection: _Connection) -> None:
    if sys.is_finalizing():
        return  # the thread has been stopped where it was
    thread.call(connection.aclose)
    if threading.main_thread().is_alive():  # at exit the loop could not end its own thread pool
        thread.end()

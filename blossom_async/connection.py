"""A client's session and gateway, opened once in each event loop that the client is used in."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from hashlib import sha256

import aiohttp
import attrs
from yarl import URL

from blossom_async import embedded
from blossom_async.batch.loops import running_loop
from blossom_async.errors import ConfigurationError, TransportError
from blossom_async.limits import Limits
from blossom_async.proxies import proxy_for
from blossom_async.transport import Transport, http_session

__all__ = ["Connections", "Destination", "in_event_loop", "in_trio"]


_of_the_parent: list[object] = []  # kept, because freeing it would close what the parent still uses


@attrs.frozen
class Destination:
    """The gateway of a client: an address, or None or ``embedded`` for one in this process."""

    base_url: str | None
    api_key: str | None = attrs.field(repr=False)
    session: aiohttp.ClientSession | None
    limits: Limits

    @property
    def embedded(self) -> bool:
        """Whether the gateway is found or started through the data folder."""
        return self.base_url is None or self.base_url == "embedded"

    async def connected(self, resources: AsyncExitStack) -> Transport:
        """A way to the gateway, which lasts as long as the resources. Raises as ``Connections.open``."""
        session = self.session
        if session is None:
            # An embedded gateway is on this machine.
            proxy = None if self.base_url in (None, "embedded") else proxy_for(URL(self.base_url))
            session = await resources.enter_async_context(http_session(proxy=proxy))
        elif session._loop is not asyncio.get_running_loop():
            raise ConfigurationError(
                "the session given to BlossomClient belongs to another event loop; "
                "use the client in that one, or without a session"
            )
        if self.embedded:
            transport = await self._in_the_folder(resources, session)
        else:
            transport = Transport(str(self.base_url), self.api_key, session)
            await transport.probe(self.limits.timeout_s)
        transport.on_quotas = self.limits.gate.heed
        return transport

    async def _in_the_folder(self, resources: AsyncExitStack, session: aiohttp.ClientSession) -> Transport:
        if self.base_url is None:
            warnings.warn(
                "BlossomClient has no base_url: using the gateway of this user's data folder, which runs "
                "inside this process unless `blossom serve` runs there. Set BLOSSOM_BASE_URL for another "
                "one, or say base_url='embedded'.",
                stacklevel=2,
            )
        gateway = await embedded.found_or_started(session, resources)
        # A given key says whose pictures are meant; a gateway of this process accepts only its own key.
        key = gateway.api_key if gateway.own or self.api_key is None else self.api_key
        transport = Transport(gateway.base_url, key, session)
        transport.public_url = gateway.public_url
        transport.place = f"the data folder with key {sha256(gateway.api_key.encode()).hexdigest()[:12]}"
        if not gateway.own:
            transport.successor = partial(_successor, session, resources)
        return transport


async def _successor(session: aiohttp.ClientSession, resources: AsyncExitStack) -> tuple[str, str]:
    """Replaces a gateway whose process has ended: another one that is running, or one of our own."""
    gateway = await embedded.found_or_started(session, resources)
    return gateway.base_url, gateway.api_key


class _Connection:
    """Session and gateway in one event loop.

    An async generator holds them: event loops close those that are dropped, and ``asyncio.run()`` those still
    open at its end.
    """

    def __init__(self, destination: Destination) -> None:
        self.transport: Transport | None = None
        self._destination = destination
        self._opening: asyncio.Task[Transport] | None = None
        self._held: AsyncGenerator[Transport, None] | None = None

    async def open(self) -> Transport:
        if self.transport is not None:
            return self.transport
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="blossom-client")
            self._opening.add_done_callback(lambda opening: opening.cancelled() or opening.exception())
        return await asyncio.shield(self._opening)  # others may wait for it too

    async def aclose(self) -> None:
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._held is not None:
            await self._held.aclose()

    def abandon(self) -> None:
        """As ``aclose``, once the event loop has been closed: then nothing waits any more."""
        if self._held is not None:
            with suppress(StopIteration):
                self._held.aclose().send(None)

    async def _open(self) -> Transport:
        # Weak, so that all of this is freed, and the generator closed, as soon as the client is dropped.
        closed = weakref.WeakMethod(self._closed)
        self._held = _hold(self._destination, closed)
        try:
            self.transport = await anext(self._held)
        except BaseException:
            self._closed()
            raise
        return self.transport

    def _closed(self) -> None:
        self._opening = self._held = self.transport = None


async def _hold(
    destination: Destination, closed: weakref.WeakMethod[Callable[[], None]]
) -> AsyncGenerator[Transport, None]:
    async with AsyncExitStack() as resources:
        try:
            yield await destination.connected(resources)
        finally:
            if (tell := closed()) is not None:
                tell()


class Connections:
    """The connections of a client, one for each event loop it is used in."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._by_loop: dict[asyncio.AbstractEventLoop, _Connection] = {}

    @property
    def transport(self) -> Transport | None:
        """The way to the gateway that is open, if one is."""
        return next(
            (found.transport for found in self._by_loop.values() if found.transport is not None), None
        )

    async def open(self) -> Transport:
        """The way to the gateway from the running event loop, opened if need be.

        Raises ``ConfigurationError`` or ``TransportError`` if there is none.
        """
        loop = running_loop()
        connection = self._by_loop.get(loop)
        if connection is None:
            self.abandon_closed_loops()
            connection = self._by_loop[loop] = _Connection(self._destination)
        if self._destination.embedded and not threading.main_thread().is_alive():
            self._refuse_at_exit(connection.transport)
        return connection.transport or await connection.open()

    @staticmethod
    def _refuse_at_exit(transport: Transport | None) -> None:
        if transport is None or transport.successor is None:  # the gateway is, or would be, in this process
            raise TransportError(
                "the embedded gateway has no threads any more: the program is ending; make the call earlier, "
                "or run the gateway in a process of its own with `blossom serve`"
            )

    async def aclose(self) -> None:
        """Closes what was opened in the running event loop. Does nothing the second time."""
        connection = self._by_loop.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection.aclose()

    def abandon_closed_loops(self) -> None:
        """Lets go of what was opened in event loops that were closed before the client was."""
        for loop in [loop for loop in self._by_loop if loop.is_closed()]:
            self._by_loop.pop(loop).abandon()

    def start_afresh(self) -> None:
        """In a forked process: leaves the parent's connections to the parent."""
        for connection in self._by_loop.values():
            if connection.transport is not None and self._destination.session is None:
                connection.transport.session.detach()
        _of_the_parent.append(self._by_loop)
        self._by_loop = {}

    def let_go(self) -> None:
        """For a client that nobody closes: closes what it can, and warns.

        Where an event loop runs, it closes the connection itself when that is garbage-collected.
        """
        for loop, connection in list(self._by_loop.items()):
            if connection.transport is None:
                continue
            address = connection.transport.base_url
            warnings.warn(
                f"unclosed BlossomClient of {address}; use `async with`, or await client.aclose()",
                ResourceWarning,
                stacklevel=2,
            )
            if not (loop.is_closed() or loop.is_running() or in_event_loop()):
                loop.run_until_complete(connection.aclose())
        self.abandon_closed_loops()


def in_event_loop() -> bool:
    """Whether the calling code runs in an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def in_trio() -> bool:
    """Whether the calling code runs in trio."""
    if "trio" not in sys.modules:
        return False
    sniffio = importlib.import_module("sniffio")  # which trio brings along
    try:
        return bool(sniffio.current_async_library() == "trio")
    except sniffio.AsyncLibraryNotFoundError:
        return False

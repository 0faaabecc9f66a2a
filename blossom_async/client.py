"""``BlossomClient``: opens, owns and closes everything a call needs."""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Collection
from types import TracebackType
from typing import NoReturn, Self, cast

import aiohttp

from blossom_async.batch import RetryPolicy
from blossom_async.batch.gate import RateLimitLike, rate_limits
from blossom_async.blocking import BlockingClient, BlockingImages, LoopThread
from blossom_async.cdn import Cdn
from blossom_async.connection import Connections, Destination, in_event_loop
from blossom_async.errors import ConfigurationError
from blossom_async.gates import GatewayGates
from blossom_async.images import Images
from blossom_async.limits import Limits
from blossom_async.transport import http_url
from blossom_async.warmup import warmup_hosts

__all__ = ["BlossomClient"]

_RETRY = RetryPolicy()


class BlossomClient:
    """A client of one gateway, for code in event loops and for code without one.

    ``async with BlossomClient() as client`` gives coroutines, ``with BlossomClient() as client`` the same
    methods blocking. Without a ``with`` the client opens at the first call: coroutines inside a running
    event loop, blocking outside of one; close it with ``aclose()`` or ``close()``. It may be used in one
    event loop after another, and opens anew in each.

    ``base_url`` is the gateway's address, or ``"embedded"`` for a gateway inside this process. By default
    it is ``BLOSSOM_BASE_URL``, and without that the embedded gateway, with a warning that says so.
    ``api_key`` is by default ``BLOSSOM_API_KEY``. ``cdn_prefix`` is what URLs begin with under
    ``use_custom_cdn``.

    At most ``max_concurrency`` calls are under way at once, and no window of a ``rate_limit`` holds more
    starts than it states ("600/min", "10/s", a number per second, a ``RateLimit``, or several).
    ``timeout_s`` limits one attempt, from its start to the last byte. ``retry`` says how often and when a
    call that failed temporarily is repeated, under the same ``Idempotency-Key``; None means never.
    ``warmup`` says what ``validate_url`` and ``preload_urls`` may connect to besides this client's own
    hosts: ``public`` addresses, nothing (``own``), or a list of hosts. ``HTTP_PROXY``, ``HTTPS_PROXY`` and
    ``NO_PROXY`` count, but not for those two, nor with a ``session`` of yours: that is used as it is, in its
    own event loop only, and left open.

    Raises ``ConfigurationError`` for an invalid address and ``ValueError`` for a limit that cannot be used.
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
        asked_url = str(base_url or os.environ.get("BLOSSOM_BASE_URL") or "").strip() or None
        if asked_url not in {None, "embedded"}:
            http_url(asked_url, "base_url")
        self._limits = Limits(max_concurrency, rate_limits(rate_limit), retry, timeout_s)
        self._asked_url = asked_url
        self._asked_key = _key(api_key or os.environ.get("BLOSSOM_API_KEY"))
        self._connections = Connections(Destination(asked_url, self._asked_key, session, self._limits))
        self._thread = LoopThread()
        _clients.add(self)
        weakref.finalize(self, _let_go, self._thread, self._connections)
        self._images = Images(
            self._connections.open,
            cdn=Cdn(cdn_prefix),
            limits=self._limits,
            warmup=warmup_hosts(warmup),
        )

    @property
    def image(self) -> Images:
        """The methods: called in a running event loop they give coroutines, elsewhere they block.

        The type is that of the coroutines; ``with BlossomClient() as client`` has the blocking one.
        """
        return cast(Images, BlockingImages(self, self._images, self._thread))

    @property
    def gates(self) -> GatewayGates:
        """The gateway as the place of shared limits: ``SharedGate("paint", "200/s", slots=client.gates)``."""
        return GatewayGates(self._connections.open)

    @property
    def base_url(self) -> str | None:
        """The gateway's address, None before the client has opened an embedded one."""
        if (transport := self._connections.transport) is not None:
            return transport.base_url
        return None if self._asked_url == "embedded" else self._asked_url

    @property
    def api_key(self) -> str | None:
        """The API key in force, None while there is none."""
        transport = self._connections.transport
        return transport.api_key if transport is not None else self._asked_key

    def __repr__(self) -> str:
        return f"<BlossomClient {self.base_url or 'embedded'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a BlossomClient cannot be pickled or copied, for it has connections; allowed: its address and "
            "key; make a client of them in each process"
        )

    async def __aenter__(self) -> Self:
        await self._connections.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes session and embedded gateway of the running event loop. Safe to call twice."""
        await self._connections.aclose()

    def __enter__(self) -> BlockingClient:
        if in_event_loop():
            raise RuntimeError(
                "`with BlossomClient()` would block the running event loop; use `async with BlossomClient()`"
            )
        try:
            self._thread.call(self._connections.open)
        except BaseException:
            self.close()
            raise
        return cast(BlockingClient, self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes what was opened for blocking calls. Safe to call twice."""
        self._thread.end(self._connections.aclose)

    def _start_afresh(self) -> None:
        self._thread.start_afresh()
        self._connections.start_afresh()
        self._limits.renew()


_WRAPPED = re.compile(r"[\"']|Bearer\s|\$\{", re.IGNORECASE)


def _key(given: str | None) -> str | None:
    """An API key as it was meant, without the line break of the file that it was read from."""
    if not isinstance(given, str | None):
        raise ConfigurationError(f"api_key: {type(given).__name__} cannot be used; allowed: a str")
    key = (given or "").strip()
    if wrapped := _WRAPPED.match(key):
        raise ConfigurationError(
            f"api_key or BLOSSOM_API_KEY: a key that begins with {wrapped[0]!r}; allowed: the key "
            "alone, without quotes and 'Bearer', and not the name of a variable"
        )
    if not key.isprintable():
        raise ConfigurationError(
            "api_key or BLOSSOM_API_KEY: a key with a line break or another control character in it; "
            "allowed: one line, as the gateway has it"
        )
    return key or None


def _after_fork() -> None:
    for client in _clients:
        client._start_afresh()


_clients: weakref.WeakSet[BlossomClient] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)


def _let_go(thread: LoopThread, connections: Connections) -> None:
    thread.end(connections.aclose)
    connections.let_go()

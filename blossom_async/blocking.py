"""The methods of ``client.image`` for code without an event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager, ExitStack
from datetime import date, datetime
from inspect import CORO_CREATED, getcoroutinestate
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Protocol, TypeVar, Unpack, cast

import anyio
from anyio.from_thread import BlockingPortal

from blossom_async.batch import BatchResult, Outcome
from blossom_async.batch.loops import running_loop
from blossom_async.connection import in_event_loop, in_trio
from blossom_async.errors import TransportError
from blossom_async.images import Images
from blossom_async.models import (
    Estimate,
    Explanation,
    ImageInfo,
    ImageOptions,
    ImagePage,
    PreloadReport,
    UrlStats,
)
from blossom_async.url_batch import BatchOptions, Request, UrlBatch

__all__ = ["BlockingClient", "BlockingImages", "EitherStream", "FinishedUrl", "LoopThread"]

T = TypeVar("T")

_LOOKS_UP_S = 0.5  # a Ctrl-C that the system hands to another thread does not wake the one that waits


class LoopThread:
    """An event loop in a daemon thread, which starts with the first call.

    Unlike anyio's ``start_blocking_portal()`` it may be dropped without being closed: that one stops its loop
    when it is garbage-collected, which at interpreter exit waits forever for a thread that no longer runs.
    """

    def __init__(self) -> None:
        self._started: Future[BlockingPortal]  # that of the thread
        self.start_afresh()

    def start_afresh(self) -> None:
        """In a forked process, which has none of its parent's threads: the next call starts a new one."""
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def portal(self) -> BlockingPortal:
        """The way into the event loop, from any thread. Raises ``TransportError`` if it cannot be started."""
        with self._starting:
            if self._thread is None:
                self._started = Future()
                thread = threading.Thread(
                    target=_run, args=(self._started,), name="blossom-client", daemon=True
                )
                thread.start()
                self._thread = thread  # last, since Ctrl-C may come at any line
            started = self._started
        try:
            return started.result()
        except OSError as exc:
            self._thread = None
            raise TransportError(
                f"the client's event loop cannot be started ({exc.strerror}); close files, or allow this "
                "process more with ulimit -n, then call again"
            ) from exc

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of the work. Ctrl-C cancels it and waits for it to end; a second one does not wait."""
        portal = self.portal
        may_begin: Future[None] = Future()
        running: Future[T] | None = None

        async def begin() -> T:
            await asyncio.wrap_future(may_begin)
            return await work()

        try:
            running = portal.start_task_soon(begin)
            may_begin.set_result(None)
            while not running.done():
                wait([running], _LOOKS_UP_S)
            return running.result()
        except BaseException:  # raised in this thread, or by the work, which has then ended
            if running is None:
                may_begin.cancel()  # Ctrl-C came while the task was made
            elif not running.done():
                running.cancel()
                portal.call(_ended, running)
            elif not running.cancelled() and not isinstance(running.exception(), Exception | None):
                self._join()  # such as SystemExit in a callback, which ends the event loop, too
            raise

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def end(self, last: Callable[[], Awaitable[None]]) -> None:
        """Does the last piece of work, then stops the loop and waits for its thread."""
        if self._thread is None or sys.is_finalizing():  # then the thread has been stopped where it was
            return
        self.call(last)
        if threading.main_thread().is_alive():  # at exit the loop could not end its own thread pool
            self.portal.call(self.portal.stop)
            self._join()
        self._thread = None


def _run(started: Future[BlockingPortal]) -> None:
    try:
        anyio.run(_serve, started)
    except BaseException as exc:
        if not started.done():
            started.set_exception(exc)  # else its caller would wait for ever
        elif isinstance(exc, Exception):
            raise


async def _serve(started: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()


async def _ended(running: Future[Any]) -> None:
    await asyncio.wait([asyncio.wrap_future(running)])


class FinishedUrl(str):
    """A URL that a call outside of any event loop gave; awaiting it gives it once more.

    In ``asyncio.run(client.image.generate_url(...))`` the call is made before there is an event loop, so it
    blocks, and ``asyncio.run()`` is given its result in place of a coroutine.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, str]:
        yield from ()
        return str(self)

    def send(self, _: object) -> Any:
        """As ``coroutine.send``: ends at once with the URL."""
        raise StopIteration(str(self))

    def throw(self, error: BaseException, *_: object) -> Any:
        """As ``coroutine.throw``."""
        raise error

    def close(self) -> None:
        """As ``coroutine.close``: there is nothing to end."""

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


class BlockingClient(Protocol):
    """The client in ``with BlossomClient() as client``: the same client with blocking methods."""

    @property
    def image(self) -> BlockingImages:
        """The methods, blocking."""

    @property
    def base_url(self) -> str | None:
        """As ``BlossomClient.base_url``."""

    @property
    def api_key(self) -> str | None:
        """As ``BlossomClient.api_key``."""


class BlockingImages:
    """The methods of ``Images``, each waiting for its result. They may be called from several threads.

    What decides is where a method is called: in a running event loop it gives a coroutine instead.
    """

    def __init__(self, client: object, images: Images, thread: LoopThread) -> None:
        self._client = client  # which closes everything when it is garbage-collected
        self._images = images
        self._thread = thread

    def _result(self, work: Coroutine[Any, Any, T]) -> T:
        if in_event_loop():
            return cast(T, work)
        if in_trio():
            work.close()
            running_loop()  # raises: there is none
        try:
            return self._thread.call(lambda: work)
        finally:
            if getcoroutinestate(work) == CORO_CREATED:  # Python would warn that it was never awaited
                work.close()

    def _url(self, work: Coroutine[Any, Any, str]) -> str:
        url = self._result(work)
        return FinishedUrl(url) if isinstance(url, str) else url

    def generate_url(self, prompt: str, **options: Unpack[ImageOptions]) -> str:
        """As ``Images.generate_url``."""
        return self._url(self._images.generate_url(prompt, **options))

    def generate_url_with_info(self, prompt: str, **options: Unpack[ImageOptions]) -> ImageInfo:
        """As ``Images.generate_url_with_info``."""
        return self._result(self._images.generate_url_with_info(prompt, **options))

    def get(self, url: str) -> ImageInfo:
        """As ``Images.get``."""
        return self._result(self._images.get(url))

    def list(
        self,
        words: str = "",
        *,
        state: str = "live",
        tracking_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ImagePage:
        """As ``Images.list``."""
        return self._result(
            self._images.list(words, state=state, tracking_id=tracking_id, limit=limit, cursor=cursor)
        )

    def wait(self, url: str, *, timeout_s: float = 600.0) -> ImageInfo:
        """As ``Images.wait``."""
        return self._result(self._images.wait(url, timeout_s=timeout_s))

    def download(self, url: str, path: str | PathLike[str]) -> Path:
        """As ``Images.download``."""
        return self._result(self._images.download(url, path))

    def save(
        self, pictures: UrlBatch | Iterable[ImageInfo | str], folder: str | PathLike[str]
    ) -> BatchResult[ImageInfo | str, Path]:
        """As ``Images.save``."""
        return self._result(self._images.save(pictures, folder))

    def delete(self, url: str) -> None:
        """As ``Images.delete``."""
        return self._result(self._images.delete(url))

    def generate_urls_batch(self, prompts: Iterable[str], **options: Unpack[BatchOptions]) -> UrlBatch:
        """As ``Images.generate_urls_batch``; ``on_progress`` is called in the client's own thread."""
        return self._result(self._images.generate_urls_batch(prompts, **options))

    def generate_urls_batch_custom(
        self, requests: Iterable[Request], **defaults: Unpack[BatchOptions]
    ) -> UrlBatch:
        """As ``Images.generate_urls_batch_custom``; ``on_progress`` is called in the client's own thread."""
        return self._result(self._images.generate_urls_batch_custom(requests, **defaults))

    def stream_urls(
        self, requests: Iterable[Request], *, ordered: bool = False, **defaults: Unpack[BatchOptions]
    ) -> EitherStream:
        """As ``Images.stream_urls``, with a plain iterator; ``async with`` gives the asynchronous one."""
        streaming = self._images.stream_urls(requests, ordered=ordered, **defaults)
        return EitherStream(self._client, streaming, self._thread)

    def generate_signed_url(
        self,
        prompt: str,
        *,
        signature_ttl: int = 3600,
        access_key: str | None = None,
        stable: bool = False,
        **options: Unpack[ImageOptions],
    ) -> str:
        """As ``Images.generate_signed_url``."""
        return self._url(
            self._images.generate_signed_url(
                prompt, signature_ttl=signature_ttl, access_key=access_key, stable=stable, **options
            )
        )

    def sign_url(
        self, url: str, *, signature_ttl: int = 3600, access_key: str | None = None, stable: bool = False
    ) -> str:
        """As ``Images.sign_url``."""
        return self._url(
            self._images.sign_url(url, signature_ttl=signature_ttl, access_key=access_key, stable=stable)
        )

    def revoke_access_key(self, access_key: str) -> None:
        """As ``Images.revoke_access_key``."""
        return self._result(self._images.revoke_access_key(access_key))

    def explain_url(
        self,
        url: str,
        *,
        address: str | None = None,
        referer: str | None = None,
        origin: str | None = None,
        authorized: bool = False,
        at: datetime | None = None,
    ) -> Explanation:
        """As ``Images.explain_url``."""
        return self._result(
            self._images.explain_url(
                url, address=address, referer=referer, origin=origin, authorized=authorized, at=at
            )
        )

    def estimate_cost(self, prompt: str, **options: Unpack[ImageOptions]) -> Estimate:
        """As ``Images.estimate_cost``."""
        return self._result(self._images.estimate_cost(prompt, **options))

    def get_url_stats(
        self, tracking_id: str, date_range: tuple[str | date, str | date] | None = None
    ) -> UrlStats:
        """As ``Images.get_url_stats``."""
        return self._result(self._images.get_url_stats(tracking_id, date_range))

    def validate_url(self, url: str) -> bool:
        """As ``Images.validate_url``."""
        return self._result(self._images.validate_url(url))

    def regenerate_from_url(self, url: str, **overrides: Unpack[ImageOptions]) -> str:
        """As ``Images.regenerate_from_url``."""
        return self._url(self._images.regenerate_from_url(url, **overrides))

    def preload_urls(self, urls: Iterable[str], *, method: str = "auto") -> PreloadReport:
        """As ``Images.preload_urls``."""
        return self._result(self._images.preload_urls(urls, method=method))


class EitherStream:
    """The outcomes of ``stream_urls``, for ``with`` in code without an event loop and for ``async with``."""

    def __init__(
        self,
        client: object,
        streaming: AbstractAsyncContextManager[AsyncIterator[Outcome[Request, ImageInfo]]],
        thread: LoopThread,
    ) -> None:
        self._client = client
        self._streaming = streaming
        self._thread = thread
        self._entered = ExitStack()

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "stream_urls() is entered before its outcomes are taken: `with client.image.stream_urls(...) as "
            "outcomes:`, in a coroutine `async with`; then iterate over outcomes"
        )

    __aiter__ = __iter__

    async def __aenter__(self) -> AsyncIterator[Outcome[Request, ImageInfo]]:
        return await self._streaming.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._streaming.__aexit__(kind, error, trace)

    def __enter__(self) -> Iterator[Outcome[Request, ImageInfo]]:
        portal = self._thread.portal
        return self._following(
            self._entered.enter_context(portal.wrap_async_context_manager(self._streaming))
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._entered.__exit__(kind, error, trace)

    def _following(
        self, outcomes: AsyncIterator[Outcome[Request, ImageInfo]]
    ) -> Iterator[Outcome[Request, ImageInfo]]:
        async def following() -> Outcome[Request, ImageInfo] | None:
            return await anext(outcomes, None)

        while (outcome := self._thread.call(following)) is not None:
            yield outcome

"""The methods of ``client.image`` for code without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import date, datetime
from typing import Protocol, TypeVar, Unpack

import anyio
from anyio.from_thread import BlockingPortal

from blossom_async.batch import Outcome
from blossom_async.images import Images
from blossom_async.models import Estimate, Explanation, ImageInfo, ImageOptions, PreloadReport, UrlStats
from blossom_async.url_batch import BatchOptions, Request, UrlBatch

__all__ = ["BlockingClient", "BlockingImages", "LoopThread"]

T = TypeVar("T")


class LoopThread:
    """An event loop in a daemon thread, and the portal into it.

    Unlike anyio's ``start_blocking_portal()`` it may be dropped without being closed: that one stops its loop
    when it is garbage-collected, which at interpreter exit waits forever for a thread that no longer runs.
    """

    def __init__(self) -> None:
        self._started: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(target=self._run, name="blossom-client", daemon=True)
        self._thread.start()
        self.portal = self._started.result()

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of the work. Ctrl-C cancels it and waits for it to end; a second one does not wait."""
        running: Future[T] = self.portal.start_task_soon(work)
        try:
            return running.result()
        except BaseException:  # raised in this thread, or by the work, which has then ended
            if not running.done():
                running.cancel()
                self.portal.call(self._ended, running)
            raise

    def end(self) -> None:
        """Stops the loop and waits for its thread."""
        self.portal.call(self.portal.stop)
        self._thread.join()

    async def _ended(self, running: Future[T]) -> None:
        await asyncio.wait([asyncio.wrap_future(running)])

    def _run(self) -> None:
        anyio.run(self._serve)

    async def _serve(self) -> None:
        async with BlockingPortal() as portal:
            self._started.set_result(portal)
            await portal.sleep_until_stopped()


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
    """The methods of ``Images``, each waiting for its result. They may be called from several threads."""

    def __init__(self, client: object, images: Images, thread: LoopThread) -> None:
        self._client = client  # which closes everything when it is garbage-collected
        self._images = images
        self._thread = thread

    def generate_url(self, prompt: str, **options: Unpack[ImageOptions]) -> str:
        """As ``Images.generate_url``."""
        return self._thread.call(lambda: self._images.generate_url(prompt, **options))

    def generate_url_with_info(self, prompt: str, **options: Unpack[ImageOptions]) -> ImageInfo:
        """As ``Images.generate_url_with_info``."""
        return self._thread.call(lambda: self._images.generate_url_with_info(prompt, **options))

    def generate_urls_batch(self, prompts: Iterable[str], **options: Unpack[BatchOptions]) -> UrlBatch:
        """As ``Images.generate_urls_batch``; ``on_progress`` is called in the client's own thread."""
        return self._thread.call(lambda: self._images.generate_urls_batch(prompts, **options))

    def generate_urls_batch_custom(
        self, requests: Iterable[Request], **defaults: Unpack[BatchOptions]
    ) -> UrlBatch:
        """As ``Images.generate_urls_batch_custom``; ``on_progress`` is called in the client's own thread."""
        return self._thread.call(lambda: self._images.generate_urls_batch_custom(requests, **defaults))

    @contextmanager
    def stream_urls(
        self, requests: Iterable[Request], *, ordered: bool = False, **defaults: Unpack[BatchOptions]
    ) -> Iterator[Iterator[Outcome[Request, ImageInfo]]]:
        """As ``Images.stream_urls``, with a plain iterator."""
        streaming = self._images.stream_urls(requests, ordered=ordered, **defaults)
        with self._thread.portal.wrap_async_context_manager(streaming) as outcomes:
            yield self._following(outcomes)

    def _following(
        self, outcomes: AsyncIterator[Outcome[Request, ImageInfo]]
    ) -> Iterator[Outcome[Request, ImageInfo]]:
        async def following() -> Outcome[Request, ImageInfo] | None:
            return await anext(outcomes, None)

        while (outcome := self._thread.call(following)) is not None:
            yield outcome

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
        return self._thread.call(
            lambda: self._images.generate_signed_url(
                prompt, signature_ttl=signature_ttl, access_key=access_key, stable=stable, **options
            )
        )

    def sign_url(
        self, url: str, *, signature_ttl: int = 3600, access_key: str | None = None, stable: bool = False
    ) -> str:
        """As ``Images.sign_url``."""
        return self._thread.call(
            lambda: self._images.sign_url(
                url, signature_ttl=signature_ttl, access_key=access_key, stable=stable
            )
        )

    def revoke_access_key(self, access_key: str) -> None:
        """As ``Images.revoke_access_key``."""
        self._thread.call(lambda: self._images.revoke_access_key(access_key))

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
        return self._thread.call(
            lambda: self._images.explain_url(
                url, address=address, referer=referer, origin=origin, authorized=authorized, at=at
            )
        )

    def estimate_cost(self, prompt: str, **options: Unpack[ImageOptions]) -> Estimate:
        """As ``Images.estimate_cost``."""
        return self._thread.call(lambda: self._images.estimate_cost(prompt, **options))

    def get_url_stats(
        self, tracking_id: str, date_range: tuple[str | date, str | date] | None = None
    ) -> UrlStats:
        """As ``Images.get_url_stats``."""
        return self._thread.call(lambda: self._images.get_url_stats(tracking_id, date_range))

    def validate_url(self, url: str) -> bool:
        """As ``Images.validate_url``."""
        return self._thread.call(lambda: self._images.validate_url(url))

    def regenerate_from_url(self, url: str, **overrides: Unpack[ImageOptions]) -> str:
        """As ``Images.regenerate_from_url``."""
        return self._thread.call(lambda: self._images.regenerate_from_url(url, **overrides))

    def preload_urls(self, urls: Iterable[str], *, method: str = "auto") -> PreloadReport:
        """As ``Images.preload_urls``."""
        return self._thread.call(lambda: self._images.preload_urls(urls, method=method))

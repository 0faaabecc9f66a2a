"""The providers that the settings name, ready to be asked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
from yarl import URL

from blossom_async.batch import RateLimit
from blossom_async.errors import ConfigurationError
from blossom_async.gateway.making.upstreams import Limits, Upstream, Upstreams
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers import Provider
from blossom_async.gateway.providers.faults import ProviderFault
from blossom_async.gateway.providers.offline import Offline
from blossom_async.gateway.providers.openai import OpenAI
from blossom_async.gateway.providers.pollinations import Pollinations
from blossom_async.gateway.providers.wire import Secret, provider_session
from blossom_async.gateway.settings import Settings
from blossom_async.guard import Guard

__all__ = ["Services"]

_LOOK_AGAIN_S = 3600.0  # at what the providers offer


class Services:
    """The upstreams, in the order of the settings once ``open`` has been called, and what they need."""

    def __init__(self, settings: Settings, workers: Workers) -> None:
        self._settings = settings
        self._workers = workers
        self._sessions: list[aiohttp.ClientSession] = []
        self.upstreams = Upstreams()

    async def open(self) -> None:
        """Sets the providers up.

        Raises ``ConfigurationError`` for a key that cannot be read, an address that is none, and a provider
        without what it needs.
        """
        makers: dict[str, Callable[[], Provider]] = {
            "offline": lambda: Offline(self._workers.run),
            "pollinations": self._pollinations,
            "openai": self._openai,
        }
        for name in self._settings.providers:
            self.upstreams.add(Upstream(makers[name](), self._limits(name), clock=time.monotonic))

    async def run(self) -> None:
        """Asks the providers again and again what they offer, until it is cancelled."""
        while True:
            for upstream in self.upstreams:
                with contextlib.suppress(ProviderFault):  # what was known before goes on counting
                    await upstream.provider.models()
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def close(self) -> None:
        """Closes the connections to the providers."""
        for session in self._sessions:
            await session.close()

    def _pollinations(self) -> Provider:
        settings = self._settings
        return Pollinations(
            self._session(),
            key=_secret("pollinations", settings.pollinations_key, settings.pollinations_key_file),
            base_url=settings.pollinations_url,
            model=settings.pollinations_model,
            timeout_s=settings.provider_timeout_s,
        )

    def _openai(self) -> Provider:
        settings = self._settings
        if settings.openai_model is None:
            raise ConfigurationError(
                "the provider openai draws with no model: set BLOSSOM_OPENAI_MODEL, such as gpt-image-2"
            )
        address = URL(settings.openai_url)
        # A server on a private network gives URLs on itself; others may lead to the internet only.
        guard = Guard({f"{address.host}:{address.port}"})
        downloads = provider_session(guard.socket, guard.resolver())
        self._sessions.append(downloads)
        return OpenAI(
            self._session(),
            downloads,
            key=_secret("openai", settings.openai_key, settings.openai_key_file),
            base_url=settings.openai_url,
            model=settings.openai_model,
            keyed=settings.openai_keyed,
            timeout_s=settings.provider_timeout_s,
        )

    def _session(self) -> aiohttp.ClientSession:
        session = provider_session()
        self._sessions.append(session)
        return session

    def _limits(self, name: str) -> Limits:
        settings = self._settings
        if name == "offline":
            return Limits(at_once=settings.render_threads, line=settings.max_queue, wait_s=None)
        rate = settings.pollinations_rate_limit if name == "pollinations" else settings.openai_rate_limit
        rates = () if rate is None else (RateLimit.parse(rate),)
        return Limits(
            rates=rates,
            at_once=settings.provider_at_once,
            line=settings.max_queue,
            wait_s=settings.provider_wait_s,
        )


def _secret(provider: str, key: str | None, file: Path | None) -> Secret | None:
    if key is not None and file is not None:
        raise ConfigurationError(
            f"BLOSSOM_{provider.upper()}_KEY and BLOSSOM_{provider.upper()}_KEY_FILE are both set; keep one"
        )
    if file is not None:
        try:
            key = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(
                f"BLOSSOM_{provider.upper()}_KEY_FILE: {file} cannot be read ({type(exc).__name__}); "
                "check its name and its owner"
            ) from None
    return None if key is None else Secret(key)

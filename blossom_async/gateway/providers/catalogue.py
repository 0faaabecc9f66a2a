"""The models a service offers, fetched hourly, and the prices known without asking."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

from blossom_async.gateway.providers import Model
from blossom_async.gateway.providers.faults import ProviderFault

__all__ = ["Catalogue", "price_table"]

FRESH_S = 3600.0
_AGAIN_S = 60.0  # after a failure, while an older list is used


class Catalogue:
    """A list of models, fetched at most once an hour and kept while the service is down.

    ``clock`` counts seconds.
    """

    def __init__(self, fetch: Callable[[], Awaitable[tuple[Model, ...]]], clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._next_at = 0.0
        self._models: tuple[Model, ...] | None = None

    async def models(self) -> tuple[Model, ...]:
        """The list. Raises ``ProviderFault`` if it cannot be fetched and never was."""
        async with self._lock:
            if not self._fresh:
                await self._renew()
            return self._models or ()

    def names(self) -> frozenset[str]:
        """Names and aliases of the models; empty without a list, or with one older than an hour."""
        models = self._models if self._fresh else None
        return frozenset(name for model in models or () for name in (model.name, *model.aliases))

    @property
    def _fresh(self) -> bool:
        return self._models is not None and self._clock() < self._next_at

    async def _renew(self) -> None:
        try:
            self._models = await self._fetch()
        except ProviderFault:
            if self._models is None:
                raise
            self._next_at = self._clock() + _AGAIN_S
        else:
            self._next_at = self._clock() + FRESH_S


@cache
def price_table(provider: str) -> dict[str, Any]:
    """The provider's part of ``prices.json``. Amounts are strings, for ``Decimal``."""
    table: dict[str, Any] = json.loads(Path(__file__).with_name("prices.json").read_text("utf-8"))[provider]
    return table

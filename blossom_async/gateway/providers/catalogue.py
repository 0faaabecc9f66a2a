"""What a service offers, asked from time to time; and the prices that are known without asking."""

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
_AGAIN_S = 60.0  # after a failure, with an older list in hand


class Catalogue:
    """A list of models that is fetched once an hour at most, and kept when the service is down.

    ``clock`` counts seconds.
    """

    def __init__(self, fetch: Callable[[], Awaitable[tuple[Model, ...]]], clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._next_at = 0.0
        self._models: tuple[Model, ...] | None = None

    async def models(self) -> tuple[Model, ...]:
        """The list. Raises ``ProviderFault`` where it was never fetched and cannot be now."""
        async with self._lock:
            if not self._fresh:
                await self._renew()
            return self._models or ()

    def names(self) -> frozenset[str]:
        """Of the models and their aliases; nothing where the list is none or an hour old."""
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
    """The provider's part of ``prices.json``. Amounts are texts, for ``Decimal``."""
    table: dict[str, Any] = json.loads(Path(__file__).with_name("prices.json").read_text("utf-8"))[provider]
    return table

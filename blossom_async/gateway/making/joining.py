"""Callers who ask for the same picture at the same time share one task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from blossom_async.gateway.making.orders import Order
from blossom_async.gateway.making.verdicts import key_reused

__all__ = ["Joining"]

T = TypeVar("T")


class Joining(Generic[T]):
    """One task for all callers in this process with the same tenant and idempotency key."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, str], tuple[str, asyncio.Task[T]]] = {}

    async def run(self, order: Order, make: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T, bool]:
        """What ``make`` returns, and whether another caller had started it.

        It goes on when a caller is cancelled: a retry under the key must get the picture. Raises ``Rejected``
        if another request is in progress under the key.
        """
        if order.key is None:
            return await make(), False
        name = order.tenant, order.key
        joined = name in self._under_way
        if not joined:  # entered before the first await, so that no other caller can start it too
            task = asyncio.create_task(make())
            self._under_way[name] = order.fingerprint, task
            task.add_done_callback(lambda ended: self._leave(name, ended))
        fingerprint, task = self._under_way[name]
        if fingerprint != order.fingerprint:
            raise key_reused()
        return await asyncio.shield(task), joined

    def tasks(self) -> list[asyncio.Task[T]]:
        """The tasks in progress."""
        return [task for _, task in self._under_way.values()]

    def _leave(self, name: tuple[str, str], task: asyncio.Task[T]) -> None:
        del self._under_way[name]
        if not task.cancelled():
            task.exception()  # retrieved, even if every caller was cancelled

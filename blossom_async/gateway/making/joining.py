"""Callers who ask for the same picture at the same time share one task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from blossom_async.gateway.making.orders import Order, new_id
from blossom_async.gateway.making.verdicts import key_reused

__all__ = ["Joining"]

T = TypeVar("T")


class Joining(Generic[T]):
    """One task for all callers in this process with the same tenant and idempotency key."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, str], tuple[Order, asyncio.Task[T]]] = {}

    async def run(
        self, order: Order, make: Callable[[], Coroutine[Any, Any, T]], *, keep: bool
    ) -> tuple[T, bool]:
        """What ``make`` returns, and whether another caller had started it.

        Once begun it goes on when its callers are cancelled, if it has a key (a retry must get the picture)
        or if ``keep``. Raises ``Rejected`` if another request is in progress under the key.
        """
        if order.key is None and not keep:
            with order.callers.waiting(order.watch):
                return await make(), False
        name = order.tenant, order.key or new_id()
        started = self._under_way.get(name)
        if started is not None and started[0].callers.dropped:
            started = None
        joined = started is not None
        if started is None:  # entered before the first await, so that no other caller can start it
            started = self._under_way[name] = order, asyncio.create_task(make())
            started[1].add_done_callback(lambda ended: self._leave(name, ended))
        first, task = started
        if first.fingerprint != order.fingerprint:
            raise key_reused()
        with first.callers.waiting(order.watch):
            return await asyncio.shield(task), joined

    def tasks(self) -> list[asyncio.Task[T]]:
        """The tasks in progress."""
        return [task for _, task in self._under_way.values()]

    def _leave(self, name: tuple[str, str], task: asyncio.Task[T]) -> None:
        if self._under_way[name][1] is task:  # else another has taken its place
            del self._under_way[name]
        if not task.cancelled():
            task.exception()  # retrieved, even if every caller was cancelled

"""Pictures that cost nothing: files first, then the row. A process that dies in between leaves no picture."""

from __future__ import annotations

from contextlib import nullcontext

from blossom_async.errors import Conflict, Overloaded
from blossom_async.gateway.making.orders import Order, new_id
from blossom_async.gateway.making.storing import Storing
from blossom_async.gateway.making.upstreams import Upstream
from blossom_async.gateway.storage.records import IdempotencyEntry, ImageRecord, Records
from blossom_async.tracing import span

__all__ = ["Free"]


class Free:
    """Draws pictures and stores them."""

    def __init__(self, records: Records, storing: Storing) -> None:
        self._records = records
        self._storing = storing

    async def make(self, upstream: Upstream, order: Order) -> ImageRecord:
        """The stored picture.

        Raises ``Conflict`` when another process has used the key meanwhile, and ``Overloaded``.
        """
        request, image_id = order.pinned(), new_id()
        async with upstream.turn(order.callers, taking=nullcontext) as turn:
            await turn.begin()
            began_at = upstream.calls.clock()
            with span("ask provider", blossom_provider=upstream.name):
                given = await upstream.provider.generate(request, request.seed or 0, key="")
            upstream.calls.drawn(began_at)
        record = await self._storing.store(
            image_id, order.tenant, request, upstream.name, given, preview=order.preview
        )
        try:
            with span("store record"):
                await self._records.add(record, _entry(order, image_id))
        except (Conflict, Overloaded) as exc:
            # After any other failure the row may have been stored, and a row needs its files.
            if isinstance(exc, Conflict) or exc.code == "storage_full":
                await self._storing.remove(record)
            raise
        self._storing.made[record.provider, record.request.format] += 1
        return record


def _entry(order: Order, image_id: str) -> IdempotencyEntry | None:
    if order.key is None:
        return None
    return IdempotencyEntry(
        tenant=order.tenant, key=order.key, fingerprint=order.fingerprint, image_id=image_id
    )

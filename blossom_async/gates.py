"""A gateway as the place of limits that many processes share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote

from blossom_async.batch import Grant, RateLimit
from blossom_async.batch.start_times import Used
from blossom_async.models import SlotsRequest, StartTimes, to_json
from blossom_async.transport import Exchange, Transport

__all__ = ["GatewayGates"]


class GatewayGates:
    """A ``GatePlace``: limits of the API key's tenant, for all who ask gateways on the same database."""

    def __init__(self, connect: Callable[[], Awaitable[Transport]]) -> None:
        self._connect = connect

    async def take(
        self,
        name: str,
        limit: RateLimit,
        want: int,
        slack_s: float,
        lead_s: float,
        pause_s: float,
        used: Sequence[Used] = (),
    ) -> Grant:
        """Start times, as ``GatePlace`` says; asked for once. Raises as any call to the gateway."""
        question = SlotsRequest(
            amount=limit.amount, per_s=limit.per_s, want=want, slack_s=slack_s, lead_s=lead_s, pause_s=pause_s
        )
        path = f"/v1/gates/{quote(name, safe='')}/slots"
        transport = await self._connect()
        given = await transport.send(Exchange("POST", path, StartTimes, to_json(question)))
        return Grant(given.now, given.first, given.number, given.step)

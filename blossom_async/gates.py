"""A gateway as the place of limits that many processes share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote

from blossom_async.batch import GateQuestion, Grant
from blossom_async.models import SlotsRequest, StartTimes, to_json
from blossom_async.transport import Exchange, Transport

__all__ = ["GatewayGates"]


class GatewayGates:
    """A ``GatePlace``: limits of the API key's tenant, for all who ask gateways on the same database."""

    def __init__(self, connect: Callable[[], Awaitable[Transport]]) -> None:
        self._connect = connect

    async def take(self, question: GateQuestion) -> Grant:
        """Start times, as ``GatePlace`` says; asked for once. Raises as any call to the gateway."""
        request = SlotsRequest(
            amount=question.limit.amount,
            per_s=question.limit.per_s,
            want=question.want,
            slack_s=question.slack_s,
            lead_s=question.lead_s,
            pause_s=question.pause_s,
        )
        path = f"/v1/gates/{quote(question.name, safe='')}/slots"
        transport = await self._connect()
        given = await transport.send(Exchange("POST", path, StartTimes, to_json(request)))
        return Grant(given.now, given.first, given.number, given.step)

"""Limits that hold for all gateways on one database together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from blossom_async.batch import Grant, RateLimit
from blossom_async.batch.start_times import Used
from blossom_async.gateway.storage.records import Records, gates

__all__ = ["FleetGates"]

_NOBODY = ""  # no tenant has this name


class FleetGates:
    """A ``GatePlace`` for the gateways' own limits, beside those of the tenants. Raises as ``Records``."""

    def __init__(self, records: Records) -> None:
        self._records = records

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
        """Start times, as ``GatePlace`` says."""
        return await self._records.write_apart(
            partial(gates.take, _NOBODY, name, limit, want, slack_s, lead_s, pause_s)
        )

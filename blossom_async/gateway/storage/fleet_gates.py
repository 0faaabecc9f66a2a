"""Limits that hold for all gateways on one database together."""

from __future__ import annotations

from functools import partial

from blossom_async.batch import GateQuestion, Grant
from blossom_async.gateway.storage.records import Records, gates

__all__ = ["FleetGates"]

_NOBODY = ""  # no tenant has this name


class FleetGates:
    """A ``GatePlace`` for the gateways' own limits, beside those of the tenants. Raises as ``Records``."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def take(self, question: GateQuestion) -> Grant:
        """Start times, as ``GatePlace`` says."""
        return await self._records.write_apart(partial(gates.take_and_tell, _NOBODY, question))

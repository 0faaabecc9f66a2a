"""A gateway as the place of a limit that programs share."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from blossom_async import BlossomClient
from blossom_async.batch import RateLimit, SharedGate, run
from blossom_async.errors import GateUnavailable
from tests.conftest import RunningGateway
from tests.gateway.calls.test_api import call

Gateway = AbstractAsyncContextManager[RunningGateway]
QUESTION: dict[str, Any] = {"amount": 100, "per_s": 1, "want": 5, "slack_s": 0.02}


async def test_batches_of_two_clients_share_a_limit(gateway: Gateway) -> None:
    """Their starts together are as far apart as the gateway has them."""
    starts: list[float] = []

    async def attempt(item: int) -> int:
        starts.append(asyncio.get_running_loop().time())
        return item

    async with gateway as running, running.client() as one, running.client() as other:
        gates = [SharedGate("paint", "200/s", slots=client.gates) for client in (one, other)]
        results = await asyncio.gather(*(run(attempt, range(60), gates=[gate]) for gate in gates))
    assert [len(result) for result in results] == [60, 60]
    assert max(starts) - min(starts) >= 100 / 200


async def test_the_api_gives_out_start_times(gateway: Gateway) -> None:
    """A step apart, and the next question goes on after the last of them."""
    async with gateway as running:
        status, headers, first = await call(running, "POST", "/v1/gates/paint/slots", body=QUESTION)
        _, _, second = await call(running, "POST", "/v1/gates/paint/slots", body=QUESTION)
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    assert first["number"] == second["number"] == 5
    assert first["step"] == pytest.approx(1.02 / 100)
    assert second["first"] >= first["first"] + 5 * first["step"] - 1e-6


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("two%20words", {}, "name"),
        ("x" * 65, {}, "name"),
        ("paint", {"amount": 0}, "amount"),
        ("paint", {"per_s": 0}, "per_s"),
        ("paint", {"want": -1}, "want"),
        ("paint", {"slack_s": "2"}, "slack_s"),
        ("paint", {"pause_s": 1e9}, "pause_s"),
    ],
)
async def test_what_cannot_be_asked_for_is_refused(
    gateway: Gateway, name: str, change: dict[str, Any], field: str
) -> None:
    """With the field at fault."""
    async with gateway as running:
        path = f"/v1/gates/{name}/slots"
        status, _, problem = await call(running, "POST", path, body={**QUESTION, **change})
    assert (status, problem["field"]) == (422, field)


async def test_a_key_that_is_not_let_in_starts_nothing(gateway: Gateway) -> None:
    """At once, with the gateway's words."""
    async with gateway as running, BlossomClient(running.base_url, api_key="wrong" * 8) as client:
        gate = SharedGate("paint", RateLimit(5), slots=client.gates)
        with pytest.raises(GateUnavailable, match="unauthenticated"):
            await gate.acquire()

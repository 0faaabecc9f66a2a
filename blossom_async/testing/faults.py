"""The ways in which a provider can fail, and the plan of the next failures."""

from __future__ import annotations

import random
from collections import deque
from enum import StrEnum

import attrs

from blossom_async.errors import InvalidRequest, nearest

__all__ = ["Fault", "FaultPlan"]


class Fault(StrEnum):
    """One way in which a request for a picture can fail. ``charges`` says whether it costs money.

    docs/testing.md lists the status and the charge of each.
    """

    # Throttling, in the order of Pollinations' own layers.
    RATE_LIMITED_IP = "rate_limited_ip"
    RATE_LIMITED_KEY = "rate_limited_key"
    RATE_LIMITED_COMMUNITY = "rate_limited_community"
    RATE_LIMITED_CONCURRENCY = "rate_limited_concurrency"
    RATE_LIMITED_FREE_MODEL = "rate_limited_free_model"
    RATE_LIMITED_QUEUE_429 = "rate_limited_queue_429"
    RATE_LIMITED_QUEUE_402 = "rate_limited_queue_402"
    PLACEHOLDER = "placeholder"
    RATE_LIMITED_UPSTREAM = "rate_limited_upstream"
    # Throttling and money at OpenAI, and money at Pollinations.
    RATE_LIMITED = "rate_limited"
    INSUFFICIENT_QUOTA = "insufficient_quota"
    PAYMENT_REQUIRED = "payment_required"
    KEY_BUDGET_EXHAUSTED = "key_budget_exhausted"
    INSUFFICIENT_BALANCE = "insufficient_balance"
    PAYMENT_REQUIRED_X402 = "payment_required_x402"
    # The request is refused.
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    SAFETY_BLOCKED = "safety_blocked"
    CONTENT_POLICY_VIOLATION = "content_policy_violation"
    # The provider, or the edge in front of it, is broken.
    SERVER_ERROR = "server_error"
    BAD_GATEWAY = "bad_gateway"
    UNAVAILABLE = "unavailable"
    GATEWAY_TIMEOUT = "gateway_timeout"
    BARE_DETAIL = "bare_detail"
    BARE_MESSAGE = "bare_message"
    EDGE_524 = "edge_524"
    EDGE_530 = "edge_530"
    # Status 200, and no usable picture.
    HTML_200 = "html_200"
    SVG_AS_PNG = "svg_as_png"
    JSON_AS_JPEG = "json_as_jpeg"
    TRUNCATED = "truncated"
    CLOSED_EARLY = "closed_early"
    EMPTY_BODY = "empty_body"
    TINY = "tiny"
    WRONG_SIZE = "wrong_size"
    SAME_BYTES = "same_bytes"
    DATA_MISSING = "data_missing"
    DATA_EMPTY = "data_empty"
    # The connection.
    RESET = "reset"
    HANG = "hang"
    CHARGE_THEN_RESET = "charge_then_reset"
    CHARGE_THEN_500 = "charge_then_500"
    CHARGE_THEN_HANG = "charge_then_hang"
    SLOW_DRIP = "slow_drip"
    SLOW_FIRST_BYTE = "slow_first_byte"

    @property
    def charges(self) -> bool:
        """Whether it is charged like a good answer: once, and not again if cached or keyed."""
        return self in _CHARGED


_CHARGED = frozenset(
    {
        Fault.SVG_AS_PNG,
        Fault.JSON_AS_JPEG,
        Fault.TRUNCATED,
        Fault.CLOSED_EARLY,
        Fault.EMPTY_BODY,
        Fault.TINY,
        Fault.WRONG_SIZE,
        Fault.SAME_BYTES,
        Fault.DATA_MISSING,
        Fault.DATA_EMPTY,
        Fault.CHARGE_THEN_RESET,
        Fault.CHARGE_THEN_500,
        Fault.CHARGE_THEN_HANG,
        Fault.SLOW_DRIP,
        Fault.SLOW_FIRST_BYTE,
    }
)


@attrs.define
class _Standing:
    fault: Fault
    probability: float
    chance: random.Random


class FaultPlan:
    """Decides how the next request for a picture fails: first the queued faults, then the standing ones.

    If several standing faults apply to one request, the one added first wins.
    """

    def __init__(self, known: frozenset[Fault]) -> None:
        self._known = known
        self._queue: deque[Fault] = deque()
        self._standing: list[_Standing] = []

    def add_next(self, fault: Fault | str, times: int = 1) -> None:
        """Queues a fault for the next ``times`` requests.

        Raises ``InvalidRequest`` for a fault this server does not have and for ``times`` below 1.
        """
        if times < 1:
            raise InvalidRequest("times", times, "1 or more")
        self._queue.extend([self._checked(fault)] * times)

    def add(self, fault: Fault | str, *, probability: float = 1.0, seed: int = 0) -> None:
        """Makes every later request fail in this way with this probability; ``seed`` makes it repeatable.

        Raises ``InvalidRequest`` as ``add_next``, and for a probability outside 0..1.
        """
        if not 0.0 <= probability <= 1.0:
            raise InvalidRequest("probability", probability, "0.0..1.0")
        chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._standing.append(_Standing(self._checked(fault), probability, chance))

    def clear(self) -> None:
        """Removes all faults."""
        self._queue.clear()
        self._standing.clear()

    def take(self) -> Fault | None:
        """The fault of the next request, None for a good answer."""
        if self._queue:
            return self._queue.popleft()
        # Each fault draws for every request, so that adding one does not change when another happens.
        hits = [plan.fault for plan in self._standing if plan.chance.random() < plan.probability]
        return hits[0] if hits else None

    def _checked(self, fault: Fault | str) -> Fault:
        if fault not in self._known:
            names = sorted(each.value for each in self._known)
            raise InvalidRequest("fault", str(fault), f"{', '.join(names)}.{nearest(fault, names)}")
        return Fault(fault)

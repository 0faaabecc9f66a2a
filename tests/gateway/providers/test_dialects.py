"""Good pictures in the many forms in which compatible servers answer: each is paid once and delivered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from blossom_async.gateway.providers import Delivery
from blossom_async.gateway.providers.openai import OpenAI
from blossom_async.gateway.providers.wire import provider_session
from blossom_async.models import ImageRequest
from blossom_async.testing import FakeOpenAI
from blossom_async.testing.exchange import Answer, Order, SeenRequest
from blossom_async.testing.servers import Made

REQUEST = ImageRequest("a red fox & an owl?", width=256, height=192)

_Form = Callable[[Answer], Answer]


class Dialect(FakeOpenAI):
    """The fake server, whose answers are put into another form."""

    def __init__(self, form: _Form, **options: Any) -> None:
        super().__init__(**options)
        self._form = form

    def _show(self, seen: SeenRequest, order: Order, made: Made) -> Answer:
        return self._form(super()._show(seen, order, made))


async def delivered(form: _Form) -> Delivery:
    """What a server that answers in this form delivers."""
    async with Dialect(form) as server, provider_session() as session:
        provider = OpenAI(session, session, base_url=server.base_url, model="generic-1")
        delivery = await provider.generate(REQUEST, 7, key="k")
        assert len(server.ledger.charges) == 1
    assert (delivery.format, delivery.width, delivery.height) == ("png", 256, 192)
    return delivery


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 299])
async def test_any_status_of_success_carries_a_picture(status: int) -> None:
    """Frameworks answer a POST with 201 or 202 as readily as with 200."""
    await delivered(lambda answer: attrs.evolve(answer, status=status))

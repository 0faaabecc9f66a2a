"""The list of a service's models: fetched hourly, and kept while the service is down."""

from __future__ import annotations

import pytest

from blossom_async.gateway.providers import Model
from blossom_async.gateway.providers.catalogue import Catalogue
from blossom_async.gateway.providers.faults import Kind, ProviderFault


class Service:
    """Its time, whether it is down, and how often it was asked."""

    def __init__(self) -> None:
        self.seconds, self.down, self.asked = 0.0, False, 0
        self.catalogue = Catalogue(self.fetch, clock=lambda: self.seconds)

    async def fetch(self) -> tuple[Model, ...]:
        self.asked += 1
        if self.down:
            raise ProviderFault("service", Kind.UNAVAILABLE, "down", charged="no")
        return (Model(name="flux", aliases=("turbo",)),)


async def test_an_older_list_is_used_while_the_service_is_down() -> None:
    """The service is asked again every minute, and once an hour when it answers."""
    service = Service()
    times = [0, 3599, 3600, 3659, 3660, 3719, 3720, 3720 + 3599, 3720 + 3600]
    asked = []
    for seconds in times:
        service.seconds, service.down = seconds, 3600 <= seconds < 3720
        assert [model.name for model in await service.catalogue.models()] == ["flux"]
        asked.append(service.asked)
    assert asked == [1, 1, 2, 2, 3, 3, 4, 4, 5]


async def test_without_any_list_the_failure_is_told() -> None:
    """And the service is asked again by the next call."""
    service = Service()
    service.down = True
    for asked in (1, 2):
        with pytest.raises(ProviderFault, match="down"):
            await service.catalogue.models()
        assert service.asked == asked


async def test_names_are_those_of_a_list_that_is_still_good() -> None:
    """Of the models and their aliases; none once the list is an hour old."""
    service = Service()
    assert service.catalogue.names() == set()
    await service.catalogue.models()
    assert service.catalogue.names() == {"flux", "turbo"}
    service.seconds = 3600
    assert service.catalogue.names() == set()

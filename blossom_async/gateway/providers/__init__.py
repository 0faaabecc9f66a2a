"""Providers, who draw the pictures: one interface, one module for each."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Protocol, runtime_checkable

import attrs
import numpy as np
from numpy.typing import NDArray

from blossom_async.models import ImageRequest, OpenAIRequest

__all__ = [
    "NO_INPUTS",
    "Artwork",
    "Delivery",
    "Editor",
    "Inputs",
    "Model",
    "Partial",
    "Provider",
    "Show",
    "show_nobody",
]


@attrs.frozen(kw_only=True, eq=False)
class Artwork:
    """A picture drawn here. ``pixels`` is uint8 of shape (height, width, 3), or 4 with straight alpha.

    ``notes`` is written into the file's own metadata.
    """

    pixels: NDArray[np.uint8]
    model: str
    notes: str


@attrs.frozen(kw_only=True, eq=False)
class Delivery:
    """A picture file as the service sent it: verified, not yet decoded.

    ``format``, ``width``, ``height`` and ``orientation`` are read from the bytes, as ``containers.Seen`` has
    them, and may differ from what was asked for. ``notes`` (ASCII, for the file's own metadata) names
    provider and model, and how the file differs from the request. ``usd`` is what the service charges, 0 when
    ``cached``, None if unknown. ``cached``: the service says that it does not bill this answer.
    ``request_id`` is the service's own id of the exchange.
    """

    data: bytes = attrs.field(repr=False)
    format: str
    width: int
    height: int
    model: str
    request_id: str | None
    usd: Decimal | None
    cached: bool
    notes: str
    orientation: int = 1


@attrs.frozen(eq=False)
class Inputs:
    """Picture files that a provider draws from, verified. What is transparent in ``mask`` is drawn anew."""

    pictures: tuple[bytes, ...] = attrs.field(default=(), repr=False)
    mask: bytes | None = attrs.field(default=None, repr=False)


NO_INPUTS = Inputs()


@attrs.frozen(eq=False)
class Partial:
    """A picture file on the way to the one asked for, the ``index``-th from 0."""

    data: bytes = attrs.field(repr=False)
    format: str
    width: int
    height: int
    index: int


Show = Callable[[Partial], None]


def show_nobody(_: Partial) -> None:
    """For pictures that nobody watches."""


@attrs.frozen(kw_only=True)
class Model:
    """A model that a provider offers."""

    name: str
    aliases: tuple[str, ...] = ()


class Provider(Protocol):
    """Draws pictures.

    ``remote``: a call may cost money and may fail halfway. ``keyed``: it recognises a repeated request, by
    idempotency key or content, so the same request with the same seed and key is never charged twice.
    """

    name: str
    remote: bool
    keyed: bool

    def check(self, request: ImageRequest) -> None:
        """Raises ``InvalidRequest`` for a request it cannot honour, as far as is known without asking."""

    def price(self, request: ImageRequest) -> Decimal | None:
        """US dollars the request will cost, None if that is not known beforehand."""

    async def generate(self, request: ImageRequest, seed: int, *, key: str) -> Artwork | Delivery:
        """The picture, from one attempt. ``key`` is the same for all attempts at one request.

        Raises ``ProviderFault``, which says whether the attempt may have been charged. Cancelling closes the
        connection; as after a timeout, nobody knows then whether the service charges.
        """

    async def models(self) -> tuple[Model, ...]:
        """The models offered when the service last answered. Raises ``ProviderFault``."""


@runtime_checkable
class Editor(Protocol):
    """A provider that also draws from pictures, or shows them on the way."""

    async def draw(
        self, request: OpenAIRequest, seed: int, *, key: str, inputs: Inputs, show: Show
    ) -> Delivery:
        """As ``Provider.generate``, from the ``inputs`` that the request names.

        ``show`` is called for at most ``partial_images`` of the pictures on the way, if any come.
        """

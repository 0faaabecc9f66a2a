"""Where pictures come from: one interface, one file for each provider."""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from blossom_async.models import ImageRequest

__all__ = ["Artwork", "Delivery", "Model", "Provider"]


@attrs.frozen(kw_only=True, eq=False)
class Artwork:
    """What a provider made. ``pixels`` is uint8 of shape (height, width, 3), or 4 with straight alpha.

    ``model`` names what drew it; ``notes`` is written into the picture file's own metadata.
    """

    pixels: NDArray[np.uint8]
    model: str
    notes: str


@attrs.frozen(kw_only=True, eq=False)
class Delivery:
    """A picture as a service sent it: a file, looked at from outside and not yet decoded.

    ``format`` (``jpg``, ``png``, ``webp``), ``width`` and ``height`` are read from the bytes. They are what
    the model made, which may be another size and format than was asked for; ``notes`` (ASCII, for the file's
    own metadata) names provider and model, and what is left to be done here. ``usd`` is what the service
    charges for it, 0 when ``cached``, None where that is not known. ``cached``: the service says that it
    does not bill this answer. ``request_id`` is the service's name of the exchange.
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


@attrs.frozen(kw_only=True)
class Model:
    """A model that a provider offers."""

    name: str
    aliases: tuple[str, ...] = ()


class Provider(Protocol):
    """One source of pictures.

    ``remote``: asking it may cost money and fail half-way. ``keyed``: it knows a repeated request, by its
    idempotency key or by its content, so that sending the same request with the same seed and key again is
    not paid for twice.
    """

    name: str
    remote: bool
    keyed: bool

    def check(self, request: ImageRequest) -> None:
        """Raises ``InvalidRequest`` when the request cannot be honoured; called before any cost.

        Waits for nothing: what is not known yet is left to the service.
        """

    def price(self, request: ImageRequest) -> Decimal | None:
        """US dollars the request will cost, None where that is not known beforehand."""

    async def generate(self, request: ImageRequest, seed: int, *, key: str) -> Artwork | Delivery:
        """The picture asked for, by one attempt. ``key`` is the same for all attempts at one request.

        Raises ``ProviderFault``, which says whether the attempt may have been charged. Cancelling it closes
        the connection; whether the service charges is then as unknown as after a timeout.
        """

    async def models(self) -> tuple[Model, ...]:
        """What the service offers now, or offered when it last answered. Raises ``ProviderFault``."""

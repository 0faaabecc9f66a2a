"""Where pixels come from: one interface, one file for each provider."""

from __future__ import annotations

from typing import Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from blossom_async.models import ImageRequest

__all__ = ["Artwork", "Provider"]


@attrs.frozen(kw_only=True, eq=False)
class Artwork:
    """What a provider made. ``pixels`` is uint8 of shape (height, width, 3), or 4 with straight alpha.

    ``model`` names what drew it; ``notes`` is written into the picture file's own metadata.
    """

    pixels: NDArray[np.uint8]
    model: str
    notes: str


class Provider(Protocol):
    """One source of pictures."""

    name: str

    def check(self, request: ImageRequest) -> None:
        """Raises ``InvalidRequest`` when this provider cannot honour the request; called before any cost."""

    async def generate(self, request: ImageRequest, seed: int) -> Artwork:
        """The picture asked for. Raises ``ProviderFailed`` when none could be made."""

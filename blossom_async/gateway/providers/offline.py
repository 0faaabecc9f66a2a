"""The built-in offline renderer: stands in for a model, needs no network and costs nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial

import numpy as np
from numpy.typing import NDArray

from blossom_async.errors import InvalidRequest
from blossom_async.gateway.providers import Artwork, Model
from blossom_async.models import ImageRequest
from blossom_async.scenery import paint

__all__ = ["Offline"]

MODEL = "scenery-1"

Pixels = NDArray[np.uint8]


class Offline:
    """Draws scenes from the words of a prompt. The same request and seed give the same bytes."""

    name = "offline"
    remote = False
    keyed = True  # the same bytes again, free of charge

    def __init__(self, in_thread: Callable[[Callable[[], Pixels]], Awaitable[Pixels]]) -> None:
        self._in_thread = in_thread

    def check(self, request: ImageRequest) -> None:
        """Raises ``InvalidRequest`` for any model but its own."""
        if request.model not in {None, MODEL}:
            raise InvalidRequest("model", request.model, f"{MODEL!r} or no model: this gateway draws offline")

    def price(self, _: ImageRequest) -> Decimal:
        """Always 0."""
        return Decimal(0)

    async def models(self) -> tuple[Model, ...]:
        """The one model of the renderer."""
        return (Model(name=MODEL),)

    async def generate(self, request: ImageRequest, seed: int, *, key: str) -> Artwork:
        """The picture, drawn in a worker thread."""
        draw = partial(
            paint,
            request.prompt,
            width=request.width,
            height=request.height,
            seed=seed,
            quality=request.quality,
            transparency=request.transparency,
            negative_prompt=request.negative_prompt,
        )
        pixels = await self._in_thread(draw)
        return Artwork(pixels=pixels, model=MODEL, notes=f"blossom_async offline renderer ({MODEL})")

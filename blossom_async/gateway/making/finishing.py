"""From what a provider delivered to the files that are stored. CPU-bound: run it in a thread."""

from __future__ import annotations

import hashlib

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from blossom_async.gateway.making.decoding import Undecodable, decoded
from blossom_async.gateway.making.encoding import dominant_colour, encode, thumbhash
from blossom_async.gateway.providers import Artwork, Delivery
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.gateway.storage.records import StoredFile
from blossom_async.models import ImageRequest

__all__ = ["Finished", "finished"]


@attrs.frozen(kw_only=True, eq=False)
class Finished:
    """A picture ready to be stored: its files and their bytes, the one that any viewer can read last."""

    width: int
    height: int
    files: dict[StoredFile, bytes]
    thumbhash: str
    dominant_color: str


def finished(given: Artwork | Delivery, request: ImageRequest, provider: str) -> Finished:
    """The files asked for, in exactly the size asked for.

    A delivered picture of another size is scaled to cover it, then cropped. None of its metadata is kept.
    Raises ``ProviderFault`` if it cannot be decoded.
    """
    pixels = given.pixels if isinstance(given, Artwork) else _read(given, request, provider)
    made = {
        file_format: encode(
            pixels,
            file_format,
            compression=compression,
            preset=request.quality_preset,
            lossy_quality=request.lossy_quality,
            notes=given.notes,
        )
        for file_format, compression in _formats(request)
    }
    fallback = made[next(reversed(made))]
    files = {
        StoredFile(
            format=file_format, sha256=hashlib.sha256(file.data).hexdigest(), file_size=len(file.data)
        ): file.data
        for file_format, file in made.items()
        if file is fallback or len(file.data) < len(fallback.data)
    }
    return Finished(
        width=fallback.width,
        height=fallback.height,
        files=files,
        thumbhash=thumbhash(pixels),
        dominant_color=dominant_colour(pixels),
    )


def _formats(request: ImageRequest) -> tuple[tuple[str, str | None], ...]:
    """Formats to store, each with its compression, the one that any viewer can read last."""
    if request.format != "auto":
        return ((request.format, request.compression),)
    fallback = "png" if request.transparency or request.compression == "lossless" else "jpg"
    plain = request.compression is None and request.quality_preset is None
    # webp's default is lossless, which is heavier than the jpg beside it.
    return (("webp", "lossy" if plain else request.compression), (fallback, request.compression))


def _read(given: Delivery, request: ImageRequest, provider: str) -> NDArray[np.uint8]:
    try:
        image = decoded(
            given.data, given.format, orientation=given.orientation, transparency=request.transparency
        )
    except Undecodable as exc:
        raise ProviderFault(
            provider,
            Kind.BAD_CONTENT,
            f"sent a picture that cannot be decoded ({exc})",
            request_id=given.request_id,
            charged="no" if given.cached else "yes",
        ) from exc
    if image.size != (request.width, request.height):
        image = ImageOps.fit(image, (request.width, request.height), Image.Resampling.LANCZOS)
    return np.asarray(image)

"""From what a provider delivered to the files that are stored. CPU-bound: run it in a thread."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from blossom_async.gateway.making.credentials import Credentials
from blossom_async.gateway.making.decoding import PREVIEW_PX, Undecodable, check_jpg, check_png, decoded
from blossom_async.gateway.making.encoding import (
    Encoded,
    dominant_colour,
    encode,
    has_avif,
    lighter_avif,
    thumbhash,
)
from blossom_async.gateway.making.metadata import (
    ALGORITHMIC,
    TRAINED,
    has_manifest,
    is_plain,
    is_vouched_for,
    kept,
    source_mark,
)
from blossom_async.gateway.providers import Artwork, Delivery
from blossom_async.gateway.providers.containers import Unusable, look
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.gateway.storage.records import StoredFile
from blossom_async.models import ImageRequest

__all__ = ["Finish", "Finished", "finished"]


@attrs.frozen(kw_only=True, eq=False)
class Finished:
    """A picture ready to be stored. The last of its ``files`` is the one that every viewer can read."""

    width: int
    height: int
    files: dict[StoredFile, bytes]
    thumbhash: str | None
    dominant_color: str | None


_CHECKS = {"jpg": check_jpg, "png": check_png}

Finish = Callable[[Artwork | Delivery, ImageRequest, str, bool], Finished]
"""As ``finished``, with the gateway's settings."""


def finished(
    given: Artwork | Delivery,
    request: ImageRequest,
    provider: str,
    preview: bool = True,
    *,
    keep_manifests: bool = True,
    credentials: Credentials | None = None,
) -> Finished:
    """The files asked for, in exactly the size asked for.

    A delivered file that already is what was asked for keeps its pixels as they came, and every byte if its
    maker's manifest (C2PA) vouches for them, with ``keep_manifests``. Any other is converted; one of another
    size is scaled to cover it, then cropped. Each file says where the picture comes from, and nothing else of
    its maker's metadata is kept. With ``credentials`` each is signed, and its maker's manifest is part of the
    new one. Without ``preview`` there is none, and a jpg or png that is kept is only checked. Raises
    ``ProviderFault`` if it cannot be decoded.
    """
    formats = _formats(request)
    source = ALGORITHMIC if isinstance(given, Artwork) else TRAINED
    mark = source_mark(source, given.notes)
    made: dict[str, Encoded] = {}
    untouched = set()
    for file_format, compression in formats:
        if isinstance(given, Delivery) and _is_as_asked(given, request, file_format, compression):
            if keep_manifests and credentials is None and is_vouched_for(given.data, file_format):
                untouched.add(file_format)
            data = given.data if file_format in untouched else kept(given.data, file_format, mark)
            made[file_format] = Encoded(data, request.width, request.height)
    whole = len(made) < len(formats)
    pixels = None
    if isinstance(given, Artwork):
        pixels = given.pixels
    elif whole or preview or given.format not in _CHECKS:
        pixels = _read(given, request, provider, whole=whole)
    else:
        with _faults(given, provider):
            _CHECKS[given.format](given.data)
    for file_format, compression in formats:
        if pixels is not None and file_format not in made:
            made[file_format] = encode(
                pixels,
                file_format,
                compression=compression,
                preset=request.quality_preset,
                lossy_quality=request.lossy_quality,
                notes=given.notes,
                mark=mark,
            )
    fallback = made[formats[-1][0]]
    if pixels is not None and request.format == "auto" and has_avif() and _is_lossy(request):
        avif = lighter_avif(
            pixels, made["webp"].data, preset=request.quality_preset, notes=given.notes, mark=mark
        )
        if avif is not None:
            made = {"avif": avif, **made}
    parent = _with_manifest(given) if credentials is not None and keep_manifests else None
    files = {}
    for file_format, file in made.items():
        if file is not fallback and len(file.data) >= len(fallback.data):
            continue
        data, provenance = file.data, "provider_c2pa" if file_format in untouched else "marked"
        if credentials is not None:
            data = credentials.signed(data, file_format, source=source, parent=parent)
            provenance = "signed_c2pa"
        stored = StoredFile(
            format=file_format,
            sha256=hashlib.sha256(data).hexdigest(),
            file_size=len(data),
            provenance=provenance,
        )
        files[stored] = data
    return Finished(
        width=fallback.width,
        height=fallback.height,
        files=files,
        thumbhash=thumbhash(pixels) if preview and pixels is not None else None,
        dominant_color=dominant_colour(pixels) if preview and pixels is not None else None,
    )


def _with_manifest(given: Artwork | Delivery) -> bytes | None:
    """A delivered file that has its maker's manifest."""
    if isinstance(given, Delivery) and has_manifest(given.data, given.format):
        return given.data
    return None


def _formats(request: ImageRequest) -> tuple[tuple[str, str | None], ...]:
    """Formats to store, each with its compression. Every viewer can read the last one."""
    if request.format != "auto":
        return ((request.format, request.compression),)
    fallback = "png" if request.transparency or request.compression == "lossless" else "jpg"
    plain = request.compression is None and request.quality_preset is None
    # webp's default is lossless, which is heavier than the jpg beside it.
    return (("webp", "lossy" if plain else request.compression), (fallback, request.compression))


def _is_lossy(request: ImageRequest) -> bool:
    """Whether the webp of ``auto`` is."""
    return request.compression not in {"none", "lossless"} and request.quality_preset != "print"


def _is_as_asked(given: Delivery, request: ImageRequest, file_format: str, compression: str | None) -> bool:
    if given.format != file_format:
        return False
    if (compression, request.quality_preset, request.lossy_quality) != (None, None, None):
        return False
    if (given.width, given.height, given.orientation) != (request.width, request.height, 1):
        return False
    try:
        return look(given.data).alpha == request.transparency and is_plain(given.data, file_format)
    except Unusable:
        return False


def _read(given: Delivery, request: ImageRequest, provider: str, *, whole: bool) -> NDArray[np.uint8]:
    """The pixels of a delivered file; scaled down unless ``whole``, where the decoder can."""
    with _faults(given, provider):
        image = decoded(
            given.data,
            given.format,
            orientation=given.orientation,
            transparency=request.transparency,
            at_least=None if whole else PREVIEW_PX,
        )
    if whole and image.size != (request.width, request.height):
        image = ImageOps.fit(image, (request.width, request.height), Image.Resampling.LANCZOS)
    return np.asarray(image)


@contextlib.contextmanager
def _faults(given: Delivery, provider: str) -> Iterator[None]:
    """Raises ``ProviderFault`` for pixels that the block cannot decode."""
    try:
        yield
    except Undecodable as exc:
        raise ProviderFault(
            provider,
            Kind.BAD_CONTENT,
            f"sent a picture that cannot be decoded ({exc})",
            request_id=given.request_id,
            charged="no" if given.cached else "yes",
        ) from exc

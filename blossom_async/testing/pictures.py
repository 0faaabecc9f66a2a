"""Small real pictures, the same for the same order, and damaged ones."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from types import ModuleType

import attrs

from blossom_async.errors import ConfigurationError
from blossom_async.testing.faults import Fault

__all__ = ["PLACEHOLDER", "Picture", "draw", "pillow", "spoiled"]

_GRID = 8
_FORMATS = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


@attrs.frozen
class Picture:
    """Bytes with their declared media type."""

    data: bytes
    media_type: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


PLACEHOLDER = Picture(
    base64.b64decode(
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWG"
        "kJ6jq62rZ4C8ybqmx5moq6T/wAALCABAAEABAREA/8QAGgABAQADAQEAAAAAAAAAAAAAAAQCAwUBBv/EACkQAAIBAwAIBwEA"
        "AAAAAAAAAAECAAMEEQUSFDE0QVTBI3KBobHR8JH/2gAIAQEAAD8A+hiIiIiJLeXZtmQCnrBs5OcTWt/VddZbR2B5gk9p7ttf"
        "o6nv9Rttfo6nv9Rttfo6nv8AU2Wl0bguDT1CmMgnMpiQ6RUPXtlYZBbB/omrxNHVeb0GP71+Z0UdaiB0OVO4zKJFYcTd+fuZ"
        "bEiv+JtPP3ErdFqIUcZU7xOd4mjqvN6DH96/M6KOtRA6HKncZlIrDibvz9zLYkV/xNp5+4lsxdFqIUcZU7xOd4mjqvN6DH96"
        "/M6KOtRA6HKncZJYcTd+fuZbEiv+JtPP3EtiYui1EKOMqd4nO8TR1Xm9Bj+9fmbdHMHr3LKcgtkf0y6JNd2puChFTUKZwQMz"
        "XsVfrKnv9xsVfrKnv9xsVfrKnv8Ac8awquuq127A8iCe82WdobZnJqawbGBjEqiIiIiJ/9k="
    ),
    "image/jpeg",
)
"""A crossed box of 64x64, sent to throttled callers. Stored, so that its hash never changes."""

_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><script>alert(1)</script></svg>'
_JSON = b'{"error": {"message": "no worker took the job", "code": "no_worker"}}'


def pillow() -> ModuleType:
    """Pillow's ``Image`` module. Raises ``ConfigurationError`` if it is not installed."""
    try:
        from PIL import Image
    except ImportError as exc:
        raise ConfigurationError(
            f"the fake providers draw real pictures with Pillow, which is not installed ({exc}): "
            "pip install '.[gateway]' in the checkout"
        ) from exc
    return Image


def draw(words: str, *, width: int, height: int, format: str, transparent: bool) -> Picture:
    """A board of 8 by 8 colours that depend only on ``words``, as ``jpeg``, ``png`` or ``webp``.

    With ``transparent`` the left half is transparent.
    """
    image = pillow()
    colours = hashlib.shake_128(words.encode()).digest(_GRID * _GRID * 3)
    board = image.frombytes("RGB", (_GRID, _GRID), colours)
    if transparent:
        board.putalpha(image.frombytes("L", (_GRID, _GRID), (b"\0" * 4 + b"\xff" * 4) * _GRID))
    file = io.BytesIO()
    options = {"jpeg": {"quality": 80}, "png": {"compress_level": 1}, "webp": {"lossless": True, "method": 0}}
    board.resize((width, height), image.Resampling.NEAREST).save(file, format.upper(), **options[format])
    return Picture(file.getvalue(), _FORMATS[format])


def spoiled(
    picture: Picture,
    fault: Fault | None,
    *,
    width: int,
    height: int,
    redraw: Callable[[str, int, int], Picture],
) -> Picture:
    """What the caller gets instead of ``picture``: the picture itself, unless the fault is one of pictures.

    ``redraw`` draws words at a width and a height, in the ordered format.
    """
    match fault:
        case Fault.SVG_AS_PNG:
            return Picture(_SVG, "image/png")
        case Fault.JSON_AS_JPEG:
            return Picture(_JSON, "image/jpeg")
        case Fault.TRUNCATED:
            return attrs.evolve(picture, data=picture.data[: len(picture.data) * 2 // 3])
        case Fault.TINY:
            return redraw("tiny", 1, 1)
        case Fault.WRONG_SIZE:
            return redraw("wrong size", width + 16, max(1, height // 2))
        case Fault.SAME_BYTES:
            return redraw("the same for everybody", width, height)
        case _:
            return picture

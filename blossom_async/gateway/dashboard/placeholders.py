"""What a picture's frame shows until the picture has loaded."""

from __future__ import annotations

import base64
import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["placeholder"]

_Values = NDArray[np.float64]

_LONGEST = 12  # pixels: a ThumbHash has at most 7 terms a side, and browsers scale smoothly


@lru_cache(maxsize=4096)
def placeholder(thumbhash: str, width: int, height: int) -> str | None:
    """A picture's ThumbHash as the ``data:`` URL of a tiny PNG of its shape.

    None for a picture that is not opaque: it would not cover what is behind it.

    ThumbHash as published (Evan Wallace, https://evanw.github.io/thumbhash/).
    """
    data = base64.b64decode(thumbhash)
    head = int.from_bytes(data[:5], "little")
    if head >> 23 & 1:
        return None
    longest, shortest = 7, max(3, head >> 24 & 7)
    across, down = (longest, shortest) if head >> 39 else (shortest, longest)
    scale = _LONGEST / max(width, height)
    size = max(1, round(scale * height)), max(1, round(scale * width))
    nibbles = np.array([half for byte in data[5:] for half in (byte & 15, byte >> 4)]) / 7.5 - 1
    light, nibbles = _channel(nibbles, across, down, (head & 63) / 63, (head >> 18 & 31) / 31, size)
    warm, nibbles = _channel(nibbles, 3, 3, (head >> 6 & 63) / 31.5 - 1, 1.25 * (head >> 27 & 63) / 63, size)
    tint, _ = _channel(nibbles, 3, 3, (head >> 12 & 63) / 31.5 - 1, 1.25 * (head >> 33 & 63) / 63, size)
    blue = light - 2 / 3 * warm
    red = (3 * light - blue + tint) / 2
    pixels = np.stack([red, red - tint, blue], axis=-1).clip(0, 1) * 255
    out = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _channel(
    nibbles: _Values, across: int, down: int, mean: float, scale: float, size: tuple[int, int]
) -> tuple[_Values, _Values]:
    """A channel's pixels, and the nibbles after those of its terms."""
    wanted = [
        (row, column)
        for row in range(down)
        for column in range(0 if row else 1, across)
        if column * down < across * (down - row)
    ]
    terms = np.zeros((down, across))
    for (row, column), detail in zip(wanted, nibbles, strict=False):
        terms[row, column] = 2 * scale * detail
    terms[0, 0] = mean
    height, width = size
    return _cosines(down, height).T @ terms @ _cosines(across, width), nibbles[len(wanted) :]


def _cosines(count: int, length: int) -> _Values:
    return np.cos(np.pi / length * np.outer(np.arange(count), np.arange(length) + 0.5))

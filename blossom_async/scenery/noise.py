"""Uneven lines and clouds: value noise in several octaves, the same at every size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blossom_async.scenery.canvas import Floats, stretched

__all__ = ["contour", "mottle", "scale", "smoothstep"]

_PERIOD = 256


def smoothstep(low: float, high: float, value: NDArray[np.floating]) -> Floats:
    """0 below `low`, 1 above `high`, an S-curve in between (either order)."""
    t: Floats = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1).astype(
        np.float32, copy=False
    )
    smooth: Floats = t * t * (3 - 2 * t)
    return smooth


def scale(marks: NDArray[np.floating], low: float, high: float, value: Floats) -> Floats:
    """Interpolates `marks`, spread evenly from `low` to `high`; by a table, as np.interp is slow."""
    table = np.interp(np.linspace(0, 1, 1024), np.linspace(0, 1, len(marks)), marks).astype(np.float32)
    index = ((value - np.float32(low)) * np.float32(1023 / (high - low))).astype(np.int32)
    found: Floats = table[np.clip(index, 0, 1023)]
    return found


def contour(
    chance: np.random.Generator, where: Floats, waves: float, octaves: int = 6, rough: float = 0.5
) -> Floats:
    """An uneven line: values around 0, mostly within ±1, at the places `where` (in units).

    `waves` is how many ups and downs fit into one unit in the lowest octave; each further octave has twice
    as many, `rough` times as high.
    """
    total = np.zeros_like(where)
    strength, sum_of_strengths = 1.0, 0.0
    for _ in range(octaves):
        lattice = chance.random(_PERIOD, dtype=np.float32) * 2 - 1
        place = where * np.float32(waves) + np.float32(chance.random() * _PERIOD)
        cell = np.floor(place)
        t = place - cell
        t = t * t * (3 - 2 * t)
        index = cell.astype(np.int64) % _PERIOD
        left = lattice[index]
        total += np.float32(strength) * (left + (lattice[(index + 1) % _PERIOD] - left) * t)
        sum_of_strengths += strength
        strength *= rough
        waves *= 2
    return total * np.float32(1.6 / sum_of_strengths)


def mottle(
    chance: np.random.Generator,
    width: int,
    height: int,
    *,
    cells: tuple[float, float],
    octaves: int = 4,
    rough: float = 0.5,
) -> Floats:
    """A cloudy plane (height, width), values around 0.5, mostly within 0..1.

    `cells` says how many patches fit across and down in the lowest octave. The plane is enlarged from small
    lattices by Pillow, which does not hold the interpreter while it works.
    """
    # Its own stream: how many octaves a size needs must not move what is drawn after.
    own = np.random.Generator(np.random.PCG64(int(chance.integers(1 << 62))))
    total = np.zeros((height, width), np.float32)
    strength, sum_of_squares = 1.0, 0.0
    across, down = cells
    for _ in range(octaves):
        # A full lattice is drawn whatever the size, then repeated where a long picture needs more of it.
        lattice = own.random((64, 64), dtype=np.float32) - np.float32(0.5)
        need_x, need_y = math.ceil(across) + 3, math.ceil(down) + 3
        if need_x > 64 or need_y > 64:
            lattice = np.tile(lattice, (-(-need_y // 64), -(-need_x // 64)))
        image = Image.fromarray(lattice)
        layer = stretched(image, width, height, (1.0, 1.0, 1.0 + across, 1.0 + down))
        layer *= np.float32(strength)
        total += layer
        sum_of_squares += strength * strength
        strength *= rough
        if across * 1.5 > width or down * 1.5 > height:
            break  # finer than a pixel
        across *= 2
        down *= 2
    return total * np.float32(0.75 / math.sqrt(sum_of_squares)) + np.float32(0.5)

"""Water: reflections broken by ripples, and glitter under the light."""

from __future__ import annotations

import numpy as np

from blossom_async.scenery.canvas import Canvas, Floats, Stencil
from blossom_async.scenery.noise import mottle
from blossom_async.scenery.sky import Orb

__all__ = ["glitter", "mirror"]


def mirror(
    canvas: Canvas, shore: int, *, tint: Floats, deep: Floats, rough: float = 1.0, clear: float = 0.8
) -> None:
    """Reflect what is above row `shore` into everything below it.

    `rough` scales the ripples, `clear` how much reflection is left beside the water's own colour, which runs
    from `tint` at the shore to `deep` at the feet of the viewer.
    """
    height, width = canvas.height - shore, canvas.width
    if height <= 0:
        return
    if shore <= 0:
        canvas.over(0, 0, np.ones((height, width), np.float32), deep)
        return
    below = np.arange(height, dtype=np.float32)
    near = below / max(1, height)
    # Perspective: ripples are flatter and finer towards the shore.
    quarter_w, quarter_h = -(-width // 2), max(2, -(-height // 2))
    ripples = mottle(
        canvas.chance.stream("ripples"), quarter_w, quarter_h,
        cells=(5 * width / canvas.unit, 100 * height / canvas.unit), octaves=3 if canvas.detail == 1 else 4,
        rough=0.6,
    ) - np.float32(0.5)  # fmt: skip
    rank = (np.sqrt(near) * (quarter_h - 1)).astype(np.int64)
    reach = np.float32(canvas.unit * 0.06 * rough)
    above = [canvas.planes[k, :shore].ravel() for k in range(3)]
    for y0, y1 in canvas.strips(shore, canvas.height):
        part = slice(y0 - shore, y1 - shore)
        close = near[part, None]
        ripple = np.repeat(ripples[rank[part]], 2, axis=1)[:, :width]
        swing = reach * (close * np.float32(0.9) + np.float32(0.06))
        mirrored = (shore - 1 - below[part] * np.float32(0.94))[:, None]
        source = mirrored - (np.abs(ripple) * np.float32(1.2) - ripple * np.float32(0.3)) * swing
        source = np.abs(source)  # a picture with more water than sky mirrors the sky twice
        index = np.clip(source, 0, shore - 1).astype(np.int64) * width + np.arange(width, dtype=np.int64)
        strength = np.float32(clear) * (1 - np.float32(0.42) * close)
        shimmer = 1 + ripple * np.float32(0.3 * min(1.5, rough))
        for k in range(3):
            own = tint[k] + (deep[k] - tint[k]) * close
            seen = above[k].take(index)
            seen -= own
            seen *= strength
            seen += own
            seen *= shimmer
            canvas.planes[k, y0:y1] = seen


def glitter(canvas: Canvas, shore: int, orb: Orb, colour: Floats, power: float = 1.0) -> None:
    """Short flashes on the water below the light, wider and larger towards the viewer."""
    height = canvas.height - shore
    if height < 4:
        return
    chance = canvas.chance.stream("glitter")
    count = int(260 * (0.6 + 0.4 * canvas.detail))
    throws = chance.random((700, 4), dtype=np.float32)[:count]
    near = throws[:, 0] ** 1.25
    spread = canvas.unit * (0.035 + 0.13 * near)
    middle = orb.x + (throws[:, 1] + throws[:, 2] - 1) * 1.5 * spread
    length = canvas.unit * (0.006 + 0.028 * near) * (0.4 + throws[:, 3])
    thick = np.maximum(1.0, canvas.unit * (0.0010 + 0.0022 * near))
    x, y = middle, shore + 1 + near * height
    half, rise = length / 2, thick / 2
    # Each flash is a lens shape, pointed left and right.
    px = np.stack((x - half, x, x + half, x), axis=1)
    py = np.stack((y, y - rise, y, y + rise), axis=1)
    light = (0.25 + 0.75 * throws[:, 3]) * (1 - 0.35 * near) * 255
    stencil = Stencil(canvas, shore, canvas.height)
    stencil.polygons(np.stack((px, py), axis=2), light.astype(np.int64).tolist())
    canvas.add(shore, 0, stencil.cover() * np.float32(power), colour)

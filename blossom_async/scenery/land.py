"""Ground that rises against the sky: ridges, hills, dunes, with mist between them."""

from __future__ import annotations

import numpy as np

from blossom_async.scenery.canvas import Canvas, Floats
from blossom_async.scenery.noise import contour, mottle, smoothstep

__all__ = ["ridge", "summits"]


def summits(
    chance: np.random.Generator, where: Floats, *, apart: float, steep: float, jagged: float = 1.0
) -> Floats:
    """A skyline of peaks: heights in units, 0 at the valleys' level, at the places `where` (in units).

    `apart` is the usual distance between peaks, in units, and `steep` the rise per unit of their flanks.
    """
    count = 64  # enough for the widest picture; the same peaks stand in a narrow one
    places = (np.arange(count, dtype=np.float32) - 1 + chance.uniform(-0.42, 0.42, count)) * np.float32(apart)
    heights = apart * steep * (0.25 + 0.62 * chance.random(count) ** 1.3)
    flanks = steep * chance.uniform(0.65, 1.15, (2, count))
    line = np.full_like(where, -1)
    last = float(where[-1]) + 2 * apart
    for place, height, left, right in zip(places, heights, flanks[0], flanks[1], strict=True):
        if place > last:
            break
        gap = where - np.float32(place)
        line = np.maximum(
            line, np.float32(height) - np.where(gap < 0, -gap * np.float32(left), gap * np.float32(right))
        )
    line = np.maximum(line, 0) + np.float32(0.02)
    rough = contour(chance, where, 5 / apart / 3, octaves=8, rough=0.56)
    uneven: Floats = line + rough * np.float32(0.11 * apart * jagged) * (
        0.45 + np.minimum(1, line / np.float32(apart * steep))
    )
    return uneven


def ridge(
    canvas: Canvas,
    line: Floats,
    bottom: int,
    top_colour: Floats,
    foot_colour: Floats,
    *,
    facets: float = 0.0,
    sunward: float = 1.0,
    lit_colour: Floats | None = None,
    snow: tuple[Floats, float] | None = None,
    purpose: str = "ridge",
) -> None:
    """Fill from `line` (one height per column, in pixel rows) down to row `bottom`, graded to the foot.

    `facets` 0..1 is how strongly slopes that face the light (`sunward` +1 right, -1 left) take `lit_colour`.
    `snow` is its colour and how far down it reaches, in units.
    """
    top = int(max(0, np.floor(line.min()) - 1))
    bottom = min(canvas.height, bottom)
    if top >= bottom:
        return
    whole = max(1, bottom - top)
    if not facets and snow is None:
        for y0, y1 in canvas.strips(top, bottom):
            rows = np.arange(y0, y1, dtype=np.float32)
            cover = np.clip(rows[:, None] + np.float32(1) - line[None, :], 0, 1)
            fall = (rows - np.float32(top)) / np.float32(whole)
            canvas.over(
                y0, 0, cover, top_colour[:, None] + (foot_colour - top_colour)[:, None] * fall[None, :]
            )
        return

    unit = np.float32(canvas.unit)
    wander = mottle(
        canvas.chance.stream(f"{purpose} facets"),
        -(-canvas.width // 2),
        -(-whole // 2),
        cells=(16 * canvas.width / canvas.unit, 9 * whole / canvas.unit),
        octaves=4,
        rough=0.66,
    )
    # Gullies run down and sideways from each summit, so a slope's light continues along them.
    reach = max(2, int(canvas.unit * 0.009))
    slope = np.convolve(np.pad(line, reach, mode="edge"), _edge_kernel(reach), mode="valid")[: canvas.width]
    facing = np.clip(slope * np.float32(sunward / (reach * 0.55)), -1, 1).astype(np.float32)
    columns = np.arange(canvas.width, dtype=np.float32)[None, :]
    lit = top_colour if lit_colour is None else lit_colour
    white, snow_reach = snow or (lit, 0.0)
    for y0, y1 in canvas.strips(top, bottom):
        rows = np.arange(y0, y1, dtype=np.float32)
        depth = rows[:, None] + np.float32(0.5) - line[None, :]
        cover = np.clip(depth + np.float32(0.5), 0, 1)
        stray = np.repeat(wander[np.arange(y0 - top, y1 - top) // 2], 2, axis=1)[:, : canvas.width]
        along = np.clip(columns + depth * (stray * np.float32(1.1) - np.float32(0.55)), 0, canvas.width - 1)
        light = np.clip(facing[along.astype(np.int32)] + (stray - np.float32(0.5)) * np.float32(0.7), -1, 1)
        fade = np.exp(np.maximum(depth, 0) / (unit * np.float32(-0.13))) * np.float32(facets)
        bright = np.maximum(light, 0) * fade
        dim = 1 + np.minimum(light, 0) * fade * np.float32(0.34)
        fall = (rows[:, None] - top) / whole
        if snow is not None:
            edge = (
                depth / unit
                + (stray - 0.5) * np.float32(snow_reach * 1.5)
                - np.minimum(light, 0) * np.float32(0.012)
            )
            lying = smoothstep(snow_reach * 1.15, snow_reach * 0.85, edge)
            shine = (0.72 + 0.28 * dim) * (0.86 + 0.14 * bright)
        for k in range(3):
            colour = (top_colour[k] + (foot_colour[k] - top_colour[k]) * fall) * dim
            colour += (lit[k] - colour) * bright
            if snow is not None:
                colour += (white[k] * shine - colour) * lying
            plane = canvas.planes[k, y0:y1]
            plane += (colour - plane) * cover


def _edge_kernel(reach: int) -> Floats:
    """Rise of the line over a stretch; convolution flips the kernel, so it is written backwards."""
    kernel = np.zeros(2 * reach + 1, np.float32)
    kernel[0], kernel[-1] = 1, -1
    return kernel * np.float32(0.5)

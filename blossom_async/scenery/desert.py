"""Dunes with a lit and a shaded side, mesas behind them, cacti in front."""

from __future__ import annotations

import numpy as np

from blossom_async.scenery import landmarks, silhouettes
from blossom_async.scenery.canvas import Canvas, Floats
from blossom_async.scenery.colour import Palette, mix, rgb
from blossom_async.scenery.land import ridge
from blossom_async.scenery.noise import contour, mottle, smoothstep
from blossom_async.scenery.sky import paint_sky
from blossom_async.scenery.words import Scene

__all__ = ["paint_desert"]


def paint_desert(canvas: Canvas, scene: Scene, palette: Palette) -> None:
    """From the farthest rock to the nearest dune."""
    chance = canvas.chance.stream("desert")
    horizon = float(chance.uniform(0.5, 0.6))
    base = canvas.row(horizon)
    orb = paint_sky(canvas, scene, palette, min(1.0, horizon + 0.06), horizon)
    sunward = 1.0 if orb.x > canvas.width / 2 else -1.0
    red = scene.wants("mars") or any(c in ("red", "rust", "crimson") for c in scene.colours)
    light_sand = palette.own(rgb("#d98b58") if red else rgb("#f0bd7d"))
    dark_sand = mix(palette.own(rgb("#7a3b28") if red else rgb("#94553a")), palette.shade, 0.35)
    _mesas(canvas, scene, palette, base, light_sand, sunward)
    if scene.wants("pyramid"):
        for x, size in ((0.5 - 0.2 * sunward, 0.2), (0.5 + 0.1 * sunward, 0.145), (0.5 + 0.3 * sunward, 0.1)):
            silhouettes.pyramid(
                canvas, canvas.width * x, base + canvas.unit * 0.01, canvas.unit * size,
                mix(light_sand, palette.haze, 0.25), mix(dark_sand, palette.haze, 0.3), sunward,
            )  # fmt: skip
    span = (canvas.height - base) / canvas.unit
    lines = []
    for k in range(5):
        t = k / 4
        stream = canvas.chance.stream(f"dune {k}")
        swing = contour(stream, canvas.across, 0.9 + 0.75 * (1 - t), octaves=2, rough=0.35)
        lift = span * (0.02 + 0.78 * t**1.35) - (0.035 + 0.075 * t) * (swing + 0.2)
        lines.append((base + np.float32(canvas.unit) * lift).astype(np.float32))
    line = lines[-1]
    for k, crest in enumerate(lines):
        # A dune ends where the next one hides it.
        bottom = canvas.height if k == 4 else min(canvas.height, int(lines[k + 1].max()) + 2)
        _dune(
            canvas,
            palette,
            crest,
            bottom,
            f"dune {k}",
            light_sand,
            dark_sand,
            0.5 * (1 - k / 4) ** 1.2,
            sunward,
        )
    if scene.wants("camel"):
        skyline = np.minimum(np.minimum(lines[2], lines[3]), lines[4])  # no dune hides them
        silhouettes.caravan(
            canvas,
            canvas.width * float(chance.uniform(0.15, 0.4)),
            canvas.unit * 0.06,
            mix(palette.shade, dark_sand, 0.2),
            5,
            skyline,
        )
    if scene.wants("oasis"):
        landmarks.paint_oasis(canvas, palette, base)
    if scene.wants("cactus"):
        ink = mix(palette.own(rgb("#3f6b43")), palette.shade, 0.6)
        edge = mix(palette.own(rgb("#a3c276")), palette.glow, 0.35)
        for k in range(int(chance.integers(2, 5))):
            x = canvas.width * float(chance.uniform(0.04, 0.96))
            size = canvas.unit * float((0.3, 0.13, 0.09, 0.17)[k]) * float(chance.uniform(0.85, 1.15))
            y = float(line[int(min(x, canvas.width - 1))]) + canvas.unit * (0.06 if k == 0 else 0.006)
            silhouettes.cactus(
                canvas, x, min(y, canvas.height * 0.98), size, ink, edge, int(chance.integers(1, 4)), sunward
            )
    if scene.allows("birds") and scene.wants("birds"):
        silhouettes.birds(canvas, "birds", canvas.width * 0.5, base * 0.5, 0.1, 5, palette.shade)


def _mesas(canvas: Canvas, scene: Scene, palette: Palette, base: int, sand: Floats, sunward: float) -> None:
    if scene.wants("pyramid") or not scene.allows("mountains"):
        return
    for k in range(2):
        stream = canvas.chance.stream(f"mesa {k}")
        swell = contour(stream, canvas.across, 1.5 + k, octaves=3)
        table = smoothstep(0.12, 0.24, swell) * (0.75 + 0.25 * smoothstep(0.42, 0.47, swell))
        rough = contour(stream, canvas.across, 14, octaves=5)
        line = base - np.float32(canvas.unit) * (
            table * (0.1 - 0.03 * k) * (1 + 0.05 * rough) + 0.012 - 0.006 * k
        )
        tone = mix(mix(sand, palette.own(rgb("#8f4a3a")), 0.6), palette.haze, 0.62 - 0.2 * k)
        ridge(
            canvas,
            line.astype(np.float32),
            base + int(canvas.unit * 0.04),
            tone,
            mix(tone, palette.haze, 0.5),
            facets=0.5,
            sunward=sunward,
            lit_colour=mix(tone, palette.glow, 0.3),
            purpose=f"mesa {k}",
        )


def _dune(
    canvas: Canvas, palette: Palette, line: Floats, bottom: int, purpose: str, light: Floats, dark: Floats,
    distance: float, sunward: float,
) -> None:  # fmt: skip
    """One dune: its crest winds down and divides the sunny face from the shaded one."""
    top = int(max(0, line.min() - 1))
    if top >= bottom:
        return
    stream = canvas.chance.stream(f"{purpose} face")
    reach = max(2, int(canvas.unit * 0.02))
    kernel = np.zeros(2 * reach + 1, np.float32)
    kernel[0], kernel[-1] = 0.5, -0.5
    slope = np.convolve(np.pad(line, reach, mode="edge"), kernel, mode="valid") * (sunward / reach)
    slope = slope.astype(np.float32)
    ripples = mottle(
        stream, canvas.width, bottom - top,
        cells=(9 * canvas.width / canvas.unit, 95 * (bottom - top) / canvas.unit), octaves=2, rough=0.6,
    )  # fmt: skip
    soft = mottle(
        stream, -(-canvas.width // 4), -(-(bottom - top) // 4),
        cells=(2.2 * canvas.width / canvas.unit, 3.5 * (bottom - top) / canvas.unit), octaves=2,
    )  # fmt: skip
    columns = np.arange(canvas.width, dtype=np.float32)[None, :]
    for y0, y1 in canvas.strips(top, bottom):
        rows = np.arange(y0, y1, dtype=np.float32)[:, None]
        depth = (rows + np.float32(0.5) - line[None, :]) / np.float32(canvas.unit)
        cover = np.clip(depth * np.float32(canvas.unit) + np.float32(0.5), 0, 1)
        grain = ripples[y0 - top : y1 - top] - np.float32(0.5)
        swell = np.repeat(soft[np.arange(y0 - top, y1 - top) // 4], 4, axis=1)[:, : canvas.width]
        along = np.clip(columns + depth * np.float32(canvas.unit * 1.1 * sunward), 0, canvas.width - 1)
        facing = slope[along.astype(np.int32)]
        lit = smoothstep(
            -0.09, 0.1, facing + swell * np.float32(0.16) - depth * np.float32(0.12) - np.float32(0.05)
        )
        lit *= np.float32(0.9) + np.float32(0.2) * grain
        crest = np.exp(np.maximum(depth, 0) * np.float32(-1 / 0.006)) * lit * np.float32(0.22)
        rough = 1 + grain * np.float32(0.16)
        for k in range(3):
            colour = dark[k] + (light[k] - dark[k]) * lit
            colour += (palette.glow[k] - colour) * crest
            colour *= rough
            colour += (palette.haze[k] - colour) * np.float32(distance)
            plane = canvas.planes[k, y0:y1]
            plane += (colour - plane) * cover

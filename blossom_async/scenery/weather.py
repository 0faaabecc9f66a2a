"""Fog, rain and snow, in front of everything else."""

from __future__ import annotations

import math

import numpy as np

from blossom_async.scenery.canvas import Canvas, Stencil, enlarged
from blossom_async.scenery.colour import Palette, mix, rgb
from blossom_async.scenery.noise import mottle
from blossom_async.scenery.words import Scene

__all__ = ["paint_weather"]


def paint_weather(canvas: Canvas, scene: Scene, palette: Palette) -> None:
    """Fog, rain or snow over a finished view."""
    if scene.weather in ("fog", "rain", "storm") and scene.allows("fog") and scene.kind != "forest":
        _fog(
            canvas,
            palette,
            {"fog": 0.42 if scene.kind == "mountains" else 0.6, "rain": 0.28, "storm": 0.22}[scene.weather],
        )
    if scene.weather in ("rain", "storm") and scene.allows("rain"):
        _rain(canvas, palette, 1.5 if scene.weather == "storm" else 1.0)
    falling = scene.weather == "snow" or (
        scene.snowy and scene.weather == "clear" and canvas.chance.stream("snowfall").random() < 0.5
    )
    if falling and scene.allows("snow"):
        _snow(canvas, palette, 1.0 if scene.weather == "snow" else 0.5)


def _fog(canvas: Canvas, palette: Palette, strength: float) -> None:
    stream = canvas.chance.stream("fog")
    width, height = canvas.width // 4 + 1, canvas.height // 4 + 1
    wide, tall = canvas.width / canvas.unit, canvas.height / canvas.unit
    banks = mottle(stream, width, height, cells=(1.6 * wide, 5 * tall), octaves=4)
    level = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    thick = np.exp(-(((level - 0.6) / 0.24) ** 2)) * 0.9 + 0.16
    cover = np.clip(thick * (0.35 + 0.9 * banks), 0, 1) * np.float32(strength)
    full = enlarged(cover.astype(np.float32), width * 4, height * 4)[: canvas.height, : canvas.width]
    canvas.over(0, 0, np.clip(full, 0, 1, out=full), mix(palette.haze, palette.horizon, 0.4))


def _rain(canvas: Canvas, palette: Palette, strength: float) -> None:
    stream = canvas.chance.stream("rain")
    count = int(
        min(900, 330 * canvas.width * canvas.height / canvas.unit**2 * strength * (0.6 + 0.4 * canvas.detail))
    )
    throws = stream.random((900, 4))[:count]
    slant = float(stream.uniform(-0.22, 0.22))
    stencil = Stencil(canvas, 0, canvas.height, smooth=False)  # too thin and faint for rough edges to show
    x, y = (throws[:, 0] * 1.2 - 0.1) * canvas.width, (throws[:, 1] * 1.1 - 0.1) * canvas.height
    long = canvas.unit * (0.03 + 0.06 * throws[:, 2])
    paths = np.stack((x, y, x + long * slant, y + long), axis=1).astype(np.float32).reshape(-1, 2, 2)
    thin = max(0.5, canvas.unit / 1000)
    stencil.lines(paths, thin, (45 + 65 * throws[:, 3]).astype(np.int64).tolist())
    cover = stencil.cover().ravel()
    wet = np.flatnonzero(cover)  # a few in a hundred, so only these are painted
    share = cover[wet]
    for plane, ink in zip(canvas.planes[:3], mix(palette.glow, palette.haze, 0.4), strict=True):
        flat = plane.reshape(-1)
        flat[wet] += (ink - flat[wet]) * share


def _snow(canvas: Canvas, palette: Palette, strength: float) -> None:
    stream = canvas.chance.stream("snow")
    count = int(
        min(700, 300 * canvas.width * canvas.height / canvas.unit**2 * strength * (0.6 + 0.4 * canvas.detail))
    )
    throws = stream.random((700, 4))[:count]
    white = np.minimum(palette.own(rgb("#ffffff")) * 1.15 + 0.1, 1).astype(np.float32)
    flakes = []
    for step in range(6):
        radius = max(0.7, canvas.unit * (0.0014 + 0.0011 * step))
        reach = math.ceil(radius * 1.6)
        span = np.arange(-reach, reach + 1, dtype=np.float32) / np.float32(radius)
        gap = np.sqrt(span[None, :] ** 2 + span[:, None] ** 2)
        flakes.append(np.clip(1.25 - gap * (0.75 + 0.02 * step), 0, 1) * np.float32(0.92 - 0.09 * step))
    for x, y, size, light in throws.tolist():
        flake = flakes[int(size**2.2 * 6)]
        reach = flake.shape[0] // 2
        canvas.over(
            int(y * canvas.height) - reach,
            int(x * canvas.width) - reach,
            (flake * np.float32(0.6 + 0.4 * light)).astype(np.float32, copy=False),
            white,
        )

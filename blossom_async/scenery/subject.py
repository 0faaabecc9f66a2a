"""One object on a transparent background: a blossoming branch, a sprig, or a medallion of the scene."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from blossom_async.scenery import growth
from blossom_async.scenery.canvas import Canvas
from blossom_async.scenery.colour import NAMED, Palette, mix, rgb
from blossom_async.scenery.words import Scene

__all__ = ["paint_subject"]

_LEAVES = {
    "spring": ("#8cbf4f", "#6fa83f", "#a9cf6a"), "summer": ("#4f8f3f", "#3b7a3a", "#6ea84c"),
    "autumn": ("#d9772b", "#c24a22", "#eab03c"), "winter": ("#8fa9a0", "#6f8f8a", "#b7c9c2"),
}  # fmt: skip


def paint_subject(canvas: Canvas, scene: Scene, palette: Palette, view: Callable[[Canvas], None]) -> None:
    """The object nearest to the words; `view` paints the scene itself, for the medallion."""
    chance = canvas.chance.stream("subject")
    floral = scene.kind == "meadow" or scene.wants("blossom") or scene.wants("flowers")
    leafy = scene.kind == "forest" or scene.wants("leaves") or scene.wants("trees")
    if (floral or leafy) and scene.allows("blossom" if floral else "leaves"):
        named = [rgb(NAMED[name]) for name in scene.colours]
        petal = (
            mix(named[0], rgb("#ffffff"), 0.2)
            if named
            else rgb(str(chance.choice(("#ffb7cd", "#ffd0dc", "#f6f0ff", "#ffc9a8", "#f29ab8"))))
        )
        heart = mix(petal, rgb("#c92a60"), 0.62)
        light = np.clip(palette.ambient * 0.35 + 0.66, 0, 1).astype(np.float32)
        leaves = [rgb(code) for code in _LEAVES[scene.season]]
        if named and not floral:
            leaves = [*named, *leaves[:1]]
        growth.blossom_sprig(
            canvas, bark=rgb("#3a2420"), petal=petal, heart=heart, light=light, leaves=leaves, flowers=floral
        )
        return
    _medallion(canvas, scene, palette, view)


def _medallion(canvas: Canvas, scene: Scene, palette: Palette, view: Callable[[Canvas], None]) -> None:
    """The scene in a round frame, with a spray of blossom on its rim where blossom is allowed."""
    inner = canvas.opaque()
    view(inner)
    cx, cy = canvas.width / 2, canvas.height / 2
    radius = min(canvas.width, canvas.height) * 0.42
    x = np.arange(canvas.width, dtype=np.float32)[None, :] + np.float32(0.5 - cx)
    y = np.arange(canvas.height, dtype=np.float32)[:, None] + np.float32(0.5 - cy)
    gap = np.sqrt(x * x + y * y)
    cover = np.clip(np.float32(radius) - gap + 0.5, 0, 1)
    canvas.planes[:3] = np.clip(inner.planes, 0, 1) * cover
    canvas.planes[3] = cover
    named = [rgb(NAMED[name]) for name in scene.colours]
    metal = mix(named[0], rgb("#f7e3b0"), 0.35) if named else mix(rgb("#e2bd6b"), palette.glow, 0.2)
    thick = radius * 0.055
    turn = np.arctan2(y, x)
    shine = (0.72 + 0.28 * np.cos(turn * 2 + 0.9) + 0.12 * np.cos(turn * 5)).astype(np.float32)
    for middle, wide, ink, strength in (
        (radius, thick, metal, 1.0),
        (radius - thick * 0.9, thick * 0.35, mix(metal, rgb("#2a1c10"), 0.6), 0.85),
        (radius + thick * 0.42, thick * 0.16, mix(metal, rgb("#ffffff"), 0.5), 0.8),
    ):  # fmt: skip
        band = np.clip(np.float32(wide / 2) - np.abs(gap - np.float32(middle)) + 0.5, 0, 1) * np.float32(
            strength
        )
        keep = 1 - band
        for k in range(3):
            canvas.planes[k] = canvas.planes[k] * keep + band * np.clip(ink[k] * shine, 0, 1)
        canvas.planes[3] = canvas.planes[3] * keep + band
    if not scene.allows("blossom"):
        return
    chance = canvas.chance.stream("rim")
    petal = mix(named[-1], rgb("#ffffff"), 0.5) if named else rgb("#ffc4d6")
    tone, heart = tuple(petal.tolist()), tuple(mix(petal, rgb("#c92a60"), 0.6).tolist())
    start = float(chance.uniform(0.15, 0.85)) * math.pi
    for k in range(15):
        t = float(chance.normal(0, 0.28))
        out = radius * (1 + 0.035 * float(chance.normal()))
        size = max(3, round(radius * 0.16 * (1.15 - 0.9 * min(1, abs(t))) * float(chance.uniform(0.75, 1.1))))
        place = start + t
        x0, y0 = cx + math.cos(place) * out, cy + math.sin(place) * out
        if k % 3 == 0:
            leaf = growth.leaf_sprite(max(3, round(size * 1.3)), int(chance.integers(12)), (0.36, 0.55, 0.3))
            canvas.stamp(leaf, x0 + size * 0.6, y0)
        canvas.stamp(growth.blossom_sprite(size, k % 6, tone, heart), x0, y0)

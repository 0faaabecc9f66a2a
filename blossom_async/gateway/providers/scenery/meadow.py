"""Flowers from the far end of a field to the viewer's feet, under rolling hills."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from blossom_async.gateway.providers.scenery import growth
from blossom_async.gateway.providers.scenery.canvas import Canvas, Floats, Sprite, Stencil
from blossom_async.gateway.providers.scenery.colour import NAMED, Palette, mix, rgb
from blossom_async.gateway.providers.scenery.land import ridge
from blossom_async.gateway.providers.scenery.noise import contour, mottle, smoothstep
from blossom_async.gateway.providers.scenery.sky import paint_sky
from blossom_async.gateway.providers.scenery.words import Scene

__all__ = ["flower_sprite", "paint_meadow"]

_BEDS = (
    ("#e8432f", "#f7b23b", "#fff3e0"), ("#f28ab2", "#c95fb0", "#fff0f6"), ("#9a6fe0", "#c7a4f0", "#fdf6ff"),
    ("#f5d33b", "#f7922b", "#fffbe6"), ("#e5607f", "#7f6fe0", "#ffe27a"), ("#ff7f6a", "#ffd1dc", "#a8d5ff"),
)  # fmt: skip
_KINDS = {"poppy": 0, "daisy": 1, "tulip": 2, "sunflower": 1, "cosmos": 3, "lavender bells": 4}
_NOT_FLOWERS = frozenset(("green", "emerald", "olive", "sage", "jade", "black", "brown", "charcoal", "mint"))


def paint_meadow(canvas: Canvas, scene: Scene, palette: Palette) -> None:
    """Sky, hills, then the field in rows from far to near."""
    chance = canvas.chance.stream("meadow")
    horizon = float(chance.uniform(0.36, 0.46))
    base = canvas.row(horizon)
    orb = paint_sky(canvas, scene, palette, min(1.0, horizon + 0.08), horizon * 0.9)
    grass = {"autumn": "#b08a3a", "spring": "#6fae45", "winter": "#e9f0f6" if scene.snowy else "#8f8a5c"}.get(
        scene.season, "#5a9a3c"
    )
    green = palette.own(rgb(grass))
    _hills(canvas, scene, palette, base, green, orb.x)
    bed = [rgb(code) for code in _BEDS[int(chance.integers(len(_BEDS)))]]
    named = [rgb(NAMED[name]) for name in scene.colours if name not in _NOT_FLOWERS]
    if scene.wants("sunflower"):
        named = [rgb("#f7b91e"), rgb("#ffcf3f"), rgb("#f2a312")]
    if named:
        bed = [*named, mix(named[0], rgb("#ffffff"), 0.4)] if len(named) < 3 else named
    light = np.clip(palette.ambient * 0.8 + 0.2 * max(palette.brightness, 0.3), 0, 1.1).astype(np.float32)
    _field(canvas, scene, palette, base, green, bed, light)
    if scene.allows("flowers") and not scene.snowy:
        _flowers(canvas, scene, palette, base, green, bed, light)
    elif not scene.snowy:
        growth.grass(
            canvas, "near grass", canvas.height * 1.01, 0.12, mix(green, palette.shade, 0.4), dense=260
        )
    if scene.wants("blossom") or scene.wants("petals"):
        growth.drifting(canvas, "petals", [*bed[:2], rgb("#ffffff")], light, 40)


def _hills(canvas: Canvas, scene: Scene, palette: Palette, base: int, green: Floats, sun_x: float) -> None:
    sunward = 1.0 if sun_x > canvas.width / 2 else -1.0
    for k in range(4):
        t = k / 3
        stream = canvas.chance.stream(f"hill {k}")
        if k == 0 and not scene.allows("mountains"):
            continue
        swell = contour(stream, canvas.across, (2.4, 1.5, 1.1, 0.8)[k], octaves=(7, 4, 3, 2)[k])
        line = base - np.float32(canvas.unit) * (
            (0.09, 0.06, 0.03, 0.0)[k] + (0.07, 0.06, 0.05, 0.03)[k] * swell
        )
        far = mix(palette.haze, palette.upper, 0.4)
        tone = mix(far, mix(green, palette.shade, 0.14), (0.12, 0.45, 0.75, 0.95)[k])
        ridge(
            canvas,
            line.astype(np.float32),
            base + int(canvas.unit * 0.12),
            tone,
            mix(tone, palette.haze, 0.25),
            facets=0.35,
            sunward=sunward,
            lit_colour=mix(tone, palette.glow, 0.3),
            purpose=f"hill {k}",
        )
        if k in (1, 2) and scene.allows("trees"):
            _hedges(
                canvas,
                palette,
                f"hedge {k}",
                line.astype(np.float32),
                0.014 + 0.022 * t,
                mix(tone, palette.shade, 0.42 + 0.1 * t),
            )


def _hedges(canvas: Canvas, palette: Palette, purpose: str, line: Floats, size: float, ink: Floats) -> None:
    """Round trees in loose groups along a hill."""
    del palette
    stream = canvas.chance.stream(purpose)
    count = int(np.clip(24 * canvas.width / canvas.unit, 4, 120))
    throws = stream.random((120, 3))[:count]
    stencil = Stencil(canvas, int(line.min() - canvas.unit * size * 3), int(line.max() + canvas.unit * size))
    turn = np.linspace(0, 2 * math.pi, 13)
    for a, b, c in throws.tolist():
        if math.sin(a * 19 + c) < -0.1:
            continue
        x = a * canvas.width
        y = float(line[int(min(x, canvas.width - 1))])
        radius = canvas.unit * size * (0.5 + 0.8 * b)
        for k in range(5):  # a crown of overlapping lumps
            ox, oy = (
                radius * 0.62 * math.cos(k * 2.4 + c * 6),
                radius * (0.42 * math.sin(k * 2.4 + c * 6) - 0.72),
            )
            lump = radius * (0.5 + 0.2 * math.sin(k * 5 + b * 9))
            crown = np.column_stack((x + ox + np.cos(turn) * lump, y + oy + np.sin(turn) * lump))
            stencil.polygon(crown.astype(np.float32))
        trunk = radius * 0.09
        stencil.polygon(
            np.array(
                [(x - trunk, y + 2), (x - trunk, y - radius), (x + trunk, y - radius), (x + trunk, y + 2)],
                np.float32,
            )
        )
    canvas.over(stencil.top, stencil.left, stencil.cover(), ink)


def _field(
    canvas: Canvas, scene: Scene, palette: Palette, base: int, green: Floats, bed: list[Floats], light: Floats
) -> None:
    """Grass in perspective with far flowers as drifts of colour."""
    top = base + int(canvas.unit * 0.02)
    height, width = canvas.height - top, canvas.width
    if height <= 0:
        return
    stream = canvas.chance.stream("field")
    edge = top - np.float32(canvas.unit * 0.02) * contour(stream, canvas.across, 0.9, octaves=3)
    near = (np.arange(height, dtype=np.float32) + 0.5) / height
    rank = np.minimum((near**0.5 * height).astype(np.int64), height - 1)
    wide, tall = width / canvas.unit, height / canvas.unit
    blades = mottle(stream, width, height, cells=(130 * wide, 46 * tall), octaves=2, rough=0.7)
    drift = mottle(stream, -(-width // 2), -(-height // 2), cells=(3 * wide, 11 * tall), octaves=3)
    fleck = mottle(stream, width, height, cells=(200 * wide, 210 * tall), octaves=1)
    dark, pale = mix(green, palette.shade, 0.5), mix(green, palette.glow, 0.18)
    blooming = scene.allows("flowers") and not scene.snowy
    petals = np.stack([ink * light for ink in bed])
    for y0, y1 in canvas.strips(top, canvas.height):
        taken = rank[y0 - top : y1 - top]
        far = near[y0 - top : y1 - top, None]
        grassy, speck = blades[taken], fleck[taken]
        patch = np.repeat(drift[taken // 2], 2, axis=1)[:, :width]
        rows = np.arange(y0, y1, dtype=np.float32)[:, None]
        cover = np.clip(rows - edge[None, :] + 0.5, 0, 1)
        green_share = np.clip(grassy * np.float32(1.1) + patch * np.float32(0.5) - np.float32(0.35), 0, 1)
        if blooming:
            dense = smoothstep(0.36, 0.62, patch) * np.float32(0.9)
            dots = smoothstep(0.5, 0.66, speck + dense * np.float32(0.26) - np.float32(0.1))
            dots *= np.minimum(1, dense + np.float32(0.15)) * (1 - far * np.float32(0.75))
            kind = np.clip(
                (patch - np.float32(0.45)) * 9 + speck - np.float32(0.5), 0, len(bed) - 1e-3
            ).astype(np.int32)
        shade = 1 - np.float32(0.42) * far**1.3
        veil = np.exp(-far * 7) * np.float32(0.45)
        for k in range(3):
            tone = dark[k] + (pale[k] - dark[k]) * green_share
            if blooming:
                tone += (petals[:, k][kind] - tone) * dots
            tone *= shade
            tone += (palette.haze[k] - tone) * veil
            plane = canvas.planes[k, y0:y1]
            plane += (tone - plane) * cover


@lru_cache(maxsize=512)
def flower_sprite(size: int, kind: int, turn: int, petal: tuple[float, ...]) -> Sprite:
    """A flower head about `size` pixels across, of a kind in `_KINDS`, in one of four turns."""
    fine = 3 if size < 60 else 2
    across = size * fine
    span = (np.arange(across, dtype=np.float32) + 0.5) / across * 2 - 1
    x, y = np.meshgrid(span, span)
    soft = 3.0 / across * 1.5
    phase = turn * 1.1
    ink = np.array(petal, np.float32)
    if kind == 2:  # tulip: a cup of three petals
        cup = 0.52 * np.sqrt(np.clip(1 - ((y - 0.12) / 0.82) ** 2, 0, 1)) * (1 - 0.22 * np.clip(-y, 0, 1))
        teeth = -0.42 - 0.3 * np.abs(np.cos(x * 5.6)) + 0.3
        cover = np.clip((cup - np.abs(x)) / soft, 0, 1) * np.clip((y - teeth) / soft, 0, 1)
        tone = 0.78 + 0.3 * np.cos(x * 4.2) - 0.16 * y
        heart = np.zeros_like(x)
    elif kind == 4:  # bells up a stem
        rows = np.clip((y + 1) / 2, 0, 1)
        bells = 0.26 * np.sqrt(np.clip(rows * 1.25, 0, 1)) * (0.68 + 0.32 * np.abs(np.sin(y * 13 + phase)))
        cover = np.clip((bells - np.abs(x + 0.05 * np.sin(y * 5 + phase))) / soft, 0, 1) * (np.abs(y) < 0.97)
        tone = 0.75 + 0.35 * np.abs(np.sin(y * 13 + phase)) * np.abs(np.cos(x * 9))
        heart = np.zeros_like(x)
    else:
        squeeze = 0.62 + 0.12 * (turn % 3)
        radius = np.sqrt(x * x + (y / squeeze) ** 2)
        angle = np.arctan2(y / squeeze, x) + phase
        count, depth = {0: (4, 0.12), 1: (13, 0.3), 3: (8, 0.2)}[kind]
        edge = 0.94 - depth + depth * np.abs(np.cos(angle * count / 2)) ** 0.6
        cover = np.clip((edge - radius) / soft, 0, 1)
        tone = 0.72 + 0.32 * np.clip(radius, 0, 1) + 0.1 * np.cos(angle * count) * radius - 0.1 * y
        heart = np.clip(((0.2 if kind == 0 else 0.27) - radius) / soft, 0, 1)
    centre = rgb("#2a1620") if kind == 0 else rgb("#f3bf2e")
    paint = np.stack([np.clip(ink[k] * tone, 0, 1) for k in range(3)])
    for k in range(3):
        paint[k] += (centre[k] * (1.05 - 0.3 * y) - paint[k]) * heart
    cover = cover.astype(np.float32)
    paint = np.clip(paint, 0, 1) * cover
    shrink = (size, fine, size, fine)
    return Sprite(
        paint.reshape(3, *shrink).mean(axis=(2, 4), dtype=np.float32),
        cover.reshape(shrink).mean(axis=(1, 3), dtype=np.float32),
    )


def _flowers(
    canvas: Canvas, scene: Scene, palette: Palette, base: int, green: Floats, bed: list[Floats], light: Floats
) -> None:
    """Flower heads on stems in five ranks, each nearer one larger and with grass between."""
    chance = canvas.chance.stream("flowers")
    asked = [number for name, number in _KINDS.items() if scene.wants(name)]
    kinds = (asked * 2)[:2] if asked else [(0, 1), (2, 2), (1, 3), (4, 3), (3, 0)][int(chance.integers(5))]
    sprites: dict[tuple[int, int, int, int], Sprite] = {}
    wide = canvas.width / canvas.unit
    depth = canvas.height - base
    for k in range(6):
        t = (k + 1) / 6
        stream = canvas.chance.stream(f"rank {k}")
        size = max(3, round(canvas.unit * (0.01 + 0.066 * t**2)))
        tall = canvas.unit * (0.02 + 0.15 * t**1.6)
        count = int(min(260, (120, 92, 66, 46, 32, 20)[k] * wide * (0.75 + 0.25 * canvas.detail)))
        throws = stream.random((260, 5))[:count]
        row = base + depth * (0.16 + 0.88 * t**1.25)
        feet = row + (throws[:, 1] - 0.5) * depth * 0.15
        order = np.argsort(feet, kind="stable")
        throws, feet = throws[order], feet[order]
        x = throws[:, 0] * canvas.width * 1.04 - canvas.width * 0.02
        head = feet - tall * (0.65 + 0.5 * throws[:, 2])
        sway = (throws[:, 3] - 0.5) * tall * 0.35
        stem = mix(mix(green, palette.shade, 0.25 + 0.2 * t), palette.haze, 0.2 * (1 - t))
        growth.grass(
            canvas, f"grass {k}", float(row + depth * 0.06), 0.035 + 0.085 * t, stem, dense=110 - 40 * t
        )
        stencil = Stencil(canvas, int(head.min()) - 2, int(feet.max()) + 2)
        thin = max(0.7, canvas.unit * (0.0009 + 0.0026 * t**2))
        stems = np.stack((x - sway, feet, x - sway * 0.3, (head + feet) / 2, x, head), axis=1).reshape(
            count, 3, 2
        )
        stencil.lines(stems.astype(np.float32), thin)
        canvas.over(stencil.top, 0, stencil.cover(), stem)
        tint = light * np.float32(0.86 + 0.14 * t)
        for n in range(count):
            ink = int(throws[n, 4] ** 1.4 * len(bed)) % len(bed)
            pick = (k, kinds[ink % 2], n % 4, ink)
            if pick not in sprites:
                tone = tuple(round(float(v), 3) for v in bed[ink])
                found = flower_sprite(size, kinds[ink % 2], n % 4, tone)
                sprites[pick] = Sprite(np.minimum(found.paint * tint[:, None, None], 1), found.cover)
            canvas.stamp(sprites[pick], float(x[n]), float(head[n]))
    growth.grass(
        canvas, "front grass", canvas.height * 1.03, 0.11, mix(green, palette.shade, 0.55), dense=130
    )

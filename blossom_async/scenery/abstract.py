"""Abstract compositions for prompts that name no view: six styles, chosen by words and seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from blossom_async.scenery.canvas import Canvas, Floats, enlarged
from blossom_async.scenery.colour import NAMED, Palette, grey, mix, rgb, stops
from blossom_async.scenery.noise import contour, mottle, smoothstep
from blossom_async.scenery.words import Scene

__all__ = ["paint_abstract"]

# Ground first, then inks from quiet to loud.
_DARK_SCHEMES: Final = (
    "#0e1430 #27346f #6a4fa3 #e0688f #ffb88a", "#0b1f2a #12515c #2c9a94 #f2c14e #f78154",
    "#1a1026 #4a1f5c #a3346f #f2695c #ffd08a", "#101820 #234b6e #4f9fc4 #a8e0dc #fef3c7",
    "#0f1a17 #1f4f3f #5fa36a #d6d36f #f7f0c6", "#1b1420 #3c3260 #6f6bc2 #b5a7f0 #ffd9e8",
    "#161616 #4a2c2a #9c4a3c #e08e45 #f7dba7", "#0a1128 #1c3d7a #3f7fd0 #f26ca7 #fff1d0",
)  # fmt: skip
_PALE_SCHEMES: Final = (
    "#fbf3e6 #f3c9a5 #e58f76 #5f7f8c #2b4858", "#f4f1ec #c9d8c5 #84a98c #e29578 #354f52",
    "#fdf6f0 #f7cad0 #e28ca5 #8e7cc3 #3d405b", "#f1f6f9 #bcd9ea #6fa8cf #f2b77a #25405e",
    "#fff8e8 #ffd97d #f4976c #c3506b #4a3b63", "#f6f2ff #d5c6f5 #9a86d8 #f29cb7 #3a3560",
    "#faf5ef #e7d3bd #c69c7b #7d9d9c #3e4c59", "#eef7f2 #b7e0cd #57b196 #f5b85f #22534d",
)  # fmt: skip

_Manner = Callable[[Canvas, list[Floats], np.random.Generator], None]


def paint_abstract(canvas: Canvas, scene: Scene, palette: Palette) -> None:
    """One style, in the colours the words suggest or in one of the schemes above."""
    del palette
    chance = canvas.chance.stream("abstract")
    inks = _inks(scene, chance)
    manners: list[_Manner] = [_strata, _waves, _orbs, _silk, _marble, _tiles]
    if not scene.allows("circles"):
        manners.remove(_orbs)
    manners[int(chance.integers(len(manners)))](canvas, inks, chance)


def _inks(scene: Scene, chance: np.random.Generator) -> list[Floats]:
    """A ground and four inks."""
    dark = scene.light in ("night", "dusk", "moonlight", "aurora") or (
        scene.light != "day" and chance.random() < 0.4
    )
    schemes = _DARK_SCHEMES if dark else _PALE_SCHEMES
    chosen = [rgb(code) for code in schemes[int(chance.integers(len(schemes)))].split()]
    named = [rgb(NAMED[name]) for name in scene.colours]
    if not named:
        return chosen
    ground = mix(named[0], rgb("#0b0d16"), 0.84) if dark else mix(named[0], rgb("#fffaf2"), 0.86)
    named = [mix(ink, ground, 0.1) for ink in named]  # a common tint
    if len(named) == 1:  # shades of one colour, and a quiet contrast
        one = named[0]
        named = [
            mix(one, ground, 0.55),
            one,
            mix(one, rgb("#ffffff"), 0.45),
            mix(one[::-1].copy(), one, 0.35),
        ]
    elif len(named) == 2:
        named = [mix(named[0], ground, 0.4), named[0], mix(named[0], named[1], 0.5), named[1]]
    elif len(named) == 3:
        named = [mix(named[0], ground, 0.45), *named]
    return [ground, *named[:4]]


def _grade(inks: list[Floats], t: float) -> Floats:
    """The colour at t = 0..1 along the scheme."""
    place = min(max(t, 0.0), 1.0) * (len(inks) - 1)
    k = min(int(place), len(inks) - 2)
    return mix(inks[k], inks[k + 1], place - k)


def _backcloth(canvas: Canvas, inks: list[Floats], chance: np.random.Generator, depth: float = 0.55) -> None:
    """A soft background with faint clouds of two inks."""
    width, height = canvas.width // 4 + 1, canvas.height // 4 + 1
    wide, tall = canvas.width / canvas.unit, canvas.height / canvas.unit
    first = mottle(chance, width, height, cells=(1.1 * wide, 1.1 * tall), octaves=2)
    second = mottle(chance, width, height, cells=(1.1 * wide, 1.1 * tall), octaves=2)
    a, b = smoothstep(0.4, 0.85, first) * np.float32(depth), smoothstep(0.45, 0.9, second) * np.float32(depth)
    for k in range(3):
        tone = inks[0][k] + (inks[1][k] - inks[0][k]) * a
        tone += (inks[2][k] - tone) * b * 0.7
        canvas.planes[k] = enlarged(tone, width * 4, height * 4)[: canvas.height, : canvas.width]


def _strata(canvas: Canvas, inks: list[Floats], chance: np.random.Generator) -> None:
    """Stacked sheets of cut paper, along the contour lines of a hilly field."""
    part = 2
    width, height = -(-canvas.width // part), -(-canvas.height // part)
    wide, tall = canvas.width / canvas.unit, canvas.height / canvas.unit
    scale = float(chance.uniform(1.3, 2.2))
    field = mottle(chance, width, height, cells=(scale * wide, scale * tall), octaves=3, rough=0.36)
    turn = float(chance.uniform(0, 2 * math.pi))
    lean = (np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :] * math.cos(turn)
            + np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * math.sin(turn))  # fmt: skip
    field = np.clip((field + lean * 0.62 - 0.06) * 1.1, 0, 0.999)
    field = enlarged(field, width * part, height * part)[: canvas.height, : canvas.width]
    sheets = int(chance.integers(7, 11))
    level = field * np.float32(sheets)
    step = max(1, round(canvas.unit * 0.009))
    table = np.stack([_grade(inks, k / (sheets - 1)) for k in range(sheets)])
    lip = np.float32(-1 / max(1.5, canvas.unit / 300))
    for y0, y1 in canvas.strips(0, canvas.height):
        here = level[y0:y1]
        sheet = np.floor(here)
        inside = here - sheet
        above = np.zeros_like(here)
        for near, strength in ((1, 0.5), (2, 0.32), (3, 0.2)):  # the wider the shadow, the fainter
            higher = level[np.maximum(np.arange(y0, y1) - near * step, 0)]
            np.maximum(above, np.clip((higher - sheet - 1) * 9, 0, 1) * np.float32(strength), out=above)
        slope = _steepness(level[y0 : y1 + 1])[: y1 - y0]
        edge = np.clip(inside / slope, 0, 1)  # one pixel of smoothing between sheets
        index = np.clip(sheet, 0, sheets - 1).astype(np.int32)
        under = np.maximum(index - 1, 0)
        light = np.float32(1.05) - np.float32(0.13) * inside
        rim = np.exp(inside / slope * lip) * np.float32(0.14)
        for k in range(3):
            ink = table[:, k]
            tone = ink[index] * light
            tone += (1 - tone) * rim
            base = ink[under]
            canvas.planes[k, y0:y1] = (base + (tone - base) * edge) * (1 - above)


def _steepness(field: Floats) -> Floats:
    """How much the field changes from pixel to pixel, never 0."""
    steep = np.full_like(field, 1e-5)
    steep[:-1, :-1] += np.hypot(field[1:, :-1] - field[:-1, :-1], field[:-1, 1:] - field[:-1, :-1])
    steep[-1], steep[:, -1] = steep[-2 if len(field) > 1 else -1], steep[:, -2 if field.shape[1] > 1 else -1]
    return steep


def _waves(canvas: Canvas, inks: list[Floats], chance: np.random.Generator) -> None:
    """Layered waves with a soft shadow under each crest, and a disc behind them."""
    _backcloth(canvas, inks, chance, 0.4)
    cx, cy = (
        float(chance.uniform(0.25, 0.75)) * canvas.width,
        float(chance.uniform(0.2, 0.36)) * canvas.height,
    )
    radius = canvas.unit * float(chance.uniform(0.12, 0.2))
    _ball(canvas, cx, cy, radius * 2.1, inks[-1], inks[-1], 0.12, flat=True)
    _ball(canvas, cx, cy, radius * 1.5, inks[-1], inks[-1], 0.16, flat=True)
    _ball(canvas, cx, cy, radius, mix(inks[-1], rgb("#ffffff"), 0.25), inks[-1], 0.95)
    count = int(chance.integers(7, 10))
    slant = float(chance.uniform(-0.25, 0.25))
    for k in range(count):
        t = k / (count - 1)
        stream = canvas.chance.stream(f"wave {k}")
        swing = contour(stream, canvas.across, float(chance.uniform(0.7, 1.3)), octaves=2, rough=0.3)
        middle = (canvas.across - canvas.across[canvas.width // 2]) * np.float32(slant * (1 - t))
        line = canvas.height * (0.36 + 0.58 * t) + np.float32(canvas.unit) * (middle - 0.1 * swing)
        tone = _grade(inks[1:], (k * 0.618 + 0.1) % 1.0 if count % 2 else t)
        top = int(max(0, line.min() - canvas.unit * 0.05))
        if top >= canvas.height:
            continue
        rows = np.arange(top, canvas.height, dtype=np.float32)[:, None]
        depth = rows + np.float32(0.5) - line[None, :].astype(np.float32)
        shade = np.exp(-np.maximum(-depth, 0) / np.float32(canvas.unit * 0.016)) * np.float32(0.3)
        cover = np.clip(depth + 0.5, 0, 1)
        sheen = np.exp(-np.maximum(depth, 0) / np.float32(canvas.unit * 0.045)) * np.float32(0.22)
        fall = np.clip(depth / np.float32(canvas.unit * 0.5), 0, 1) * np.float32(0.5)
        foot = mix(tone, inks[0], 0.6)
        for c in range(3):
            plane = canvas.planes[c, top:]
            plane *= 1 - shade
            colour = tone[c] + (foot[c] - tone[c]) * fall
            colour += (1 - colour) * sheen
            plane += (colour - plane) * cover


def _ball(
    canvas: Canvas,
    x: float,
    y: float,
    radius: float,
    lit: Floats,
    shade: Floats,
    strength: float,
    *,
    flat: bool = False,
) -> None:
    """A translucent disc, graded from `lit` at its upper left to `shade`."""
    reach = math.ceil(radius) + 2
    span = np.arange(-reach, reach + 1, dtype=np.float32)
    gap = np.sqrt(span[None, :] ** 2 + span[:, None] ** 2)
    cover = np.clip(np.float32(radius) - gap + 0.5, 0, 1) * np.float32(strength)
    top, left = round(y) - reach, round(x) - reach
    if flat:
        canvas.over(top, left, cover, lit)
        return
    fall = np.clip((span[:, None] + span[None, :]) / np.float32(2.4 * radius) + 0.5, 0, 1)
    canvas.over(top, left, cover * (1 - fall), lit)
    canvas.over(top, left, cover * fall / np.maximum(1 - cover * (1 - fall), np.float32(0.05)), shade)


def _orbs(canvas: Canvas, inks: list[Floats], chance: np.random.Generator) -> None:
    """Translucent discs, thin rings and sparks on a wash of colour."""
    _backcloth(canvas, inks, chance, 0.8)
    turn = float(chance.uniform(0, 2 * math.pi))
    count = int(chance.integers(11, 17))
    for k in range(count):
        t = k / count
        out = 0.08 + 0.42 * math.sqrt(t) * float(chance.uniform(0.75, 1.2))
        turn += 2.399963 + float(chance.normal(0, 0.25))  # the golden angle spreads them evenly
        x = canvas.width * 0.5 + math.cos(turn) * out * canvas.width * 0.95
        y = canvas.height * 0.5 + math.sin(turn) * out * canvas.height * 0.95
        radius = canvas.unit * (0.2 * (1 - t) ** 1.3 + 0.02) * float(chance.uniform(0.7, 1.2))
        ink = inks[1 + int(chance.integers(4))]
        other = inks[1 + int(chance.integers(4))]
        if chance.random() < 0.26:
            _ring(canvas, x, y, radius, max(1.0, canvas.unit * 0.0035), ink, 0.85)
        else:
            _ball(
                canvas,
                x,
                y,
                radius,
                mix(ink, rgb("#ffffff"), 0.18),
                mix(other, ink, 0.3),
                float(chance.uniform(0.5, 0.86)),
            )
            if chance.random() < 0.4:
                _ring(canvas, x, y, radius * 1.16, max(1.0, canvas.unit * 0.0018), ink, 0.6)
    for _ in range(int(26 * (0.5 + 0.5 * canvas.detail))):
        x, y = float(chance.random()) * canvas.width, float(chance.random()) * canvas.height
        _ball(
            canvas, x, y, canvas.unit * float(chance.uniform(0.002, 0.007)), inks[-1], inks[3], 0.8, flat=True
        )


def _ring(
    canvas: Canvas, x: float, y: float, radius: float, thick: float, ink: Floats, strength: float
) -> None:
    reach = math.ceil(radius + thick) + 1
    span = np.arange(-reach, reach + 1, dtype=np.float32)
    gap = np.abs(np.sqrt(span[None, :] ** 2 + span[:, None] ** 2) - np.float32(radius))
    canvas.over(
        round(y) - reach,
        round(x) - reach,
        np.clip(np.float32(thick / 2) - gap + 0.5, 0, 1) * np.float32(strength),
        ink,
    )


def _silk(canvas: Canvas, inks: list[Floats], chance: np.random.Generator) -> None:
    """Ribbons of fine threads, twisted where their edges cross."""
    _backcloth(canvas, inks, chance, 0.5)
    rows = np.arange(canvas.height, dtype=np.float32)[:, None]
    pale_ground = float(grey(inks[0])[0]) > 0.5
    for k in range(3):
        stream = canvas.chance.stream(f"silk {k}")
        middle = (0.28 + 0.22 * k + float(chance.uniform(-0.06, 0.06))) * canvas.height
        slant = float(chance.uniform(-0.3, 0.3)) * (canvas.across - canvas.across.mean())
        first = middle + np.float32(canvas.unit) * (
            0.17 * contour(stream, canvas.across, 1.0, octaves=1) + slant
        )
        second = middle + np.float32(canvas.unit) * (
            0.19 * contour(stream, canvas.across, 1.3, octaves=1) + slant
        )
        gap = second - first
        high, low = np.minimum(first, second), np.maximum(first, second)
        top, bottom = int(max(0, high.min() - 3)), int(min(canvas.height, low.max() + 3))
        if top >= bottom:
            continue
        part = rows[top:bottom]
        spread = np.where(np.abs(gap) < 2, np.where(gap < 0, -2, 2), gap).astype(np.float32)
        along = (part - first[None, :].astype(np.float32)) / spread[None, :]
        threads = int(26 + 12 * canvas.detail)
        spacing = np.abs(spread)[None, :] / threads
        gap_to_thread = np.abs((along * threads + 0.5) % 1 - 0.5) * spacing
        thin = np.float32(max(0.8, canvas.unit / 900))
        line = np.clip(thin * 0.5 + 0.5 - gap_to_thread, 0, 1)
        line = np.where(spacing < 2.2 * thin, 0.5, line)
        within = np.clip((part - high[None, :]) / 1.5 + 0.5, 0, 1) * np.clip(
            (low[None, :] - part) / 1.5 + 0.5, 0, 1
        )
        sheen = 0.5 + 0.5 * np.sin(along * 2.2 + canvas.across[None, :] * np.float32(chance.uniform(2, 4)))
        body = within * (0.2 + 0.42 * sheen)
        cover = np.clip(body + within * line * (0.3 + 0.4 * sheen), 0, 0.95).astype(np.float32)
        start, end = inks[1 + k], inks[1 + (k + 1 + int(chance.integers(2))) % 4]
        gloss = sheen.astype(np.float32) * np.float32(0.0 if pale_ground else 0.3)
        share = np.clip(along, 0, 1)
        for c in range(3):
            plane = canvas.planes[c, top:bottom]
            tone = start[c] + (end[c] - start[c]) * share
            tone += (1 - tone) * gloss * line
            plane += (tone - plane) * cover


def _marble(canvas: Canvas, inks: list[Floats], chance: np.random.Generator) -> None:
    """Colour poured into colour, with fine veins along the currents."""
    part = 2
    width, height = -(-canvas.width // part), -(-canvas.height // part)
    wide, tall = canvas.width / canvas.unit, canvas.height / canvas.unit
    scale = float(chance.uniform(1.6, 2.4))
    push = canvas.unit / part

    def cloud(cells: float, octaves: int) -> Floats:
        return mottle(chance, width, height, cells=(cells * wide, cells * tall), octaves=octaves, rough=0.42)

    def bent(field: Floats, dx: Floats, dy: Floats, reach: float) -> Floats:
        x = np.arange(width, dtype=np.float32)[None, :] + (dx - 0.5) * np.float32(push * reach)
        y = np.arange(height, dtype=np.float32)[:, None] + (dy - 0.5) * np.float32(push * reach)
        # Mirrored at the edges, so that the currents never end in a smear.
        x = np.abs(x) % (2 * width - 2 or 1)
        y = np.abs(y) % (2 * height - 2 or 1)
        x = np.where(x > width - 1, 2 * width - 2 - x, x)
        y = np.where(y > height - 1, 2 * height - 2 - y, y)
        x0, y0 = x.astype(np.int64), y.astype(np.int64)
        fx, fy = x - x0, y - y0
        x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
        flat = field.ravel()
        upper = flat[y0 * width + x0] * (1 - fx) + flat[y0 * width + x1] * fx
        lower = flat[y1 * width + x0] * (1 - fx) + flat[y1 * width + x1] * fx
        blended: Floats = (upper * (1 - fy) + lower * fy).astype(np.float32)
        return blended

    first, second = cloud(scale, 2), cloud(scale, 2)
    third = bent(cloud(scale * 1.2, 2), first, second, 0.5)
    poured = bent(cloud(scale * 1.1, 3), third, bent(first, second, third, 0.3), 0.6)
    # Folding the field makes the colours return in bands, each edge a current.
    folded = np.abs((poured * np.float32(2.6)) % 2 - 1)
    steep = _steepness(poured)
    threads = np.float32(9 + 3 * canvas.detail)
    gap = np.abs((poured * threads) % 1 - 0.5) / (threads * steep)  # in pixels, so that all are equally fine
    vein = np.clip(1.25 - gap / np.float32(max(0.7, canvas.unit / part / 900)), 0, 1) * np.float32(0.5)
    vein *= smoothstep(0.3, 0.62, third)
    lean = np.zeros_like(poured)
    lean[1:, 1:] = poured[1:, 1:] - poured[:-1, :-1]
    light = np.clip(1 + lean * np.float32(canvas.unit / part / 18), 0.86, 1.12)
    graded = stops(inks, [0.05, 0.3, 0.52, 0.74, 0.96], np.linspace(0, 1, 512, dtype=np.float32))
    poured = folded
    index = (poured * 511).astype(np.int64)
    for k in range(3):
        tone = graded[k][index] * light
        tone += (inks[-1][k] - tone) * vein
        canvas.planes[k] = enlarged(tone, width * part, height * part)[: canvas.height, : canvas.width]


def _tiles(canvas: Canvas, inks: list[Floats], chance: np.random.Generator) -> None:
    """A mosaic of quarter circles, leaves, rings and halves on a grid."""
    across = int(chance.integers(4, 7))
    side = max(3.0, canvas.unit / across)
    columns, lines = math.ceil(canvas.width / side), math.ceil(canvas.height / side)
    throws = chance.random((64, 64, 6))
    x = (np.arange(canvas.width, dtype=np.float32) + 0.5) / np.float32(side)
    y = (np.arange(canvas.height, dtype=np.float32) + 0.5) / np.float32(side)
    soft = np.float32(1 / side)
    for line in range(lines):
        y0, y1 = round(line * side), min(canvas.height, round((line + 1) * side))
        for column in range(columns):
            x0, x1 = round(column * side), min(canvas.width, round((column + 1) * side))
            if x0 >= x1 or y0 >= y1:
                continue
            throw = throws[line % 64, column % 64]
            u = np.abs((x[x0:x1] - column)[None, :] - (1.0 if throw[1] < 0.5 else 0.0)).astype(np.float32)
            v = np.abs((y[y0:y1] - line)[:, None] - (1.0 if throw[2] < 0.5 else 0.0)).astype(np.float32)
            ground = inks[int(throw[3] * 5) % 5]
            ink = inks[(int(throw[3] * 5) + 1 + int(throw[4] * 4)) % 5]
            third = inks[(int(throw[3] * 5) + 2 + int(throw[5] * 3)) % 5]
            tile = canvas.planes[:3, y0:y1, x0:x1]
            glow = (1.04 - 0.1 * v).astype(np.float32)
            tile[:] = ground[:, None, None] * glow
            out = np.sqrt(u * u + v * v)
            form = int(throw[0] * 6)
            covers: list[tuple[Floats, Floats]] = []
            if form in (0, 1):
                covers = [
                    (np.clip((1 - out) / soft + 0.5, 0, 1), ink),
                    (np.clip((0.55 - out) / soft + 0.5, 0, 1), third),
                ]
            elif form == 2:
                other = np.sqrt((1 - u) ** 2 + (1 - v) ** 2)
                covers = [(np.clip((1 - np.maximum(out, other)) / soft + 0.5, 0, 1), ink)]
            elif form == 3:
                middle = np.sqrt((u - 0.5) ** 2 + (v - 0.5) ** 2)
                covers = [
                    (np.clip((0.4 - middle) / soft + 0.5, 0, 1), ink),
                    (np.clip((0.2 - middle) / soft + 0.5, 0, 1), third),
                ]
            elif form == 4:
                rings = np.abs((out * 4) % 1 - 0.5) / 4
                covers = [
                    (np.clip((0.065 - rings) / soft + 0.5, 0, 1) * np.clip((1 - out) / soft + 0.5, 0, 1), ink)
                ]
            else:
                covers = [(np.clip((u - v) / soft / np.float32(1.4) + 0.5, 0, 1), ink)]
            for cover, colour in covers:
                for k in range(3):
                    tile[k] += (colour[k] * glow - tile[k]) * cover

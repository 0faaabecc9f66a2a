"""Landmarks that a prompt may ask for by name, from a volcano to an oasis."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from blossom_async.scenery import growth, silhouettes
from blossom_async.scenery.canvas import Canvas, Stencil, enlarged
from blossom_async.scenery.colour import NAMED, Palette, mix, rgb
from blossom_async.scenery.land import ridge
from blossom_async.scenery.noise import contour, mottle, smoothstep
from blossom_async.scenery.words import Scene

__all__ = [
    "paint_arched_bridge",
    "paint_balloons",
    "paint_ice",
    "paint_oasis",
    "paint_volcano",
    "paint_waterfall",
]


def paint_volcano(canvas: Canvas, palette: Palette, shore: int, sunward: float) -> None:
    """A cone with a glowing crater above row `shore`: lava runs down it, and smoke rises."""
    chance = canvas.chance.stream("volcano")
    unit = canvas.unit
    x = canvas.width * (0.5 - sunward * float(chance.uniform(0.02, 0.16)))
    tall = min(0.44 * unit, 0.56 * shore)
    foot = shore - 0.03 * unit
    reach, rim = tall * 1.75, tall * 0.13
    away = np.maximum(np.abs(canvas.across * np.float32(unit) - np.float32(x)) - np.float32(rim), 0)
    slope = np.clip(1 - away / np.float32(reach), 0, 1) ** 1.75
    rough = contour(chance, canvas.across, 9, octaves=6) * np.float32(0.012 * unit)
    bowl = np.clip(1 - np.abs(canvas.across * np.float32(unit) - np.float32(x)) / np.float32(rim), 0, 1)
    line = foot - np.float32(tall) * (slope - np.float32(0.1) * bowl**0.7) + rough * np.minimum(1, slope * 3)
    crater_y = foot - tall * 0.92
    lit = float(np.clip(1.25 - palette.brightness, 0.55, 1.0))
    _smoke(canvas, palette, x, crater_y + tall * 0.03, tall, lit)
    canvas.glow(x, crater_y, tall * 0.85, rgb("#ff6a24"), 0.7 * lit)
    rock = mix(mix(palette.haze, palette.shade, 0.72), palette.own(rgb("#5a4038")), 0.25)
    ridge(
        canvas, line.astype(np.float32), shore, rock, mix(rock, palette.haze, 0.35),
        facets=0.6, sunward=sunward, lit_colour=mix(rock, palette.glow, 0.3), purpose="volcano",
    )  # fmt: skip
    runs = Stencil(canvas, int(crater_y - 0.1 * tall), shore, int(x - reach), int(x + reach))
    cores = Stencil(canvas, int(crater_y - 0.1 * tall), shore, int(x - reach), int(x + reach))
    for k, heading in enumerate((-0.62, -0.2, 0.14, 0.5, 0.85)):
        down = np.linspace(0, float(chance.uniform(0.5, 0.92)), 26)
        wander = np.cumsum(chance.normal(0, 0.012, 26)) * tall
        aside = rim * heading * 0.9 + heading * reach * (1 - np.maximum(1 - down, 0) ** (1 / 1.75)) * 0.8
        column = x + aside + wander
        at = np.clip(column, 0, canvas.width - 1).astype(np.int64)
        row = np.maximum(foot - tall * (0.93 - down * 0.95), line[at] + 1)
        thick = tall * (0.024 if k % 2 else 0.034) * (1 - 0.75 * down / down[-1]) + 0.5
        for stencil, share in ((runs, 1.0), (cores, 0.42)):
            left, right = column - thick * share, column + thick * share
            outline = np.concatenate((np.column_stack((left, row)), np.column_stack((right, row))[::-1]))
            stencil.polygon(outline.astype(np.float32))
        for n in range(0, 26, 5):
            canvas.glow(float(column[n]), float(row[n]), tall * 0.1, rgb("#ff5a1c"), 0.4 * lit)
    canvas.over(runs.top, runs.left, runs.cover() * np.float32(0.6 + 0.35 * lit), rgb("#e8401a"))
    canvas.over(cores.top, cores.left, cores.cover() * np.float32(0.9), rgb("#ffc24d"))
    canvas.glow(x, crater_y + tall * 0.02, rim * 1.5, rgb("#ffb04a"), 0.9 * lit)


def _smoke(canvas: Canvas, palette: Palette, x: float, y: float, tall: float, lit: float) -> None:
    """A plume that widens and leans with the wind as it rises, red underneath."""
    chance = canvas.chance.stream("smoke")
    height, width = -(-int(max(4, y)) // 4), -(-canvas.width // 4)
    wind = float(chance.choice((-1, 1))) * float(chance.uniform(0.25, 0.5))
    puffs = mottle(
        chance,
        width,
        height,
        cells=(11 * canvas.width / canvas.unit, 13 * y / canvas.unit),
        octaves=4,
        rough=0.55,
    )
    rise = (y - np.arange(height, dtype=np.float32)[:, None] * 4) / np.float32(tall)
    rise = np.maximum(rise, 0)
    column = np.arange(width, dtype=np.float32)[None, :] * 4
    across = (column - np.float32(x)) / np.float32(tall) - np.float32(wind) * rise**1.3
    body = 1 - (np.abs(across) / (0.09 + 0.3 * rise**0.9)) ** 2
    cover = smoothstep(0.25, 0.85, body + (puffs - np.float32(0.5)) * np.float32(1.5))
    cover *= np.clip(np.float32(1.0) - rise * np.float32(0.42), 0, 1) * np.float32(0.85)
    tone = mix(mix(palette.shade, palette.haze, 0.45), rgb("#6a6468"), 0.25)
    size = (width * 4, height * 4)
    full = enlarged(cover.astype(np.float32), *size)[: int(y), : canvas.width]
    canvas.over(0, 0, np.clip(full, 0, 1), tone)
    bright = (cover * np.exp(-rise * np.float32(3.2)) * (0.4 + 0.9 * puffs)).astype(np.float32)
    canvas.add(
        0, 0, np.clip(enlarged(bright, *size)[: int(y), : canvas.width], 0, 1) * np.float32(0.75 * lit),
        rgb("#ff7a30"),
    )  # fmt: skip


def paint_waterfall(canvas: Canvas, scene: Scene, palette: Palette, shore: int, sunward: float) -> float:
    """A cliff with a waterfall that ends at row `shore`; returns the column of its middle."""
    chance = canvas.chance.stream("waterfall")
    unit = canvas.unit
    x = canvas.width * float(chance.uniform(0.4, 0.6))
    tall = min(0.4 * unit, 0.55 * shore)
    half = unit * float(chance.uniform(0.034, 0.046))
    aside = np.abs(canvas.across * np.float32(unit) - np.float32(x))
    rough = contour(chance, canvas.across, 5, octaves=6)
    plateau = smoothstep(1.0, 0.55, aside / np.float32(0.62 * unit) + 0.16 * rough)
    notch = np.exp(-((aside / np.float32(half * 1.5)) ** 4)) * np.float32(0.06 * tall)
    line = shore - np.float32(tall) * plateau * (1 + 0.07 * rough) + notch
    line = np.minimum(line, shore - 0.02 * unit).astype(np.float32)
    mossy = "#4f6b3c" if scene.season != "winter" else "#6f7880"
    rock = mix(palette.own(mix(rgb("#6d6258"), rgb(mossy), 0.55)), palette.haze, 0.22)
    ridge(
        canvas, line, shore, rock, mix(rock, palette.shade, 0.45), facets=0.9, sunward=sunward,
        lit_colour=mix(rock, palette.glow, 0.35), purpose="cliff",
        snow=(palette.own(rgb("#f4f8ff"), 0.2), 0.03) if scene.snowy else None,
    )  # fmt: skip
    if scene.allows("trees"):
        ink = mix(mix(palette.haze, palette.shade, 0.6), palette.own(rgb("#3f7a3f")), 0.45)
        edge = np.where(aside < half * 1.9, shore + 0.3 * unit, line).astype(np.float32)  # not in the water
        if scene.wants("jungle"):
            growth.bushes(canvas, "cliff bushes", edge + np.float32(0.006 * unit), 0.03, ink, dense=30)
        else:
            growth.pines(
                canvas, "cliff pines", edge, size=0.05, dense=34, top_colour=ink, foot_colour=ink,
                snow=palette.own(rgb("#f2f6fc"), 0.15) if scene.snowy else None, bottom=shore,
                ground_too=False,
            )  # fmt: skip
    lip = int(line[int(np.clip(x, 0, canvas.width - 1))])
    height = shore - lip
    if height < 4:
        return x
    left, right = max(0, int(x - half * 2.2)), min(canvas.width, int(x + half * 2.2) + 1)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    across = np.arange(left, right, dtype=np.float32)[None, :]
    bend = contour(chance, np.linspace(0, 1, height, dtype=np.float32), 2, octaves=2)[:, None]
    away = np.abs(across - np.float32(x) - bend * np.float32(half * 0.12)) / np.float32(half)
    threads = mottle(
        chance,
        right - left,
        height,
        cells=(70 * (right - left) / unit, 5 * height / unit),
        octaves=3,
        rough=0.65,
    )
    edge = np.float32(0.8) + np.float32(0.3) * down + (threads - np.float32(0.5)) * np.float32(0.7)
    cover = smoothstep(0.1, -0.22, away - edge)
    white = np.clip(palette.own(rgb("#ffffff")) * 1.02, 0, 1).astype(np.float32)
    canvas.over(lip, left, cover * np.float32(0.95), mix(palette.own(rgb("#8fb8c4")), palette.haze, 0.3))
    canvas.over(lip, left, cover * smoothstep(0.34, 0.62, threads + 0.1 * down), white)
    for shift, wide in ((-0.8, 2.0), (0.7, 2.2), (0.0, 3.0)):
        canvas.glow(x + shift * half, shore - 0.2 * half, half * wide, white, 0.5)
    return x


def paint_arched_bridge(canvas: Canvas, scene: Scene, palette: Palette, shore: int) -> None:
    """A bridge in one arch over the water that begins at row `shore`: red wood, or stone if named."""
    chance = canvas.chance.stream("arched bridge")
    unit = canvas.unit
    stone = scene.wants("stone")
    wide = min(0.25 * unit, 0.4 * canvas.width)
    rise = wide * (0.42 if not stone else 0.4)
    x = canvas.width * float(chance.uniform(0.42, 0.58))
    code = "#9a9488" if stone else "#c8402f"
    dim = (0.38 if stone else 0.12) + 0.15 * (palette.brightness <= 0.5)
    ink = mix(palette.own(rgb(code)), palette.shade, dim)
    dark = mix(ink, palette.shade, 0.45)
    t = np.linspace(-1, 1, 41)
    bow = shore - rise * (1 - t * t) - unit * 0.012
    column = x + t * wide
    thick = unit * (0.03 if stone else 0.019)
    top, left, right = int(bow.min() - unit * 0.07), int(x - wide * 1.2), int(x + wide * 1.2)

    def band(stencil: Stencil, upper: NDArray[np.floating], lower: NDArray[np.floating]) -> None:
        outline = np.concatenate((np.column_stack((column, upper)), np.column_stack((column, lower))[::-1]))
        stencil.polygon(outline.astype(np.float32))

    under = Stencil(canvas, top, shore + 1, left, right)
    if stone:  # solid down to the water, but for one arch
        band(under, bow, np.full_like(bow, shore + 1))
    else:
        for share in (-0.55, -0.2, 0.2, 0.55):
            px, py = x + share * wide, shore - rise * (1 - share * share)
            under.line(np.array([(px, py), (px, shore + 1)], np.float32), unit * 0.009)
            under.line(np.array([(px, py + unit * 0.02), (px + 0.12 * wide, py)], np.float32), unit * 0.005)
    cover = under.cover()
    if stone:
        turn = np.linspace(0, math.pi, 25)
        arch = Stencil(canvas, top, shore + 1, left, right)
        mouth = np.column_stack((x + np.cos(turn) * wide * 0.6, shore + 2 - np.sin(turn) * rise * 0.86))
        arch.polygon(mouth.astype(np.float32))
        opening = arch.cover()
        cover = np.clip(cover - opening, 0, 1)
        blocks = mottle(chance, cover.shape[1], cover.shape[0], cells=(26, 12), octaves=2, rough=0.9)
        inner = np.clip(np.roll(opening, -round(unit * 0.012), axis=0), 0, 1)
        canvas.over(under.top, under.left, cover, ink)
        canvas.over(under.top, under.left, cover * np.clip(blocks - np.float32(0.35), 0, 0.5), dark)
        canvas.over(under.top, under.left, cover * inner * np.float32(0.7), dark)
    else:
        canvas.over(under.top, under.left, cover, dark)
    deck = Stencil(canvas, top, shore + 1, left, right)
    band(deck, bow, bow + thick)
    rail = unit * 0.042
    if stone:
        band(deck, bow - unit * 0.018, bow)
    else:
        band(deck, bow - rail, bow - rail + unit * 0.007)
        band(deck, bow - rail * 0.5, bow - rail * 0.5 + unit * 0.0035)
        for n in range(0, 41, 4):
            post = np.array([(column[n], bow[n] + 1), (column[n], bow[n] - rail * 1.25)], np.float32)
            deck.line(post, unit * 0.008)
    canvas.over(deck.top, deck.left, deck.cover(), mix(ink, palette.glow, 0.08))


def paint_ice(canvas: Canvas, palette: Palette, shore: int) -> None:
    """Ice over the water below row `shore`: duller than water, cracked, with drifts of snow lying on it."""
    height, width, unit = canvas.height - shore, canvas.width, canvas.unit
    if height < 4:
        return
    chance = canvas.chance.stream("ice")
    half_w, half_h = -(-width // 2), -(-height // 2)
    drifts = mottle(
        chance, half_w, half_h, cells=(1.7 * width / unit, 15 * height / unit), octaves=5, rough=0.55
    )
    near = (np.arange(height, dtype=np.float32) + 0.5) / height
    rank = np.minimum((near**0.5 * half_h).astype(np.int64), half_h - 1)
    pale = mix(palette.own(rgb("#bcd8e6")), palette.haze, 0.35)
    white = palette.own(rgb("#f2f8ff"), 0.1)
    for y0, y1 in canvas.strips(shore, canvas.height):
        close = near[y0 - shore : y1 - shore, None]
        drift = np.repeat(drifts[rank[y0 - shore : y1 - shore]], 2, axis=1)[:, :width]
        snow = smoothstep(0.56, 0.7, drift + np.float32(0.1) * (1 - close)) * np.float32(0.8)
        for c in range(3):
            plane = canvas.planes[c, y0:y1]
            plane += (pale[c] - plane) * np.float32(0.22)
            plane += (white[c] - plane) * snow
    cracks = Stencil(canvas, shore, canvas.height)
    for _ in range(9):
        x, t = float(chance.random()) * width, float(chance.random()) ** 0.7
        path = [(x, shore + t * height)]
        heading = float(chance.choice((-1, 1)))
        for _ in range(int(chance.integers(5, 12))):
            step = unit * (0.01 + 0.035 * t)
            t = min(1.05, max(0.02, t + float(chance.normal(0.008, 0.02))))
            x += heading * step * float(chance.uniform(0.6, 1.6))
            path.append((x, shore + t * height))
        cracks.line(np.array(path, np.float32), max(0.6, unit * (0.0008 + 0.0014 * t)))
    canvas.over(cracks.top, 0, cracks.cover() * np.float32(0.5), white)


def paint_balloons(canvas: Canvas, scene: Scene, palette: Palette) -> None:
    """A few hot air balloons in the sky of a finished view, large and small; one if only one is asked for."""
    chance = canvas.chance.stream("balloons")
    named = [rgb(NAMED[name]) for name in scene.colours]
    schemes = [
        [rgb(c) for c in codes.split()] for codes in ("#d8483a #f6e7c8", "#2f6f9e #f2c14e", "#e8833a #7a2f4a")
    ]
    for k, (size, across) in enumerate(((0.24, 0.3), (0.14, 0.72), (0.09, 0.52), (0.06, 0.16))):
        x = canvas.width * (across + float(chance.uniform(-0.1, 0.1)))
        y = canvas.height * 0.62 * float(chance.uniform(0.42, 0.62)) * (1 - 0.2 * k / 3)
        stripes = [*named, rgb("#fff4e0")] if named else schemes[k % 3]
        light = np.clip(palette.ambient * 0.8 + 0.2, 0, 1).astype(np.float32)
        silhouettes.balloon(canvas, x, y, canvas.unit * size, stripes, light)


def paint_oasis(canvas: Canvas, palette: Palette, base: int) -> None:
    """A pool among palms and grass, in the sand below row `base`."""
    chance = canvas.chance.stream("oasis")
    unit = canvas.unit
    x = canvas.width * float(chance.uniform(0.4, 0.6))
    y = base + (canvas.height - base) * float(chance.uniform(0.5, 0.6))
    wide, high = min(0.36 * unit, 0.44 * canvas.width), 0.075 * unit
    turn = np.linspace(0, 2 * math.pi, 73)
    wobble = 1 + 0.06 * np.sin(turn * 3 + 1) + 0.04 * np.sin(turn * 5 + float(chance.uniform(0, 6)))

    def pool(share: float) -> Stencil:
        stencil = Stencil(
            canvas, int(y - high * 1.6), int(y + high * 1.6), int(x - wide * 1.4), int(x + wide * 1.4)
        )
        outline = np.column_stack(
            (x + np.cos(turn) * wide * wobble * share, y + np.sin(turn) * high * wobble * share)
        )
        stencil.polygon(outline.astype(np.float32))
        return stencil

    green = mix(palette.own(rgb("#5d8f3c")), palette.shade, 0.2)
    dark = mix(palette.own(rgb("#2f5a34")), palette.shade, 0.45)
    banks = pool(1.12)
    canvas.over(
        banks.top, banks.left, banks.cover() * np.float32(0.8), mix(green, palette.own(rgb("#a98b52")), 0.4)
    )
    palms = [
        (-0.86, 0.36, -0.1),
        (-0.62, 0.27, 0.16),
        (0.55, 0.3, -0.18),
        (0.84, 0.4, 0.12),
        (0.98, 0.24, 0.26),
    ]
    behind = np.full(canvas.width, y - high * 0.86, np.float32)
    span = np.abs(canvas.across * np.float32(unit) - np.float32(x)) / np.float32(wide)
    behind += np.where(
        span < 1.05, np.float32(high * 0.75) * np.minimum(span, 1) ** 3, np.float32(2 * canvas.height)
    )
    growth.bushes(canvas, "oasis bushes", behind, 0.026, mix(green, palette.shade, 0.25), dense=60)
    for n, (at, tall, lean) in enumerate(palms):
        root = y - high * 1.06 * math.sqrt(max(0.03, 1 - at * at))
        silhouettes.palm(canvas, x + at * wide, root, tall * unit, lean, dark, f"oasis palm {n}")
    water = pool(1.0)
    cover = water.cover()
    edge = max(0, int(y - high))
    below = np.arange(water.top, water.top + cover.shape[0])
    # At so flat an angle the pool mirrors all that stands behind it, up to the sky.
    above = np.clip(edge - np.maximum(below - edge, 0) * 3, 0, canvas.height - 1)
    own = mix(palette.own(rgb("#2f8f92")), palette.upper, 0.35)
    for c in range(3):
        plane = canvas.planes[c]
        seen = plane[above, water.left : water.left + cover.shape[1]]
        seen = seen + (own[c] - seen) * np.float32(0.38)
        pond = plane[water.top : water.top + cover.shape[0], water.left : water.left + cover.shape[1]]
        pond += (seen - pond) * cover
    reeds = Stencil(canvas, int(y - 0.05 * unit), int(y + 2 * high), int(x - wide * 1.3), int(x + wide * 1.3))
    throws = chance.random((150, 4))
    angle = throws[:, 0] * 2 * math.pi
    px, py = x + np.cos(angle) * wide * 1.05, y + np.sin(angle) * high * 1.08
    tall_px = unit * (0.012 + 0.028 * throws[:, 1]) * (0.75 + 0.4 * np.sin(angle))
    bend = (throws[:, 2] - 0.5) * tall_px
    half = np.full_like(px, max(0.6, unit * 0.0018))
    blades = np.stack(
        (np.stack((px - half, py), 1), np.stack((px + half, py), 1), np.stack((px + bend, py - tall_px), 1)),
        axis=1,
    )
    reeds.polygons(blades.astype(np.float32))
    canvas.over(reeds.top, reeds.left, reeds.cover(), mix(green, palette.shade, 0.15))

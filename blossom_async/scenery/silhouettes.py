"""Small things seen against the light: boats, birds, a lighthouse, palms, cacti, camels, balloons."""

from __future__ import annotations

import math

import numpy as np

from blossom_async.scenery.canvas import Canvas, Floats, Stencil
from blossom_async.scenery.colour import Palette, mix, rgb

__all__ = ["balloon", "birds", "cactus", "caravan", "house", "lighthouse", "palm", "pyramid", "sailboat"]


def _shape(points: list[tuple[float, float]], x: float, y: float, size: float, flip: bool = False) -> Floats:
    """Points given with y upwards and the foot at (0, 0), placed and sized in pixels."""
    there = np.array(points, np.float32)
    there[:, 0] *= -size if flip else size
    there[:, 1] *= -size
    return there + np.array((x, y), np.float32)


def _around(canvas: Canvas, x: float, y: float, wide: float, high: float, below: float = 0.0) -> Stencil:
    return Stencil(
        canvas,
        math.floor(y - high) - 2,
        math.ceil(y + below) + 2,
        math.floor(x - wide) - 2,
        math.ceil(x + wide) + 2,
    )


def _visible(canvas: Canvas, x: float, y: float, wide: float, high: float) -> bool:
    return x + wide > 0 and x - wide < canvas.width and y > 0 and y - high < canvas.height


def sailboat(canvas: Canvas, x: float, y: float, size: float, sail: Floats, hull: Floats, flip: bool) -> None:
    """A boat with two sails `size` pixels tall, floating at (x, y), with its reflection."""
    if not _visible(canvas, x, y, size, size):
        return
    hull_points = [(-0.36, 0.11), (0.42, 0.13), (0.3, 0.0), (-0.27, 0.0)]
    mast = [(-0.02, 0.1), (0.0, 1.0), (0.015, 1.0), (0.02, 0.1)]
    main = [(-0.03, 0.17), (-0.02, 0.97), (-0.14, 0.62), (-0.33, 0.19)]
    jib = [(0.04, 0.19), (0.03, 0.86), (0.16, 0.5), (0.38, 0.21)]
    for below, strength in ((True, 0.28), (False, 1.0)):
        way = -0.7 if below else 1.0
        for parts, ink in (((main, jib), sail), ((hull_points, mast), hull)):
            stencil = _around(canvas, x, y, size * 0.5, 2 if below else size, size if below else 2)
            for part in parts:
                stencil.polygon(_shape([(a, b * way) for a, b in part], x, y, size, flip))
            canvas.over(stencil.top, stencil.left, stencil.cover() * np.float32(strength), ink)


def birds(canvas: Canvas, purpose: str, x: float, y: float, spread: float, count: int, ink: Floats) -> None:
    """A loose flock around (x, y); `spread` in units."""
    chance = canvas.chance.stream(purpose)
    reach = spread * canvas.unit
    stencil = _around(canvas, x, y, reach * 1.4, reach, reach)
    for _ in range(count):
        bx, by = x + float(chance.normal(0, 0.45)) * reach, y + float(chance.normal(0, 0.3)) * reach
        wing = canvas.unit * float(chance.uniform(0.007, 0.016))
        beat, tilt = float(chance.uniform(0.25, 0.75)), float(chance.normal(0, 0.15))
        points = [(-1.0, beat * 0.7), (-0.55, beat), (0.0, 0.0), (0.55, beat), (1.0, beat * 0.6),
                  (0.5, beat * 0.72), (0.0, -0.2), (-0.5, beat * 0.72)]  # fmt: skip
        turned = [
            (a * math.cos(tilt) - b * math.sin(tilt), a * math.sin(tilt) + b * math.cos(tilt))
            for a, b in points
        ]
        stencil.polygon(_shape(turned, bx, by, wing))
    canvas.over(stencil.top, stencil.left, stencil.cover() * np.float32(0.8), ink)


def lighthouse(
    canvas: Canvas, x: float, y: float, size: float, body: Floats, band: Floats, lamp: Floats | None
) -> None:
    """A striped tower `size` pixels tall standing at (x, y); `lamp` is the colour of its lit beam."""
    if not _visible(canvas, x, y, size, size):
        return

    def half(t: float) -> float:
        return 0.1 - 0.042 * t

    tower = _around(canvas, x, y, size * 0.2, size * 1.1)
    tower.polygon(_shape([(-half(0), 0), (-half(0.8), 0.8), (half(0.8), 0.8), (half(0), 0)], x, y, size))
    tower.polygon(_shape([(-0.045, 0.82), (-0.045, 0.92), (0.045, 0.92), (0.045, 0.82)], x, y, size))
    canvas.over(tower.top, tower.left, tower.cover(), body)
    bands = _around(canvas, x, y, size * 0.2, size * 1.1)
    for low in (0.14, 0.42, 0.68):
        high = low + 0.13
        bands.polygon(
            _shape([(-half(low), low), (-half(high), high), (half(high), high), (half(low), low)], x, y, size)
        )
    bands.polygon(_shape([(-0.085, 0.8), (-0.085, 0.83), (0.085, 0.83), (0.085, 0.8)], x, y, size))
    bands.polygon(_shape([(-0.06, 0.92), (0, 1.01), (0.06, 0.92)], x, y, size))
    canvas.over(bands.top, bands.left, bands.cover(), band)
    side = _around(canvas, x, y, size * 0.2, size * 1.1)
    side.polygon(_shape([(0.02, 0), (0.012, 0.8), (half(0.8), 0.8), (half(0), 0)], x, y, size))
    canvas.over(side.top, side.left, side.cover() * np.float32(0.22), rgb("#000000"))
    if lamp is not None:
        reach = size * 3.2
        beam = _around(canvas, x, y, reach, size * 1.6)
        beam.polygon(_shape([(0, 0.87), (-3.0, 1.18), (-3.0, 0.9)], x, y, size))
        beam.polygon(_shape([(0, 0.87), (3.0, 1.0), (3.0, 0.76)], x, y, size))
        span = np.abs(np.arange(beam.width, dtype=np.float32) + beam.left - np.float32(x)) / np.float32(reach)
        canvas.add(
            beam.top, beam.left, beam.cover() * (np.clip(1 - span, 0, 1) ** 1.5 * np.float32(0.4)), lamp
        )


def palm(canvas: Canvas, x: float, y: float, size: float, lean: float, ink: Floats, purpose: str) -> None:
    """A palm `size` pixels tall rooted at (x, y), its crown `lean` of its height to the side."""
    chance = canvas.chance.stream(purpose)
    stencil = _around(canvas, x + lean * size * 0.5, y, size * (0.6 + abs(lean)), size * 1.5, 4)
    t = np.linspace(0, 1, 14)
    trunk_x, trunk_y = x + lean * size * t**1.8, y - size * t
    half = size * (0.024 - 0.012 * t)
    outline = np.concatenate(
        (np.column_stack((trunk_x - half, trunk_y)), np.column_stack((trunk_x + half, trunk_y))[::-1])
    )
    stencil.polygon(outline.astype(np.float32))
    top_x, top_y = float(trunk_x[-1]), float(trunk_y[-1])
    for k in range(13):
        heading = math.pi * (k + float(chance.uniform(-0.3, 0.3))) / 12
        long = size * float(chance.uniform(0.36, 0.5))
        s = np.linspace(0, 1, 16)
        rib_x = top_x + math.cos(heading) * long * s
        rib_y = top_y - math.sin(heading) * long * 0.8 * s + long * 0.58 * s**2.4
        for side in (-1, 1):
            tooth = np.where(np.arange(16) % 2 == 0, 0.35, 1.0) * np.sin(
                np.pi * np.clip(s * 0.95 + 0.05, 0, 1)
            )
            fringe_x = rib_x + side * 0.02 * size * tooth
            fringe_y = rib_y + size * 0.085 * tooth * (0.9 if side > 0 else 0.55)
            leaf = np.concatenate(
                (np.column_stack((rib_x, rib_y)), np.column_stack((fringe_x, fringe_y))[::-1])
            )
            stencil.polygon(leaf.astype(np.float32))
    canvas.over(stencil.top, stencil.left, stencil.cover(), ink)


def cactus(
    canvas: Canvas, x: float, y: float, size: float, ink: Floats, edge: Floats, arms: int, sunward: float
) -> None:
    """A saguaro `size` pixels tall with one to three arms, lit along one edge."""
    if not _visible(canvas, x, y, size, size):
        return

    def column(cx: float, low: float, high: float, half: float) -> list[tuple[float, float]]:
        dome = [
            (cx + half * math.cos(a), high - half + half * 1.2 * math.sin(a))
            for a in np.linspace(math.pi, 0, 9)
        ]
        return [(cx - half, low), *dome, (cx + half, low)]

    def draw(stencil: Stencil, shift: float, slim: float) -> None:
        def put(points: list[tuple[float, float]]) -> None:
            stencil.polygon(_shape([(a + shift, b) for a, b in points], x, y, size))

        put(column(0, 0, 1.0, 0.075 * slim))
        for k in range(arms):
            side = -1 if k % 2 == 0 else 1
            low = (0.4, 0.5, 0.32)[k]
            high = (0.78, 0.86, 0.6)[k]
            cx = side * (0.22 + 0.03 * k)
            put(column(cx, low, high, 0.052 * slim))
            put(
                [
                    (0, low + 0.05),
                    (cx, low + 0.05),
                    (cx + side * 0.05, low),
                    (cx, low - 0.05),
                    (0, low - 0.05),
                ]
            )

    whole = _around(canvas, x, y, size * 0.4, size * 1.05)
    draw(whole, 0, 1)
    cover = whole.cover()
    canvas.over(whole.top, whole.left, cover, ink)
    inner = _around(canvas, x, y, size * 0.4, size * 1.05)
    draw(inner, -0.03 * sunward, 0.85)
    canvas.over(whole.top, whole.left, np.clip(cover - inner.cover(), 0, 1) * np.float32(0.6), edge)


def caravan(canvas: Canvas, x: float, size: float, ink: Floats, count: int, slope: Floats) -> None:
    """Camels in a row on a ground line `slope` (pixel row per column), each `size` pixels tall."""
    body = [(-0.42, 0.52), (-0.38, 0.66), (-0.2, 0.72), (-0.08, 0.92), (0.04, 0.95), (0.14, 0.75), (0.3, 0.7),
            (0.42, 0.6), (0.52, 0.72), (0.56, 0.95), (0.66, 1.0), (0.76, 0.93), (0.74, 0.88), (0.63, 0.86),
            (0.6, 0.62), (0.48, 0.46), (0.3, 0.42), (-0.3, 0.42)]  # fmt: skip
    legs = [(-0.36, -0.4), (-0.24, -0.2), (0.26, 0.2), (0.36, 0.44)]
    for k in range(count):
        cx = x + k * size * 1.75
        if not 0 <= cx < canvas.width:
            continue
        cy = float(slope[int(cx)]) + size * 0.05
        stencil = _around(canvas, cx, cy, size, size * 1.1, 2)
        stencil.polygon(_shape(body, cx, cy, size))
        for hip, hoof in legs:
            stencil.polygon(
                _shape(
                    [(hip - 0.045, 0.5), (hip + 0.05, 0.5), (hoof + 0.025, 0), (hoof - 0.02, 0)], cx, cy, size
                )
            )
        canvas.over(stencil.top, stencil.left, stencil.cover(), ink)


def pyramid(
    canvas: Canvas, x: float, y: float, size: float, lit: Floats, dark: Floats, sunward: float
) -> None:
    """A pyramid `size` pixels tall on ground row y, one face lit."""
    edge = 0.22 * sunward
    for points, ink in (
        ([(-1.05, -0.1), (0, 1), (edge, -0.1)], lit if sunward < 0 else dark),
        ([(1.05, -0.1), (0, 1), (edge, -0.1)], dark if sunward < 0 else lit),
    ):
        stencil = _around(canvas, x, y, size * 1.1, size, size * 0.12)
        stencil.polygon(_shape(points, x, y, size))
        canvas.over(stencil.top, stencil.left, stencil.cover(), ink)


def balloon(canvas: Canvas, x: float, y: float, size: float, colours: list[Floats], light: Floats) -> None:
    """A striped hot air balloon, `size` pixels tall, its basket at (x, y)."""
    if not _visible(canvas, x, y, size, size):
        return
    stripes = 7
    turn = np.linspace(-math.pi / 2, math.pi / 2, stripes + 1)
    t = np.linspace(0, 1, 18)
    half = 0.36 * np.sin(np.pi * np.clip(t * 0.93 + 0.05, 0, 1)) ** 0.62 * (0.62 + 0.38 * t**0.6)
    up = 0.2 + 0.8 * t
    for k in range(stripes):
        lowest, highest = sorted((math.sin(turn[k]), math.sin(turn[k + 1])))
        stencil = Stencil(
            canvas, int(y - size) - 2, int(y - size * 0.18) + 2,
            int(x + size * 0.38 * lowest) - 2, int(x + size * 0.38 * highest) + 3,
        )  # fmt: skip
        left = np.column_stack((half * math.sin(turn[k]), up))
        right = np.column_stack((half * math.sin(turn[k + 1]), up))
        stencil.polygon(
            _shape([(float(a), float(b)) for a, b in np.concatenate((left, right[::-1]))], x, y, size)
        )
        tone = (
            colours[k % len(colours)]
            * light
            * np.float32(0.78 + 0.3 * math.cos((turn[k] + turn[k + 1]) / 2 + 0.5))
        )
        canvas.over(stencil.top, stencil.left, stencil.cover(), np.clip(tone, 0, 1).astype(np.float32))
    basket = _around(canvas, x, y, size * 0.3, size * 0.3, size * 0.05)
    basket.polygon(_shape([(-0.05, 0.07), (0.05, 0.07), (0.04, 0), (-0.04, 0)], x, y, size))
    for side in (-1, 1):
        basket.polygon(
            _shape(
                [(side * 0.05, 0.07), (side * 0.1, 0.22), (side * 0.108, 0.22), (side * 0.058, 0.07)],
                x,
                y,
                size,
            )
        )
    canvas.over(basket.top, basket.left, basket.cover(), mix(rgb("#4a2f1c"), rgb("#000000"), 0.3) * light)


def house(
    canvas: Canvas, palette: Palette, x: float, y: float, size: float, wall: Floats, roof: Floats, lit: float,
    sunward: float, *, steeple: bool,
) -> None:  # fmt: skip
    """A gabled house `size` pixels wide with its foot at (x, y); `lit` 0..1 lights its windows."""
    half, eaves = size * 0.62, size * 0.62
    top, reach = y - size * (2.6 if steeple else 1.35), size * 1.1

    def put(points: list[tuple[float, float]], ink: Floats, strength: float = 1.0) -> None:
        stencil = Stencil(canvas, int(top) - 1, int(y) + 2, int(x - reach) - 1, int(x + reach) + 2)
        stencil.polygon(np.array(points, np.float32))
        canvas.over(stencil.top, stencil.left, stencil.cover() * np.float32(strength), ink)

    gable = size * 0.5
    put(
        [(x - half, y), (x - half, y - eaves), (x + half, y - eaves), (x + half, y)],
        mix(wall, palette.shade, 0.12),
    )
    front = x - half if sunward < 0 else x + half - gable * 1.1
    put(
        [
            (front, y),
            (front, y - eaves),
            (front + gable * 0.55, y - size * 1.12),
            (front + gable * 1.1, y - eaves),
            (front + gable * 1.1, y),
        ],
        wall,
    )
    put(
        [
            (x - half - size * 0.08, y - eaves * 0.94),
            (x - half + gable * 0.5, y - size * 1.16),
            (x + half - gable * 0.5, y - size * 1.16),
            (x + half + size * 0.08, y - eaves * 0.94),
        ],
        roof,
    )
    if steeple:
        put(
            [
                (x - size * 0.16, y - size),
                (x - size * 0.16, y - size * 1.75),
                (x, y - size * 2.55),
                (x + size * 0.16, y - size * 1.75),
                (x + size * 0.16, y - size),
            ],
            mix(wall, roof, 0.45),
        )
    lamp = rgb("#ffd27a") if lit else mix(palette.shade, palette.upper, 0.4)
    for k in (-0.36, 0.0, 0.36) if size > 8 else (0.0,):
        cx, cy, pane = x + k * size, y - eaves * 0.5, size * 0.075
        put(
            [
                (cx - pane, cy - pane * 1.3),
                (cx + pane, cy - pane * 1.3),
                (cx + pane, cy + pane * 1.3),
                (cx - pane, cy + pane * 1.3),
            ],
            lamp,
            0.95 if lit else 0.7,
        )
    if lit > 0.3:
        canvas.glow(x, y - eaves * 0.4, size * 0.9, rgb("#ffb95c"), 0.26 * lit)

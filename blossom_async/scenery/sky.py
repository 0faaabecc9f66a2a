"""Skies: graded light, clouds, sun and moon, stars, aurora."""

from __future__ import annotations

import math

import numpy as np

from blossom_async.scenery.canvas import Canvas, Floats, Stencil, enlarged
from blossom_async.scenery.colour import Palette, mix, rgb, stops
from blossom_async.scenery.noise import mottle, smoothstep
from blossom_async.scenery.words import Scene

__all__ = ["Orb", "disc", "paint_sky"]


class Orb:
    """Where the sun or the moon stands: pixels of the working size, and whether its disc shows.

    `age` is the share of the disc that is lit: 0.2 for a crescent, 0.5 for a half moon, else 1.
    """

    __slots__ = ("age", "radius", "shown", "x", "y")

    def __init__(self, x: float, y: float, radius: float, *, moon_age: float, shown: bool) -> None:
        self.x: float = x
        self.y: float = y
        self.radius: float = radius
        self.age: float = moon_age
        self.shown: bool = shown


def paint_sky(
    canvas: Canvas, scene: Scene, palette: Palette, horizon: float, skyline: float | None = None
) -> Orb:
    """Fill the canvas down to the horizon (a fraction of the height), and say where its light comes from.

    `skyline` is where the land will hide the sky, if that is higher: the warm end of the gradient and the
    sun are put above it.
    Soft parts are computed at a quarter of the size and enlarged.
    """
    chance = canvas.chance.stream("sky")
    orb_x = float(chance.uniform(0.22, 0.78))
    lift = palette.height + float(chance.uniform(-0.03, 0.05))
    base = max(1, canvas.row(horizon))
    visible = base if skyline is None else max(1, canvas.row(skyline))
    orb_name = "moon" if palette.moon else "sun"
    covered = scene.weather in ("rain", "storm", "fog", "snow", "cloudy")
    # With a rainbow the sun is behind the viewer, and a moon would outshine an aurora.
    elsewhere = scene.light == "aurora" or (scene.wants("rainbow") and not palette.moon)
    hidden = (covered or elsewhere) and not scene.wants(orb_name)
    if scene.weather == "storm" and not palette.moon:
        hidden = True
    orb = Orb(
        orb_x * canvas.width,
        visible * (1 - min(0.9, max(0.0, lift))),
        canvas.unit
        * (0.034 if palette.moon else 0.04)
        * float(chance.uniform(0.85, 1.25))
        * (1.3 if _moon_age(scene) < 1 else 1.0),
        moon_age=_moon_age(scene),
        shown=scene.allows(orb_name) and not hidden and (palette.moon or palette.height < 0.6),
    )
    quarter = 4 if canvas.detail < 2 else 3
    height, width = -(-base // quarter) + 1, -(-canvas.width // quarter) + 1
    down = (np.arange(height, dtype=np.float32) + 0.5) * np.float32(quarter / visible)
    graded = stops(
        [palette.zenith, palette.upper, palette.lower, palette.horizon], [0.0, 0.42, 0.78, 1.0], down
    )
    soft = np.empty((3, height, width), np.float32)
    soft[...] = graded[:, :, None]

    dx = (np.arange(width, dtype=np.float32)[None, :] * quarter - orb.x) / canvas.unit
    dy = (np.arange(height, dtype=np.float32)[:, None] * quarter - orb.y) / canvas.unit
    if scene.allows(orb_name):
        around = np.sqrt(dx * dx + dy * dy)
        wide = np.exp(-np.sqrt(dx * dx * 0.45 + dy * dy * 2.2) * (4.6 if not palette.moon else 7.0))
        near = np.exp(-around * 11)
        power = (0.5 if palette.moon else 0.78) * (0.45 if hidden else 1.0) * (0.55 + 0.45 * orb.age)
        bloom = wide * np.float32(power * 0.7) + near * np.float32(power * 0.6)
        for k in range(3):
            soft[k] += (palette.glow[k] - soft[k]) * np.minimum(bloom, 1)
    if scene.light == "aurora":
        _aurora(canvas, soft, down)
    if scene.allows("clouds"):
        _clouds(canvas, scene, palette, soft, orb, quarter)
    struck = scene.weather == "storm" and scene.allows("lightning")
    strike_x = float(canvas.chance.stream("strike").uniform(0.2, 0.8)) * canvas.width
    if struck:  # the cloud lights up around the bolt
        aside = dx + np.float32((orb.x - strike_x) / canvas.unit)
        for level, reach, power in ((0.2, 0.24, 0.45), (0.6, 0.16, 0.2)):
            away = dy + np.float32((orb.y - base * level) / canvas.unit)
            light = np.exp((aside * aside + away * away) * np.float32(-1 / reach**2)) * np.float32(power)
            for k, ink in enumerate(rgb("#c9d4ff")):
                soft[k] += (1 - np.minimum(soft[k], 1)) * light * ink
    if scene.wants("rainbow"):
        _rainbow(canvas, soft, orb, visible, quarter)
    for k in range(3):
        big = enlarged(soft[k], width * quarter, height * quarter)
        canvas.planes[k, :base] = big[:base, : canvas.width]
    overcast = covered and (scene.weather == "storm" or not scene.wants("stars"))
    if palette.stars > 0.05 and scene.allows("stars") and not overcast:
        _stars(canvas, orb, base, palette.stars * (1.6 if scene.wants("stars") else 1.0))
    if orb.shown:
        _orb(canvas, palette, orb, base)
    if struck:
        _lightning(canvas, strike_x, base)
    return orb


def _moon_age(scene: Scene) -> float:
    if scene.wants("crescent"):
        return 0.2
    return 0.5 if scene.wants("half moon") else 1.0


def _clouds(canvas: Canvas, scene: Scene, palette: Palette, soft: Floats, orb: Orb, quarter: int) -> None:
    chance = canvas.chance.stream("clouds")
    amount = {"clear": 0.44, "fog": 0.5, "rain": 0.74, "storm": 0.86, "snow": 0.66, "cloudy": 0.72}
    cover = amount[scene.weather] + float(chance.uniform(-0.08, 0.05)) + 0.14 * scene.wants("clouds")
    _, height, width = soft.shape
    aspect_x, aspect_y = width * quarter / canvas.unit, height * quarter / canvas.unit
    octaves = 5 if canvas.detail == 1 else 6
    flat = scene.weather == "clear" and palette.height < 0.3  # low light: long thin bands
    cells = (1.5 * aspect_x, (7.0 if flat else 3.6) * aspect_y)
    plane = mottle(chance, width, height, cells=cells, octaves=octaves, rough=0.52)
    # Perspective of a ceiling of clouds: rows advance faster towards the horizon.
    far = (np.linspace(0, 1, height, dtype=np.float32) ** 0.62 * (height - 1)).astype(np.int64)
    plane = plane[far]
    body = smoothstep(1 - cover, 1.28 - cover * 0.8, plane)
    step_x = int(np.clip((orb.x / quarter - width / 2) / width * 10, -5, 5))
    rows_on = np.minimum(np.arange(height) + 3, height - 1)
    columns_on = np.clip(np.arange(width) + step_x, 0, width - 1)
    toward = plane[rows_on][:, columns_on]
    facing = np.clip((plane - toward) * 3.2 + 0.5, 0, 1)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    bright = mix(palette.glow, palette.horizon, 0.35)
    lit = [
        bright[k] * (0.35 + 0.65 * palette.brightness) + palette.lower[k] * (0.65 - 0.65 * palette.brightness)
        for k in range(3)
    ]
    shaded = mix(palette.upper, palette.haze, 0.45) * np.float32(0.82 if palette.brightness > 0.2 else 1.1)
    opacity = body * (0.82 if scene.weather != "clear" else 0.62) * (1 - 0.35 * down)
    for k in range(3):
        colour = shaded[k] + (lit[k] - shaded[k]) * facing
        soft[k] += (colour - soft[k]) * opacity


def _aurora(canvas: Canvas, soft: Floats, down: Floats) -> None:
    chance = canvas.chance.stream("aurora")
    width = soft.shape[2]
    x = np.linspace(0, canvas.width / canvas.unit, width, dtype=np.float32)
    green, violet = rgb("#4dffb0"), rgb("#a05cff")
    for k in range(3):
        centre = 0.42 + 0.13 * k + 0.0 * x
        for waves, size in ((1.1, 0.13), (2.7, 0.05), (6.1, 0.02)):
            centre = centre + np.float32(size) * np.sin(
                x * np.float32(waves * math.pi) + np.float32(chance.uniform(0, 6.28))
            )
        rays = mottle(chance, width, 1, cells=(26 * canvas.width / canvas.unit, 1), octaves=3)[0]
        reach = 0.2 + 0.22 * rays
        rise = (centre[None, :] - down[:, None]) / reach[None, :]
        curtain = np.where(rise > 0, np.exp(-rise * 1.7), np.exp(rise * 14)).astype(np.float32)
        curtain *= (0.35 + 0.65 * rays)[None, :] * np.float32((0.95, 0.7, 0.5)[k])
        tint = np.clip(rise * 0.5, 0, 1)
        for c in range(3):
            soft[c] += curtain * (green[c] + (violet[c] - green[c]) * tint) * (1 - soft[c])


def _rainbow(canvas: Canvas, soft: Floats, orb: Orb, visible: int, quarter: int) -> None:
    """A soft bow opposite the sun, red outside, with a brighter sky within it."""
    _, height, width = soft.shape
    middle_x = canvas.width * (0.42 if orb.x > canvas.width / 2 else 0.58)
    middle_y = visible + 0.1 * canvas.unit
    radius = min(middle_y - 0.2 * visible, 0.6 * canvas.width)
    dx = np.arange(width, dtype=np.float32)[None, :] * quarter - np.float32(middle_x)
    dy = np.arange(height, dtype=np.float32)[:, None] * quarter - np.float32(middle_y)
    thick = max(2.0, 0.062 * min(canvas.unit, 1.6 * radius))
    across = (np.sqrt(dx * dx + dy * dy) - np.float32(radius)) / np.float32(thick)
    inks = stops(
        [rgb(code) for code in ["#8a4fe0", "#4a63f0", "#2fb3f2", "#4fd468", "#f7e94a", "#f9963a", "#f0433f"]],
        [0.0, 0.18, 0.34, 0.5, 0.66, 0.82, 1.0],
        np.linspace(0, 1, 256, dtype=np.float32),
    )
    place = np.clip((across + np.float32(0.5)) * 255, 0, 255).astype(np.int32)
    strength = np.exp(-((np.abs(across) * np.float32(1.75)) ** 4)) * np.float32(0.5)
    strength *= np.clip(1.15 + dy / np.float32(radius) * np.float32(-0.35), 0, 1)
    within = np.clip(-across * np.float32(0.6), 0, 1) * np.float32(0.1)
    for k in range(3):
        soft[k] += (1 - soft[k]) * within
        soft[k] += (inks[k][place] - soft[k]) * strength


def _stars(canvas: Canvas, orb: Orb, base: int, amount: float) -> None:
    chance = canvas.chance.stream("stars")
    places = chance.random((2400, 3), dtype=np.float32)
    area = canvas.width * base / canvas.unit**2
    count = int(min(2400, 520 * area * amount * (0.7 + 0.5 * canvas.detail)))
    places = places[:count]
    if orb.shown and orb.age < 1:  # no star shines through the dark part of the moon
        gap_x, gap_y = places[:, 0] * canvas.width - orb.x, places[:, 1] ** 1.3 * base - orb.y
        places = places[np.hypot(gap_x, gap_y) > orb.radius * 1.15]
    x, y = places[:, 0] * canvas.width, places[:, 1] ** 1.3 * base
    power = (places[:, 2] ** 6 * 1.1 + 0.2) * (1 - places[:, 1] ** 1.3 * 0.85)
    size = max(0.55, canvas.unit / 1024 * 0.75)
    reach = math.ceil(size * 1.6)
    for oy in range(-reach, reach + 1):
        for ox in range(-reach, reach + 1):
            column, line = x.astype(np.int64) + ox, y.astype(np.int64) + oy
            inside = (column >= 0) & (column < canvas.width) & (line >= 0) & (line < base)
            gap = ((column + 0.5 - x) ** 2 + (line + 0.5 - y) ** 2) / (size * size)
            light = (power * np.exp(-gap * 1.1)).astype(np.float32)[inside]
            for k, tone in enumerate((0.93, 0.96, 1.0)):
                canvas.planes[k, line[inside], column[inside]] += light * np.float32(tone)


def disc(radius: float, x: float, y: float, soft: float = 1.0) -> tuple[int, int, Floats]:
    """A filled circle as (top, left, cover) with an edge `soft` pixels wide."""
    reach = math.ceil(radius + soft)
    top, left = math.floor(y) - reach, math.floor(x) - reach
    span = np.arange(2 * reach + 2, dtype=np.float32) + 0.5
    gap = np.sqrt((span[None, :] + left - np.float32(x)) ** 2 + (span[:, None] + top - np.float32(y)) ** 2)
    return top, left, np.clip((radius + soft / 2 - gap) / soft, 0, 1).astype(np.float32)


def _orb(canvas: Canvas, palette: Palette, orb: Orb, base: int) -> None:
    soft = max(1.0, canvas.unit / 700)
    top, left, cover = disc(orb.radius, orb.x, orb.y, soft)
    if palette.moon and orb.age < 1:
        cover *= _lit_part(orb, top, left, cover.shape, soft)
    cover = cover[: max(0, base - top)]
    if palette.moon:
        chance = canvas.chance.stream("moon")
        face = mottle(chance, cover.shape[1], max(1, cover.shape[0]), cells=(3.5, 3.5), octaves=4)
        canvas.over(top, left, cover, mix(palette.glow, rgb("#ffffff"), 0.3))
        canvas.over(
            top,
            left,
            cover[: face.shape[0]] * np.clip((0.52 - face[: cover.shape[0]]) * 1.1, 0, 0.3),
            mix(palette.glow, palette.upper, 0.6),
        )
    else:
        canvas.over(top, left, cover * np.float32(0.95), mix(palette.glow, rgb("#ffffff"), 0.55))


def _lit_part(orb: Orb, top: int, left: int, shape: tuple[int, ...], soft: float) -> Floats:
    """The lit part of a waxing moon: the terminator is half an ellipse, tilted to the lower right."""
    x = np.arange(shape[1], dtype=np.float32)[None, :] + np.float32(left + 0.5 - orb.x)
    y = np.arange(shape[0], dtype=np.float32)[:, None] + np.float32(top + 0.5 - orb.y)
    along, aside = x * np.float32(0.87) + y * np.float32(0.5), y * np.float32(0.87) - x * np.float32(0.5)
    chord = np.sqrt(np.maximum(orb.radius**2 - aside * aside, 0))
    lit: Floats = np.clip((along - chord * np.float32(1 - 2 * orb.age)) / np.float32(soft) + 0.5, 0, 1)
    return lit


def _lightning(canvas: Canvas, start: float, base: int) -> None:
    """One forked bolt from column `start` at the top down to the horizon."""
    chance = canvas.chance.stream("lightning")
    unit = canvas.unit
    stencil = Stencil(canvas, 0, base, int(start - 0.42 * unit), int(start + 0.42 * unit))

    pieces: dict[float, list[tuple[tuple[float, float], tuple[float, float]]]] = {}

    def fork(x: float, y: float, heading: float, end: float, thick: float, steps: int) -> None:
        for _ in range(steps):
            if y >= end:
                return
            turn = heading + float(chance.normal(0, 0.55))
            nx, ny = x + math.sin(turn) * unit * 0.03, y + math.cos(turn) * unit * 0.03
            pieces.setdefault(thick, []).append(((x, y), (nx, ny)))
            x, y = nx, ny
            if thick > unit * 0.0016 and chance.random() < 0.22:
                aside = heading + float(chance.choice((-0.8, 0.8)))
                fork(x, y, aside, base, thick * 0.5, steps // 2 if steps < 100 else 11)

    fork(start, base * 0.04, float(chance.uniform(-0.2, 0.2)), base + 2.0, unit * 0.0035, 120)
    for thick, lines in pieces.items():
        stencil.lines(np.array(lines, np.float32), thick)
    canvas.add(stencil.top, stencil.left, stencil.cover(), rgb("#f4f2ff"))

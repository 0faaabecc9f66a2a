"""Deep space: glowing gas, stars of many sizes, a planet or two."""

from __future__ import annotations

import math

import numpy as np

from blossom_async.scenery.canvas import Canvas, Floats, enlarged
from blossom_async.scenery.colour import NAMED, Palette, mix, rgb
from blossom_async.scenery.noise import mottle, scale, smoothstep
from blossom_async.scenery.words import Scene

__all__ = ["paint_space"]

_GASES = (
    ("#1a0b3a", "#7a2fa8", "#e8559a", "#ffc27a"),
    ("#06182f", "#14609a", "#2fc4c0", "#d6fff2"),
    ("#0d0b2e", "#3a3fb8", "#a05cf0", "#ffb4e6"),
    ("#1c0a1a", "#8c2340", "#f0663a", "#ffe08a"),
    ("#04121c", "#0f5a5c", "#5fd08a", "#f4ffb8"),
)
_WORLDS = (
    ("#e8b07a", "#a8603c", "#f6dcb4"), ("#6fa8d8", "#2c5f9e", "#e8f4fb"), ("#c47ad0", "#5a3a8c", "#f2cdea"),
    ("#7fd0b0", "#2a7a74", "#e4f6dc"), ("#e0664a", "#7a2a2a", "#f8c49a"),
)  # fmt: skip


def paint_space(canvas: Canvas, scene: Scene, palette: Palette) -> None:
    """Gas, then stars, then planets."""
    del palette  # there is one light in space
    chance = canvas.chance.stream("space")
    gases = [rgb(code) for code in _GASES[int(chance.integers(len(_GASES)))]]
    if scene.colours:
        inks = [rgb(NAMED[name]) for name in scene.colours]
        gases = [mix(inks[0], rgb("#05060f"), 0.82), mix(inks[0], rgb("#05060f"), 0.35), inks[-1],
                 mix(inks[len(inks) // 2], rgb("#ffffff"), 0.6)]  # fmt: skip
    spiral = scene.wants("galaxy") or (
        chance.random() < 0.3 and scene.allows("galaxy") and not scene.wants("planet")
    )
    density = _gas(canvas, gases, 0.55 if spiral else 1.0)
    if scene.allows("stars"):
        _stars(canvas, density)
    if spiral:
        _spiral(canvas, gases, chance)
    if scene.allows("planet") and (
        scene.wants("planet") or scene.wants("moon") or (not spiral and chance.random() < 0.75)
    ):
        _planets(canvas, scene, chance)
    if scene.wants("comet"):
        _comet(canvas, chance)


def _gas(canvas: Canvas, gases: list[Floats], strength: float) -> Floats:
    stream = canvas.chance.stream("gas")
    part = 3
    width, height = -(-canvas.width // part), -(-canvas.height // part)
    wide, tall = canvas.width / canvas.unit, canvas.height / canvas.unit
    drift_x = mottle(stream, width, height, cells=(2 * wide, 2 * tall), octaves=3) - 0.5
    drift_y = mottle(stream, width, height, cells=(2 * wide, 2 * tall), octaves=3) - 0.5
    plain = mottle(
        stream,
        width,
        height,
        cells=(2.2 * wide, 2.2 * tall),
        octaves=6 if canvas.detail == 1 else 7,
        rough=0.58,
    )
    dust = mottle(stream, width, height, cells=(3.5 * wide, 3.5 * tall), octaves=6, rough=0.6)
    # Distorting the clouds with other clouds gives them wisps.
    push = canvas.unit / part * 0.42
    x = np.clip(np.arange(width, dtype=np.float32)[None, :] + drift_x * push, 0, width - 1).astype(np.int64)
    y = np.clip(np.arange(height, dtype=np.float32)[:, None] + drift_y * push, 0, height - 1).astype(np.int64)
    cloud, dust = plain[y, x], dust[y, x]
    turn = float(stream.uniform(-0.8, 0.8))
    ax = (np.arange(width, dtype=np.float32)[None, :] / width - 0.5) * wide
    ay = (np.arange(height, dtype=np.float32)[:, None] / height - 0.5) * tall
    band = np.exp(-(((ay * math.cos(turn) + ax * math.sin(turn) + 0.16 * drift_x) / 0.34) ** 2))
    density: Floats = np.clip(
        smoothstep(0.3, 0.85, cloud) * (0.3 + 0.95 * band) * np.float32(strength), 0, 1
    ).astype(np.float32, copy=False)
    lanes = smoothstep(0.5, 0.72, dust) * band
    space = rgb("#04050d")
    lift = np.clip(density * 1.25, 0, 1)
    mid, hot = smoothstep(0.18, 0.6, density), smoothstep(0.5, 0.95, density)
    for k in range(3):
        tone = space[k] + (gases[0][k] - space[k]) * np.clip(0.35 + lift, 0, 1)
        tone += (gases[1][k] - tone) * lift * 0.75
        tone += (gases[2][k] - tone) * mid * 0.7
        tone += (gases[3][k] - tone) * hot * 0.65
        tone *= 1 - 0.6 * lanes
        canvas.planes[k] = enlarged(tone, width * part, height * part)[: canvas.height, : canvas.width]
    return density


def _stars(canvas: Canvas, density: Floats) -> None:
    chance = canvas.chance.stream("stars")
    area = canvas.width * canvas.height / canvas.unit**2
    count = int(min(9000, 1500 * area * canvas.detail))
    throws = chance.random((9000, 4), dtype=np.float32)[:count]
    x, y = throws[:, 0] * canvas.width, throws[:, 1] * canvas.height
    power = throws[:, 2] ** 5 * 0.95 + 0.12
    warm, cold = rgb("#ffe2c0"), rgb("#cfe0ff")
    tint = warm[:, None] + (cold - warm)[:, None] * throws[:, 3]
    size = max(0.6, canvas.unit / 1024 * 0.8)
    reach = math.ceil(size * 1.6)
    column, line = x.astype(np.int64), y.astype(np.int64)
    for oy in range(-reach, reach + 1):
        for ox in range(-reach, reach + 1):
            gap = ((column + ox + 0.5 - x) ** 2 + (line + oy + 0.5 - y) ** 2) / (size * size)
            light = power * np.exp(-gap)
            inside = (
                (column + ox >= 0)
                & (column + ox < canvas.width)
                & (line + oy >= 0)
                & (line + oy < canvas.height)
            )
            for k in range(3):
                canvas.planes[k, line[inside] + oy, column[inside] + ox] += (light * tint[k])[inside]
    for _ in range(int(11 * area) + 3):
        cx, cy = float(chance.random()) * canvas.width, float(chance.random()) * canvas.height
        strength = float(chance.uniform(0.35, 1)) ** 2
        tone = mix(warm, cold, float(chance.random()))
        radius = canvas.unit * 0.02 * (0.5 + strength)
        canvas.glow(cx, cy, radius, tone, 0.6 * strength)
        canvas.glow(cx, cy, radius * 0.28, rgb("#ffffff"), 1.0)
        arm = max(2, round(radius * 2.2))
        flare = (1 - np.abs(np.linspace(-1, 1, 2 * arm + 1, dtype=np.float32))) ** 3 * np.float32(
            0.85 * strength
        )
        thick = max(1, round(canvas.unit / 1000))
        canvas.add(round(cy), round(cx) - arm, np.repeat(flare[None, :], thick, axis=0), tone)
        canvas.add(round(cy) - arm, round(cx), np.repeat(flare[:, None], thick, axis=1), tone)


def _planets(canvas: Canvas, scene: Scene, chance: np.random.Generator) -> None:
    world = int(chance.integers(len(_WORLDS)))
    sun = float(chance.uniform(0, 2 * math.pi))
    x, y = float(chance.choice((0.3, 0.68))), float(chance.uniform(0.36, 0.66))
    radius = float(chance.uniform(0.15, 0.24))
    ringed = chance.random() < 0.5
    tones = [rgb(code) for code in _WORLDS[world]]
    small = [rgb(code) for code in _WORLDS[(world + 2) % len(_WORLDS)]]
    _planet(
        canvas,
        "moonlet",
        (1 - x) * canvas.width,
        y * 0.5 * canvas.height,
        radius * 0.24 * canvas.unit,
        small,
        sun,
        False,
    )
    if scene.wants("moon") and not scene.wants("planet"):
        tones = [rgb("#cfcac0"), rgb("#7d7a78"), rgb("#f2eee4")]
        ringed = False
    _planet(canvas, "planet", x * canvas.width, y * canvas.height, radius * canvas.unit, tones, sun, ringed)


def _planet(
    canvas: Canvas,
    purpose: str,
    x: float,
    y: float,
    radius: float,
    tones: list[Floats],
    sun: float,
    ringed: bool,
) -> None:
    """A lit sphere with banded clouds, an atmosphere, and sometimes rings."""
    stream = canvas.chance.stream(purpose)
    reach = math.ceil(radius * 1.12) + 2
    span = np.arange(-reach, reach + 1, dtype=np.float32) / np.float32(radius)
    px, py = span[None, :], span[:, None]
    around = px * px + py * py
    out = np.sqrt(around)
    depth = np.sqrt(np.clip(1 - around, 0, 1))
    facing = px * math.cos(sun) * 0.8 + py * math.sin(sun) * 0.8 + depth * 0.6
    light = smoothstep(-0.15, 0.95, facing)
    side = 2 * reach + 1
    swirl = mottle(stream, side, side, cells=(3, 3), octaves=4) - 0.5
    tilt = float(stream.uniform(-0.5, 0.5))
    latitude = py * math.cos(tilt) + px * math.sin(tilt)
    bent = latitude * (1.25 - 0.25 * depth) + swirl * 0.16
    bands = scale(stream.random(40), -1.6, 1.6, bent)
    fleck = mottle(stream, side, side, cells=(9, 9), octaves=4, rough=0.6)
    tone = np.clip(bands * 0.75 + fleck * 0.45 - 0.1, 0, 1)
    cover = np.clip((1 - out) * np.float32(radius) + 0.5, 0, 1)
    top, left = round(y) - reach, round(x) - reach
    air = np.exp(-np.maximum(out - 1, 0) * 26) * smoothstep(-0.4, 0.7, facing) * (out > 0.97)
    canvas.add(top, left, air * np.float32(0.6), tones[2])
    if ringed:
        rings = _Ring(canvas, x, y, radius, tilt, mix(tones[0], tones[2], 0.5))
        rings.paint(behind=True)
    rim = smoothstep(0.72, 1.0, out) * light
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(canvas.height, top + side), min(canvas.width, left + side)
    if y0 < y1 and x0 < x1:
        part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        for k in range(3):
            surface = tones[1][k] + (tones[0][k] - tones[1][k]) * tone
            surface += (tones[2][k] - surface) * smoothstep(0.68, 0.95, tone) * 0.6
            surface = surface * (0.035 + 1.0 * light)
            surface += (tones[2][k] - surface) * rim * 0.4
            plane = canvas.planes[k, y0:y1, x0:x1]
            plane += (surface[part] - plane) * cover[part]
    if ringed:
        rings.paint(behind=False)


class _Ring:
    """The rings of one planet, computed once and painted in two halves, behind and in front of it."""

    def __init__(self, canvas: Canvas, x: float, y: float, radius: float, tilt: float, ink: Floats) -> None:
        marks = canvas.chance.stream("ring").random(48) * 0.8 + 0.2
        self.canvas, self.ink = canvas, ink
        wide = math.ceil(radius * 2.25)
        tall = math.ceil(radius * 2.25 * math.hypot(math.sin(tilt), 0.26 * math.cos(tilt))) + 1
        self.top, self.left = round(y) - tall, round(x) - wide
        px = np.arange(-wide, wide + 1, dtype=np.float32)[None, :] / np.float32(radius)
        py = np.arange(-tall, tall + 1, dtype=np.float32)[:, None] / np.float32(radius)
        u = px * math.cos(tilt) + py * math.sin(tilt)
        self.v = py * math.cos(tilt) - px * math.sin(tilt)
        gap = np.sqrt(u * u + (self.v / 0.26) ** 2)
        edges = smoothstep(1.32, 1.38, gap) * smoothstep(2.2, 2.12, gap)
        division = 1 - 0.8 * np.exp(-(((gap - 1.86) / 0.025) ** 2))
        self.cover: Floats = (edges * division * scale(marks, 1.3, 2.2, gap) * 0.8).astype(np.float32)

    def paint(self, *, behind: bool) -> None:
        """One half of the rings."""
        half = (self.v < 0) if behind else (self.v >= 0)
        self.canvas.over(self.top, self.left, self.cover * half, self.ink)


def _spiral(canvas: Canvas, gases: list[Floats], chance: np.random.Generator) -> None:
    """A spiral galaxy seen aslant."""
    part = 2
    width, height = -(-canvas.width // part), -(-canvas.height // part)
    cx, cy = float(chance.uniform(0.4, 0.6)) * width, float(chance.uniform(0.4, 0.6)) * height
    size = canvas.unit / part * float(chance.uniform(0.36, 0.44))
    tilt, squash = float(chance.uniform(-0.7, 0.7)), float(chance.uniform(0.42, 0.7))
    x = (np.arange(width, dtype=np.float32)[None, :] - np.float32(cx)) / np.float32(size)
    y = (np.arange(height, dtype=np.float32)[:, None] - np.float32(cy)) / np.float32(size)
    u = x * math.cos(tilt) + y * math.sin(tilt)
    v = (y * math.cos(tilt) - x * math.sin(tilt)) / squash
    out = np.sqrt(u * u + v * v) + np.float32(1e-3)
    turn = np.arctan2(v, u)
    cloud = mottle(
        chance, width, height, cells=(9 * width / size / 2, 9 * height / size / 2), octaves=5, rough=0.62
    )
    wind = turn + np.log(out) * np.float32(3.1) + (cloud - 0.5) * np.float32(1.5)
    arms = (0.5 + 0.5 * np.cos(wind * 2)) ** 1.8
    disc = np.exp(-out * out * 1.9)
    core = np.exp(-out * 6.5)
    dusty = arms * disc * (0.4 + 1.0 * cloud)
    size_full = (width * part, height * part)
    arm_light = enlarged(dusty * np.float32(0.9), *size_full)[: canvas.height, : canvas.width]
    core_light = enlarged(core + disc * np.float32(0.14), *size_full)[: canvas.height, : canvas.width]
    canvas.add(0, 0, arm_light, mix(gases[2], rgb("#bcd4ff"), 0.5))
    canvas.add(0, 0, core_light, mix(gases[3], rgb("#fff3d8"), 0.6))


def _comet(canvas: Canvas, chance: np.random.Generator) -> None:
    x, y = float(chance.uniform(0.25, 0.75)) * canvas.width, float(chance.uniform(0.2, 0.45)) * canvas.height
    heading = float(chance.uniform(0.4, 0.9))
    long = canvas.unit * 0.4
    for k in range(40):
        t = k / 40
        canvas.glow(
            x - math.cos(heading) * long * t,
            y - math.sin(heading) * long * t,
            canvas.unit * (0.012 + 0.006 * t),
            rgb("#cfe6ff"),
            0.4 * (1 - t) ** 2,
        )
    canvas.glow(x, y, canvas.unit * 0.02, rgb("#ffffff"), 1.0)

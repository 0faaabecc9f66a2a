"""The sea, from an open horizon to the foam on a beach."""

from __future__ import annotations

import numpy as np
from PIL import Image

from blossom_async.scenery import silhouettes
from blossom_async.scenery.canvas import Canvas, enlarged
from blossom_async.scenery.colour import NAMED, Palette, mix, rgb
from blossom_async.scenery.land import ridge
from blossom_async.scenery.noise import contour, mottle, smoothstep
from blossom_async.scenery.sky import Orb, paint_sky
from blossom_async.scenery.water import glitter
from blossom_async.scenery.words import Scene

__all__ = ["paint_sea"]


def paint_sea(canvas: Canvas, scene: Scene, palette: Palette) -> None:
    """Sky, far coast, water, then boats and the near shore."""
    chance = canvas.chance.stream("sea")
    horizon = float(chance.uniform(0.46, 0.58))
    shore = canvas.row(horizon)
    orb = paint_sky(canvas, scene, palette, horizon)
    _far_coast(canvas, scene, palette, shore, chance)
    tower = scene.wants("lighthouse")
    rough = scene.weather == "storm" or scene.wants("waves")
    beach = (
        scene.wants("beach") or (chance.random() < 0.45 and scene.allows("beach") and not rough)
    ) and not tower
    _water(canvas, scene, palette, shore, orb)
    if orb.shown or (scene.weather in ("clear", "cloudy") and not palette.moon):
        glitter(canvas, shore, orb, mix(palette.glow, rgb("#ffffff"), 0.2), 1.0)
    if rough:
        _breakers(canvas, scene, palette, shore)
    if scene.wants("boat"):
        side = -1 if orb.x > canvas.width / 2 else 1
        x = canvas.width * (0.5 + side * float(chance.uniform(0.12, 0.3)))
        size = canvas.unit * float(chance.uniform(0.12, 0.2))
        sail = palette.own(rgb(NAMED[scene.colours[0]]) if scene.colours else rgb("#fbf6ea"), 0.08)
        dark = palette.brightness < 0.7
        silhouettes.sailboat(
            canvas, x, shore + size * 0.16, size, mix(sail, palette.shade, 0.55) if dark else sail,
            mix(palette.shade, rgb("#20222c"), 0.3), flip=bool(chance.random() < 0.5),
        )  # fmt: skip
    if tower:
        _headland(canvas, scene, palette, shore)
    if beach:
        _beach(canvas, palette, chance)
    fair = scene.weather == "clear" and not palette.moon
    if scene.allows("birds") and (scene.wants("birds") or (fair and chance.random() < 0.6)):
        silhouettes.birds(
            canvas, "gulls", canvas.width * float(chance.uniform(0.25, 0.75)),
            shore * float(chance.uniform(0.3, 0.6)),
            0.13, int(chance.integers(4, 9)), mix(palette.shade, palette.haze, 0.15),
        )  # fmt: skip
    if scene.wants("palm") and scene.allows("palm"):
        side = -1 if orb.x > canvas.width / 2 else 1
        foot = canvas.width * (0.5 + side * 0.46)
        ink = mix(palette.shade, palette.own(rgb("#2c5a36")), 0.3 if palette.brightness < 0.7 else 0.6)
        for k, (shift, tall, lean) in enumerate(((0.0, 0.62, -0.34), (0.08, 0.46, -0.16))):
            silhouettes.palm(
                canvas,
                foot + side * shift * canvas.unit,
                canvas.height + 0.02 * canvas.unit,
                tall * canvas.unit,
                lean * side,
                ink,
                f"palm {k}",
            )


def _far_coast(
    canvas: Canvas, scene: Scene, palette: Palette, shore: int, chance: np.random.Generator
) -> None:
    """A low headland or island on the horizon, in most pictures."""
    if not scene.wants("island") and (chance.random() < 0.35 or not scene.allows("island")):
        return
    middle, wide = float(chance.choice((0.12, 0.88, 0.2, 0.8))), float(chance.uniform(0.16, 0.3))
    tall = 0.05 if not scene.wants("island") else 0.09
    for k in range(2):
        stream = canvas.chance.stream(f"coast {k}")
        x = canvas.across * canvas.unit / canvas.width
        hump = np.exp(-(((x - middle - 0.06 * k) / (wide * (1 - 0.35 * k))) ** 2) * 1.6)
        uneven = 0.75 + 0.35 * contour(stream, canvas.across, 4, octaves=6)
        line = shore - np.float32(canvas.unit * tall * (1 - 0.4 * k)) * (hump * uneven * 1.2 - 0.12)
        tone = mix(palette.haze, palette.shade, 0.3 + 0.25 * k)
        ridge(canvas, line.astype(np.float32), shore, tone, mix(tone, palette.haze, 0.4))


def _water(canvas: Canvas, scene: Scene, palette: Palette, shore: int, orb: Orb) -> None:
    """Swell in perspective, coloured by the sky it mirrors and by its own depth."""
    height, width = canvas.height - shore, canvas.width
    if height <= 0:
        return
    named = next((rgb(NAMED[c]) for c in scene.colours if c in _WATERY), None)
    near_own = palette.own(mix(named, rgb("#0d3c55"), 0.3) if named is not None else rgb("#0e5674"))
    far_own = palette.own(mix(named, rgb("#b5e6ea"), 0.25) if named is not None else rgb("#3f9db4"))
    rough = {"storm": 1.8, "rain": 1.2}.get(scene.weather, 0.8) * (1.5 if scene.wants("waves") else 1.0)
    near = (np.arange(height, dtype=np.float32) + 0.5) / height
    half_w, half_h = -(-width // 2), -(-height // 2)
    swell = mottle(
        canvas.chance.stream("swell"), half_w, half_h,
        cells=(1.8 * width / canvas.unit, 30 * height / canvas.unit),
        octaves=4 if canvas.detail == 1 else 5, rough=0.6,
    )  # fmt: skip
    fine = mottle(
        canvas.chance.stream("wavelets"), half_w, half_h,
        cells=(9 * width / canvas.unit, 110 * height / canvas.unit), octaves=3, rough=0.6,
    )  # fmt: skip
    rank = np.minimum((near**0.42 * half_h).astype(np.int64), half_h - 1)
    foam = palette.own(rgb("#ffffff"), 0.15)
    column = np.abs(np.arange(width, dtype=np.float32) - np.float32(orb.x)) / np.float32(canvas.unit)
    sky = canvas.planes[:3, :shore]
    if scene.weather == "storm" and shore:  # rough water reflects only the glare of a bolt
        size = (max(1, width // 12), max(1, shore // 12))
        blurred = [Image.fromarray(plane).resize(size, Image.Resampling.BOX) for plane in sky]
        sky = np.stack([enlarged(np.asarray(plane), width, shore) for plane in blurred])
    above = [plane.ravel() for plane in sky]
    for y0, y1 in canvas.strips(shore, canvas.height):
        taken, close = rank[y0 - shore : y1 - shore], near[y0 - shore : y1 - shore, None]
        waves = np.repeat(swell[taken] * np.float32(0.65) + fine[taken] * np.float32(0.35), 2, axis=1)[
            :, :width
        ]
        waves -= np.float32(0.5)
        waves *= (0.25 + 0.75 * close**0.7) * np.float32(rough * 1.9)
        # A wave's far side mirrors the sky just above the horizon, its near side the sky overhead.
        up = close * np.float32(0.75) + np.float32(0.02) - waves * np.float32(0.5)
        line = np.clip(shore - 1 - up * np.float32(shore), 0, max(0, shore - 1)).astype(np.int64)
        index = line * width + np.arange(width, dtype=np.int64)
        mirrored = (0.66 - 0.36 * close) + waves * np.float32(0.5)
        mirrored = np.clip(mirrored * np.float32(1 if named is None else 0.6), 0.08, 0.85)
        crest = smoothstep(0.34, 0.75, waves) * np.float32(0.5)
        track = np.exp(-((column[None, :] / (0.1 + 0.2 * close)) ** 2)) * np.clip(0.35 + waves * 1.1, 0, 1)
        track *= np.float32(0.75 if orb.shown else 0.2) * (1 - 0.45 * close)
        body = 1 + waves * np.float32(0.45)
        for k in range(3):
            seen = (far_own[k] + (near_own[k] - far_own[k]) * close**0.6) * body
            if shore:
                seen += (above[k].take(index) - seen) * mirrored
            seen += (foam[k] - seen) * crest
            seen += (palette.glow[k] - seen) * track
            canvas.planes[k, y0:y1] = seen
    # Air softens the horizon.
    veil = np.exp(-np.abs(np.arange(-6, 7, dtype=np.float32)) / 2.2) * np.float32(0.4)
    top = shore - 6
    canvas.over(top, 0, np.repeat(veil[:, None], width, axis=1), palette.haze)


def _breakers(canvas: Canvas, scene: Scene, palette: Palette, shore: int) -> None:
    """Waves in front of one another, steep and white along their crests."""
    height, width, unit = canvas.height - shore, canvas.width, canvas.unit
    if height < 8:
        return
    high = 1.5 if scene.wants("waves") and scene.weather == "storm" else 1.0
    named = next((rgb(NAMED[c]) for c in scene.colours if c in _WATERY), rgb("#1f6f80"))
    clear = mix(palette.own(mix(named, rgb("#9fe0d0"), 0.35)), palette.horizon, 0.22)
    deep = mix(palette.own(mix(named, rgb("#06222f"), 0.7)), palette.shade, 0.3)
    foam = mix(palette.own(rgb("#ffffff")), palette.horizon, 0.35)
    streaks = mottle(
        canvas.chance.stream("wave faces"), -(-width // 2), -(-height // 2),
        cells=(16 * width / unit, 34 * height / unit), octaves=3, rough=0.6,
    )  # fmt: skip
    for k in range(5):
        t = k / 4
        stream = canvas.chance.stream(f"breaker {k}")
        tall = min(unit * (0.022 + 0.085 * t) * high, height * (0.09 + 0.3 * t))
        crests = contour(stream, canvas.across, (7.4, 5.0, 3.5, 2.7, 2.0)[k], octaves=2, rough=0.35)
        peak = (1 - np.minimum(np.abs(crests), 1)) ** 1.3  # narrow crests between wide troughs
        peak *= 0.72 + 0.4 * contour(stream, canvas.across, 1.3, octaves=1)
        spray = contour(stream, canvas.across, 26, octaves=4)
        row = shore + height * (0.1 + 0.83 * t**1.2)
        line = row - np.float32(tall) * (peak + np.float32(0.05) * spray * np.maximum(peak, 0))
        top, bottom = max(shore, int(line.min()) - 1), min(canvas.height, int(row + tall * 0.9))
        white = np.clip(peak * 2.0 - 0.5 + 0.5 * spray, 0, 1) * np.float32(0.55)
        for y0, y1 in canvas.strips(top, bottom):
            rows = np.arange(y0, y1, dtype=np.float32)[:, None]
            depth = (rows - line[None, :]) * np.float32(1 / tall)
            cover = np.clip(depth * np.float32(tall) + np.float32(0.5), 0, 1)
            cover *= np.clip((np.float32(row + tall * 0.9) - rows) * np.float32(2 / tall), 0, 1)
            if not cover.any():
                continue
            streak = np.repeat(streaks[(np.arange(y0, y1) - shore) // 2], 2, axis=1)[:, :width]
            fall = np.clip(depth * np.float32(0.75) + (streak - np.float32(0.5)) * np.float32(0.5), 0, 1)
            froth = np.clip(
                (white[None, :] - depth + (streak - np.float32(0.45)) * np.float32(1.3)) * 3, 0, 1
            )
            froth *= np.clip(white * 6, 0, 1)[None, :] * np.float32(0.92)
            for c in range(3):
                tone = fall * (deep[c] - clear[c])
                tone += clear[c]
                tone += froth * (foam[c] - tone)
                plane = canvas.planes[c, y0:y1]
                plane += (tone - plane) * cover


_WATERY = frozenset(
    [
        "teal",
        "turquoise",
        "cyan",
        "aqua",
        "blue",
        "azure",
        "cobalt",
        "navy",
        "emerald",
        "jade",
        "green",
        "mint",
        "indigo",
        "sapphire",
        "cerulean",
        "purple",
        "violet",
    ]
)


def _headland(canvas: Canvas, scene: Scene, palette: Palette, shore: int) -> None:
    chance = canvas.chance.stream("headland")
    side = -1 if chance.random() < 0.5 else 1
    x = canvas.across * canvas.unit / canvas.width
    from_edge = x if side < 0 else 1 - x
    uneven = contour(chance, canvas.across, 5, octaves=7)
    rise = smoothstep(0.0, 0.34, 0.56 - from_edge + 0.05 * uneven) ** 0.8
    foot = canvas.height * 1.03
    line = (foot - (foot - shore + canvas.unit * 0.07) * rise * (1 + 0.04 * uneven)).astype(np.float32)
    rock = mix(palette.own(rgb("#5b5148")), palette.shade, 0.55)
    ridge(
        canvas,
        line,
        canvas.height,
        rock,
        mix(rock, palette.shade, 0.7),
        facets=0.5,
        sunward=-side,
        lit_colour=mix(rock, palette.glow, 0.35),
        purpose="headland",
    )
    at = int(canvas.width * (0.5 + side * 0.36))
    lamp = rgb("#fff2b8") if scene.dark or palette.brightness < 0.7 else None
    silhouettes.lighthouse(
        canvas, at, float(line[at]) + canvas.unit * 0.012, canvas.unit * 0.3, palette.own(rgb("#f6f1e8")),
        palette.own(rgb("#b8352f")), lamp,
    )  # fmt: skip


def _beach(canvas: Canvas, palette: Palette, chance: np.random.Generator) -> None:
    """Sand across the near edge, and three lines of foam running out on it."""
    slope = float(chance.uniform(-0.09, 0.09))
    stream = canvas.chance.stream("beach")
    x = canvas.across * canvas.unit / canvas.width - 0.5
    bend = 0.03 * contour(stream, canvas.across, 1.0, octaves=3)
    edge = canvas.height * (0.83 + slope * x) - canvas.unit * bend
    top = int(max(0, edge.min() - 0.09 * canvas.unit))
    rows = np.arange(top, canvas.height, dtype=np.float32)[:, None]
    depth = (rows - edge[None, :]) / np.float32(canvas.unit)
    grain = mottle(
        stream, canvas.width, canvas.height - top,
        cells=(90 * canvas.width / canvas.unit, 200 * (canvas.height - top) / canvas.unit), octaves=2,
    )  # fmt: skip
    sand, wet = palette.own(rgb("#e9cfa0")), mix(palette.own(rgb("#a98b62")), palette.haze, 0.3)
    cover = smoothstep(-0.006, 0.004, depth)
    dry = smoothstep(0.01, 0.085, depth + (grain - 0.5) * 0.012)
    planes = canvas.planes[:, top:]
    for k in range(3):
        colour = wet[k] + (sand[k] - wet[k]) * dry
        colour = colour * (0.95 + 0.1 * grain) * (1.05 - 0.5 * depth)
        planes[k] += (colour - planes[k]) * cover
    froth = palette.own(rgb("#ffffff"), 0.05)
    for k, (shift, thick, strength) in enumerate(
        ((0.004, 0.0055, 0.95), (-0.03, 0.006, 0.7), (-0.066, 0.004, 0.5))
    ):
        wiggle = contour(canvas.chance.stream(f"foam {k}"), canvas.across, 5, octaves=5) * np.float32(0.008)
        body = (
            contour(canvas.chance.stream(f"froth {k}"), canvas.across, 9, octaves=5) * np.float32(0.6) + 0.8
        )
        gap = depth - np.float32(shift) - wiggle[None, :]
        # Foam ends sharply on the landward side and trails off to sea.
        line = np.exp(-np.maximum(gap, 0) / (thick * 0.25) + np.minimum(gap, 0) / (thick * 2.2)).astype(
            np.float32
        )
        line *= np.clip(body, 0, 1)[None, :] * (0.55 + 0.9 * (grain - 0.2)) * np.float32(strength)
        canvas.over(top, 0, np.clip(line, 0, 1), froth)

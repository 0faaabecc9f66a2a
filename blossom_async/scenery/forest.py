"""Inside a forest: trunks fading into light, leaves overhead, litter or snow underfoot."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from blossom_async.scenery import growth
from blossom_async.scenery.canvas import Canvas, Floats, Stencil, enlarged
from blossom_async.scenery.colour import NAMED, Palette, mix, rgb
from blossom_async.scenery.noise import contour, mottle, scale, smoothstep
from blossom_async.scenery.words import Scene

__all__ = ["paint_forest"]

_FOLIAGE = {
    "spring": ("#8fc45a", "#5f9e48", "#c4dd7a", "#f2b8cc"),
    "summer": ("#4f8f3f", "#2f6b35", "#86b34d", "#6aa348"),
    "autumn": ("#e07b22", "#c9431f", "#f2ae35", "#a63a1c"),
    "winter": ("#dfe8f0", "#b8c9d8", "#f4f8fc", "#cad7e2"),
}
_LAYERS = 4


def paint_forest(canvas: Canvas, scene: Scene, palette: Palette) -> None:
    """From the light between the farthest trunks to the leaves nearest the viewer."""
    chance = canvas.chance.stream("forest")
    season = "autumn" if scene.season == "winter" and not scene.snowy else scene.season
    leaves = [palette.own(rgb(code)) for code in _FOLIAGE[season]]
    if scene.colours:
        leaves = [
            mix(palette.own(rgb(NAMED[name])), leaf, 0.25)
            for name, leaf in zip((scene.colours * 4)[:4], leaves, strict=True)
        ]
    warm = mix(palette.glow, leaves[2], 0.35 if season != "winter" else 0.1)
    back = mix(mix(palette.haze, palette.horizon, 0.5), leaves[2], 0.3 if season != "winter" else 0.1)
    if scene.dark:
        warm, back = mix(palette.haze, palette.glow, 0.45), mix(palette.haze, palette.lower, 0.5)
    glade_x = float(chance.uniform(0.3, 0.7)) * canvas.width
    ground = 0.7 * canvas.height
    _glade(canvas, palette, warm, back, glade_x, ground, leaves)

    dark_bark = mix(palette.shade, palette.own(rgb("#46301f")), 0.72)
    for k in range(_LAYERS + 1):
        t = min(1.0, k / (_LAYERS - 1))
        fog = (1 - t) ** 1.25 * (0.92 if scene.weather == "fog" else 0.8)
        _ground(canvas, scene, palette, k, t, fog, back, leaves)
        if k == _LAYERS:
            break
        bark = mix(dark_bark, back, fog)
        _trunks(canvas, k, t, bark, mix(bark, warm, 0.3 * (1 - 0.5 * t)), glade_x)
        if scene.allows("leaves"):
            _canopy(canvas, k, t, fog, back, leaves, dark_bark, glade_x)
    if scene.allows("rays") and scene.weather in ("clear", "fog") and (not scene.dark or scene.wants("rays")):
        _rays(canvas, warm, glade_x, 0.5 if scene.wants("rays") else 0.34)
    _undergrowth(canvas, scene, palette, leaves, dark_bark)
    if scene.wants("fireflies"):
        _fireflies(canvas)
    light = np.clip(palette.ambient * 0.7 + 0.3, 0, 1).astype(np.float32)
    if season in ("autumn", "spring") and scene.allows("leaves"):
        tones = [rgb(code) for code in _FOLIAGE[season]]
        if season == "spring" and scene.wants("blossom"):
            tones = [rgb("#ffc4d6"), rgb("#ffe1ea")]
        if season == "autumn" or scene.wants("blossom"):
            growth.drifting(canvas, "falling leaves", tones, light, 44, size=0.013)


def _glade(
    canvas: Canvas,
    palette: Palette,
    warm: Floats,
    back: Floats,
    glade_x: float,
    ground: float,
    leaves: list[Floats],
) -> None:
    """The bright air behind the trees, dimmer away from the opening."""
    width, height = canvas.width // 4 + 1, canvas.height // 4 + 1
    dx = (np.arange(width, dtype=np.float32)[None, :] * 4 - np.float32(glade_x)) / np.float32(canvas.unit)
    dy = (np.arange(height, dtype=np.float32)[:, None] * 4 - np.float32(ground * 0.62)) / np.float32(
        canvas.unit
    )
    shine = np.exp(-(dx * dx * 3.4 + dy * dy * 2.2) * 1.5)
    blur = mottle(canvas.chance.stream("glade"), width, height, cells=(5, 5), octaves=3)
    edge = mix(mix(back, leaves[1], 0.35), palette.shade, 0.22)
    full = enlarged(np.clip(shine + (blur - 0.5) * np.float32(0.22), 0, 1), width * 4, height * 4)
    full = full[: canvas.height, : canvas.width]
    for plane, low, high in zip(canvas.planes, edge, warm, strict=False):
        np.multiply(full, high - low, out=plane)
        plane += low


def _level(k: int) -> float:
    """Where the floor of layer k starts, as a fraction of the height."""
    return min(0.96, 0.69 + 0.2 * math.pow(k / (_LAYERS - 1), 1.4))


def _ground(
    canvas: Canvas,
    scene: Scene,
    palette: Palette,
    k: int,
    t: float,
    fog: float,
    back: Floats,
    leaves: list[Floats],
) -> None:
    """One rise of the forest floor; nearer ones start lower."""
    stream = canvas.chance.stream(f"floor {k}")
    level = canvas.height * _level(k)
    line = level - np.float32(canvas.unit * (0.012 + 0.03 * t)) * contour(
        stream, canvas.across, 1.2, octaves=5
    )
    top = int(max(0, line.min() - 2))
    # The next rise hides what lies below it.
    bottom = (
        canvas.height
        if k == _LAYERS
        else min(canvas.height, int(canvas.height * _level(k + 1) + canvas.unit * 0.06))
    )
    height = bottom - top
    if height <= 0:
        return
    speck = mottle(
        stream, canvas.width, height,
        cells=((60 - 25 * t) * canvas.width / canvas.unit, (160 - 70 * t) * height / canvas.unit),
        octaves=2, rough=0.8,
    )  # fmt: skip
    patch = mottle(
        stream,
        -(-canvas.width // 4),
        height,
        cells=(4 * canvas.width / canvas.unit, 9 * height / canvas.unit),
        octaves=2,
    )
    patch = np.repeat(patch, 4, axis=1)[:, : canvas.width]
    if scene.snowy:
        low, high = palette.own(rgb("#b9c9da")), palette.own(rgb("#f6f9fd"))
        speck = speck * 0.25 + patch * 0.75
    elif scene.season in ("autumn", "winter"):
        low, high = mix(leaves[3], palette.shade, 0.5), leaves[0]
    else:
        low, high = mix(leaves[1], palette.shade, 0.6), mix(leaves[0], palette.shade, 0.12)
    rows = np.arange(top, bottom, dtype=np.float32)[:, None]
    cover = np.clip(rows - line[None, :] + 0.5, 0, 1)
    tone = np.clip(speck * 1.5 - 0.35 + (patch - 0.5) * 0.9, 0, 1)
    shade = 1 - np.clip((rows - top) / np.float32(canvas.height * 0.31), 0, 1) * np.float32(0.45 * t)
    planes = canvas.planes[:, top:bottom]
    for c in range(3):
        colour = (low[c] + (high[c] - low[c]) * tone) * shade
        colour += (back[c] - colour) * np.float32(fog * 0.9)
        planes[c] += (colour - planes[c]) * cover


def _trunks(canvas: Canvas, k: int, t: float, bark: Floats, lit: Floats, glade_x: float) -> None:
    """Tapered trunks; the near ones stay at the sides, so that the view is open."""
    stream = canvas.chance.stream(f"trunks {k}")
    wide = canvas.width / canvas.unit
    count = min(260, max(2, round((34, 17, 9, 4)[k] * wide)))
    throws = stream.random((260, 5))[:count]
    # Rooted a little behind the next rise, which hides the cut ends.
    foot_row = canvas.height * _level(k + 1) + canvas.unit * 0.035
    x = (np.arange(count) + throws[:, 0] * 0.9) / count * canvas.width
    if k >= 2:  # push away from the glade
        gap = (x - glade_x) / canvas.width
        x += canvas.width * 0.16 * np.sign(gap) * np.maximum(0, 1 - np.abs(gap) * 3.5)
    half = canvas.unit * (0.0042 + 0.027 * t**1.7) * (0.6 + 0.8 * throws[:, 1])
    foot = foot_row + canvas.unit * (0.012 + 0.05 * t) * throws[:, 2]
    lean = canvas.unit * 0.07 * (throws[:, 3] - 0.5)
    up = np.array(((0, 0.04, 0.12, 0.35, 0.65, 1),))  # few corners: Pillow scans them all on every row
    middle = x[:, None] + lean[:, None] * up
    middle += canvas.unit * 0.007 * np.sin(up * 5 + throws[:, 4:] * 6.28)
    y = foot[:, None] - (foot[:, None] + 4) * up
    girth = half[:, None] * (1.0 - 0.45 * up + 0.45 * np.exp(-up * 22))
    left, right = np.stack((middle - girth, y), axis=2), np.stack((middle + girth, y), axis=2)
    stencil = Stencil(canvas, 0, math.ceil(foot_row + canvas.unit * 0.08))
    stencil.polygons(np.concatenate((left, right[:, ::-1]), axis=1).astype(np.float32))
    if k == 1:  # a few boughs
        for b in range(3):
            level = 0.42 + 0.16 * b + 0.1 * throws[:, (b + 1) % 5]
            side = np.where((np.arange(count) + b) % 2, 1.0, -1.0)
            reach = canvas.unit * (0.03 + 0.05 * t) * (0.5 + throws[:, b])
            from_x = x + lean * level
            from_y = foot - (foot + 4) * level
            bend_x = np.stack((from_x, from_x + side * reach * 0.5, from_x + side * reach), axis=1)
            bend_y = np.stack((from_y, from_y - reach * 0.25, from_y - reach * 0.62), axis=1)
            stencil.lines(
                np.stack((bend_x, bend_y), axis=2).astype(np.float32), max(0.6, float(half.mean()) * 0.26)
            )
    cover = stencil.cover()
    if k == 0:  # too far off to show a lit side
        canvas.over(0, 0, cover, bark)
        return
    # The side of each trunk that faces the glade is lit: what a shifted copy does not cover.
    rim = max(1, round(canvas.unit * (0.003 + 0.008 * t)))
    covered = np.concatenate(([False], cover.any(axis=0), [False]))
    for x0, x1 in np.flatnonzero(covered[1:] != covered[:-1]).reshape(-1, 2).tolist():
        part = cover[:, x0:x1]
        shaded = np.zeros_like(part)
        if (x0 + x1) / 2 < glade_x:
            shaded[:, :-rim] = part[:, rim:]
        else:
            shaded[:, rim:] = part[:, :-rim]
        share = np.maximum(part - shaded, 0) * np.float32(0.75)
        for plane, low, high in zip(canvas.planes[:, : len(part), x0:x1], bark, lit, strict=False):
            plane += (low + share * (high - low) - plane) * part


@lru_cache(maxsize=16)
def _leaf_tile(size: int) -> Floats:
    """A square that tiles seamlessly, filled with leaves `size` pixels long.

    Two planes: how far forward the leaf at a pixel is (very low where there is a gap), and how bright it
    is; leaves farther forward are brighter.
    """
    chance = np.random.Generator(np.random.PCG64(20260))
    side = size * 26
    forward, tone = Image.new("L", (side, side)), Image.new("L", (side, side))
    first, second = ImageDraw.Draw(forward), ImageDraw.Draw(tone)
    count = 1500
    throws = chance.random((count, 5))
    step = np.array((-1, -0.45, 0.2, 1, 0.2, -0.45))
    girth = np.array((0, 0.36, 0.42, 0, -0.42, -0.36))
    for k, (x, y, turn, long, shade) in enumerate(throws.tolist()):
        u = step * size * (0.42 + 0.35 * long)
        v = girth * size * (0.42 + 0.35 * long)
        c, s = math.cos(turn * 6.283), math.sin(turn * 6.283)
        px, py = x * side + u * c - v * s, y * side + u * s + v * c
        wraps_x = [0] + [side] * bool(px.min() < 0) + [-side] * bool(px.max() >= side)
        wraps_y = [0] + [side] * bool(py.min() < 0) + [-side] * bool(py.max() >= side)
        for ox in wraps_x:
            for oy in wraps_y:
                points = np.column_stack((px + ox, py + oy)).ravel().tolist()
                first.polygon(points, fill=40 + 215 * k // count)
                second.polygon(points, fill=int(255 * shade))
    ahead, shade = (np.asarray(image).astype(np.float32) / np.float32(255) for image in (forward, tone))
    wanted = np.where(ahead > 0, ahead * np.float32(0.3), np.float32(-9))
    return np.stack((wanted, shade * np.float32(0.55) + ahead * np.float32(0.4) - np.float32(0.63)))


def _canopy(
    canvas: Canvas,
    k: int,
    t: float,
    fog: float,
    back: Floats,
    leaves: list[Floats],
    dark: Floats,
    glade_x: float,
) -> None:
    """Leaves overhead, thick at the top and the sides, each layer with its own mix of tones."""
    stream = canvas.chance.stream(f"canopy {k}")
    height = int(canvas.height * (0.62 - 0.1 * t))
    if height < 1:
        return
    wide, tall = canvas.width / canvas.unit, height / canvas.unit
    clump = mottle(
        stream,
        -(-canvas.width // 2),
        -(-height // 2),
        cells=((9 - 5 * t) * wide, (11 - 6 * t) * tall),
        octaves=4,
        rough=0.62,
    )
    tile = _leaf_tile(max(2, round(canvas.unit * (0.008 + 0.013 * t))))
    side = tile.shape[1]
    shift = int(stream.integers(1 << 16)) % side
    gap = np.abs(np.arange(canvas.width, dtype=np.float32) - np.float32(glade_x)) / np.float32(canvas.width)
    droop = 0.75 / (0.28 + 0.75 * smoothstep(0.05, 0.5, gap))
    veil = fog * 0.85
    deep = mix(mix(leaves[1 if k % 2 else 3], dark, 0.28 + 0.22 * t), back, veil)
    bright = mix(leaves[(0, 2, 0, 2)[k]], back, veil)
    bias = 0.04 * (1 - t) - 0.43
    for top, bottom in canvas.strips(0, height):
        bodies = clump[np.arange(top, bottom) // 2]
        if float(bodies.max()) * 1.15 + 0.3 - top / height * float(droop.min()) + bias < 0:
            continue  # no leaf hangs this low
        strip = tile.take(np.arange(top, bottom) % side, axis=1)
        strip = np.concatenate((strip[:, :, shift:], *[strip] * (canvas.width // side + 1)), axis=2)
        wanted, shade = strip[:, :, : canvas.width]
        body = np.repeat(bodies, 2, axis=1)[:, : canvas.width]
        down = (np.arange(top, bottom, dtype=np.float32) / np.float32(height))[:, None]
        wanted = wanted + body * np.float32(1.15)
        wanted -= down * droop
        wanted += np.float32(bias) - np.maximum(down - np.float32(0.5), 0) * 2
        cover = np.clip(wanted * 25, 0, 1)
        if not cover.any():
            continue
        hue = np.clip(shade + body * np.float32(1.1), 0, 1)
        gloom = 1 - np.float32(0.28 * t) * (1 - down)
        for plane, low, high in zip(canvas.planes[:, top:bottom], deep, bright, strict=False):
            colour = hue * (high - low)
            colour += low
            colour *= gloom
            colour -= plane
            colour *= cover
            plane += colour


def _rays(canvas: Canvas, warm: Floats, glade_x: float, power: float) -> None:
    chance = canvas.chance.stream("rays")
    width, height = canvas.width // 8 + 1, canvas.height // 8 + 1
    origin_x = glade_x / 8 + width * float(chance.choice((-0.35, 0.35)))
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    turn = np.arctan2(x - np.float32(origin_x), y + np.float32(0.35 * height))
    beams = contour(chance, np.linspace(-2, 2, 1024, dtype=np.float32), 9, octaves=3)
    fade = np.clip(1.1 - y / height * 1.15, 0, 1) * np.clip(y / height * 5, 0, 1)
    across = np.exp(-(((x - np.float32(glade_x / 8)) / width) ** 2) * 7)
    glow = smoothstep(0.0, 0.8, scale(beams, -2, 2, turn)) * fade * across * np.float32(power)
    canvas.add(0, 0, enlarged(glow.astype(np.float32), width * 8, height * 8), warm)


def _undergrowth(canvas: Canvas, scene: Scene, palette: Palette, leaves: list[Floats], dark: Floats) -> None:
    """Grass and fern blades along the lower edge."""
    if scene.snowy:
        return
    base = mix(mix(leaves[1], dark, 0.72), palette.shade, 0.3)
    growth.grass(canvas, "undergrowth", canvas.height * 1.02, 0.075, base, dense=150)


def _fireflies(canvas: Canvas) -> None:
    chance = canvas.chance.stream("fireflies")
    for _ in range(int(50 * canvas.detail)):
        x, y = float(chance.random()) * canvas.width, (0.45 + 0.5 * float(chance.random())) * canvas.height
        canvas.glow(
            x,
            y,
            canvas.unit * float(chance.uniform(0.008, 0.02)),
            rgb("#f6ff9a"),
            float(chance.uniform(0.5, 1)),
        )

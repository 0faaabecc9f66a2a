"""Skylines with lit windows above water, and villages on their hills."""

from __future__ import annotations

import numpy as np
from PIL import Image

from blossom_async.scenery import growth, silhouettes
from blossom_async.scenery.canvas import Canvas, Floats, Stencil, enlarged
from blossom_async.scenery.colour import NAMED, Palette, mix, rgb
from blossom_async.scenery.land import ridge, summits
from blossom_async.scenery.noise import contour
from blossom_async.scenery.sky import paint_sky
from blossom_async.scenery.water import mirror
from blossom_async.scenery.words import Scene

__all__ = ["paint_city"]

_LAMPS = ("#ffd48a", "#ffe9bd", "#ffc46b", "#fff4dc", "#cfe6ff")
_WALLS = ("#8f9db0", "#b9a58c", "#7f95a8", "#c9c3b8", "#9c7f72", "#6f8798", "#a8b4bd", "#c4ab8f")
_NEON = ("#ff4fa3", "#38e1ff", "#b06bff", "#ffd35c")


def paint_city(canvas: Canvas, scene: Scene, palette: Palette) -> None:
    """Three rows of buildings, or houses among hills, and their lights on the water before them."""
    chance = canvas.chance.stream("city")
    village = scene.wants("village")
    water = scene.allows("lake")
    shore_at = float(chance.uniform(0.7, 0.78)) if water else 1.0
    shore = canvas.row(shore_at) if water else canvas.height
    orb = paint_sky(canvas, scene, palette, shore_at, shore_at * 0.86)
    lit = {"night": 1.0, "moonlight": 0.9, "aurora": 0.9, "dusk": 0.85, "sunset": 0.5, "dawn": 0.35}.get(
        scene.light, 0.0
    )
    if scene.weather == "storm":
        lit = max(lit, 0.5)
    if not scene.allows("lights"):
        lit = 0.0
    if lit > 0.6:
        _lit_air(canvas, scene, shore, lit)
    _backdrop(canvas, scene, palette, shore)
    sunward = 1.0 if orb.x > canvas.width / 2 else -1.0
    if village:
        _village(canvas, scene, palette, shore, lit, sunward)
    elif scene.allows("buildings"):
        shine = np.zeros((shore, canvas.width), np.float32)
        for k in range(3):
            _row_of_buildings(canvas, scene, palette, k, shore, lit, sunward, shine)
        if lit:
            _bloom(canvas, shine, lit)
    if scene.wants("bridge") and water:
        _bridge(canvas, palette, shore, lit)
    if scene.wants("fireworks"):
        _fireworks(canvas, shore)
    if water:
        deep = mix(mix(palette.shade, palette.upper, 0.35), palette.own(rgb("#1a3c58")), 0.3)
        tint = mix(palette.haze, palette.upper, 0.5)
        mirror(canvas, shore, tint=tint * np.float32(0.8), deep=deep, rough=1.7, clear=0.86)
        quay = np.full((max(1, round(canvas.unit * 0.004)), canvas.width), 0.85, np.float32)
        canvas.over(shore - quay.shape[0], 0, quay, palette.shade)
        if lit > 0.6 and not village:
            _quay_lamps(canvas, shore, lit)
    if scene.season == "spring" and scene.wants("blossom"):
        light = np.clip(palette.ambient * 0.75 + 0.3, 0, 1.05).astype(np.float32)
        growth.blossom_branch(
            canvas,
            bark=mix(palette.shade, rgb("#1d1014"), 0.55),
            petal=rgb("#ffc4d6"),
            heart=rgb("#e0688f"),
            light=light,
        )
    if scene.allows("birds") and not scene.dark and chance.random() < 0.5:
        silhouettes.birds(
            canvas,
            "birds",
            canvas.width * float(chance.uniform(0.2, 0.8)),
            shore * 0.25,
            0.1,
            6,
            mix(palette.shade, palette.haze, 0.3),
        )


def _quay_lamps(canvas: Canvas, shore: int, lit: float) -> None:
    """Lamps along the waterfront and the streaks they draw on the water."""
    unit = canvas.unit
    count = int(np.clip(18 * canvas.width / unit, 3, 90))
    long = round(unit * 0.1)
    streak = np.exp(-np.arange(long, dtype=np.float32) / np.float32(long * 0.4))[:, None]
    broken = 0.55 + 0.45 * np.sin(np.arange(long, dtype=np.float32) * np.float32(40 / unit * 12))[:, None]
    across = np.exp(-(np.linspace(-1.6, 1.6, max(3, round(unit * 0.007)), dtype=np.float32) ** 2))[None, :]
    for n in range(count):
        x = (n + 0.5) / count * canvas.width
        canvas.glow(x, shore - unit * 0.012, unit * 0.014, rgb("#ffe0a0"), 0.95 * lit)
        canvas.add(
            shore + 2,
            round(x) - across.shape[1] // 2,
            streak * broken * across * np.float32(0.55),
            rgb("#ffcf85"),
        )


def _lit_air(canvas: Canvas, scene: Scene, shore: int, lit: float) -> None:
    """The glow of a city in the sky above it."""
    neon = [rgb(NAMED[c]) for c in scene.colours] or [rgb("#ff9a5c")]
    rows = np.arange(shore, dtype=np.float32)
    rise = np.exp(-((shore - rows) / np.float32(0.3 * canvas.unit)))[:, None] * np.float32(0.3 * lit)
    canvas.add(0, 0, np.broadcast_to(rise, (shore, canvas.width)), neon[0])


def _backdrop(canvas: Canvas, scene: Scene, palette: Palette, shore: int) -> None:
    stream = canvas.chance.stream("city hills")
    if not scene.allows("mountains"):
        return
    rise = (
        summits(stream, canvas.across, apart=0.5, steep=0.36)
        if stream.random() < 0.5
        else (0.05 + 0.05 * contour(stream, canvas.across, 2, octaves=5))
    )
    lift = 0.2 if scene.wants("village") else 0.11
    line = shore - np.float32(canvas.unit) * (lift + rise)
    tone = mix(palette.haze, palette.upper, 0.35)
    ridge(
        canvas,
        line.astype(np.float32),
        shore,
        mix(tone, palette.shade, 0.14),
        mix(tone, palette.horizon, 0.4),
    )


def _row_of_buildings(
    canvas: Canvas,
    scene: Scene,
    palette: Palette,
    k: int,
    shore: int,
    lit: float,
    sunward: float,
    shine: Floats,
) -> None:
    """Towers at one distance: outlines through one stencil, faces and windows in one pass over the row.

    `shine` collects the light of the windows.
    """
    chance = canvas.chance.stream(f"buildings {k}")
    unit, wide = canvas.unit, canvas.width / canvas.unit
    near = (0.0, 0.5, 1.0)[k]
    limit = min(unit, shore * 1.05)
    count = int(np.clip((30, 21, 15)[k] * wide, 4, 400))
    throws = chance.random((400, 7))[:count]
    centre = float(canvas.chance.stream("downtown").uniform(0.3, 0.7))
    heaped = np.exp(-((((np.arange(count) + 0.5) / count - centre) / 0.24) ** 2))
    tallest = limit * (0.36, 0.34, 0.2)[k]
    heights = (
        tallest * (0.3 + 0.5 * throws[:, 0] ** 1.6 + 0.75 * heaped * throws[:, 1]) * (0.72 + 0.45 * heaped)
    )
    if canvas.height > canvas.width * 1.4:
        heights *= 1.25
    widths = unit * (0.028, 0.036, 0.05)[k] * (0.75 + 0.9 * throws[:, 2])
    x = (np.arange(count) + 0.5 + (throws[:, 3] - 0.5) * 0.7) / count * canvas.width
    top = int(max(0, shore - heights.max() * 1.4))
    if top >= shore:
        return
    stencil = Stencil(canvas, top, shore)
    stencil.polygon(
        np.array(
            [
                (0, shore - unit * 0.02),
                (canvas.width, shore - unit * 0.02),
                (canvas.width, shore + 2),
                (0, shore + 2),
            ],
            np.float32,
        )
    )
    glass = np.zeros((shore - top, canvas.width), np.float32)  # how much window
    tone = np.zeros((shore - top, canvas.width), np.float32)  # which lamp
    side = np.zeros((shore - top, canvas.width), np.float32)
    stuff = np.zeros((shore - top, canvas.width), np.int8)
    cell_x, cell_y = max(2.0, unit * (0.0052, 0.0068, 0.009)[k]), max(2.0, unit * (0.0066, 0.0085, 0.0115)[k])
    order = np.argsort(-heights, kind="stable")
    for n in order.tolist():
        left, right = float(x[n] - widths[n] / 2), float(x[n] + widths[n] / 2)
        roof = shore - float(heights[n])
        _outline(stencil, left, right, roof, shore, float(throws[n, 4]), float(throws[n, 5]), unit)
        y0, x0 = max(0, int(roof) - top), max(0, round(left))
        x1 = min(canvas.width, round(right))
        if x0 >= x1 or y0 >= shore - top:
            continue
        columns = max(2, int((right - left) / cell_x))
        storeys = max(2, int(heights[n] / cell_y))
        panes = chance.random((storeys, columns), dtype=np.float32)
        floors = chance.random((storeys, 1), dtype=np.float32)  # whole floors are lit or dark together
        on = np.where(
            panes * 0.6 + floors * 0.4 < 0.36 + 0.3 * float(throws[n, 6]), 0.35 + 0.65 * panes * 2 % 1, 0.0
        )
        px = (np.arange(x0, x1) + 0.5 - left) / (right - left) * columns
        py = (np.arange(y0, shore - top) + 0.5 - y0) / cell_y
        pane_x, pane_y = (
            np.minimum(px.astype(np.int64), columns - 1),
            np.minimum(py.astype(np.int64), storeys - 1),
        )
        frame = ((px % 1 > 0.2) & (px % 1 < 0.82))[None, :] & ((py % 1 > 0.25) & (py % 1 < 0.8))[:, None]
        frame[:, (px < 0.3) | (px > columns - 0.3)] = False
        frame[: max(1, int(cell_y * 0.8))] = False
        glass[y0:, x0:x1] = on.astype(np.float32)[pane_y][:, pane_x] * frame
        tone[y0:, x0:x1] = float(throws[n, 5]) + panes[pane_y][:, pane_x] * 0.3
        shade = np.where(
            np.arange(x0, x1) < left + (right - left) * (0.34 if sunward > 0 else 0.66), 1.0, 0.0
        )
        side[y0:, x0:x1] = (shade if sunward > 0 else 1 - shade) * 0.75 + 0.5 * float(throws[n, 2])
        stuff[y0:, x0:x1] = int(throws[n, 5] * len(_WALLS))
        if not lit:
            glass[y0:, x0:x1] = frame * (0.3 + 0.5 * panes[pane_y][:, pane_x])
    cover = stencil.cover()[: shore - top]
    day = max(0.0, palette.brightness)
    far = mix(palette.haze, palette.upper, 0.25)
    walls = np.stack(
        [
            mix(far, mix(palette.shade, palette.own(rgb(code)), 0.16 + 0.62 * day), (0.32, 0.62, 0.94)[k])
            for code in _WALLS
        ]
    )
    lamps = [rgb(code) for code in _LAMPS]
    if scene.wants("lights") or scene.colours:
        lamps = [rgb(NAMED[c]) for c in scene.colours] + [rgb(code) for code in _NEON] + lamps[:2]
    inks = np.stack(lamps)
    power = np.float32((0.65, 0.85, 1.0)[k])
    for y0, y1 in canvas.strips(top, shore):
        part = slice(y0 - top, y1 - top)
        shown, facing = glass[part] * power, side[part]
        material, lamp = stuff[part], (tone[part] * len(lamps)).astype(np.int32) % len(lamps)
        fall = (np.arange(y0, y1, dtype=np.float32)[:, None] - top) / max(1, shore - top)
        veil = np.float32(0.34 * (1 - 0.6 * near)) * fall * fall
        dim = np.float32(1.1) - np.float32(0.36) * facing
        # By day, light catches the faces turned to it.
        caught = (1 - np.minimum(facing, 1)) * np.float32(0.22 * day if day > 0.5 else 0)
        for c in range(3):
            face = walls[:, c][material] * dim
            face += (palette.glow[c] - face) * caught
            if lit:
                face += (inks[:, c][lamp] - face) * (shown * np.float32(min(1, lit * 1.1)))
            else:
                face += (palette.upper[c] * np.float32(0.75) - face) * (shown * np.float32(0.4))
            face += (palette.haze[c] - face) * veil
            plane = canvas.planes[c, y0:y1]
            plane += (face - plane) * cover[part]
        glare = shine[y0:y1]
        glare *= 1 - cover[part]
        glare += shown * cover[part]
    if lit > 0.6 and k > 0:  # aircraft lamps on the tallest roofs
        for n in np.argsort(-heights, kind="stable")[:4].tolist():
            canvas.glow(
                float(x[n]), shore - float(heights[n]) - unit * 0.022, unit * 0.009, rgb("#ff5a4a"), 0.9
            )


def _bloom(canvas: Canvas, shine: Floats, lit: float) -> None:
    """The light that windows spill into the air around them."""
    height, width = shine.shape
    small = Image.fromarray(shine).resize((max(1, width // 16), max(1, height // 16)), Image.Resampling.BOX)
    soft = enlarged(np.asarray(small), width, height)
    canvas.add(0, 0, np.clip(soft * np.float32(0.75 * lit), 0, 1), rgb("#ffb765"))


def _outline(
    stencil: Stencil,
    left: float,
    right: float,
    roof: float,
    foot: float,
    style: float,
    more: float,
    unit: float,
) -> None:
    """One building; its crown is plain, stepped, slanted, pointed or domed by `style` 0..1."""
    middle, width = (left + right) / 2, right - left

    def box(x0: float, x1: float, y0: float) -> None:
        stencil.polygon(np.array([(x0, y0), (x1, y0), (x1, foot + 2), (x0, foot + 2)], np.float32))

    box(left, right, roof)
    if style < 0.25:  # steps and a mast
        step = width * 0.3
        box(middle - width * 0.32, middle + width * 0.32, roof - step * 0.5)
        box(middle - width * 0.17, middle + width * 0.17, roof - step)
        stencil.line(
            np.array(
                [(middle, roof - step), (middle, roof - step - unit * 0.045 * (0.5 + more))], np.float32
            ),
            unit * 0.0022,
        )
    elif style < 0.4:  # slanted
        stencil.polygon(
            np.array([(left, roof + 1), (right, roof + 1), (right, roof - width * 0.45)], np.float32)
        )
    elif style < 0.52:  # spire
        stencil.polygon(
            np.array([(left, roof + 1), (middle, roof - width * 1.1), (right, roof + 1)], np.float32)
        )
        stencil.line(
            np.array([(middle, roof - width), (middle, roof - width - unit * 0.04)], np.float32), unit * 0.002
        )
    elif style < 0.62:  # dome
        turn = np.linspace(np.pi, 0, 14)
        dome = np.column_stack((middle + np.cos(turn) * width / 2, roof - np.sin(turn) * width * 0.42))
        stencil.polygon(dome.astype(np.float32))
    elif style < 0.8:  # a plant room and an aerial
        box(left + width * 0.2, left + width * 0.62, roof - width * 0.14)
        stencil.line(
            np.array([(left + width * 0.75, roof), (left + width * 0.75, roof - unit * 0.02)], np.float32),
            unit * 0.0016,
        )


def _village(canvas: Canvas, scene: Scene, palette: Palette, shore: int, lit: float, sunward: float) -> None:
    """Gabled houses scattered on two hills, smoke-blue far, warm windows near."""
    unit = canvas.unit
    green = palette.own(rgb({"autumn": "#a9812f", "spring": "#7fae4f"}.get(scene.season, "#5f9448")))
    if scene.snowy:
        green = palette.own(rgb("#edf3f9"))
    roofs = [rgb(c) for c in ("#a8483a", "#8a5a44", "#6d4a52", "#b5643f")]
    walls = [rgb(c) for c in ("#f2e6d0", "#e6cfae", "#dfe2e0", "#f0d9c4")]
    for k in range(3):
        stream = canvas.chance.stream(f"village {k}")
        near = k / 2
        line = shore - np.float32(unit) * (
            (0.17, 0.09, 0.012)[k]
            + (0.07, 0.05, 0.012)[k] * (contour(stream, canvas.across, 1.5, octaves=3) + 0.5)
        )
        line = line.astype(np.float32)
        dim = (0.06 + 0.1 * near) if scene.snowy else (0.22 + 0.2 * near)
        tone = mix(mix(green, palette.shade, dim), palette.haze, 0.4 * (1 - near))
        ridge(canvas, line, shore, tone, mix(tone, palette.shade, 0.2))
        size = unit * (0.03, 0.043, 0.062)[k]
        count = int(np.clip((12, 9, 7)[k] * canvas.width / unit, 2, 80))
        throws = stream.random((80, 5))[:count]
        for n in range(count):
            x = (n + 1.5 * float(throws[n, 0]) - 0.25) / count * canvas.width
            y = float(line[int(np.clip(x, 0, canvas.width - 1))]) + size * (
                0.25 + 0.7 * float(throws[n, 1]) * (k < 2)
            )
            silhouettes.house(
                canvas,
                palette,
                x,
                min(y, shore),
                size * (0.7 + 0.6 * float(throws[n, 2])),
                palette.own(walls[int(throws[n, 3] * 4)], 0.4 * (1 - near)),
                palette.own(
                    rgb("#f4f8fc") if scene.snowy else roofs[int(throws[n, 4] * 4)], 0.4 * (1 - near)
                ),
                lit,
                sunward,
                steeple=(n == count // 2 and k == 1),
            )
        if scene.allows("trees"):
            dark = mix(mix(palette.shade, palette.own(rgb("#2f4f3a")), 0.3), palette.haze, 0.4 * (1 - near))
            growth.pines(
                canvas,
                f"village pines {k}",
                np.minimum(line + np.float32(size * 0.8), shore).astype(np.float32),
                size=0.045 + 0.035 * near,
                dense=13,
                top_colour=dark,
                foot_colour=dark,
                snow=palette.own(rgb("#eef3fa"), 0.2) if scene.snowy else None,
                bottom=shore,
                ground_too=False,
            )


def _bridge(canvas: Canvas, palette: Palette, shore: int, lit: float) -> None:
    """A suspension bridge across the whole width."""
    unit = canvas.unit
    deck = shore - unit * 0.035
    ink = mix(palette.shade, palette.own(rgb("#b8482f")), 0.55 if palette.brightness > 0.5 else 0.25)
    tall = unit * 0.2
    stencil = Stencil(canvas, int(deck - tall) - 4, shore + 2)
    towers = [canvas.width * f for f in (0.24, 0.76)]
    stencil.line(np.array([(0, deck), (canvas.width, deck)], np.float32), unit * 0.008)
    for x in towers:
        for side in (-1, 1):
            stencil.line(
                np.array(
                    [(x + side * unit * 0.008, shore + 2), (x + side * unit * 0.006, deck - tall)], np.float32
                ),
                unit * 0.006,
            )
        for level in (0.25, 0.6, 0.97):
            stencil.line(
                np.array(
                    [(x - unit * 0.009, deck - tall * level), (x + unit * 0.009, deck - tall * level)],
                    np.float32,
                ),
                unit * 0.006,
            )
    spans = ((-towers[0] * 1.2, towers[0]), (towers[0], towers[1]), (towers[1], canvas.width * 1.29))
    for left, right in spans:
        t = np.linspace(0, 1, 33, dtype=np.float32)
        sag = deck - tall * (0.08 + 0.9 * (2 * t - 1) ** 2)
        cable = np.column_stack((left + (right - left) * t, sag)).astype(np.float32)
        stencil.line(cable, unit * 0.003)
        for px, py in cable[1:-1:1].tolist():
            stencil.line(np.array([(px, py), (px, deck)], np.float32), unit * 0.001)
    canvas.over(stencil.top, 0, stencil.cover(), ink)
    if lit:
        for n in range(25):
            canvas.glow(
                (n + 0.5) / 25 * canvas.width, deck - unit * 0.006, unit * 0.009, rgb("#ffdf9a"), 0.9 * lit
            )


def _fireworks(canvas: Canvas, shore: int) -> None:
    """Bursts of sparks that bend as they fall."""
    chance = canvas.chance.stream("fireworks")
    inks = [rgb(c) for c in ("#ffd36b", "#ff6b8f", "#7fd8ff", "#c99bff", "#8dffb0")]
    for n in range(5):
        x, y = float(chance.uniform(0.12, 0.88)) * canvas.width, float(chance.uniform(0.1, 0.48)) * shore
        size = canvas.unit * float(chance.uniform(0.07, 0.15))
        stencil = Stencil(
            canvas, int(y - size * 1.3), int(y + size * 1.6), int(x - size * 1.3), int(x + size * 1.3)
        )
        for ray in range(46):
            turn = ray / 46 * 6.283 + float(chance.uniform(-0.08, 0.08))
            long = size * (1 if ray % 2 else 0.62) * float(chance.uniform(0.85, 1.1))
            t = np.linspace(0.14, 1, 8)
            path = np.column_stack(
                (x + np.cos(turn) * long * t, y + np.sin(turn) * long * t + size * 0.22 * t**2)
            )
            for s in range(7):
                stencil.line(path[s : s + 2].astype(np.float32), canvas.unit * 0.0016, int(110 + 20 * s))
        canvas.glow(x, y, size * 1.3, inks[n], 0.4)
        canvas.add(stencil.top, stencil.left, stencil.cover(), mix(inks[n], rgb("#ffffff"), 0.25))

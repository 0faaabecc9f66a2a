"""Flowers from the far end of a field to the viewer's feet, under rolling hills."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from blossom_async.scenery import growth
from blossom_async.scenery.canvas import Canvas, Floats, Sprite, Stencil
from blossom_async.scenery.colour import NAMED, Palette, mix, rgb
from blossom_async.scenery.land import ridge
from blossom_async.scenery.noise import contour, mottle, smoothstep
from blossom_async.scenery.sky import paint_sky
from blossom_async.scenery.words import Scene

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
    rolling = scene.wants("mountains")  # hills that were asked for are the subject
    horizon = float(chance.uniform(0.36, 0.46)) + 0.2 * rolling
    base = canvas.row(horizon)
    orb = paint_sky(canvas, scene, palette, min(1.0, horizon + 0.08), horizon * (0.72 if rolling else 0.9))
    grass = {"autumn": "#b08a3a", "spring": "#6fae45", "winter": "#e9f0f6" if scene.snowy else "#8f8a5c"}.get(
        scene.season, "#5a9a3c"
    )
    green = palette.own(rgb(grass))
    _hills(canvas, scene, palette, base, green, orb.x)
    wheat = scene.wants("wheat") and not scene.snowy
    if wheat:
        green = palette.own(rgb("#d9aa3f"))
    bed = [rgb(code) for code in _BEDS[int(chance.integers(len(_BEDS)))]]
    named = [rgb(NAMED[name]) for name in scene.colours if name not in _NOT_FLOWERS]
    if scene.wants("sunflower"):
        named = [rgb("#f7b91e"), rgb("#ffcf3f"), rgb("#f2a312")]
    if named:
        bed = [*named, mix(named[0], rgb("#ffffff"), 0.4)] if len(named) < 3 else named
    if scene.wants("rows") and set(scene.colours) <= {"lavender", "purple", "violet"}:
        bed = [rgb(code) for code in ("#8a5ad6", "#6f46bd", "#a67fe8", "#7b52cf")]
    if wheat:
        bed = [rgb(code) for code in ("#f0c65a", "#dba63a", "#f7dc8c")]
    light = np.clip(
        palette.ambient * 0.8 + 0.2 * max(palette.brightness, 0.8 if scene.weather == "storm" else 0.3),
        0,
        1.1,
    ).astype(np.float32)
    ground = _Ground.of(canvas, scene, base)
    _field(canvas, scene, palette, ground, green, bed, light)
    if not scene.snowy:
        _stalks(canvas, scene, palette, ground, green, bed, light)
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
        rise = 2.3 if scene.wants("mountains") else 1.0
        line = base - np.float32(canvas.unit * rise) * (
            (0.09, 0.06, 0.03, 0.0)[k] + (0.07, 0.06, 0.05, 0.03)[k] * swell
        )
        line = line.astype(np.float32)
        foot = base + int(canvas.unit * (0.12 if k == 3 else 0.035 * rise))  # the next hill hides the rest
        tone = mix(mix(palette.haze, palette.upper, 0.4), mix(green, palette.shade, 0.14), _CLEARNESS[k])
        ridge(
            canvas, line, foot, tone, mix(tone, palette.haze, 0.25), facets=0.35 * (k < 3), sunward=sunward,
            lit_colour=mix(tone, palette.glow, 0.3), purpose=f"hill {k}",
        )  # fmt: skip
        if k in (1, 2) and scene.allows("trees"):
            ink = mix(tone, palette.shade, 0.42 + 0.1 * t)
            growth.bushes(canvas, f"hedge {k}", line, 0.014 + 0.022 * t, ink)


_CLEARNESS: Final = (0.12, 0.45, 0.75, 0.95)  # of each hill, far to near


@frozen
class _Ground:
    """Where the field lies, and how its plants are arranged.

    `rows` is the distance between planted rows at the viewer's feet, in pixels, or 0 where
    nothing is planted; they meet at column `vanish` a little beyond the field's far end.
    """

    top: int
    height: int
    rows: float
    vanish: float
    crop: str  # "flowers", "wheat" or "grass"

    @classmethod
    def of(cls, canvas: Canvas, scene: Scene, base: int) -> _Ground:
        top = base + int(canvas.unit * 0.02)
        crop = "wheat" if scene.wants("wheat") else "flowers" if scene.wants("flowers") else "grass"
        rows = 0.21 * canvas.unit if scene.wants("rows") and crop == "flowers" else 0.0
        vanish = float(canvas.chance.stream("rows").uniform(0.3, 0.7)) * canvas.width
        return cls(top, max(0, canvas.height - top), rows, vanish, "grass" if scene.snowy else crop)

    def row_width(self, near: NDArray[np.floating]) -> Floats:
        """The distance between rows, in pixels, at 0 the far end to 1 the viewer's feet."""
        return (np.float32(self.rows) * (near + np.float32(0.07))).astype(np.float32)


def _field(
    canvas: Canvas, scene: Scene, palette: Palette, ground: _Ground, green: Floats, bed: list[Floats],
    light: Floats,
) -> None:  # fmt: skip
    """Grass in perspective with far flowers as drifts of colour, or as rows where they are planted."""
    top, height, width = ground.top, ground.height, canvas.width
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
    if ground.crop == "wheat":
        dark, pale = mix(green, palette.own(rgb("#7a5218")), 0.55), mix(green, palette.glow, 0.3)
    if scene.snowy:
        dark, pale = mix(green, palette.haze, 0.4), green
    seam = mix(mix(green, palette.shade, 0.14), palette.haze, 0.25)
    blooming = ground.crop == "flowers" and scene.allows("flowers")
    patchy = np.float32(0.3 if ground.crop == "flowers" else 0.16)
    petals = np.stack([ink * light for ink in bed])
    columns = np.arange(width, dtype=np.float32)[None, :] - np.float32(ground.vanish)
    soft = np.float32(canvas.unit * 0.014)
    for y0, y1 in canvas.strips(top, canvas.height):
        taken = rank[y0 - top : y1 - top]
        far = near[y0 - top : y1 - top, None]
        grassy, speck = blades[taken], fleck[taken]
        patch = np.repeat(drift[taken // 2], 2, axis=1)[:, :width]
        rows = np.arange(y0, y1, dtype=np.float32)[:, None]
        # The far end frays into the hill behind it, tuft by tuft.
        cover = np.clip((rows - edge[None, :]) / soft + speck * 2 - np.float32(0.9), 0, 1)
        green_share = grassy * np.float32(1.1) + (patch - np.float32(0.5)) * patchy - np.float32(0.1)
        green_share = np.clip(green_share, 0, 1)
        shade = 1 - np.float32(0.42) * far**1.3
        if blooming and ground.rows:
            stripe = np.cos(columns / ground.row_width(far) * np.float32(6.2832) + (grassy - 0.5) * 2)
            dots = smoothstep(-0.75, -0.05, stripe + (speck - np.float32(0.5)) * np.float32(1.6))
            kind = np.clip(speck * len(bed), 0, len(bed) - 1e-3).astype(np.int32)
            shade = shade * (np.float32(0.8) + np.float32(0.26) * stripe)
        elif blooming:
            dense = smoothstep(0.36, 0.62, patch) * np.float32(0.9)
            dots = smoothstep(0.5, 0.66, speck + dense * np.float32(0.26) - np.float32(0.1))
            dots *= np.minimum(1, dense + np.float32(0.15)) * np.clip(1 - far * np.float32(1.7), 0.08, 1)
            kind = np.clip(
                (patch - np.float32(0.45)) * 9 + speck - np.float32(0.5), 0, len(bed) - 1e-3
            ).astype(np.int32)
        veil = np.exp(-far * 9) * np.float32(0.7 if not ground.rows else 0.35)
        for k in range(3):
            tone = dark[k] + (pale[k] - dark[k]) * green_share
            if blooming:
                tone += (petals[:, k][kind] - tone) * dots
            tone *= shade
            tone += (seam[k] - tone) * veil
            plane = canvas.planes[k, y0:y1]
            plane += (tone - plane) * cover


@lru_cache(maxsize=512)
def flower_sprite(size: int, kind: int, turn: int, petal: tuple[float, ...]) -> Sprite:
    """A flower head about `size` pixels across, of a kind in `_KINDS`, at one of four angles."""
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
    elif kind == 5:  # an ear of grain: paired husks up a stem, with awns
        rows = np.clip((y + 0.9) / 1.8, 0, 1)
        lean = x + 0.1 * (1 - rows) ** 2 * (1 if turn % 2 else -1)
        husks = (
            0.2
            * np.sqrt(np.clip(np.sin(np.pi * rows), 0, 1))
            * (0.7 + 0.3 * np.abs(np.sin(y * 15 + np.sign(lean))))
        )
        awns = (np.abs(np.sin(lean * 14 + phase)) > 0.82) * (np.abs(lean) < 0.12 + 0.3 * (1 - rows))
        cover = np.clip((husks - np.abs(lean)) / soft, 0, 1) * (np.abs(y) < 0.9)
        cover = np.maximum(cover, 0.4 * awns * (y < 0.1) * (y > -0.98))
        tone = 0.72 + 0.36 * np.abs(np.sin(y * 15 + np.sign(lean))) - 0.2 * np.abs(lean) / 0.2
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


def _stalks(
    canvas: Canvas, scene: Scene, palette: Palette, ground: _Ground, green: Floats, bed: list[Floats],
    light: Floats,
) -> None:  # fmt: skip
    """The plants in six rows, larger the nearer: heads on stems, with grass between them."""
    chance = canvas.chance.stream("flowers")
    asked = [number for name, number in _KINDS.items() if scene.wants(name)]
    kinds = (asked * 2)[:2] if asked else [(0, 1), (2, 2), (1, 3), (4, 3), (3, 0)][int(chance.integers(5))]
    crowd = 1.0
    if ground.crop == "wheat":
        kinds, crowd = (5, 5), 1.9
    elif ground.crop == "grass" or not scene.allows("flowers"):
        crowd = 0.0
    elif ground.rows:
        crowd = 2.0
    sprites: dict[tuple[int, int, int, int], Sprite] = {}
    wide = canvas.width / canvas.unit
    depth = ground.height + canvas.unit * 0.02
    base = canvas.height - depth
    for k in range(6):
        t = (k + 1) / 6
        stream = canvas.chance.stream(f"rank {k}")
        size = max(3, round(canvas.unit * (0.01 + 0.066 * t**2)))
        tall = canvas.unit * (0.02 + 0.15 * t**1.6)
        count = int(min(260, (120, 92, 66, 46, 32, 20)[k] * wide * (0.75 + 0.25 * canvas.detail) * crowd))
        throws = stream.random((260, 5))[:count]
        row = base + depth * (0.16 + 0.88 * t**1.25)
        feet = row + (throws[:, 1] - 0.5) * depth * (0.15 if crowd <= 1 else 0.22)
        order = np.argsort(feet, kind="stable")
        throws, feet = throws[order], feet[order]
        x = throws[:, 0] * canvas.width * 1.04 - canvas.width * 0.02
        if ground.rows:  # into the nearest row
            between = ground.row_width(np.clip((feet - ground.top) / max(1, ground.height), 0, 2))
            inside = throws[:, 2] + throws[:, 3] - 1
            x = ground.vanish + between * (np.round((x - ground.vanish) / between) + inside * 0.3)
        head = feet - tall * (0.65 + 0.5 * throws[:, 2])
        sway = (throws[:, 3] - 0.5) * tall * 0.35
        stem = mix(mix(green, palette.shade, 0.25 + 0.2 * t), palette.haze, 0.2 * (1 - t))
        if ground.crop == "wheat":
            stem = mix(green, palette.own(rgb("#6e4a18")), 0.22 + 0.3 * t)
        thick = (110 - 40 * t) * (0.35 if ground.rows else 1)
        growth.grass(canvas, f"grass {k}", float(row + depth * 0.06), 0.035 + 0.085 * t, stem, dense=thick)
        if not count:
            continue
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
    front = mix(green, palette.shade, 0.55)
    if ground.crop == "wheat":
        front = mix(green, palette.own(rgb("#5a3a12")), 0.6)
    growth.grass(canvas, "front grass", canvas.height * 1.03, 0.11, front, dense=60 if ground.rows else 130)

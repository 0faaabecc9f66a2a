"""What grows: pines, blossom branches, petals."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from blossom_async.scenery.canvas import Canvas, Floats, Sprite, Stencil
from blossom_async.scenery.colour import mix, rgb
from blossom_async.scenery.noise import contour

__all__ = [
    "blossom_branch",
    "blossom_sprig",
    "blossom_sprite",
    "bushes",
    "drifting",
    "grass",
    "leaf_sprite",
    "petal_sprite",
    "pines",
]


def _pine_shapes(
    chance: np.random.Generator,
    x: NDArray[np.floating],
    foot: NDArray[np.floating],
    tall: NDArray[np.floating],
) -> Floats:
    """Conifers as polygons (count, n, 2) that stand at (x, foot), `tall` pixels high."""
    count = len(x)
    tiers = int(np.clip(float(tall.max()) / 9, 4, 14))
    t = np.linspace(0.04, 0.93, tiers)[None, :]
    high = tall[:, None]
    half = high * chance.uniform(0.15, 0.21, (count, 1)) * t**0.9
    # Drawn for the most tiers there can be, so that a tree keeps its shape at every size.
    wobble = chance.uniform(0.72, 1.18, (2, count, 14))[:, :, :tiers]
    tip = foot[:, None] - high * (0.95 - t)
    notch = foot[:, None] - high * (0.985 - t)
    middle = x[:, None]
    shapes = np.empty((count, 4 * tiers + 3, 2), np.float32)
    shapes[:, 0, 0], shapes[:, 0, 1] = x, foot - tall
    right, left = shapes[:, 1 : 2 * tiers + 1], shapes[:, : -2 * tiers - 1 : -1]
    for side, way, row in ((right, 1, 0), (left, -1, 1)):
        side[:, 0::2, 0], side[:, 0::2, 1] = middle + way * half * wobble[row], tip
        side[:, 1::2, 0], side[:, 1::2, 1] = middle + way * half * 0.42, notch
    trunk = tall * 0.018
    shapes[:, 2 * tiers + 1, 0], shapes[:, 2 * tiers + 1, 1] = x + trunk, foot
    shapes[:, 2 * tiers + 2, 0], shapes[:, 2 * tiers + 2, 1] = x - trunk, foot
    return shapes


def pines(
    canvas: Canvas,
    purpose: str,
    ground: Floats,
    *,
    size: float,
    dense: float,
    top_colour: Floats,
    foot_colour: Floats,
    snow: Floats | None = None,
    bottom: int | None = None,
    ground_too: bool = True,
) -> None:
    """A row of conifers on a ground line (pixel row per column), each about `size` units tall.

    `dense` is the number of trees per unit of width. The ground below the trees is filled down to `bottom`,
    if `ground_too`.
    """
    chance = canvas.chance.stream(purpose)
    wide = canvas.width / canvas.unit
    count = int(np.clip(dense * wide, 3, 260))
    throws = chance.random((260, 3))[:count]
    x = (np.arange(count) + throws[:, 0] * 1.8 - 0.4) / count * canvas.width
    stands = contour(
        chance, (x / canvas.unit).astype(np.float32), 3.2, octaves=3
    )  # groups of tall and of low trees
    tall = size * canvas.unit * np.clip(0.62 + 0.5 * stands + 0.55 * (throws[:, 1] ** 2 - 0.3), 0.22, 1.5)
    column = np.clip(x, 0, canvas.width - 1).astype(np.int64)
    foot = ground[column] + size * canvas.unit * 0.06
    top = int(max(0, (foot - tall).min() - 2))
    bottom = canvas.height if bottom is None else min(canvas.height, bottom)
    if top >= bottom:
        return
    stencil = Stencil(canvas, top, bottom)
    if ground_too:
        step = max(1, canvas.width // 96)
        columns = np.arange(0, canvas.width + step, step)
        floor = ground[np.minimum(columns, canvas.width - 1)]
        feet = np.full(len(columns) - 1, bottom + 2)
        pieces = (columns[:-1], floor[:-1], columns[1:], floor[1:], columns[1:], feet, columns[:-1], feet)
        stencil.polygons(np.stack(pieces, axis=1).reshape(-1, 4, 2).astype(np.float32))
    shapes = _pine_shapes(chance, x, foot, tall)
    stencil.polygons(shapes)
    cover = stencil.cover()
    fall = np.clip(np.arange(cover.shape[0], dtype=np.float32) / max(1, size * canvas.unit * 1.6), 0, 1)
    graded = np.stack([top_colour[k] + (foot_colour[k] - top_colour[k]) * fall for k in range(3)])
    canvas.over(top, 0, cover, graded)
    if snow is not None:
        dusted = Stencil(canvas, top, bottom)
        offset = size * canvas.unit * 0.05
        dusted.polygons(shapes)
        frost = dusted.cover()
        shifted = np.zeros_like(frost)
        drop = max(1, round(offset * 0.55))
        shifted[drop:] = frost[:-drop]
        canvas.over(top, 0, np.clip(frost - shifted, 0, 1) * np.float32(0.9), snow)


def grass(
    canvas: Canvas,
    purpose: str,
    foot: float,
    tall: float,
    ink: Floats,
    *,
    dense: float = 140,
    strength: float = 1.0,
) -> None:
    """Blades of grass rooted at pixel row `foot`, up to `tall` units high, `dense` to a unit of width."""
    chance = canvas.chance.stream(purpose)
    seen = float(np.clip(canvas.unit / 500, 0.35, 1))  # in a small picture so many would only blur
    count = int(min(900, dense * canvas.width / canvas.unit * (0.6 + 0.4 * canvas.detail) * seen))
    throws = chance.random((900, 5))[:count]
    high = canvas.unit * tall * (0.3 + 0.7 * throws[:, 0])
    x = throws[:, 1] * canvas.width
    bend = high * (throws[:, 2] - 0.5) * 1.3
    half = np.maximum(0.5, canvas.unit * 0.0017 * (0.6 + 0.9 * throws[:, 3]))
    # Each blade is a curved wedge: root left, root right, belly right, tip, belly left.
    px = np.stack(
        (x - half, x + half, x + bend * 0.3 + half * 0.8, x + bend, x + bend * 0.3 - half * 0.8), axis=1
    )
    py = np.stack((0 * x, 0 * x, high * 0.55, high, high * 0.55), axis=1)
    roots = foot + canvas.unit * tall * 0.5 * throws[:, 4:] ** 2  # so that the roots form no straight line
    blades = np.stack((px, roots - py), axis=2).astype(np.float32)
    stencil = Stencil(canvas, int(foot - high.max()) - 1, int(foot + canvas.unit * tall * 0.5) + 1)
    stencil.polygons(blades)
    canvas.over(stencil.top, 0, stencil.cover() * np.float32(strength), ink)


def bushes(
    canvas: Canvas, purpose: str, line: Floats, size: float, ink: Floats, *, dense: float = 24
) -> None:
    """Round trees and bushes in loose groups on a ground line, about `size` units across."""
    stream = canvas.chance.stream(purpose)
    count = int(np.clip(dense * canvas.width / canvas.unit, 4, 160))
    throws = stream.random((160, 3))[:count]
    stencil = Stencil(canvas, int(line.min() - canvas.unit * size * 3), int(line.max() + canvas.unit * size))
    a, b, c = throws[np.sin(throws[:, 0] * 19 + throws[:, 2]) >= -0.1].T[:, :, None]
    x = a * canvas.width
    y = line[np.minimum(x, canvas.width - 1).astype(np.int64)].astype(np.float64)
    radius = canvas.unit * size * (0.5 + 0.8 * b)
    trunk = 0.35 * (c > 0.6)  # the rest grow from the ground up
    k = np.arange(5)[None, :]  # a crown of overlapping lumps
    middle_x = x + radius * 0.62 * np.cos(k * 2.4 + c * 6)
    middle_y = y + radius * (0.32 * np.sin(k * 2.4 + c * 6) - 0.4 - trunk)
    lump = radius * (0.5 + 0.2 * np.sin(k * 5 + b * 9))
    turn = np.linspace(0, 2 * math.pi, 12, endpoint=False)
    crown_x = middle_x[:, :, None] + lump[:, :, None] * np.cos(turn)
    crown_y = middle_y[:, :, None] + lump[:, :, None] * np.sin(turn)
    crown_y = np.minimum(crown_y, (y + radius * 0.12)[:, :, None])
    stencil.polygons(np.stack((crown_x, crown_y), axis=3).reshape(-1, 12, 2).astype(np.float32))
    half = radius * 0.1 * (trunk > 0)
    feet_x = np.concatenate((x - half, x - half, x + half, x + half), axis=1)
    feet_y = np.concatenate((y + 2, y - radius * (trunk > 0), y - radius * (trunk > 0), y + 2), axis=1)
    stencil.polygons(np.stack((feet_x, feet_y), axis=2)[trunk[:, 0] > 0].astype(np.float32))
    cover = stencil.cover()
    canvas.over(stencil.top, stencil.left, cover, ink)
    # Lit from above: the lower side of every crown is darker.
    drop = max(1, round(canvas.unit * size * 0.3))
    under = cover.copy()
    under[:-drop] -= cover[drop:]
    canvas.over(stencil.top, 0, np.maximum(under, 0) * np.float32(0.35), ink * np.float32(0.6))


@lru_cache(maxsize=256)
def blossom_sprite(size: int, variant: int, petal: tuple[float, ...], heart: tuple[float, ...]) -> Sprite:
    """A five-petalled blossom `size` pixels across, in one of six poses."""
    chance = np.random.Generator(np.random.PCG64(variant + 17))
    fine = 3
    span = (np.arange(size * fine, dtype=np.float32) + 0.5) / (size * fine) * 2 - 1
    x, y = np.meshgrid(span, span)
    tilt, squeeze = float(chance.uniform(0, math.pi)), (1.0, 0.82, 0.94, 0.7, 0.88, 1.0)[variant % 6]
    u = (x * math.cos(tilt) + y * math.sin(tilt)) / squeeze
    v = -x * math.sin(tilt) + y * math.cos(tilt)
    radius, angle = np.sqrt(u * u + v * v), np.arctan2(v, u) + float(chance.uniform(0, 6.28))
    lobe = np.abs(np.cos(angle * 2.5))
    notch = 0.07 * np.exp(-((np.cos(angle * 5) - 1) ** 2) * 30) * (np.cos(angle * 2.5) ** 2 > 0.5)
    edge = 0.5 + 0.45 * lobe**0.55 - notch
    soft = 2.5 / (size * fine) * 2
    cover = np.clip((edge - radius) / soft + 0.5, 0, 1).astype(np.float32)
    inner, outer = np.array(heart, np.float32), np.array(petal, np.float32)
    toward = np.clip(radius / 0.62, 0, 1) ** 0.8
    crease = 1 - 0.13 * (1 - lobe) ** 2 - 0.05 * np.clip(y, -1, 1)
    paint = np.stack([(inner[k] + (outer[k] - inner[k]) * toward) * crease for k in range(3)])
    stamens = np.clip((0.2 - radius) / soft + 0.5, 0, 1) * (0.35 + 0.65 * (np.cos(angle * 9) > 0.2))
    stamens = np.maximum(stamens, np.clip((0.1 - radius) / soft + 0.5, 0, 1))
    gold = rgb("#ffdf8a")
    for k in range(3):
        paint[k] += (gold[k] - paint[k]) * stamens * 0.85
    paint = np.clip(paint, 0, 1) * cover
    shrink = (size, fine, size, fine)
    return Sprite(
        paint.reshape(3, *shrink).mean(axis=(2, 4), dtype=np.float32),
        cover.reshape(shrink).mean(axis=(1, 3), dtype=np.float32),
    )


@lru_cache(maxsize=256)
def petal_sprite(size: int, variant: int, colour: tuple[float, ...]) -> Sprite:
    """A single petal or leaf `size` pixels long, at one of twelve angles."""
    chance = np.random.Generator(np.random.PCG64(variant + 91))
    fine = 3
    span = (np.arange(size * fine, dtype=np.float32) + 0.5) / (size * fine) * 2 - 1
    x, y = np.meshgrid(span, span)
    turn, slim = math.pi * variant / 12 + float(chance.uniform(0, 0.3)), float(chance.uniform(0.3, 0.62))
    u, v = x * math.cos(turn) + y * math.sin(turn), -x * math.sin(turn) + y * math.cos(turn)
    width = slim * np.sqrt(np.maximum(0, 1 - u * u)) * (0.78 + 0.22 * u)
    soft = 2.5 / (size * fine) * 2
    cover = (np.clip((width - np.abs(v)) / soft + 0.5, 0, 1) * (np.abs(u) < 1)).astype(np.float32)
    tone = 0.9 + 0.14 * u - 0.1 * (v > 0)
    paint = np.clip(np.stack([colour[k] * tone for k in range(3)]), 0, 1) * cover
    shrink = (size, fine, size, fine)
    return Sprite(
        paint.reshape(3, *shrink).mean(axis=(2, 4), dtype=np.float32),
        cover.reshape(shrink).mean(axis=(1, 3), dtype=np.float32),
    )


_Twig = tuple[Floats, float]
_Tip = tuple[float, float, float]


def _grown(
    chance: np.random.Generator, heading: float, reach: float, thick: float
) -> tuple[list[_Twig], list[_Tip]]:
    """A forked branch from (0, 0): pieces as (two points, thickness) and places where something may bloom.

    Lengths are in units, y downwards; a tip's third value is how likely it is to bloom.
    """
    twigs: list[_Twig] = []
    tips: list[_Tip] = []

    def grow(x: float, y: float, heading: float, length: float, thick: float, depth: int) -> None:
        joints = (14, 10, 7, 5)[depth]
        points, widths = [(x, y)], []
        for k in range(joints):
            heading += float(chance.normal(0, 0.085)) + (0.3 - heading) * (0.05 if depth else 0.03)
            step = length / joints
            x, y = x + math.cos(heading) * step, y + math.sin(heading) * step
            points.append((x, y))
            widths.append(thick * (1 - 0.75 * k / joints))
            if depth < 3 and k >= 2 and chance.random() < (0.46, 0.36, 0.28)[depth]:
                turn = float(chance.uniform(0.4, 0.95)) * (1 if chance.random() < 0.5 else -1)
                grow(
                    x,
                    y,
                    heading + turn,
                    length * float(chance.uniform(0.34, 0.56)),
                    widths[-1] * 0.6,
                    depth + 1,
                )
            if depth >= 1 and k >= 2:
                tips.append((x, y, 0.5 if depth == 1 else 0.85))
        tips.append((x, y, 1.0))
        line = np.array(points, np.float32)
        twigs.extend((line[k : k + 2], widths[k]) for k in range(joints))

    grow(0.0, 0.0, heading, reach, thick, 0)
    return twigs, tips


def blossom_branch(canvas: Canvas, *, bark: Floats, petal: Floats, heart: Floats, light: Floats) -> None:
    """A branch that enters from an upper corner and reaches into the picture, with clusters of blossom."""
    chance = canvas.chance.stream("branch")
    from_left = bool(chance.random() < 0.5)
    start_y = float(chance.uniform(0.02, 0.16)) * min(canvas.height / canvas.unit, 1.2)
    twigs, tips = _grown(chance, float(chance.uniform(-0.12, 0.34)), 0.62, 0.0125)
    unit = np.float32(canvas.unit)
    turn = np.array((unit if from_left else -unit, unit), np.float32)
    root = np.array((-0.02 * unit if from_left else canvas.width + 0.02 * unit, start_y * unit), np.float32)
    _dress(
        canvas, chance, twigs, tips, root, turn, bark=bark, petal=petal, heart=heart, light=light, flower=1.0
    )


def blossom_sprig(
    canvas: Canvas,
    *,
    bark: Floats,
    petal: Floats,
    heart: Floats,
    light: Floats,
    leaves: list[Floats],
    flowers: bool,
) -> None:
    """A whole branch set in the middle of the canvas, with leaves and, if wanted, blossom."""
    chance = canvas.chance.stream("sprig")
    heading = float(chance.uniform(-0.75, -0.35))
    twigs, tips = _grown(chance, heading, 0.8, 0.02)
    ends = np.concatenate([line for line, _ in twigs])
    low, high = ends.min(axis=0), ends.max(axis=0)
    room = np.array((canvas.width, canvas.height), np.float32) * np.float32(0.74)
    scale = float((room / np.maximum(high - low, 0.05)).min())
    side = 1 if chance.random() < 0.5 else -1
    turn = np.array((scale * side, scale), np.float32)
    middle = np.array((canvas.width, canvas.height), np.float32) / 2
    root = middle - (low + high) / 2 * turn
    stretch = scale / canvas.unit
    size = canvas.unit * 0.07 * stretch
    for x, y, _ in tips[:: 2 if flowers else 1]:
        for _ in range(1 if flowers else 2):
            pick = (int(chance.integers(0, 12)), int(chance.integers(0, len(leaves))))
            long = max(3, round(size * float(chance.uniform(0.8, 1.3))))
            leaf = _dimmed(leaf_sprite(long, pick[0], _key(leaves[pick[1]])), light)
            ox, oy = chance.normal(0, 0.3, 2) * size
            canvas.stamp(leaf, float(root[0] + x * turn[0]) + ox, float(root[1] + y * turn[1]) + oy)
    _dress(canvas, chance, twigs, tips, root, turn, bark=bark, petal=petal, heart=heart, light=light,
           flower=2.3 * stretch if flowers else 0.0)  # fmt: skip


def _dress(
    canvas: Canvas, chance: np.random.Generator, twigs: list[_Twig], tips: list[_Tip], root: Floats,
    turn: Floats, *,
    bark: Floats, petal: Floats, heart: Floats, light: Floats, flower: float,
) -> None:  # fmt: skip
    """Paint a grown branch, then flowers `flower` times the usual size (none for 0)."""
    unit = canvas.unit
    thickness = abs(float(turn[1]))
    ends = np.stack([line for line, _ in twigs]) * turn + root
    half = np.maximum(np.array([thick for _, thick in twigs]) * thickness, 0.0011 * unit)[:, None] / 2
    along = ends[:, 1] - ends[:, 0]
    along /= np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)[:, None]
    aside = np.stack((-along[:, 1], along[:, 0]), axis=1) * half
    start, end = (
        ends[:, 0] - along * half,
        ends[:, 1] + along * half,
    )  # overlapping, so that bends have no gaps
    boxes = np.stack((start - aside, start + aside, end + aside * 0.9, end - aside * 0.9), axis=1)
    highest, lowest = float(boxes[:, :, 1].min()), float(boxes[:, :, 1].max())
    if lowest < 1 or highest >= canvas.height:
        return
    stencil = Stencil(canvas, int(highest) - 1, int(lowest) + 2)
    stencil.polygons(boxes.astype(np.float32))
    canvas.over(stencil.top, 0, stencil.cover(), bark)
    if not flower:
        return
    sizes = [max(3, round(unit * s * flower)) for s in (0.017, 0.022, 0.027)]
    inks = [
        (_key(tone), _key(heart))
        for tone in (petal, mix(petal, rgb("#ffffff"), 0.45), mix(petal, heart, 0.35))
    ]
    sprites: dict[tuple[int, int, int], Sprite] = {}
    for x, y, likely in tips:
        if chance.random() > likely * 0.55:
            continue
        spread = unit * float(chance.uniform(0.006, 0.02)) * flower
        offsets = chance.normal(0, 1, (8, 2)) * spread
        kinds = chance.integers(0, 54, 8)
        for k in range(int(chance.integers(2, 5)) + round(canvas.detail)):
            pick = (int(kinds[k]) % 3, int(kinds[k]) // 3 % 6, int(kinds[k]) // 18)
            if pick not in sprites:
                sprites[pick] = _dimmed(blossom_sprite(sizes[pick[0]], pick[1], *inks[pick[2]]), light)
            ox, oy = offsets[k].tolist()
            canvas.stamp(sprites[pick], float(root[0] + x * turn[0]) + ox, float(root[1] + y * turn[1]) + oy)


@lru_cache(maxsize=256)
def leaf_sprite(size: int, variant: int, colour: tuple[float, ...]) -> Sprite:
    """A pointed leaf with its midrib, `size` pixels long, at one of twelve angles."""
    fine = 3
    span = (np.arange(size * fine, dtype=np.float32) + 0.5) / (size * fine) * 2 - 1
    x, y = np.meshgrid(span, span)
    turn = math.pi * variant / 6
    u, v = x * math.cos(turn) + y * math.sin(turn), -x * math.sin(turn) + y * math.cos(turn)
    half = 0.36 * np.clip(1 - u * u, 0, 1) ** 0.8 * (1 - 0.28 * u)
    soft = 3.0 / (size * fine) * 1.5
    cover = (np.clip((half - np.abs(v)) / soft + 0.5, 0, 1) * (np.abs(u) < 0.98)).astype(np.float32)
    ribs = np.abs(((u * 3.5 + np.abs(v) * 3.2) % 1) - 0.5)
    tone = 0.95 + 0.1 * (v < 0) - 0.16 * (np.abs(v) < 0.028) - 0.09 * (ribs < 0.07) + 0.1 * u
    paint = np.clip(np.stack([colour[k] * tone for k in range(3)]), 0, 1) * cover
    shrink = (size, fine, size, fine)
    return Sprite(
        paint.reshape(3, *shrink).mean(axis=(2, 4), dtype=np.float32),
        cover.reshape(shrink).mean(axis=(1, 3), dtype=np.float32),
    )


def _dimmed(sprite: Sprite, light: Floats) -> Sprite:
    return Sprite(sprite.paint * light[:, None, None], sprite.cover)


def _key(colour: Floats) -> tuple[float, ...]:
    return tuple(round(float(v), 3) for v in colour)


def drifting(
    canvas: Canvas, purpose: str, colours: list[Floats], light: Floats, count: int, *, top: float = 0.0,
    size: float = 0.009,
) -> None:  # fmt: skip
    """Petals or leaves in the air, a few of them near, large and out of focus."""
    chance = canvas.chance.stream(purpose)
    sprites: dict[tuple[int, int, int], Sprite] = {}
    for _ in range(int(count * (0.7 + 0.3 * canvas.detail))):
        x, y = (
            float(chance.random()) * canvas.width,
            (top + (1 - top) * float(chance.random())) * canvas.height,
        )
        pick = (
            int(chance.integers(0, 3)),
            int(chance.integers(0, 12)),
            int(chance.integers(0, len(colours))),
        )
        if pick not in sprites:
            length = max(2, round(canvas.unit * size * (0.8, 1.1, 1.5)[pick[0]]))
            sprites[pick] = _dimmed(petal_sprite(length, pick[1], _key(colours[pick[2]])), light)
        canvas.stamp(sprites[pick], x, y)

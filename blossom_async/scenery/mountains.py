"""Mountains in layers of mist, mirrored in a lake."""

from __future__ import annotations

import numpy as np

from blossom_async.scenery import growth, landmarks, silhouettes
from blossom_async.scenery.canvas import Canvas, Floats
from blossom_async.scenery.colour import NAMED, Palette, mix, rgb
from blossom_async.scenery.land import ridge, summits
from blossom_async.scenery.noise import contour
from blossom_async.scenery.sky import paint_sky
from blossom_async.scenery.water import glitter, mirror
from blossom_async.scenery.words import Scene

__all__ = ["paint_mountains"]


def paint_mountains(canvas: Canvas, scene: Scene, palette: Palette) -> None:
    """From the farthest ridge to the nearest branch."""
    chance = canvas.chance.stream("mountains")
    lake = scene.allows("lake")
    shore_at = float(chance.uniform(0.66, 0.74)) if lake else 1.0
    shore = canvas.row(shore_at) if lake else canvas.height
    orb = paint_sky(canvas, scene, palette, shore_at if lake else 0.8, (shore_at if lake else 0.8) * 0.74)
    if not lake:
        canvas.planes[:3, canvas.row(0.8) :] = palette.haze[:, None, None]
    high = scene.allows("mountains")
    sunward = 1.0 if orb.x > canvas.width / 2 else -1.0
    white = mix(palette.own(rgb("#f4f8ff")), palette.haze, 0.25)
    volcano = scene.wants("volcano")
    capped = scene.snowy or scene.wants("snow") or bool(chance.random() < 0.4 and scene.allows("snow"))
    snow_reach = 0.13 if scene.snowy else 0.05
    layers = 4 if high else 2
    grand = float(chance.uniform(0.8, 1.2))
    span = shore_at * canvas.height / canvas.unit
    fall_x = None
    for k in range(layers):
        t = k / (layers - 1)  # 0 far, 1 near
        stream = canvas.chance.stream(f"ridge {k}")
        base = shore_at * canvas.height - canvas.unit * span * ((0.31, 0.23, 0.15, 0.08)[k] if high else 0.1)
        if volcano and k == 1:
            landmarks.paint_volcano(canvas, palette, shore, sunward)
            continue
        if k < 3 and high:
            rise = summits(
                stream, canvas.across, apart=(0.34, 0.3, 0.26)[k] * grand, steep=(0.62, 0.6, 0.42)[k]
            )
        else:
            rise = 0.035 + 0.05 * contour(stream, canvas.across, 2.6, octaves=7)
        line = base - np.float32(canvas.unit * (0.45 if volcano and k < 3 else 1)) * rise
        far_haze = mix(palette.haze, palette.lower, 0.45)
        top_colour = mix(far_haze, palette.shade, (0.26, 0.42, 0.6, 0.74)[k] if high else 0.6 + 0.15 * k)
        foot_colour = mix(mix(palette.haze, palette.horizon, 0.35), palette.shade, (0.0, 0.08, 0.2, 0.42)[k])
        if scene.wants("jungle") and k:
            top_colour = mix(top_colour, palette.own(rgb("#3f7a3c")), 0.45)
            foot_colour = mix(foot_colour, palette.own(rgb("#5c9a52")), 0.3)
        if scene.weather in ("fog", "rain", "snow"):
            top_colour = mix(top_colour, palette.haze, 0.4)
            foot_colour = mix(foot_colour, mix(palette.haze, palette.horizon, 0.5), 0.6)
        ridge(
            canvas, line.astype(np.float32), shore, top_colour, foot_colour,
            facets=(0.6, 0.6, 0.4, 0.0)[k] if high else 0.0, sunward=sunward,
            lit_colour=mix(top_colour, palette.glow, 0.34),
            snow=(mix(white, palette.haze, 0.4 * (1 - t)), snow_reach) if capped and k < 2 and high else None,
            purpose=f"ridge {k}",
        )  # fmt: skip
    if scene.wants("waterfall"):
        fall_x = landmarks.paint_waterfall(canvas, scene, palette, shore, sunward)
    if scene.allows("trees"):
        _shores(canvas, scene, palette, shore, fall_x)
    if scene.wants("bridge") and lake:
        landmarks.paint_arched_bridge(canvas, scene, palette, shore)
    if lake:
        ice = scene.wants("frozen") and scene.snowy
        tint, deep = mix(palette.haze, palette.upper, 0.45), mix(palette.shade, palette.upper, 0.3)
        mirror(canvas, shore, tint=tint * np.float32(0.9), deep=deep, rough=0.4 if ice else 1.0)
        if ice:
            landmarks.paint_ice(canvas, palette, shore)
        elif orb.shown or (scene.weather == "clear" and not palette.moon):
            glitter(canvas, shore, orb, palette.glow, 0.85)
    hides = any(scene.wants(name) for name in ("balloon", "cabin", "village", "birds", "volcano", "rainbow"))
    in_spring = scene.season == "spring" and scene.allows("blossom") and not hides
    if scene.wants("blossom") or scene.wants("petals") or in_spring:
        _blossom(canvas, scene, palette)


def _shores(canvas: Canvas, scene: Scene, palette: Palette, shore: int, fall_x: float | None) -> None:
    """Trees on both sides of the lake, which do not hide a waterfall at column `fall_x`."""
    white = palette.own(rgb("#f2f6fc"), 0.15)
    lying = (0.25 if scene.dark else 0.55) if scene.snowy else 0.0
    unit = canvas.unit
    for k, (size, dense, lift) in enumerate(((0.05, 95, 0.07), (0.075, 62, 0.03), (0.11, 40, 0.004))):
        stream = canvas.chance.stream(f"shore {k}")
        ground = shore - unit * (lift + 0.035 * (contour(stream, canvas.across, 1.6, octaves=3) + 0.2))
        if k == 2:  # the nearest stand leaves the middle of the lake open
            dip = contour(stream, canvas.across, 1.1, octaves=2)
            ground = ground + unit * 0.06 * np.clip(dip + 0.15, 0, 1)
        near = (0.55, 0.8, 1.0)[k]
        top_colour = mix(palette.haze, palette.shade, near)
        foot_colour = mix(mix(palette.haze, palette.shade, near * 0.86), white, lying)
        if fall_x is not None:
            gap = (canvas.across * unit - fall_x) / (0.24 * unit)
            ground = ground + unit * 0.22 * np.exp(-(gap**2))
        ground = ground.astype(np.float32)
        if scene.wants("jungle"):
            leafy = mix(
                palette.own(rgb(("#4f8a4a", "#2f6b3a", "#1f5230")[k])), palette.haze, 0.35 * (1 - near)
            )
            for layer, shift in enumerate((-0.3, 0.35)):
                tone = mix(leafy, palette.shade, 0.12 + 0.16 * layer)
                line = ground + np.float32(unit * size * shift)
                growth.bushes(canvas, f"jungle {k} {layer}", line, size * 0.42, tone, dense=(60, 48, 36)[k])
            continue
        growth.pines(
            canvas, f"pines {k}", ground, size=size, dense=dense, top_colour=top_colour,
            foot_colour=foot_colour, snow=white if scene.snowy else None, bottom=shore,
        )  # fmt: skip
        if scene.season == "autumn" and not scene.snowy:  # larches, each row of another gold
            clear = (0.5, 0.75, 0.92)[k] * (0.75 if scene.dark else 1.0)
            golden = mix(foot_colour, palette.own(rgb(("#e8a93c", "#e0912a", "#f0b23a")[k])), clear)
            growth.pines(
                canvas, f"larches {k}", ground, size=size * 0.92, dense=dense * 0.75, top_colour=golden,
                foot_colour=mix(golden, palette.own(rgb("#b5561f")), 0.55), bottom=shore, ground_too=False,
            )  # fmt: skip
        if k == 1 and (scene.wants("cabin") or scene.wants("village")):
            _cabins(canvas, scene, palette, ground)


def _cabins(canvas: Canvas, scene: Scene, palette: Palette, ground: Floats) -> None:
    """One cabin by the lake, or the houses of a village, with lit windows when it is dark."""
    chance = canvas.chance.stream("cabins")
    count = 7 if scene.wants("village") else 1
    lit = 1.0 if palette.brightness < 0.7 else 0.0
    roof = palette.own(rgb("#f4f8fc") if scene.snowy else rgb("#8a4a38"))
    for k in range(count):
        x = canvas.width * (
            float(chance.uniform(0.25, 0.7)) if count == 1 else (k + float(chance.random())) / count
        )
        y = float(ground[int(np.clip(x, 0, canvas.width - 1))]) + canvas.unit * float(
            chance.uniform(0.02, 0.035)
        )
        size = canvas.unit * float(chance.uniform(0.045, 0.06))
        wall = palette.own(rgb(str(chance.choice(("#9a6a48", "#c9a883", "#b8875f")))))
        silhouettes.house(
            canvas, palette, x, y, size, wall, roof, lit, 1.0, steeple=count > 1 and k == count // 2
        )


def _blossom(canvas: Canvas, scene: Scene, palette: Palette) -> None:
    named = [rgb(NAMED[name]) for name in scene.colours]
    petal = mix(named[0], rgb("#ffffff"), 0.25) if named else rgb("#ffc4d6")
    heart = mix(petal, rgb("#d2346a"), 0.6)
    light = np.clip(palette.ambient * 0.75 + 0.3, 0, 1.05).astype(np.float32)
    growth.blossom_branch(
        canvas, bark=mix(palette.shade, rgb("#1d1014"), 0.55), petal=petal, heart=heart, light=light
    )
    if scene.allows("petals"):
        growth.drifting(canvas, "petals", [petal, mix(petal, rgb("#ffffff"), 0.5)], light, 46)

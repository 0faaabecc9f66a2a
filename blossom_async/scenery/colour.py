"""Colours, and the light in which they are seen."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import numpy as np
from attrs import evolve, frozen

from blossom_async.scenery.canvas import Floats
from blossom_async.scenery.words import Scene

__all__ = ["NAMED", "Palette", "grey", "mix", "palette", "rgb", "stops"]


@cache
def rgb(code: str) -> Floats:
    """Three values 0..1 from `#rrggbb`; cached, so do not modify the array."""
    value = np.array([int(code[k : k + 2], 16) for k in (1, 3, 5)], np.float32) / np.float32(255)
    value.flags.writeable = False
    return value


def mix(a: Floats, b: Floats, t: float) -> Floats:
    """`a` at t=0, `b` at t=1."""
    return a + (b - a) * np.float32(t)


def grey(colour: Floats) -> Floats:
    """Grey of the colour's brightness."""
    return np.full(3, colour @ np.array((0.3, 0.59, 0.11), np.float32), np.float32)


def stops(colours: list[Floats], at: list[float], where: Floats) -> Floats:
    """Colours (3, n) at n places of a gradient with stops."""
    return np.stack([np.interp(where, at, [c[k] for c in colours]) for k in range(3)]).astype(np.float32)


NAMED: Final = {
    "red": "#d63a3a", "crimson": "#b3193b", "scarlet": "#e0321f", "maroon": "#7a1f2e", "ruby": "#b8103f",
    "orange": "#f0862b", "amber": "#f2a71b", "peach": "#f7b48c", "coral": "#f4735e", "apricot": "#f5b071",
    "yellow": "#f5d33b", "gold": "#e3b23c", "cream": "#f6ead0", "beige": "#dccbaa", "ivory": "#f4efe0",
    "brown": "#80543a", "copper": "#b8693f", "bronze": "#a3703c", "rust": "#a9482a", "tan": "#c9a67b",
    "green": "#4f9a4a", "emerald": "#179a6c", "olive": "#7d8237", "lime": "#a7d13c", "mint": "#98dcb8",
    "jade": "#3aa77f", "sage": "#9caf88",
    "teal": "#178c90", "turquoise": "#35c4bd", "cyan": "#3fd0e6", "aqua": "#5fd9d5",
    "blue": "#2f6fce", "azure": "#3f9df0", "cobalt": "#1f4fb0", "navy": "#1b2a5c", "indigo": "#40349c",
    "sapphire": "#1a49a6", "cerulean": "#2c8fc4",
    "purple": "#7d3fa8", "violet": "#8a52d1", "lavender": "#b59be0", "lilac": "#c7a4dc", "plum": "#7a3b72",
    "mauve": "#b287a8", "magenta": "#d0318f", "fuchsia": "#e03aa4", "pink": "#f28ab2", "rose": "#e5607f",
    "white": "#f5f5f2", "silver": "#c4cad2", "grey": "#8a9098", "black": "#15171c", "charcoal": "#33373d",
}  # fmt: skip


@frozen
class Palette:
    """The colours of one light: the sky from the zenith down, and what everything else is mixed from.

    `glow` is the light round the sun or moon, `haze` what distance fades into, `shade` the darkest near
    silhouette, `ambient` three factors for the own colour of things, `height` where the sun or moon stands
    between horizon 0 and the top of the sky 1, `stars` how many show.
    """

    zenith: Floats
    upper: Floats
    lower: Floats
    horizon: Floats
    glow: Floats
    haze: Floats
    shade: Floats
    ambient: Floats
    height: float
    stars: float
    moon: bool
    brightness: float

    def own(self, colour: Floats, distance: float = 0.0) -> Floats:
        """A thing's own colour as seen in this light, fading into haze with distance 0..1.

        In little light, little hue is left.
        """
        seen = mix(colour, grey(colour), 0.6 * max(0.0, 0.75 - self.brightness))
        return mix(seen * self.ambient, self.haze, distance)


def _light(
    sky: str, glow: str, haze: str, shade: str, ambient: str, height: float, *,
    stars: float = 0.0, moon: bool = False, brightness: float = 1.0,
) -> Palette:  # fmt: skip
    zenith, upper, lower, horizon = (rgb(code) for code in sky.split())
    return Palette(
        zenith, upper, lower, horizon, rgb(glow), rgb(haze), rgb(shade), rgb(ambient) * np.float32(1.1),
        height, stars, moon, brightness,
    )  # fmt: skip


_LIGHTS: Final = {
    "dawn": _light("#3d4f8f #8088bd #e3acb5 #ffd8ae", "#fff1d2", "#dcb3ba", "#20284a", "#c8b4c4", 0.16,
                   stars=0.12, brightness=0.8),
    "morning": _light("#3b7dc2 #74aede #b9dbee #fbf0dc", "#fff6dd", "#cfe2ea", "#1b3d44", "#f2ece0", 0.42),
    "day": _light("#1e6cc2 #4a9be0 #93caf1 #e4f3fb", "#fffbea", "#c2dff1", "#173b33", "#ffffff", 0.82),
    "golden hour": _light("#4b6ca0 #a3a2ad #f0bd78 #ffe2a6", "#fff0c0", "#efc791", "#2c2218", "#f8d2a0",
                          0.24),
    "sunset": _light("#2b2a66 #7d3d80 #e4655c #ffb658", "#ffedb8", "#dd7b76", "#1b1133", "#d39a8c", 0.10,
                     stars=0.1, brightness=0.6),
    "dusk": _light("#141a48 #3b3078 #8d4d92 #f0a084", "#ffd2a8", "#8f5c92", "#120f2c", "#7d6f9c", 0.03,
                   stars=0.45, brightness=0.4),
    "night": _light("#040817 #0a1635 #142a57 #2c4a7a", "#dce8ff", "#233c68", "#04070f", "#3d4f7a", 0.62,
                    stars=1.0, moon=True, brightness=0.12),
    "moonlight": _light("#071028 #10254e #21457c #4b74a6", "#eef4ff", "#38598c", "#060c1a", "#56709e", 0.6,
                        stars=0.6, moon=True, brightness=0.2),
    "aurora": _light("#030716 #07162e #0d2f46 #1d5560", "#d4ffe9", "#174453", "#03080e", "#3c5f70", 0.7,
                     stars=0.9, moon=True, brightness=0.12),
    "overcast": _light("#6f7f8f #8e9ca9 #b3bec6 #d6dbdc", "#f2f3ef", "#c0c8cb", "#27343a", "#c6ced2", 0.6,
                       brightness=0.7),
    "storm": _light("#20262f #39424d #59646d #8a9292", "#d3d9d4", "#5c676d", "#0f1519", "#6d7880", 0.6,
                    brightness=0.35),
}  # fmt: skip


def palette(scene: Scene) -> Palette:
    """The colours of a scene: its light, dulled by its weather and tinted with the colours it names."""
    found = _LIGHTS[scene.light]
    bright_day = found.brightness >= 0.7
    if scene.weather == "storm":
        found = _LIGHTS["storm"] if found.brightness > 0.3 else _blended(found, _LIGHTS["storm"], 0.35)
    elif scene.weather in ("rain", "cloudy") and bright_day:
        found = _blended(found, _LIGHTS["overcast"], 0.85 if scene.weather == "rain" else 0.5)
    elif scene.weather in ("rain", "cloudy", "fog", "snow"):
        grey_sky = _changed(found, {n: grey(getattr(found, n)) for n in _SKY})
        found = _blended(found, grey_sky, 0.4)
        found = evolve(found, stars=found.stars * 0.2)
    if scene.wants("rainbow") and bright_day and scene.weather == "clear":
        found = _blended(found, _LIGHTS["overcast"], 0.3)
    if scene.kind == "forest" and scene.light in ("dusk", "sunset"):
        found = _blended(found, _LIGHTS["golden hour"], 0.6)  # little of a purple sky shows through leaves
    if scene.weather in ("fog", "snow") and bright_day:
        found = _blended(found, _LIGHTS["overcast"], 0.35)
    if scene.sky_colour is not None:
        tint = rgb(NAMED[scene.sky_colour])
        found = _changed(found, {n: _tinted(getattr(found, n), tint, 0.55) for n in _SKY})
    return found


_SKY: Final = ("zenith", "upper", "lower", "horizon", "haze", "shade")
_BLENDED: Final = (*_SKY, "glow", "ambient", "height", "stars", "brightness")


def _changed(found: Palette, values: Mapping[str, Any]) -> Palette:
    return evolve(found, **values)


def _blended(a: Palette, b: Palette, t: float) -> Palette:
    return _changed(a, {n: getattr(a, n) + (getattr(b, n) - getattr(a, n)) * np.float32(t) for n in _BLENDED})


def _tinted(colour: Floats, tint: Floats, strength: float) -> Floats:
    """The colour pulled towards the tint's hue, its brightness kept."""
    level = max(float(grey(tint)[0]), 0.08)
    toned = np.clip(tint * (grey(colour) / np.float32(level)), 0, 1)
    return mix(colour, toned.astype(np.float32), strength)

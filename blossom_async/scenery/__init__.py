"""Pictures drawn from the words of a prompt with numpy and Pillow: no model, no network.

`words` decides what a prompt means; one module for each kind of scene draws it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from blossom_async.scenery.abstract import paint_abstract
from blossom_async.scenery.canvas import Canvas
from blossom_async.scenery.chance import Chance
from blossom_async.scenery.city import paint_city
from blossom_async.scenery.colour import Palette, palette
from blossom_async.scenery.desert import paint_desert
from blossom_async.scenery.forest import paint_forest
from blossom_async.scenery.landmarks import paint_balloons
from blossom_async.scenery.meadow import paint_meadow
from blossom_async.scenery.mountains import paint_mountains
from blossom_async.scenery.sea import paint_sea
from blossom_async.scenery.space import paint_space
from blossom_async.scenery.subject import paint_subject
from blossom_async.scenery.weather import paint_weather
from blossom_async.scenery.words import Scene, read

__all__ = ["describe", "paint"]

_PAINTERS: Final = {
    "mountains": paint_mountains,
    "sea": paint_sea,
    "forest": paint_forest,
    "space": paint_space,
    "city": paint_city,
    "meadow": paint_meadow,
    "desert": paint_desert,
    "abstract": paint_abstract,
}
_OUTDOORS: Final = frozenset(("mountains", "sea", "forest", "city", "meadow", "desert"))


def paint(
    prompt: str,
    *,
    width: int,
    height: int,
    seed: int,
    quality: str = "standard",
    transparency: bool = False,
    negative_prompt: str | None = None,
) -> NDArray[np.uint8]:
    """A picture as (height, width, 3), or (height, width, 4) with straight alpha when `transparency`.

    Equal arguments give equal bytes in every process. Size and quality change how finely a composition is
    drawn, not the composition; "hd" works at 1.5 times the size and "ultra" at twice, unless that
    working picture would exceed 16 Mi pixels. `negative_prompt` only takes things away.

    Raises ValueError unless `quality` is "standard", "hd" or "ultra".
    """
    scene = read(prompt, negative_prompt)
    canvas = Canvas(width, height, quality=quality, transparency=transparency, chance=Chance(prompt, seed))
    light = palette(scene)
    if transparency:
        paint_subject(canvas, scene, light, lambda inner: _paint_view(inner, scene, light))
    else:
        _paint_view(canvas, scene, light)
    return canvas.finish()


def _paint_view(canvas: Canvas, scene: Scene, light: Palette) -> None:
    _PAINTERS[scene.kind](canvas, scene, light)
    if scene.kind in _OUTDOORS:
        if scene.wants("balloon") and scene.kind != "forest":
            paint_balloons(canvas, scene, light)
        paint_weather(canvas, scene, light)


def describe(prompt: str, negative_prompt: str | None = None) -> dict[str, str]:
    """How the prompt was understood: scene, light, season, weather and palette."""
    scene = read(prompt, negative_prompt)
    return {
        "scene": scene.kind,
        "light": scene.light,
        "season": scene.season,
        "weather": scene.weather,
        "palette": ", ".join(scene.colours) or f"{scene.light} tones",
    }

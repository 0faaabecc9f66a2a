"""The picture while it is being painted: float planes, and ways to paint on them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from blossom_async.scenery.chance import Chance

__all__ = ["MAX_WORKING_PIXELS", "Canvas", "Floats", "Sprite", "Stencil", "enlarged", "stretched"]

Floats = NDArray[np.float32]

MAX_WORKING_PIXELS: Final = 4096 * 4096
_OVERSIZE: Final = {"standard": 1.0, "hd": 1.5, "ultra": 2.0}
_STRIP_PIXELS: Final = 1 << 16  # fits a core's cache
_COPIED_PIXELS: Final = 1 << 20  # copied out by Pillow in about a millisecond


@frozen
class Sprite:
    """A small picture to stamp many times: colour already multiplied by alpha, and alpha.

    `paint` has shape (3, h, w), `cover` (h, w); both 0..1.
    """

    paint: Floats
    cover: Floats
    keep: Floats = field(init=False)

    @keep.default
    def _left_to_the_ground(self) -> Floats:
        return 1 - self.cover


class Canvas:
    """Colour planes in 0..1 (display values, not linear light), and the lengths that scenes measure in.

    Scenes place things in fractions of width and height, and size them in `unit`, a length that follows the
    picture's area but never exceeds 1.5 times its shorter side. `detail` is 1, 1.5 or 2 and scales how
    much is drawn; the working size may exceed the size asked for, see `finish`.
    With `transparency` a fourth plane holds alpha and all colour is premultiplied.
    """

    def __init__(self, width: int, height: int, *, quality: str, transparency: bool, chance: Chance) -> None:
        if quality not in _OVERSIZE:
            raise ValueError(f'quality is {quality!r}, allowed: {sorted(_OVERSIZE)}; use "standard"')
        wanted = _OVERSIZE[quality]
        allowed = math.sqrt(MAX_WORKING_PIXELS / (width * height))
        oversize = max(1.0, min(wanted, allowed))
        self.final_width = width
        self.final_height = height
        self.width: int = max(1, round(width * oversize))
        self.height: int = max(1, round(height * oversize))
        self.unit: float = min(math.sqrt(self.width * self.height), 1.5 * min(self.width, self.height))
        self.detail = wanted
        self.pixel = oversize  # one pixel of the finished picture, in working pixels
        self.chance = chance
        self.transparency = transparency
        self.planes: Floats = np.zeros((4 if transparency else 3, self.height, self.width), np.float32)
        self.across: Floats = (np.arange(self.width, dtype=np.float32) + 0.5) / np.float32(self.unit)

    @property
    def rows(self) -> Floats:
        """The vertical middle of every pixel row, in units."""
        return (np.arange(self.height, dtype=np.float32) + 0.5) / np.float32(self.unit)

    def row(self, y: float) -> int:
        """The pixel row at a fraction of the height, inside the picture."""
        return min(self.height - 1, max(0, round(y * self.height)))

    def strips(self, top: int, bottom: int) -> Iterator[tuple[int, int]]:
        """Rows from `top` to `bottom` in strips that fit a core's cache, for work of many steps per pixel."""
        step = max(1, _STRIP_PIXELS // self.width)
        for y in range(top, bottom, step):
            yield y, min(bottom, y + step)

    def opaque(self) -> Canvas:
        """An empty canvas of the same size, without alpha."""
        other = copy.copy(self)
        other.transparency = False
        other.planes = np.zeros((3, self.height, self.width), np.float32)
        return other

    def _ink(self, colour: Floats) -> Floats:
        if not self.transparency:
            return colour
        return np.concatenate((colour, np.ones((1, *colour.shape[1:]), np.float32)))

    def over(self, top: int, left: int, cover: Floats, colour: Floats) -> None:
        """Paint one colour through `cover`, whose corner is at (top, left), clipped to the canvas.

        `colour` may also have shape (3, h) for a colour per row.
        """
        y0, x0 = max(0, top), max(0, left)
        y1 = min(self.height, top + cover.shape[0])
        x1 = min(self.width, left + cover.shape[1])
        if y0 >= y1 or x0 >= x1:
            return
        part = cover[y0 - top : y1 - top, x0 - left : x1 - left]
        there = self.planes[:, y0:y1, x0:x1]
        inks = self._ink(colour)
        if inks.ndim == 2:
            inks = inks[:, y0 - top : y1 - top]
        # In strips that fit a cache; strips without cover are skipped.
        step = max(1, _STRIP_PIXELS // (x1 - x0))
        for y in range(0, y1 - y0, step):
            paint = part[y : y + step]
            if not paint.any():
                continue
            keep = 1 - paint
            for plane, ink in zip(there[:, y : y + step], inks, strict=True):
                plane *= keep
                plane += paint * (ink if ink.ndim == 0 else ink[y : y + step, None])

    def add(self, top: int, left: int, glow: Floats, colour: Floats) -> None:
        """Add light: as `over`, but brightens what is there."""
        y0, x0 = max(0, top), max(0, left)
        y1 = min(self.height, top + glow.shape[0])
        x1 = min(self.width, left + glow.shape[1])
        if y0 >= y1 or x0 >= x1:
            return
        part = glow[y0 - top : y1 - top, x0 - left : x1 - left]
        there = self.planes[:3, y0:y1, x0:x1]
        step = max(1, _STRIP_PIXELS // (x1 - x0))
        for y in range(0, y1 - y0, step):
            light = part[y : y + step]
            if not light.any():
                continue
            for plane, ink in zip(there[:, y : y + step], colour, strict=True):
                plane += (1 - np.minimum(plane, 1)) * (light * ink)

    def stamp(self, sprite: Sprite, x: float, y: float) -> None:
        """Put a sprite with its middle at pixel (x, y)."""
        height, width = sprite.cover.shape
        top, left = round(y - height / 2), round(x - width / 2)
        y0, x0 = max(0, top), max(0, left)
        y1, x1 = min(self.height, top + height), min(self.width, left + width)
        if y0 >= y1 or x0 >= x1:
            return
        part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        there = self.planes[:, y0:y1, x0:x1]
        there *= sprite.keep[part]
        there[:3] += sprite.paint[:, part[0], part[1]]
        if self.transparency:
            there[3] += sprite.cover[part]

    def glow(self, x: float, y: float, radius: float, colour: Floats, power: float = 1.0) -> None:
        """A soft point of light; it has nearly faded at `radius` pixels."""
        reach = max(1, math.ceil(radius))
        span = np.arange(-reach, reach + 1, dtype=np.float32) / np.float32(max(radius, 1.0))
        rest = np.float32(math.exp(-3.2))  # subtracted, so that its square edge does not show
        bell = np.maximum(np.exp(span * span * np.float32(-3.2)) - rest, 0)
        fall = (bell / (1 - rest)).astype(np.float32, copy=False)
        self.add(
            round(y) - reach, round(x) - reach, fall[:, None] * fall[None, :] * np.float32(power), colour
        )

    def finish(self) -> NDArray[np.uint8]:
        """The picture in 8 bit, at the size asked for.

        Half a step of noise hides the bands that smooth skies would otherwise show. With alpha the colour
        is divided by it again (straight alpha), so that no dark fringe shows on a light page.
        """
        planes = self.planes
        if (self.width, self.height) != (self.final_width, self.final_height):
            size = (self.final_width, self.final_height)
            planes = np.stack([_shrunk(plane, size) for plane in planes])
        count, height, width = planes.shape
        out = np.empty((height, width, count), np.uint8)
        rows = max(1, _STRIP_PIXELS // width)
        noise = self.chance.stream("dither").random((rows, width), dtype=np.float32)
        for y0 in range(0, height, rows):
            strip = planes[:, y0 : y0 + rows]
            grain = noise[: strip.shape[1]]
            if count == 4:
                alpha = np.clip(strip[3], 0, 1)
                strip = np.concatenate((strip[:3] / np.maximum(alpha, 1e-4), alpha[None]))
            for k, plane in enumerate(strip):
                level = plane * np.float32(255)
                level += grain if k < 3 else np.float32(0.5)
                np.clip(level, 0, 255, out=level)
                out[y0 : y0 + rows, :, k] = level.astype(np.uint8)
        return out


def _shrunk(plane: Floats, size: tuple[int, int]) -> Floats:
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))


def enlarged(plane: Floats, width: int, height: int) -> Floats:
    """A plane stretched smoothly to (height, width)."""
    rows, columns = plane.shape
    return stretched(
        Image.fromarray(np.ascontiguousarray(plane, np.float32)), width, height, (0, 0, columns, rows)
    )


def stretched(image: Image.Image, width: int, height: int, box: tuple[float, float, float, float]) -> Floats:
    """A part of an "F" image, resized to (height, width).

    Pillow resizes without holding the interpreter but copies out while holding it, so large results are made
    a strip at a time.
    """
    left, top, right, bottom = box
    out = np.empty((height, width), np.float32)
    step = max(1, _COPIED_PIXELS // width)
    pitch = (bottom - top) / height
    for y in range(0, height, step):
        end = min(height, y + step)
        part = (left, top + y * pitch, right, min(bottom, top + end * pitch))
        out[y:end] = np.asarray(image.resize((width, end - y), Image.Resampling.BICUBIC, box=part))
    return out


class Stencil:
    """A strip of the canvas on which Pillow draws shapes, to be painted through.

    Drawn at twice the working size and averaged, since ImageDraw does not smooth edges; where the picture
    itself will be halved, or `smooth` is not asked for, at the working size.
    `scale` turns working pixels into the drawing's own.
    """

    def __init__(
        self,
        canvas: Canvas,
        top: int,
        bottom: int,
        left: int = 0,
        right: int | None = None,
        *,
        smooth: bool = True,
    ) -> None:
        right = canvas.width if right is None else right
        self.top: int = max(0, top)
        self.left: int = max(0, left)
        self.height: int = max(1, min(canvas.height, bottom) - self.top)
        self.width: int = max(1, min(canvas.width, right) - self.left)
        self.scale = 1 if canvas.pixel >= 1.9 or not smooth else 2
        self._image = Image.new("L", (self.width * self.scale, self.height * self.scale))
        self.draw: ImageDraw.ImageDraw = ImageDraw.Draw(self._image)

    def _moved(self, points: Floats) -> Floats:
        """Converts working pixels of the whole canvas into the drawing's own."""
        corner = np.array((self.left, self.top), np.float32)
        return ((points - corner) * np.float32(self.scale)).astype(np.float32)

    def polygon(self, points: Floats, ink: int = 255) -> None:
        """Fill a shape; `points` is (n, 2) of x, y in working pixels of the whole canvas."""
        self.draw.polygon(self._moved(points).ravel().tolist(), fill=ink)

    def polygons(self, shapes: Floats, inks: list[int] | None = None) -> None:
        """Fill many shapes of the same number of corners, (count, n, 2)."""
        moved = self._moved(shapes).reshape(len(shapes), 2 * shapes.shape[1]).tolist()
        for corners, ink in zip(moved, inks or [255] * len(moved), strict=True):
            self.draw.polygon(corners, fill=ink)

    def line(self, points: Floats, width: float, ink: int = 255) -> None:
        """Draw a line through `points`, `width` in working pixels."""
        thick = max(1, round(width * self.scale))
        self.draw.line(
            self._moved(points).ravel().tolist(), fill=ink, width=thick, joint="curve" if thick > 2 else None
        )

    def lines(self, paths: Floats, width: float, inks: list[int] | None = None) -> None:
        """Draw many lines of the same number of points, (count, n, 2), all `width` working pixels wide."""
        thick = max(1, round(width * self.scale))
        moved = self._moved(paths).reshape(len(paths), 2 * paths.shape[1]).tolist()
        for points, ink in zip(moved, inks or [255] * len(moved), strict=True):
            self.draw.line(points, fill=ink, width=thick)

    def cover(self) -> Floats:
        """What has been drawn, 0..1, at the working size."""
        out = np.empty((self.height, self.width), np.float32)
        step = max(1, _COPIED_PIXELS // self.width)
        for y in range(0, self.height, step):
            end = min(self.height, y + step)
            part = (0, y * self.scale, self.width * self.scale, end * self.scale)
            strip = self._image.reduce(self.scale, part) if self.scale > 1 else self._image.crop(part)
            np.multiply(np.asarray(strip), np.float32(1 / 255), out=out[y:end], casting="unsafe")
        return out

"""From pixels to the file that is stored: jpg, png, webp or avif, as small or as faithful as asked for."""

from __future__ import annotations

import base64
import io
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

import attrs
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from blossom_async.errors import InvalidRequest
from blossom_async.gateway.making.metadata import marked
from blossom_async.models import FORMATS

__all__ = [
    "Encoded",
    "check_encodable",
    "dominant_colour",
    "encode",
    "has_avif",
    "lighter_avif",
    "thumbhash",
    "warm_up",
]

AUTO_SSIM = 0.985
"""Structural similarity that ``compression="auto"`` keeps: no visible loss."""
WEB_SSIM = 0.97
"""Structural similarity that the lighter presets keep."""
THUMBNAIL_PX = 256
PRINT_DPI = 300

_EXIF_SOFTWARE, _EXIF_X_DPI, _EXIF_Y_DPI, _EXIF_UNIT = 0x0131, 0x011A, 0x011B, 0x0128
_INCH = 2  # of _EXIF_UNIT (Exif 2.32, 4.6.4)
_SUB = 1  # PNG filter: each byte minus its left neighbour (PNG, 9.2)
_NAMES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "avif": "AVIF"}

_SAVED_AS: dict[tuple[str, str], dict[str, Any]] = {
    ("jpg", "none"): {"quality": 97, "subsampling": "4:4:4"},
    ("jpg", "lossy"): {"quality": 88},
    ("jpg", "print"): {"quality": 95, "subsampling": "4:4:4"},
    ("png", "none"): {"compress_level": 0},
    ("png", "lossless"): {"compress_level": 6},
    ("png", "print"): {"compress_level": 6},
    # For lossless webp quality means effort: 100 takes three times as long and saves one per cent.
    ("webp", "none"): {"lossless": True, "exact": True, "quality": 0, "method": 0},
    ("webp", "lossless"): {"lossless": True, "exact": True, "quality": 50, "method": 4},
    ("webp", "print"): {"lossless": True, "exact": True, "quality": 50, "method": 4},
    ("webp", "lossy"): {"quality": 80, "method": 4},
    ("avif", "none"): {"quality": 97, "subsampling": "4:4:4"},
    ("avif", "lossy"): {"quality": 70},
    ("avif", "print"): {"quality": 92, "subsampling": "4:4:4"},
}
"""Options for Pillow, by format and weight."""

_CONTRADICTED_BY: dict[str | None, tuple[str, ...]] = {
    "web_optimized": ("none", "lossless"),
    "print": ("lossy",),
}

# Quantisation steps of jpg, 8 by 8 from low to high frequency. Brightness: structural similarity weighs
# coarse detail more than fine, so the steps grow with the square of the frequency. Colour: T.81, table K.2.
_FREQUENCY = np.add.outer(np.arange(8), np.arange(8))
_JPG_BRIGHTNESS = (12 + 0.12 * _FREQUENCY**2).ravel()
_JPG_COLOUR = np.full((8, 8), 99)
_JPG_COLOUR[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_JPG_STEPS = tuple(1.8 * 0.87**n for n in range(15))  # 1.8 down to 0.26, smallest file first
_AVIF_QUALITIES = (30, 40, 50, 58, 66, 74, 82)
_AVIF_FIRST, _AVIF_STEP = 55, 12  # the quality that is mostly as good as webp's 80
# 9 takes half the time of 8 and makes files half as large again, 7 takes twice the time and saves a sixth.
_AVIF_SPEED, _AVIF_AUTO_SPEED = 8, 7
_WEBP_QUALITIES = (60, 67, 74, 80, 86, 91, 95)

_GAUSSIAN = np.exp(-(((np.arange(11) - 5) / 1.5) ** 2) / 2).astype(np.float32)
_GAUSSIAN /= _GAUSSIAN.sum()
_STRIDE = 5  # coprime to the 8 pixels of a jpg block, so that every place in it counts equally

Pixels = NDArray[np.uint8]
Luma = NDArray[np.float32]


@attrs.frozen
class Encoded:
    """A file, and its picture's size in pixels."""

    data: bytes = attrs.field(repr=False)
    width: int
    height: int


@attrs.frozen
class _Notes:
    """What a file says beside its picture."""

    software: str
    mark: bytes | None


def warm_up() -> None:
    """Imports the codecs of our formats. The first ``save`` would import all of Pillow's, in 25 to 100 ms."""
    Image.preinit()
    import_module("PIL.WebPImagePlugin")  # Pillow itself imports it together with forty others


def has_avif() -> bool:
    """Whether the installed Pillow can write avif."""
    return bool(features.check("avif"))


def check_encodable(file_format: str) -> None:
    """Raises ``InvalidRequest`` for avif where the installed Pillow cannot write it."""
    if file_format == "avif" and not has_avif():
        allowed = "jpg, png, webp or auto here, whose Pillow was built without avif; its own wheels have it"
        raise InvalidRequest("format", file_format, allowed)


def encode(
    pixels: Pixels,
    file_format: str,
    *,
    compression: str | None = None,
    preset: str | None = None,
    lossy_quality: int | None = None,
    notes: str,
    mark: bytes | None = None,
) -> Encoded:
    """The file for uint8 pixels of shape (height, width, 3), or 4 with alpha.

    Without ``compression`` and ``preset``, png and webp are lossless and fast, jpg and avif are lossy.
    ``compression`` is ``none``, ``lossless``, ``lossy`` or ``auto`` (the smallest without visible loss).
    ``preset`` is ``web_optimized`` (the smallest at ``WEB_SSIM``), ``thumbnail`` (the same, within 256x256
    pixels) or ``print`` (the best quality, with 300 dpi). A preset overrides ``auto``; together with any
    other compression ``thumbnail`` only sets the size. docs/formats.md has the table.
    ``lossy_quality``, 0 to 100, is that of a jpg, an avif or a lossy webp, in place of the others.
    ``notes`` (ASCII) becomes the file's software tag and ``mark`` its XMP packet; it has no other metadata.
    Nearly all of the default runs without the GIL.

    Raises ``ValueError`` for pixels of another shape, an unknown format, compression or preset, alpha or
    lossless with jpg or avif, and a preset that contradicts the compression.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in {3, 4}:
        raise ValueError(
            f"pixels of shape {pixels.shape} and type {pixels.dtype}; allowed: uint8 of shape "
            "(height, width, 3 or 4)"
        )
    if file_format not in FORMATS:
        raise ValueError(f"unknown format {file_format!r}")
    if file_format == "jpg" and pixels.shape[2] == 4:
        raise ValueError("jpg has no alpha channel")
    weight = _weight(file_format, compression, preset)
    pixels = _fitted(pixels, preset)
    height, width, _ = pixels.shape
    said = _Notes(notes, mark)
    if lossy_quality is not None:
        # Pillow takes a jpg's 0 for its default.
        how: dict[str, Any] = {"quality": max(1, lossy_quality)} | (
            {"method": 4} if file_format == "webp" else {}
        )
        data = _save(Image.fromarray(pixels), file_format, said, **how)
    elif weight == "default":
        data = _default(pixels, file_format, said)
    elif weight == "auto":
        data = _lightest(pixels, file_format, AUTO_SSIM, said)
    elif weight == "web":
        data = _lightest(pixels, file_format, WEB_SSIM, said)
    elif (file_format, weight) == ("png", "lossy"):
        data = _save(_paletted(Image.fromarray(pixels), dither=True), "png", said)
    else:
        dpi = PRINT_DPI if weight == "print" else None
        data = _save(Image.fromarray(pixels), file_format, said, dpi=dpi, **_SAVED_AS[file_format, weight])
    if mark is not None and file_format != "avif":  # Pillow has written that of an avif
        data = marked(data, file_format, mark)
    return Encoded(data, width, height)


def lighter_avif(
    pixels: Pixels, webp: bytes, *, preset: str | None, notes: str, mark: bytes
) -> Encoded | None:
    """An avif that is smaller than this lossy webp and at least as similar to the pixels; None without one.

    ``preset`` is that of the webp; the others are as for ``encode``. It takes up to two attempts.
    """
    image = Image.fromarray(_fitted(pixels, preset))
    seen, said = _luma(image), _Notes(notes, mark)
    floor = _similarity(seen, _luma(Image.open(io.BytesIO(webp))))
    quality = _AVIF_FIRST
    for _ in range(2):
        data = _save(image, "avif", said, quality=quality, speed=_AVIF_AUTO_SPEED)
        if _similarity(seen, _luma(Image.open(io.BytesIO(data)))) < floor:
            quality += _AVIF_STEP
        elif len(data) < len(webp):
            return Encoded(data, image.width, image.height)
        else:
            quality -= _AVIF_STEP
    return None


def _fitted(pixels: Pixels, preset: str | None) -> Pixels:
    if preset != "thumbnail":
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _weight(file_format: str, compression: str | None, preset: str | None) -> str:
    if compression not in {None, "auto", "none", "lossy", "lossless"}:
        raise ValueError(f"unknown compression {compression!r}")
    if preset not in {None, "web_optimized", "thumbnail", "print"}:
        raise ValueError(f"unknown preset {preset!r}")
    if file_format in {"jpg", "avif"} and compression == "lossless":
        raise ValueError(f"{file_format} is never lossless")
    if compression in _CONTRADICTED_BY.get(preset, ()):
        raise ValueError(f"the preset {preset} contradicts compression {compression!r}")
    if preset == "print":
        return "print"
    if preset == "web_optimized" or (preset == "thumbnail" and compression in {None, "auto"}):
        return "web"
    return compression or "default"


def _default(pixels: Pixels, file_format: str, notes: _Notes) -> bytes:
    if file_format == "png":
        return _png(pixels, notes)
    if file_format in {"jpg", "avif"}:
        return _save(Image.fromarray(pixels), file_format, notes, **_SAVED_AS[file_format, "lossy"])
    # Lossless, as in the guide's table. Quality means effort here: 0 takes a fifth of the time of 80 for the
    # same size.
    return _save(Image.fromarray(pixels), "webp", notes, lossless=True, quality=0, method=0)


def _save(
    image: Image.Image, file_format: str, notes: _Notes, *, dpi: int | None = None, **how: Any
) -> bytes:
    if file_format == "png":
        how["pnginfo"] = PngInfo()
        how["pnginfo"].add_text("Software", notes.software)
    else:
        how["exif"] = Image.Exif()
        how["exif"][_EXIF_SOFTWARE] = notes.software
    if file_format == "avif":
        how = {"xmp": notes.mark or b"", "max_threads": 1, "speed": _AVIF_SPEED, **how}
    if dpi is not None and file_format in {"webp", "avif"}:  # they have no field of their own for it
        how["exif"].update({_EXIF_X_DPI: float(dpi), _EXIF_Y_DPI: float(dpi), _EXIF_UNIT: _INCH})
    elif dpi is not None:
        how["dpi"] = (dpi, dpi)
    out = io.BytesIO()
    image.save(out, _NAMES[file_format], **how)
    return out.getvalue()


def _lightest(pixels: Pixels, file_format: str, floor: float, notes: _Notes) -> bytes:
    """The smallest file that keeps a similarity of ``floor``; never larger than the default."""
    image = Image.fromarray(pixels)

    def jpg(step: float) -> bytes:
        tables = [
            np.clip(np.rint(table.ravel() * step), 1, 255).astype(int).tolist()
            for table in (_JPG_BRIGHTNESS, _JPG_COLOUR)
        ]
        return _save(
            image, "jpg", notes, qtables=tables, subsampling="4:2:0", progressive=True, optimize=True
        )

    def webp(quality: int) -> bytes:
        return _save(image, "webp", notes, quality=quality, method=2)

    def avif(quality: int) -> bytes:
        return _save(image, "avif", notes, quality=quality)

    lighter: bytes | None
    if file_format == "png":
        lighter = _lightest_png(image, floor, notes)
    elif file_format == "jpg":
        lighter = _first_that_keeps(floor, _luma(image), jpg, _JPG_STEPS)
    elif file_format == "avif":
        lighter = _first_that_keeps(floor, _luma(image), avif, _AVIF_QUALITIES)
    else:
        lighter = _first_that_keeps(floor, _luma(image), webp, _WEBP_QUALITIES)
    default = _default(pixels, file_format, notes)
    return default if lighter is None else min(lighter, default, key=len)


def _lightest_png(image: Image.Image, floor: float, notes: _Notes) -> bytes:
    paletted = _paletted(image, dither=False)
    shown = paletted.convert(image.mode)
    good = _similarity(_luma(image), _luma(shown)) >= floor
    if good and floor >= AUTO_SSIM:
        # Rules out bands in a smooth sky, which the structural similarity hardly notices.
        away = np.abs(np.asarray(image).astype(np.int16) - np.asarray(shown))
        good = bool((away > 3).mean() <= 0.001)
    if good:
        return _save(paletted, "png", notes)
    return _save(image, "png", notes, **_SAVED_AS["png", "lossless"])


def _first_that_keeps(
    floor: float, seen: Luma, encoded: Callable[[Any], bytes], levels: Sequence[Any]
) -> bytes | None:
    # Similarity grows along the levels, so bisection finds the first that is good enough.
    low, high, best = 0, len(levels), None
    while low < high:
        middle = (low + high) // 2
        data = encoded(levels[middle])
        image = Image.open(io.BytesIO(data))
        image.draft("L", image.size)  # decoding only a jpg's brightness takes a third of the time
        if _similarity(seen, _luma(image)) >= floor:
            high, best = middle, data
        else:
            low = middle + 1
    return best


def _paletted(image: Image.Image, *, dither: bool) -> Image.Image:
    """The picture in at most 256 colours; with alpha it is never dithered."""
    if (colours := image.getcolors(256)) is not None or image.mode == "RGBA":
        exact = Image.Quantize.FASTOCTREE if image.mode == "RGBA" else Image.Quantize.MEDIANCUT
        return image.quantize(max(2, len(colours or range(256))), method=exact, dither=Image.Dither.NONE)
    # Every fourth pixel gives as good a palette in a fifth of the time.
    sample = image.resize((-(-image.width // 4), -(-image.height // 4)), Image.Resampling.NEAREST)
    palette = sample.quantize(256, method=Image.Quantize.MEDIANCUT)
    return image.quantize(
        palette=palette, dither=Image.Dither.FLOYDSTEINBERG if dither else Image.Dither.NONE
    )


def _luma(image: Image.Image) -> Luma:
    """Brightness, on a mid-grey background."""
    grey = image.convert("L")
    if image.mode == "RGBA":
        grey = Image.composite(grey, Image.new("L", image.size, 128), image.getchannel("A"))
    return np.asarray(grey, np.float32)


def _similarity(one: Luma, other: Luma) -> float:
    """Mean structural similarity with Gaussian windows (Wang et al. 2004, 10.1109/TIP.2003.819861).

    Exact windows, at every fifth pixel in both directions. Pictures smaller than a window are equal or not.
    """
    if min(one.shape) < len(_GAUSSIAN):
        return float(np.array_equal(one, other))
    mean, mean_other = _windows(one), _windows(other)
    spread = _windows(one * one + other * other) - mean**2 - mean_other**2
    together = _windows(one * other) - mean * mean_other
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    same = (2 * mean * mean_other + c1) * (2 * together + c2)
    return float((same / ((mean**2 + mean_other**2 + c1) * (spread + c2))).mean(dtype=np.float64))


def _windows(luma: Luma) -> Luma:
    for _ in range(2):
        last = luma.shape[0] - len(_GAUSSIAN)
        total = _GAUSSIAN[0] * luma[: last + 1 : _STRIDE]
        for n, weight in enumerate(_GAUSSIAN[1:], start=1):
            total += weight * luma[n : last + n + 1 : _STRIDE]
        luma = total.T
    return luma


def thumbhash(pixels: Pixels) -> str:
    """A blurred preview of the picture in about 25 bytes, as base64, to show until the file has loaded.

    ThumbHash as published (Evan Wallace, https://evanw.github.io/thumbhash/).
    """
    shown = _reduced(pixels, 100) / 255
    height, width, channels = shown.shape
    has_alpha, wide = channels == 4 and bool(shown[:, :, 3].min() < 1), width > height
    if has_alpha:
        alpha = shown[:, :, 3:]
        average = (shown[:, :, :3] * alpha).sum((0, 1)) / max(alpha.sum(), 1e-9)
        shown[:, :, :3] = average * (1 - alpha) + shown[:, :, :3] * alpha
    longest = max(width, height)
    across, down = (max(1, _rounded((5 if has_alpha else 7) * side / longest)) for side in (width, height))
    red, green, blue, *solid_terms = _cosine_terms(shown, 5 if has_alpha else 7)
    light, light_details, light_scale = _scaled((red + green + blue) / 3, max(3, across), max(3, down))
    warm, warm_details, warm_scale = _scaled((red + green) / 2 - blue, 3, 3)
    tint, tint_details, tint_scale = _scaled(red - green, 3, 3)
    head = (
        _rounded(63 * light)
        | _rounded(31.5 + 31.5 * warm) << 6
        | _rounded(31.5 + 31.5 * tint) << 12
        | _rounded(31 * light_scale) << 18
        | has_alpha << 23
        | (down if wide else across) << 24
        | _rounded(63 * warm_scale) << 27
        | _rounded(63 * tint_scale) << 33
        | wide << 39
    )
    details = light_details + warm_details + tint_details
    data = head.to_bytes(5, "little")
    if has_alpha:
        solid, solid_details, solid_scale = _scaled(solid_terms[0], 5, 5)
        data += bytes([_rounded(15 * solid) | _rounded(15 * solid_scale) << 4])
        details += solid_details
    nibbles = [_rounded(15 * detail) for detail in details] + [0] * (len(details) % 2)
    data += bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    return base64.b64encode(data).decode("ascii")


def _cosine_terms(shown: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The lowest terms of each channel's cosine transform: (channels, count, count)."""
    height, width, channels = shown.shape
    rows = (_cosines(count, height) @ shown.reshape(height, -1)).reshape(count, width, channels)
    terms: NDArray[np.float64] = rows.transpose(2, 0, 1) @ _cosines(count, width).T / (width * height)
    return terms


@lru_cache(maxsize=256)
def _cosines(count: int, length: int) -> NDArray[np.float64]:
    return np.cos(np.pi / length * np.outer(np.arange(count), np.arange(length) + 0.5))


def _scaled(channel: NDArray[np.float64], across: int, down: int) -> tuple[float, list[float], float]:
    """The mean, the lowest terms scaled to 0..1, and their scale."""
    terms = channel.round(9).tolist()  # noise becomes 0, in whatever order BLAS adds
    wanted = [
        terms[row][column]
        for row in range(down)
        for column in range(across)
        if column * down < across * (down - row)
    ]
    mean, *details = wanted
    scale = max(map(abs, details))
    return mean, [0.5 + 0.5 * detail / scale if scale else 0.0 for detail in details], scale


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)  # as in JavaScript, the language of the published encoder


def dominant_colour(pixels: Pixels) -> str:
    """The colour that most of the picture is close to, as ``#rrggbb``; black if all is transparent."""
    height, width, channels = pixels.shape
    sample = pixels[:: -(-height // 32), :: -(-width // 32)].reshape(-1, channels)
    if channels == 4:
        sample = sample[sample[:, 3] >= 128, :3]
    if not len(sample):
        return "#000000"
    cells = (sample >> 4) @ (256, 16, 1)
    counts = np.bincount(cells)
    usual = np.flatnonzero(counts)
    usual = usual[counts[usual].argsort()[-32:]]
    counts = counts[usual]
    colours = (np.array([np.bincount(cells, weights=channel)[usual] for channel in sample.T]) / counts).T
    # The many similar colours of a sky count as one: each adds its share to those close to it.
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    red, green, blue = colours[(np.exp(-((distance / 48) ** 2)) @ counts).argmax()].astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _reduced(pixels: Pixels, longest: int) -> Pixels:
    factor = -(-max(pixels.shape[:2]) // longest)
    return np.asarray(Image.fromarray(pixels).reduce(factor))


def _png(pixels: Pixels, notes: _Notes) -> bytes:
    # Pillow's own deflate takes eight times as long for the same size and blocks the other threads.
    height, width, channels = pixels.shape
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = _SUB
    flat = pixels.reshape(height, width * channels)
    rows[:, 1 : 1 + channels] = flat[:, :channels]
    np.subtract(flat[:, channels:], flat[:, :-channels], out=rows[:, 1 + channels :])
    colour_type = 2 if channels == 3 else 6
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"tEXt", b"Software\x00" + notes.software.encode("ascii")),
            _chunk(b"IDAT", isal_zlib.compress(rows, level=1)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

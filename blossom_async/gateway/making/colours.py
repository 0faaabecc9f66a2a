"""Converts the colours of a picture file to sRGB, which every viewer assumes."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

__all__ = ["LONGEST_PROFILE", "LONGEST_USUAL_PROFILE", "in_srgb", "png_profile"]

LONGEST_PROFILE = 16 * 2**20
"""Bytes; that of a jpg cannot be longer."""
LONGEST_USUAL_PROFILE = 2**20
"""Bytes; Pillow refuses a png with a longer one."""

_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}  # ICC.1:2022, 7.2.8, and Pillow's name for it
_GAMMA = 0.45455  # of sRGB, as a png states it
_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_TOLD = ("gamma", "chromaticity")  # Pillow's names for what a png says of its colours
_LEAST_GAMMA = 0.05


def png_profile(chunk: bytes) -> bytes:
    """The colour profile in an ``iCCP`` chunk of a png: empty if it is damaged, cut off above the longest."""
    _, _, packed = chunk.partition(b"\0")  # PNG, third edition, 11.3.2.3
    if packed[:1] != b"\0":
        return b""
    try:
        return zlib.decompressobj().decompress(packed[1:], LONGEST_PROFILE + 1)
    except zlib.error:
        return b""


def in_srgb(image: Image.Image, info: Mapping[Any, Any]) -> Image.Image:
    """The picture in sRGB.

    ``info`` is what Pillow read from the file: a colour profile, or a png's gamma and primaries. Invalid
    values are ignored.
    """
    profile = info.get("icc_profile") or b""
    if not profile and ("srgb" in info or info.keys().isdisjoint(_TOLD)):
        return image
    if not profile:
        return _by_gamma(image, info.get("gamma", _GAMMA), info.get("chromaticity", _PRIMARIES))
    space = _SPACES.get(profile[16:20])
    if space is None or (image.mode == "CMYK") != (space == "CMYK"):
        return image
    if space == "L" and image.mode not in {"1", "L", "LA"}:
        return image
    transform = _to_srgb(profile, space)
    if transform is None:
        return image
    return _with_alpha_of(image, transform.apply(image.convert(space)))


def _with_alpha_of(image: Image.Image, shown: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        shown.putalpha(image.convert("RGBA").getchannel("A"))
    return shown


@lru_cache(maxsize=8)
def _to_srgb(profile: bytes, space: str) -> ImageCms.ImageCmsTransform | None:
    """None for a profile that cannot be used, or that means sRGB itself."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), space, "RGB")
    except (OSError, ImageCms.PyCMSError):
        return None
    if space == "RGB":
        levels = np.arange(0, 256, 51, dtype=np.uint8)
        patches = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(36, 6, 3)
        shown = np.asarray(transform.apply(Image.fromarray(patches)), np.int16)
        if np.abs(shown - patches).max() <= 1:
            return None
    return transform


def _by_gamma(image: Image.Image, gamma: float, primaries: tuple[float, ...]) -> Image.Image:
    # PNG, third edition, 11.3.2.1 and 11.3.2.2
    matrix = None if np.allclose(primaries, _PRIMARIES, atol=0.005) else _light_to_srgb(primaries)
    if not _LEAST_GAMMA < gamma < 1 / _LEAST_GAMMA or (matrix is None and abs(gamma - _GAMMA) < 0.01):
        return image
    light = (np.arange(256, dtype=np.float32) / 255) ** (1 / gamma)
    pixels = light[np.asarray(image.convert("RGB"))]
    if matrix is not None:
        pixels = (pixels @ matrix.T).clip(0, 1)
    shown = (pixels**_GAMMA * 255).round().astype(np.uint8)
    return _with_alpha_of(image, Image.fromarray(shown))


def _light_to_srgb(primaries: tuple[float, ...]) -> NDArray[np.float32] | None:
    """Takes linear light of these primaries to that of sRGB, white to white; None for impossible ones."""
    try:
        matrix = np.linalg.inv(_light_to_xyz(_PRIMARIES)) @ _light_to_xyz(primaries)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    found = (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)
    return found if np.isfinite(found).all() else None


def _light_to_xyz(primaries: tuple[float, ...]) -> NDArray[np.float64]:
    # SMPTE RP 177, 3.3; the points are those of white, red, green and blue
    points = [(x / y, 1.0, (1 - x - y) / y) for x, y in zip(primaries[::2], primaries[1::2], strict=True)]
    white, colours = np.array(points[0]), np.array(points[1:]).T
    return colours * np.linalg.solve(colours, white)

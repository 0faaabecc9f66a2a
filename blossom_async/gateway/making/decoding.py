"""From a picture file to its pixels, as a viewer would show them. CPU-bound: run it in a thread."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator

import numpy as np
from isal import igzip_lib, isal_zlib
from PIL import Image

from blossom_async.gateway.making.colours import LONGEST_PROFILE, in_srgb, png_profile
from blossom_async.gateway.providers.containers import png_chunks

__all__ = ["PREVIEW_PX", "Undecodable", "check_jpg", "check_png", "decoded"]

PREVIEW_PX = 128
"""Of the shorter side; enough for a ThumbHash and the dominant colour."""

_MAX_PIXELS = 100_000_000  # six times the largest size that can be asked for
_DECODERS = {
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "avif": "AVIF",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Turns by Exif's number. Pillow's own function raises for broken Exif."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a png, by its colour type
_FILTERS = 5
_PROFILE = b"iCCP"
_PACKED = {_PROFILE, b"tEXt", b"zTXt", b"iTXt"}
_RAISED = (OSError, ValueError, SyntaxError, RuntimeError, struct.error, Image.DecompressionBombError)
_WHITES = (1.0, 255.0, 65_535.0)  # the possible values of white in pictures with more than 8 bits per channel


class Undecodable(Exception):
    """The bytes cannot be decoded as a picture; the message says why."""


def check_png(data: bytes) -> None:
    """Raises ``Undecodable`` where ``decoded`` would, for a png that ``look`` finds complete.

    It only inflates the pixels, which takes a fifth of the time of decoding them.
    """
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if interlaced or colour not in _CHANNELS:
        decoded(data, "png", orientation=1, transparency=False)
        return
    line = 1 + (width * depth * _CHANNELS[colour] + 7) // 8
    view = memoryview(data)
    coded = b"".join(
        view[start + 8 : end - 4] for kind, start, end in png_chunks(data, seen=True) if kind == b"IDAT"
    )
    try:
        lines = isal_zlib.decompressobj().decompress(coded, height * line)
    except igzip_lib.IsalError as exc:  # type: ignore[misc]  # its stub makes it an instance
        raise Undecodable(type(exc).__name__) from exc
    if len(lines) < height * line or max(lines[::line]) >= _FILTERS:
        raise Undecodable("its pixels are damaged")


def check_jpg(data: bytes) -> None:
    """Raises ``Undecodable`` where ``decoded`` would, for a jpg that ``look`` finds complete.

    All that is coded is read, but only the mean brightness of each block is computed.
    """
    with _opened(data, "jpg") as picture:
        picture.draft("L", (PREVIEW_PX, PREVIEW_PX))
        picture.load()


def decoded(
    data: bytes, file_format: str, *, orientation: int, transparency: bool, at_least: int | None = None
) -> Image.Image:
    """The picture, upright, with 8 bits per channel: RGB, or RGBA with ``transparency``.

    Of an animation it is the first frame.

    With ``at_least`` a jpg is decoded at a fraction of its size, with no side of fewer pixels. Raises
    ``Undecodable``.
    """
    with _opened(data, file_format) as picture:
        if at_least is not None:
            picture.draft(None, (at_least, at_least))
        picture.load()
        turn = _TURNS.get(orientation)
        upright = picture if turn is None else picture.transpose(turn)
    image = in_srgb(_in_8_bits(upright), upright.info)
    if transparency or not image.has_transparency_data:
        return image.convert("RGBA" if transparency else "RGB")
    # As on a white page: a transparent pixel may have any colour, mostly black.
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def _unpacked(data: bytes) -> tuple[bytes, bytes]:
    """The png without texts and colour profile, and this.

    Pillow refuses a file for one of more than 1 MiB, such as a workflow.
    """
    parts = list(png_chunks(data, seen=True))
    if _PACKED.isdisjoint(kind for kind, _, _ in parts):
        return data, b""
    plain = data[:8] + b"".join(data[start:end] for kind, start, end in parts if kind not in _PACKED)
    chunk = next((data[start + 8 : end - 4] for kind, start, end in parts if kind == _PROFILE), b"")
    profile = png_profile(chunk)
    if len(profile) > LONGEST_PROFILE:
        raise Undecodable(f"a colour profile of more than {LONGEST_PROFILE:,} bytes")
    return plain, profile


@contextlib.contextmanager
def _opened(data: bytes, file_format: str) -> Iterator[Image.Image]:
    """The file while the block decodes it. Raises ``Undecodable`` for what Pillow raises."""
    try:
        plain, profile = _unpacked(data) if file_format == "png" else (data, b"")
        with Image.open(io.BytesIO(plain), formats=(_DECODERS[file_format],)) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise Undecodable(f"{picture.width}x{picture.height} pixels; allowed: {_MAX_PIXELS:,} in all")
            if profile:
                picture.info["icc_profile"] = profile
            yield picture
    except _RAISED as exc:
        raise Undecodable(type(exc).__name__) from exc


def _in_8_bits(image: Image.Image) -> Image.Image:
    """The picture scaled to 8 bits: Pillow would cut values off at 255."""
    if image.mode not in {"I", "F"} and not image.mode.startswith("I;16"):
        return image
    values = np.nan_to_num(np.asarray(image, np.float32))
    # Files of 32 bits use all of them or only the lowest; floating point runs from 0 to 1 or like integers.
    used = float(values.max(initial=0))
    whites = {"I": _WHITES[1:], "F": _WHITES}.get(image.mode, _WHITES[-1:])
    white = next((white for white in whites if used <= white), used)
    grey = Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(np.uint8))
    if (clear := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey

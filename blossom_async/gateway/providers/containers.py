"""What the headers of a picture file say, and whether the file is complete; nothing is decoded."""

from __future__ import annotations

import re
import struct
import zlib

import attrs

__all__ = ["MOST_PIXELS", "Seen", "Unusable", "format_of", "look"]

MOST_PIXELS = 2**26
"""Four times the largest size that can be asked for; more would be an attack on the decoder."""

_PNG = b"\x89PNG\r\n\x1a\n"
# The marker after the coded pixels of a jpg, in which FF is followed by 00 or a restart marker.
_AFTER_SCAN = re.compile(rb"\xff[\xc0-\xcf\xd9-\xdf\xe0-\xef\xfe]")
_MOST_PARTS = 20_000  # chunks or segments; a png of 64 MiB by libpng has 8,192


@attrs.frozen
class Seen:
    """What a file's headers say. ``format`` is ``jpg``, ``png`` or ``webp``."""

    format: str
    width: int
    height: int
    alpha: bool


class Unusable(Exception):
    """Bytes that are no complete picture; the message says what they are."""


def format_of(data: bytes) -> str | None:
    """The format that the first bytes announce, None for anything but a picture."""
    if data.startswith(_PNG):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def look(data: bytes) -> Seen:
    """What the file is. Raises ``Unusable`` for anything but a complete picture.

    Bytes after its end are passed over, as every viewer does.
    """
    try:
        match format_of(data):
            case "png":
                seen = _look_at_png(data)
            case "jpg":
                seen = _look_at_jpg(data)
            case "webp":
                seen = _look_at_webp(data)
            case _:
                raise Unusable(_what_it_is(data))
    except (struct.error, IndexError):
        raise Unusable("a picture that is cut off") from None
    if not 0 < seen.width * seen.height <= MOST_PIXELS:
        raise Unusable(f"a {seen.format} of {seen.width}x{seen.height}")
    return seen


def _look_at_png(data: bytes) -> Seen:
    # PNG, third edition, 5.3 and 11.2.2
    width, height, _, colour_type = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR":
        raise Unusable("a png without a header")
    alpha = colour_type in {4, 6}
    at, pixels = 8, False
    for _ in range(_MOST_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[at + 4 : end]) != checksum:
            raise Unusable("a png that is damaged")
        alpha |= kind == b"tRNS"
        pixels |= kind == b"IDAT"
        at = end + 4
        if kind == b"IEND":
            break
    else:
        raise Unusable("a png of too many chunks")
    if not pixels:
        raise Unusable("a png without pixels")
    return Seen("png", width, height, alpha)


def _look_at_jpg(data: bytes) -> Seen:
    # ITU-T T.81, B.1.1 and B.2.2
    width = height = 0
    at, scans = 2, 0
    for _ in range(_MOST_PARTS):
        fill, marker = data[at], data[at + 1]
        if fill != 0xFF or marker == 0xD8 or (marker == 0xD9 and not scans):
            raise Unusable("a jpg that is damaged")
        if marker == 0xD9:
            return Seen("jpg", width, height, alpha=False)
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", data, at + 5)
        at += 2 + length
        if marker == 0xDA:
            scans += 1
            after = _AFTER_SCAN.search(data, at)
            if after is None:
                raise Unusable("a jpg that is cut off")
            at = after.start()
    raise Unusable("a jpg of too many segments")


def _look_at_webp(data: bytes) -> Seen:
    # RFC 9649, 2.3 to 2.7 and 3.4; RFC 6386, 9.1
    (size,) = struct.unpack_from("<I", data, 4)
    if size > len(data) - 8:
        raise Unusable("a webp that is cut off")
    _walk_webp(data, size + 8)
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        return Seen("webp", width, height, alpha=bool(data[20] & 0x10))
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Seen("webp", width & 0x3FFF, height & 0x3FFF, alpha=False)
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return Seen("webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), alpha=bool(bits >> 28 & 1))
    raise Unusable("a webp that is damaged")


def _walk_webp(data: bytes, end: int) -> None:
    at, pixels = 12, False
    for _ in range(_MOST_PARTS):
        if at >= end:
            break
        kind, length = struct.unpack_from("<4sI", data, at)
        pixels |= kind in {b"VP8 ", b"VP8L", b"ANMF"}
        at += 8 + length + length % 2
    if not end <= at <= end + 1 or not pixels:  # some encoders forget the last padding byte
        raise Unusable("a webp that is damaged")


def _what_it_is(data: bytes) -> str:
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data:
        return "nothing"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a page of HTML"
    if b"<svg" in start:
        return "an SVG"
    if start.startswith((b"{", b"[")):
        return "JSON"
    if start.startswith((b"gif8", b"bm")) or data[4:12] in {b"ftypavif", b"ftypheic", b"ftypmif1"}:
        return "a picture that is no jpg, png or webp"
    if data[4:8] == b"ftyp" or data.startswith(b"\x1aE\xdf\xa3"):
        return "a video"
    return f"{len(data):,} bytes of an unknown kind"

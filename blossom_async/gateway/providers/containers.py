"""What the headers of a picture file say, and whether the file is complete; nothing is decoded."""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator

import attrs

__all__ = [
    "MOST_PIXELS",
    "Seen",
    "Unusable",
    "avif_boxes",
    "format_of",
    "jpg_segments",
    "look",
    "png_chunks",
    "webp_chunks",
]

MOST_PIXELS = 2**26
"""Four times the largest size that can be asked for; more would be an attack on the decoder."""

_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_BLOCKS = 2**18  # of at most 255 bytes: a gif of 64 MiB
_OS2_HEADER = 12
_BMP_HEADERS = {_OS2_HEADER, 40, 52, 56, 64, 108, 124}  # their sizes
_BMP_WITH_ALPHA = 56
_BMP_PLAIN, _BMP_FIELDS = 0, 3
_ORIENTATION = 274
_SIDEWAYS = {5, 6, 7, 8}
# Quarter turns to the left, then the axis to mirror along -> Exif's number (ISO/IEC 23008-12, 6.5.10 and 12).
_AVIF_TURNS = {
    (0, 1): 2, (2, None): 3, (0, 0): 4, (1, 0): 5, (3, None): 6, (3, 0): 7, (1, None): 8,
    (2, 0): 2, (2, 1): 4, (3, 1): 5, (1, 1): 7,
}  # fmt: skip
_TIFF_TAGS = {256, 257, 273, _ORIENTATION, 279, 324, 325, 338}
_EXIF = b"Exif\0\0"
_START, _END, _SCAN, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_MOST_TAGS = 1000
_HEIF = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}
# The marker after the coded pixels of a jpg, in which FF is followed by 00 or a restart marker.
_AFTER_SCAN = re.compile(rb"\xff[\xc0-\xcf\xd9-\xdf\xe0-\xef\xfe]")
_MOST_PARTS = 20_000  # chunks or segments; a png of 64 MiB by libpng has 8,192


@attrs.frozen
class Seen:
    """What a file's headers say.

    ``format`` is ``jpg``, ``png``, ``webp``, ``avif``, ``gif``, ``bmp`` or ``tiff``. ``width`` and ``height``
    are those of the picture as it is shown, once it is turned by its ``orientation``, 1 to 8 as Exif has it.
    """

    format: str
    width: int
    height: int
    alpha: bool
    orientation: int = 1


class Unusable(Exception):
    """The bytes are not a complete picture; the message says what they are."""


def format_of(data: bytes) -> str | None:
    """The format that the first bytes announce, None for anything but a picture."""
    if data.startswith(_PNG):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp" and b"avi" in {data[at : at + 3] for at in range(8, _brands_end(data), 4)}:
        return "avif"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    return "tiff" if data.startswith((b"II*\0", b"MM\0*")) else None


def look(data: bytes) -> Seen:
    """What the file is. Raises ``Unusable`` for anything but a complete picture.

    Bytes after its end are ignored, as in every viewer.
    """
    try:
        match format_of(data):
            case "png":
                seen = _look_at_png(data)
            case "jpg":
                seen = _look_at_jpg(data)
            case "webp":
                seen = _look_at_webp(data)
            case "avif":
                seen = _look_at_avif(data)
            case "gif":
                seen = _look_at_gif(data)
            case "bmp":
                seen = _look_at_bmp(data)
            case "tiff":
                seen = _look_at_tiff(data)
            case _:
                raise Unusable(_what_it_is(data))
    except (struct.error, IndexError, KeyError):
        raise Unusable("a picture that is cut off") from None
    if not 0 < seen.width * seen.height <= MOST_PIXELS:
        raise Unusable(f"a {seen.format} of {seen.width}x{seen.height}")
    return seen


def png_chunks(data: bytes, *, seen: bool = False) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk to the last, and where it begins and ends. Raises ``Unusable``.

    Of a file that was ``seen`` by ``look`` the checksums are not computed again.
    """
    # PNG, third edition, 5.3
    at = 8
    for _ in range(_MOST_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if not seen and zlib.crc32(memoryview(data)[at + 4 : end]) != checksum:
            raise Unusable("a png that is damaged")
        yield kind, at, end + 4
        if kind == b"IEND":
            return
        at = end + 4
    raise Unusable("a png of too many chunks")


def _look_at_png(data: bytes) -> Seen:
    # PNG, third edition, 11.2.1 and 11.3.4
    width, height, _, colour_type = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR":
        raise Unusable("a png without a header")
    chunks = {kind: (start + 8, end - 4) for kind, start, end in png_chunks(data)}
    if b"IDAT" not in chunks:
        raise Unusable("a png without pixels")
    alpha = colour_type in {4, 6} or b"tRNS" in chunks
    exif = data[slice(*chunks.get(b"eXIf", (0, 0)))]
    return _turned(Seen("png", width, height, alpha), _orientation(exif))


def jpg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker of each segment to the last, and where it begins and ends. Raises ``Unusable``.

    A scan's segment ends with its coded pixels.
    """
    # ITU-T T.81, B.1.1
    at = 2
    for _ in range(_MOST_PARTS):
        fill, marker = data[at], data[at + 1]
        if fill != 0xFF or marker == _START:
            raise Unusable("a jpg that is damaged")
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == _END:
            yield marker, at, at + 2
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if marker == _SCAN:
            after = _AFTER_SCAN.search(data, end)
            if after is None:
                raise Unusable("a jpg that is cut off")
            end = after.start()
        yield marker, at, end
        at = end
    raise Unusable("a jpg of too many segments")


def _look_at_jpg(data: bytes) -> Seen:
    # ITU-T T.81, B.2.2; Exif 2.32, 4.7.2
    width = height = scans = 0
    orientation = 1
    for marker, start, end in jpg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", data, start + 5)
        elif marker == _APP1 and data.startswith(_EXIF, start + 4):
            orientation = _orientation(data[start + 4 : end])
        scans += marker == _SCAN
    if not scans:
        raise Unusable("a jpg that is damaged")
    return _turned(Seen("jpg", width, height, alpha=False), orientation)


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk, and where it begins and ends. Raises ``Unusable``."""
    # RFC 9649, 2.3 and 2.4
    (size,) = struct.unpack_from("<I", data, 4)
    end = size + 8
    if end > len(data):
        raise Unusable("a webp that is cut off")
    at = 12
    for _ in range(_MOST_PARTS):
        if at >= end:
            break
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, at, at + 8 + length
        at += 8 + length + length % 2
    if not end <= at <= end + 1:  # some encoders forget the last padding byte
        raise Unusable("a webp that is damaged")


def _look_at_webp(data: bytes) -> Seen:
    # RFC 9649, 2.5 to 2.7 and 3.4; RFC 6386, 9.1
    chunks = {kind: (start + 8, end) for kind, start, end in webp_chunks(data)}
    if chunks.keys().isdisjoint({b"VP8 ", b"VP8L", b"ANMF"}):
        raise Unusable("a webp that is damaged")
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        seen = Seen("webp", width, height, alpha=bool(data[20] & 0x10))
        return _turned(seen, _orientation(data[slice(*chunks.get(b"EXIF", (0, 0)))]))
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Seen("webp", width & 0x3FFF, height & 0x3FFF, alpha=False)
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return Seen("webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), alpha=bool(bits >> 28 & 1))
    raise Unusable("a webp that is damaged")


def _turned(seen: Seen, orientation: int) -> Seen:
    if orientation in _SIDEWAYS:
        return attrs.evolve(seen, width=seen.height, height=seen.width, orientation=orientation)
    return attrs.evolve(seen, orientation=orientation)


def _orientation(exif: bytes) -> int:
    """How the picture must be turned; 1 (not at all) if the Exif does not say, or is broken."""
    try:
        (found,) = _tiff_fields(exif.removeprefix(_EXIF)).get(_ORIENTATION, (1,))
    except (struct.error, IndexError, KeyError, ValueError):
        return 1
    return found if found in range(1, 9) else 1


def _tiff_fields(data: bytes) -> dict[int, tuple[int, ...]]:
    """The numbers in the first directory of a TIFF file (TIFF 6.0, section 2), of the tags used here."""
    order = {ord("I"): "<", ord("M"): ">"}[data[0]]
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    found = {}
    for entry in range(at + 2, at + 2 + 12 * min(count, _MOST_TAGS), 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
        if tag in _TIFF_TAGS and kind in {3, 4} and number <= _MOST_PARTS:  # 16 or 32 bits
            letter, size = ("H", 2) if kind == 3 else ("I", 4)
            where = entry + 8
            if number * size > 4:
                (where,) = struct.unpack_from(f"{order}I", data, where)
            found[tag] = struct.unpack_from(f"{order}{number}{letter}", data, where)
    return found


def _brands_end(data: bytes) -> int:
    return min(int.from_bytes(data[:4], "big"), len(data), 256)


def _look_at_avif(data: bytes) -> Seen:
    # ISO/IEC 14496-12, 4.2 and 8.11; ISO/IEC 23008-12, 6.5.3
    found = {}
    for kind, place in avif_boxes(data, 0, len(data)):
        found[kind] = place
        if found.keys() >= {b"meta", b"mdat"}:
            break
    else:
        raise Unusable("an avif that is damaged")
    start, end = found[b"meta"]
    properties = _inside(data, _inside(data, (start + 4, end), b"iprp"), b"ipco")
    boxes = [(kind, at) for kind, (at, _) in avif_boxes(data, *properties)]
    sizes = [struct.unpack_from(">II", data, at + 4) for kind, at in boxes if kind == b"ispe"]
    width, height = max(sizes, key=math.prod, default=(0, 0))  # the others are those of tiles
    turns = {kind: data[at] for kind, at in boxes if kind in {b"irot", b"imir"}}
    seen = Seen("avif", width, height, alpha=b"auxiliary:alpha" in data[slice(*properties)])
    return _turned(seen, _AVIF_TURNS.get((turns.get(b"irot", 0) & 3, turns.get(b"imir")), 1))


def _inside(data: bytes, within: tuple[int, int], wanted: bytes) -> tuple[int, int]:
    found = dict(avif_boxes(data, *within)).get(wanted)
    if found is None:
        raise Unusable("an avif that is damaged")
    return found


def avif_boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """The kind of each box, and where its content begins and ends. Raises ``Unusable``."""
    for _ in range(_MOST_PARTS):
        if at >= end:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        size = size or end - at
        if not head <= size:
            raise Unusable("an avif that is damaged")
        if at + size > end:
            raise Unusable("an avif that is cut off")
        yield kind, (at + head, at + size)
        at += size
    raise Unusable("an avif of too many boxes")


def _look_at_gif(data: bytes) -> Seen:
    # GIF89a, 17 to 27. Whole to the end of its first picture, the only one that is used.
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, alpha = 13 + _palette_bytes(flags), False
    for _ in range(_MOST_PARTS):
        kind = data[at]
        if kind == 0x2C:
            left, top, across, down, flags = struct.unpack_from("<HHHHB", data, at + 1)
            _after_blocks(data, at + 11 + _palette_bytes(flags))
            alpha |= (left, top, across, down) != (0, 0, width, height)
            return Seen("gif", width, height, alpha)
        if kind != 0x21:
            break
        alpha |= data[at + 1] == 0xF9 and bool(data[at + 3] & 1)
        at = _after_blocks(data, at + 2)
    raise Unusable("a gif that is damaged")


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    for _ in range(_MOST_BLOCKS):
        length = data[at]
        at += 1 + length
        if not length:
            return at
    raise Unusable("a gif of too many blocks")


def _look_at_bmp(data: bytes) -> Seen:
    # Microsoft, "Bitmap Storage" and BITMAPV5HEADER
    size, begin, header = struct.unpack_from("<I4xII", data, 2)
    if header == _OS2_HEADER:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
        packing = _BMP_PLAIN
    else:
        width, height, _, depth, packing = struct.unpack_from("<iiHHI", data, 18)
    if packing in {_BMP_PLAIN, _BMP_FIELDS}:
        size = begin + (width * depth + 31) // 32 * 4 * abs(height)
    if size > len(data):
        raise Unusable("a bmp that is cut off")
    alpha = header >= _BMP_WITH_ALPHA and packing == _BMP_FIELDS and any(data[66:70])
    return Seen("bmp", width, abs(height), alpha)


def _look_at_tiff(data: bytes) -> Seen:
    # TIFF 6.0, section 8; of several pictures the first. Pillow turns it by itself.
    found = _tiff_fields(data)
    offsets, lengths = (found.get(tag) or found.get(tile, ()) for tag, tile in ((273, 324), (279, 325)))
    if not offsets or len(offsets) != len(lengths):
        raise Unusable("a tiff that is damaged")
    if any(map(len(data).__lt__, map(sum, zip(offsets, lengths, strict=True)))):
        raise Unusable("a tiff that is cut off")
    alpha = not {1, 2}.isdisjoint(found.get(338, ()))
    return attrs.evolve(
        _turned(Seen("tiff", found[256][0], found[257][0], alpha), _orientation(data)), orientation=1
    )


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
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF:
        return "a HEIC picture"
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ")):
        return "a JPEG XL or JPEG 2000 picture"
    if data[4:8] == b"ftyp" or data.startswith(b"\x1aE\xdf\xa3"):
        return "a video"
    return f"{len(data):,} bytes of an unknown kind"

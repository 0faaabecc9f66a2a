"""The metadata of a picture file: removes it and adds the origin, without touching the pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from enum import Enum, auto
from xml.sax.saxutils import quoteattr

from blossom_async.gateway.making.avif import MANIFEST, Avif, avif_parts
from blossom_async.gateway.making.colours import LONGEST_USUAL_PROFILE, png_profile
from blossom_async.gateway.providers.containers import Unusable, jpg_segments, png_chunks, webp_chunks

__all__ = [
    "ALGORITHMIC",
    "SOURCES",
    "TRAINED",
    "has_manifest",
    "is_plain",
    "is_vouched_for",
    "kept",
    "marked",
    "source_mark",
]

ALGORITHMIC = "algorithmicMedia"
TRAINED = "trainedAlgorithmicMedia"
"""Where a picture comes from (IPTC NewsCodes, Digital Source Type): a program, and a trained model."""
SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"

_PNG_KEPT = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"pHYs"}
)
_WEBP_KEPT = frozenset({b"VP8X", b"ICCP", b"ALPH", b"VP8 ", b"VP8L"})
_XMP_CHUNK = b"iTXtXML:com.adobe.xmp\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_APP0, _APP1, _APP2, _APP11, _APP13, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xEB, 0xED, 0xEE, 0xEF
_COMMENT = 0xFE
_SHOWN = {_APP0: b"JFIF\0", _APP2: b"ICC_PROFILE\0", _APP14: b"Adobe"}  # what tells how a jpg is shown
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_HAS_ALPHA, _HAS_XMP, _HAS_EXIF = 0x10, 0x04, 0x08


def source_mark(source: str, notes: str) -> bytes:
    """An XMP packet that says where a picture comes from (ISO 16684-1; IPTC Photo Metadata 2025.1, 14.21)."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{SOURCES}{source}" '
        f'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool={quoteattr(notes)}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def is_plain(data: bytes, file_format: str) -> bool:
    """Whether every viewer shows the file alike: one picture, 8 bits, in sRGB or with a usual colour profile.

    The file is one that ``look`` finds complete. Raises ``Unusable`` for an avif of an unusual structure.
    """
    if file_format == "png":
        parts = {kind: (start + 8, end - 4) for kind, start, end in png_chunks(data, seen=True)}
        kinds = parts.keys()
        if len(png_profile(data[slice(*parts.get(b"iCCP", (0, 0)))])) > LONGEST_USUAL_PROFILE:
            return False
        told = not kinds.isdisjoint({b"iCCP", b"sRGB"}) or kinds.isdisjoint({b"gAMA", b"cHRM"})
        return told and data[24] <= 8 and kinds.isdisjoint({b"acTL", b"cICP"})
    if file_format == "webp":
        return all(kind != b"ANIM" for kind, _, _ in webp_chunks(data))
    if file_format == "avif":
        return Avif.of(data).is_plain()
    start = next(start for marker, start, _ in jpg_segments(data) if marker in _FRAMES)
    return data[start + 4] == 8 and data[start + 9] in {1, 3}


def has_manifest(data: bytes, file_format: str) -> bool:
    """Whether a jpg, png, webp or avif has its maker's manifest (C2PA)."""
    parts = _PARTS.get(file_format)
    return parts is not None and any(what is _Is.MANIFEST for what, _, _ in parts(data))


def is_vouched_for(data: bytes, file_format: str) -> bool:
    """Whether the file has its maker's manifest (C2PA) and no comments or texts, which must be removed.

    Any change to the file would break the manifest.
    """
    if _MANIFEST_LABELS[file_format] not in data:
        return False
    parts = list(_PARTS[file_format](data))
    found = {what for what, _, _ in parts}
    whole = sum(end - start for _, start, end in parts) == len(data)
    return whole and _Is.MANIFEST in found and _Is.TEXT not in found


def kept(data: bytes, file_format: str, packet: bytes) -> bytes:
    """The file with its pixels untouched, without any other metadata, and with this XMP packet.

    Metadata that changes how pixels are shown, such as a colour profile, is kept.
    """
    if file_format == "avif":
        return Avif.of(data).marked(packet)
    parts = _PARTS[file_format](data)
    body = b"".join(data[start:end] for what, start, end in parts if what is _Is.PICTURE)
    if body[12:16] == b"VP8X":
        body = body[:20] + bytes([body[20] & ~(_HAS_XMP | _HAS_EXIF)]) + body[21:]
    return marked(body, file_format, packet)


def marked(data: bytes, file_format: str, packet: bytes) -> bytes:
    """The file with this XMP packet, which must have none yet."""
    if file_format == "png":
        body = b"XML:com.adobe.xmp\0\0\0\0\0" + packet
        chunk = struct.pack(">I", len(body)) + b"iTXt" + body
        return data[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[33:]
    if file_format == "jpg":
        marker, _, end = next(jpg_segments(data))
        at = end if marker == _APP0 else 2
        head = struct.pack(">BBH", 0xFF, _APP1, len(_XMP) + len(packet) + 2)
        return data[:at] + head + _XMP + packet + data[at:]
    return _marked_webp(data, packet)


class _Is(Enum):
    PICTURE = auto()
    """The coded pixels, and what tells how they are shown."""
    MANIFEST = auto()
    DESCRIPTION = auto()
    """XMP, Exif and IPTC, which makers of manifests write, too."""
    TEXT = auto()
    """Comments and texts, in which front ends write the prompt."""


_Parts = Iterator[tuple[_Is, int, int]]


def _png(data: bytes) -> _Parts:
    # C2PA 2.2, A.3.1
    yield _Is.PICTURE, 0, 8
    for kind, start, end in png_chunks(data, seen=True):
        described = kind == b"eXIf" or data.startswith(_XMP_CHUNK, start + 4)
        other = {b"caBX": _Is.MANIFEST}.get(kind, _Is.DESCRIPTION if described else _Is.TEXT)
        yield _Is.PICTURE if kind in _PNG_KEPT else other, start, end


def _jpg(data: bytes) -> _Parts:
    # C2PA 2.2, A.3.2: in segments APP11 of JPEG XT (ISO/IEC 19566-5, D.2)
    yield _Is.PICTURE, 0, 2
    for marker, start, end in jpg_segments(data):
        body = data[start + 4 : start + 40]
        if marker in _SHOWN and body.startswith(_SHOWN[marker]):
            what = _Is.PICTURE
        elif marker == _APP11 and body.startswith(b"JP") and b"jumb" in body:
            what = _Is.MANIFEST
        elif marker in {_APP1, _APP13}:
            what = _Is.DESCRIPTION
        else:
            what = _Is.TEXT if _APP0 <= marker <= _APP15 or marker == _COMMENT else _Is.PICTURE
        yield what, start, end


def _webp(data: bytes) -> _Parts:
    yield _Is.PICTURE, 0, 12
    for kind, start, end in webp_chunks(data):
        what = _Is.PICTURE if kind in _WEBP_KEPT else _WEBP_OTHERS.get(kind, _Is.TEXT)
        yield what, start, min(end + (end - start) % 2, len(data))


def _avif(data: bytes) -> _Parts:
    # C2PA 2.2, A.5.1
    try:
        described = _Is.TEXT if Avif.of(data).has_texts else _Is.PICTURE
    except Unusable:
        described = _Is.TEXT
    after = 0
    for kind, start, end in avif_parts(data):
        empty = kind in {b"free", b"skip"} and not any(data[start:end])
        other = _Is.PICTURE if empty or kind in {b"ftyp", b"mdat"} else _Is.TEXT
        yield {MANIFEST: _Is.MANIFEST, b"meta": described}.get(kind, other), after, end
        after = end


_WEBP_OTHERS = {b"C2PA": _Is.MANIFEST, b"EXIF": _Is.DESCRIPTION, b"XMP ": _Is.DESCRIPTION}
_PARTS = {"jpg": _jpg, "png": _png, "webp": _webp, "avif": _avif}
_MANIFEST_LABELS = {"jpg": b"jumb", "png": b"caBX", "webp": b"C2PA", "avif": MANIFEST}


def _marked_webp(data: bytes, packet: bytes) -> bytes:
    # RFC 9649, 2.7: XMP stands at the end of the extended format only
    chunks = data[12:]
    if data[12:16] == b"VP8X":
        chunks = chunks[:8] + bytes([chunks[8] | _HAS_XMP]) + chunks[9:]
    else:
        if data[12:16] == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            wide, high, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
        else:
            wide, high, alpha = *(side - 1 & 0x3FFF for side in struct.unpack_from("<HH", data, 26)), 0
        flags = _HAS_XMP | _HAS_ALPHA * alpha
        sides = wide.to_bytes(3, "little") + high.to_bytes(3, "little")
        chunks = b"VP8X" + struct.pack("<I4B", 10, flags, 0, 0, 0) + sides + chunks
    chunks += bytes(len(chunks) % 2)
    chunks += b"XMP " + struct.pack("<I", len(packet)) + packet + bytes(len(packet) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks

"""The boxes of an avif: taken apart, and put together again with the same coded pixels and one XMP packet."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import attrs

from blossom_async.gateway.providers.containers import Unusable, avif_boxes, look

__all__ = ["MANIFEST", "Avif", "avif_parts"]

MANIFEST = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
"""The kind of a ``uuid`` box that holds its maker's manifest (C2PA 2.2, A.5.1)."""

_BRANDS = (b"avif", b"mif1", b"miaf", b"MA1B", b"MA1A")
_META = {b"hdlr", b"pitm", b"iinf", b"iloc", b"iref", b"iprp", b"idat", b"dinf", b"free", b"skip"}
_PADDING = {b"free", b"skip"}
_PROPERTIES = {b"ispe", b"pixi", b"av1C", b"colr", b"auxC"}
_REFERENCES = {b"auxl", b"dimg", b"prem"}
_DROPPED = {b"Exif", b"mime", b"uri "}
_XMP_TYPE = b"application/rdf+xml"
_LONGEST_META = 2**20  # a thousand times what encoders write, most of it room for a colour profile
_MOST_ITEMS = 1000
_MOST_PROPERTIES = 127  # that 7 bits can name
_LONGEST_NAME = 16  # of an encoder, or of an item, such as "Alpha"
_HIDDEN = 1
_DEEP = 0x60  # high_bitdepth and twelve_bit of av1C
_PRIMARIES, _TRANSFERS = {b"\0\1", b"\0\2"}, {b"\0\2", b"\0\x0d"}  # sRGB's, or not told (ITU-T H.273)


class _Unusual(Exception):
    """The file has something that could not be kept safely."""


@attrs.frozen(kw_only=True)
class _Item:
    kind: bytes
    flags: int
    data: bytes
    properties: tuple[tuple[int, bytes, bytes], ...]
    """Whether a reader must know it (0x80 or 0), its kind and its content."""

    def of_kind(self, kind: bytes) -> list[bytes]:
        return [content for _, found, content in self.properties if found == kind]


@attrs.frozen(kw_only=True)
class Avif:
    """The one picture of a file: its coded pixels, those of its alpha channel, and how they are shown."""

    has_texts: bool
    """Whether its description, or the bytes between its items, may hold a text that is in no Exif or XMP."""
    _brands: tuple[bytes, ...]
    _items: tuple[_Item, ...]
    """The first is the picture."""
    _references: tuple[tuple[bytes, int, tuple[int, ...]], ...]
    """Their kind, and the places in ``_items`` that they lead from and to."""

    @classmethod
    def of(cls, data: bytes) -> Avif:
        """Raises ``Unusable`` for a file that is cut off, damaged or unusual, such as a sequence."""
        try:
            return _taken_apart(data)
        except (_Unusual, IndexError, KeyError):
            raise Unusable("an avif of an unusual structure") from None

    def is_plain(self) -> bool:
        """Whether it has 8 bits per channel and is in sRGB or has a colour profile."""
        for item in self._items:
            if any(depth != 8 for content in item.of_kind(b"pixi") for depth in content[5:]):
                return False
            if any(not content[2:] or content[2] & _DEEP for content in item.of_kind(b"av1C")):
                return False
        colours = [content for item in self._items for content in item.of_kind(b"colr")]
        if any(content[:4] in {b"prof", b"rICC"} for content in colours):
            return True
        return all(
            each[:4] == b"nclx" and each[4:6] in _PRIMARIES and each[6:8] in _TRANSFERS for each in colours
        )

    def marked(self, packet: bytes) -> bytes:
        """The file with this XMP packet and without other metadata."""
        # ISO/IEC 14496-12, 8.11; ISO/IEC 23008-12, 9.3
        mark = _Item(kind=b"mime", flags=0, data=packet, properties=())
        items = (*self._items, mark)
        references = (*self._references, (b"cdsc", len(self._items), (0,)))
        ftyp = _box(b"ftyp", b"avif\0\0\0\0" + b"".join(self._brands))
        size = len(ftyp) + len(_meta(items, references, 0))
        return (
            ftyp + _meta(items, references, size + 8) + _box(b"mdat", b"".join(item.data for item in items))
        )


def avif_parts(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each box of the file, and where its content begins and ends, to the first that is damaged.

    The kind of one with its maker's manifest is ``MANIFEST``.
    """
    try:
        for kind, (start, end) in avif_boxes(data, 0, len(data)):
            yield MANIFEST if kind == b"uuid" and data.startswith(MANIFEST, start) else kind, start, end
    except (Unusable, struct.error):
        return


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _meta(
    items: tuple[_Item, ...], references: tuple[tuple[bytes, int, tuple[int, ...]], ...], at: int
) -> bytes:
    """The box that describes the items, whose data begin ``at`` that place. They are numbered from 1."""
    infos, places, uses = b"", b"", b""
    properties: dict[tuple[bytes, bytes], int] = {}
    for number, item in enumerate(items, 1):
        told = _XMP_TYPE + b"\0" if item.kind == b"mime" else b""
        infos += _box(
            b"infe", struct.pack(">IHH4s", 2 << 24 | item.flags, number, 0, item.kind) + b"\0" + told
        )
        places += struct.pack(">HHHII", number, 0, 1, at, len(item.data))
        at += len(item.data)
        if item.properties:
            named = (
                must | properties.setdefault((kind, content), len(properties) + 1)
                for must, kind, content in item.properties
            )
            uses += struct.pack(">HB", number, len(item.properties)) + bytes(named)
    used = sum(bool(item.properties) for item in items)
    ipco = _box(b"ipco", b"".join(_box(kind, content) for kind, content in properties))
    iref = b"".join(
        _box(kind, struct.pack(f">HH{len(to)}H", start + 1, len(to), *(place + 1 for place in to)))
        for kind, start, to in references
    )
    return _box(
        b"meta",
        bytes(4)
        + _box(b"hdlr", bytes(8) + b"pict" + bytes(13))
        + _box(b"pitm", struct.pack(">IH", 0, 1))
        + _box(b"iloc", struct.pack(">IBBH", 0, 0x44, 0, len(items)) + places)
        + _box(b"iinf", struct.pack(">IH", 0, len(items)) + infos)
        + _box(b"iref", bytes(4) + iref)
        + _box(b"iprp", ipco + _box(b"ipma", struct.pack(">II", 0, used) + uses)),
    )


class _Fields:
    """The fields of a box, read one after another. Raises ``_Unusual`` after the last."""

    def __init__(self, data: bytes, *versions: int) -> None:
        self._data, self._at = data, 0
        self.version = self.number(1)
        self.flags = self.number(3)
        if self.version not in versions:
            raise _Unusual

    def take(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._data):
            raise _Unusual
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def text(self) -> bytes:
        """Up to the next NUL."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise _Unusual
        return self.take(end + 1 - self._at)[:-1]

    def boxes(self) -> Iterator[tuple[bytes, bytes]]:
        return _boxes(self._data, self._at)


def _boxes(data: bytes, at: int = 0) -> Iterator[tuple[bytes, bytes]]:
    try:
        for kind, (start, end) in avif_boxes(data, at, len(data)):
            yield kind, data[start:end]
    except struct.error:
        raise _Unusual from None


def _once(boxes: Iterator[tuple[bytes, bytes]], allowed: set[bytes]) -> dict[bytes, bytes]:
    """The boxes by kind; of several with padding one that is not empty, if there is one."""
    found: dict[bytes, bytes] = {}
    for kind, content in boxes:
        if kind not in allowed or (kind in found and kind not in _PADDING):
            raise _Unusual
        if kind not in found or any(content):
            found[kind] = content
    return found


def _taken_apart(data: bytes) -> Avif:
    seen = look(data)
    top = list(avif_parts(data))
    kinds = [kind for kind, _, _ in top]
    if kinds[0] != b"ftyp" or kinds.count(b"meta") != 1 or kinds.count(b"ftyp") != 1:
        raise _Unusual
    ftyp = data[top[0][1] : top[0][2]]
    brands = {ftyp[at : at + 4] for at in (0, *range(8, len(ftyp), 4))}
    if b"avif" not in brands or b"avis" in brands or not {b"moov", b"moof"}.isdisjoint(kinds):
        raise _Unusual
    (meta,) = (data[start:end] for kind, start, end in top if kind == b"meta")
    if len(meta) > _LONGEST_META:
        raise _Unusual
    boxes = _once(_Fields(meta, 0).boxes(), _META)
    handler = _Fields(boxes[b"hdlr"], 0)
    if handler.take(8)[4:] != b"pict":
        raise _Unusual
    handler.take(12)
    infos, names = _infos(boxes[b"iinf"])
    extents = _extents(boxes[b"iloc"])
    properties, others = _properties(boxes[b"iprp"])
    references = _references(boxes[b"iref"]) if b"iref" in boxes else {}
    primary = _Fields(boxes[b"pitm"], 0, 1)
    shown = _shown(primary.number(2 + 2 * primary.version), infos, references)
    idat = boxes.get(b"idat", b"")
    if sum(size for number in shown for _, _, size in extents[number]) > len(data):
        raise _Unusual
    items = tuple(
        _Item(
            kind=infos[number].kind,
            flags=infos[number].flags,
            data=b"".join(_cut((data, idat)[method], at, size) for method, at, size in extents[number]),
            properties=tuple(properties.get(number, ())),
        )
        for number in shown
    )
    _check(items, shown, references)
    if items[0].of_kind(b"ispe") != [struct.pack(">III", 0, seen.width, seen.height)]:
        raise _Unusual
    alpha = any(kind == b"auxl" and start in shown for kind, start in references)
    if seen.alpha != alpha or seen.orientation != 1:
        raise _Unusual
    held = [each for number in infos for each in extents.get(number, ())]
    total = sum(end - start for kind, start, end in top if kind == b"mdat") + len(idat)
    dropped = [info for number, info in infos.items() if number not in shown]
    has_texts = (
        others
        or any(info.kind != b"Exif" and info.content_type != _XMP_TYPE for info in dropped)
        or not all(map(_is_name, [*names, handler.text()]))
        or any(any(boxes.get(kind, b"")) for kind in _PADDING)
        or _union(held) != total
    )
    places = {number: place for place, number in enumerate(shown)}
    return Avif(
        has_texts=has_texts,
        brands=tuple(brand for brand in _BRANDS if brand in brands),
        items=items,
        references=tuple(
            (kind, places[start], tuple(places[number] for number in to))
            for (kind, start), to in references.items()
            if start in places
        ),
    )


@attrs.frozen
class _Info:
    kind: bytes
    flags: int
    content_type: bytes


def _infos(data: bytes) -> tuple[dict[int, _Info], list[bytes]]:
    """What each item is, and the items' names."""
    fields = _Fields(data, 0, 1)
    count = fields.number(2 + 2 * fields.version)
    infos, names = {}, []
    for kind, content in fields.boxes():
        info = _Fields(content, 2, 3)
        number = info.number(2 * info.version - 2)
        protected = info.number(2)
        item_kind = info.take(4)
        names.append(info.text())
        content_type = info.text() if item_kind == b"mime" else b""
        if kind != b"infe" or protected or number in infos:
            raise _Unusual
        infos[number] = _Info(item_kind, info.flags & _HIDDEN, content_type)
    if len(infos) != count or count > _MOST_ITEMS:
        raise _Unusual
    return infos, names


def _extents(data: bytes) -> dict[int, list[tuple[int, int, int]]]:
    """Where the data of each item are: 0 for in the file, 1 for in ``idat``; from which byte, how many."""
    fields = _Fields(data, 0, 1, 2)
    sizes = fields.number(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if fields.version == 2 else 2
    count = fields.number(wide)
    if count > _MOST_ITEMS or not {offset_size, length_size, base_size} <= {0, 4, 8}:
        raise _Unusual
    found: dict[int, list[tuple[int, int, int]]] = {}
    for _ in range(count):
        number = fields.number(wide)
        method = fields.number(2) if fields.version else 0
        elsewhere = fields.number(2)
        base = fields.number(base_size)
        if number in found or method > 1 or elsewhere:
            raise _Unusual
        found[number] = []
        for _ in range(fields.number(2)):
            fields.take(index_size if fields.version else 0)
            at, size = base + fields.number(offset_size), fields.number(length_size)
            if not size:  # all that follows
                raise _Unusual
            found[number].append((method, at, size))
    return found


def _properties(data: bytes) -> tuple[dict[int, list[tuple[int, bytes, bytes]]], bool]:
    """Those of each item, and whether there are others that are not known."""
    boxes = _once(_boxes(data), {b"ipco", b"ipma"})
    known = list(_boxes(boxes[b"ipco"]))
    fields = _Fields(boxes[b"ipma"], 0, 1)
    found: dict[int, list[tuple[int, bytes, bytes]]] = {}
    for _ in range(fields.number(4)):
        number = fields.number(2 + 2 * fields.version)
        if number in found:
            raise _Unusual
        found[number] = []
        for _ in range(fields.number(1)):
            use = fields.number(1 + (fields.flags & 1))
            must = use >> (15 if fields.flags & 1 else 7)
            place = use & (0x7FFF if fields.flags & 1 else 0x7F)
            if place:
                found[number].append((must << 7, *known[place - 1]))
    return found, any(kind not in _PROPERTIES for kind, _ in known)


def _references(data: bytes) -> dict[tuple[bytes, int], tuple[int, ...]]:
    fields = _Fields(data, 0, 1)
    wide = 2 + 2 * fields.version
    found = {}
    for kind, content in fields.boxes():
        each = _Fields(bytes(4) + content, 0)
        start = each.number(wide)
        if (kind, start) in found:
            raise _Unusual
        found[kind, start] = tuple(each.number(wide) for _ in range(each.number(2)))
    return found


def _shown(
    primary: int, infos: dict[int, _Info], references: dict[tuple[bytes, int], tuple[int, ...]]
) -> list[int]:
    """The items that make the picture: itself, its alpha channel, and the tiles of both."""
    alphas = [start for (kind, start), to in references.items() if kind == b"auxl" and primary in to]
    shown = [primary, *alphas]
    for number in (primary, *alphas):
        if infos[number].kind == b"grid":
            shown += references[b"dimg", number]
    others = {info.kind for number, info in infos.items() if number not in shown}
    if len(alphas) > 1 or len(set(shown)) < len(shown) or not others <= _DROPPED:
        raise _Unusual
    return shown


def _check(
    items: tuple[_Item, ...], shown: list[int], references: dict[tuple[bytes, int], tuple[int, ...]]
) -> None:
    """Raises ``_Unusual`` for what is not known how to keep."""
    used = {(kind, content) for item in items for _, kind, content in item.properties}
    if len(used) > _MOST_PROPERTIES or not {kind for kind, _ in used} <= _PROPERTIES:
        raise _Unusual
    for (kind, start), to in references.items():
        if start in shown and (kind not in _REFERENCES or not set(to) <= set(shown)):
            raise _Unusual
    for number, item in zip(shown, items, strict=True):
        configured = len(item.of_kind(b"av1C"))
        tiled = (b"dimg", number) in references
        if (item.kind, configured, tiled) not in {(b"av01", 1, False), (b"grid", 0, True)} or not item.data:
            raise _Unusual
        auxiliary = item.of_kind(b"auxC")
        is_alpha = (b"auxl", number) in references
        if [b"auxiliary:alpha" in content for content in auxiliary] != [True] * is_alpha:
            raise _Unusual


def _cut(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise _Unusual
    return data[at : at + size]


def _is_name(text: bytes) -> bool:
    return len(text) <= _LONGEST_NAME and (text.isalnum() or not text)


def _union(extents: list[tuple[int, int, int]]) -> int:
    """The number of bytes that are in any of the extents."""
    total, method, reached = 0, 0, 0
    for where, at, size in sorted(extents):
        reached = reached if where == method else 0
        method = where
        total += max(at + size - max(at, reached), 0)
        reached = max(reached, at + size)
    return total

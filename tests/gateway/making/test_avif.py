"""Every usual structure of an avif is kept with its pixels; of any other none is guessed."""

from __future__ import annotations

import contextlib
import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from blossom_async.gateway.making.avif import Avif
from blossom_async.gateway.making.decoding import Undecodable, decoded
from blossom_async.gateway.making.metadata import TRAINED, source_mark
from blossom_async.gateway.providers.containers import Unusable
from blossom_async.scenery import paint

pytestmark = pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without avif")

PIXELS = paint("a lake", width=96, height=64, seed=1)
CLEAR = paint("a lake", width=96, height=64, seed=1, transparency=True)
MARK = source_mark(TRAINED, "p m")
SRGB = b"nclx" + struct.pack(">HHHB", 1, 13, 6, 0x80)


def box(kind: bytes, *content: bytes) -> bytes:
    whole = b"".join(content)
    return struct.pack(">I4s", 8 + len(whole), kind) + whole


def by_pillow(pixels: np.ndarray, **how: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "AVIF", **how)
    return out.getvalue()


def coded(pixels: np.ndarray) -> tuple[bytes, bytes]:
    """The pixels in AV1, and what a decoder must know of them."""
    data = by_pillow(pixels)
    at = data.index(b"av1C") + 4
    return data[data.index(b"mdat") + 4 :], data[at : at + 4]


COLOURS, CONFIGURED = coded(PIXELS)
ALPHA, CONFIGURED_ALPHA = coded(CLEAR[:, :, 3])


def exif_of(text: str) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = text
    return exif.tobytes().removeprefix(b"Exif\0\0")


def built(
    version: int = 0,
    sizes: tuple[int, int, int] = (4, 4, 0),
    *,
    first: int = 1,
    extents: int = 2,
    colour: bytes = SRGB,
    depth: int = 8,
    grid: bool = False,
    alpha: bool = False,
    turn: bytes = b"",
    unused: bytes = b"",
    brand: bytes = b"avif",
    name: bytes = b"",
    method: int | None = None,
    before: bytes = b"",
) -> bytes:
    """An avif with its places written like this: offset, length and base of so many bytes each."""
    wide = first > 0xFFFF
    number = "I" if wide else "H"
    picture, exif, seen, second = range(first, first + 4)
    items = [(picture, b"av01", COLOURS), (exif, b"Exif", bytes(4) + exif_of("a secret"))]
    uses = {picture: [1, 2, 3 | 0x80, 4]}
    links = [(b"cdsc", exif, [picture])]
    width = 96
    if grid:
        width = 192
        items = [
            (picture, b"grid", struct.pack(">BBBBHH", 0, 0, 0, 1, 192, 64)),
            (second, b"av01", COLOURS),
            (seen, b"av01", COLOURS),
        ]
        uses = {picture: [5, 2, 4], seen: [1, 2, 3 | 0x80], second: [1, 2, 3 | 0x80]}
        links = [(b"dimg", picture, [seen, second])]
    if alpha:
        items.append((seen, b"av01", ALPHA))
        uses[seen] = [1, 6, 7 | 0x80, 8]
        links.append((b"auxl", seen, [picture]))
    if turn:
        uses[picture].append(9 | 0x80)
    properties = [
        box(b"ispe", struct.pack(">III", 0, 96, 64)),
        box(b"pixi", bytes(4), bytes([3, depth, depth, depth])),
        box(b"av1C", CONFIGURED),
        box(b"colr", colour),
        box(b"ispe", struct.pack(">III", 0, width, 64)),
        box(b"pixi", bytes(4), b"\1\x08"),
        box(b"av1C", CONFIGURED_ALPHA),
        box(b"auxC", bytes(4), b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0" if alpha else b"urn:other\0"),
        turn,
        unused,
    ]
    infos = b"".join(
        box(b"infe", struct.pack(f">I{number}H4s", (2 + wide) << 24, each, 0, kind), name, b"\0")
        for each, kind, _ in items
    )
    offset, length, base = sizes
    method = version and grid if method is None else method

    def meta(at: int) -> bytes:
        places, inside = b"", 0
        for each, kind, data in items:
            where = method if kind == b"grid" or method == 2 else 0
            start = inside if where else at
            places += each.to_bytes(4 if version == 2 else 2, "big")
            places += (struct.pack(">H", where) if version else b"") + bytes(2)
            parts = extents if offset and len(data) > 8 else 1
            places += (start if base else 0).to_bytes(base, "big") + struct.pack(">H", parts)
            step = len(data) // parts
            for part in range(parts):
                begin, size = part * step, step if part < parts - 1 else len(data) - part * step
                places += (begin if base else start + begin).to_bytes(offset, "big")
                places += (size if length else 0).to_bytes(length, "big")
            if where:
                inside += len(data)
            else:
                at += len(data)
        count = len(items).to_bytes(4 if version == 2 else 2, "big")
        form = struct.pack(">BBB", 0, offset << 4 | length, base << 4)
        return box(
            b"meta",
            bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", struct.pack(f">I{number}", wide << 24, picture)),
            box(b"iloc", bytes([version, 0, 0]), form, count, places),
            box(b"iinf", struct.pack(">IH", 0, len(items)), infos),
            box(
                b"iref",
                struct.pack(">I", wide << 24),
                *(
                    box(kind, struct.pack(f">{number}H{len(to)}{number}", start, len(to), *to))
                    for kind, start, to in links
                ),
            ),
            box(
                b"iprp",
                box(b"ipco", *properties),
                box(
                    b"ipma",
                    struct.pack(">II", wide << 24, len(uses)),
                    *(
                        struct.pack(f">{number}B", each, len(used)) + bytes(used)
                        for each, used in sorted(uses.items())
                    ),
                ),
            ),
            *([box(b"idat", b"".join(data for _, kind, data in items if kind == b"grid"))] if method else []),
        )

    ftyp = box(b"ftyp", brand, bytes(4), b"avifmif1miaf") + before
    size = len(ftyp) + len(meta(0)) + 8
    body = [data for _, kind, data in items if not (method and kind == b"grid")]
    return ftyp + meta(size) + box(b"mdat", *body)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decoded(data, "avif", orientation=1, transparency=True))


USUAL: dict[str, dict[str, Any]] = {
    "as encoders write it": {},
    "8 bytes": {"sizes": (8, 8, 8)},
    "only a base": {"sizes": (0, 4, 4)},
    "version 1": {"version": 1, "extents": 3},
    "version 2": {"version": 2, "sizes": (4, 8, 4)},
    "long numbers": {"version": 2, "first": 70_000},
    "alpha": {"alpha": True},
    "tiles": {"grid": True},
    "tiles told in the description": {"grid": True, "version": 1},
    "a colour profile": {"colour": b"prof" + b"a profile"},
    "padding": {"before": box(b"free", bytes(9))},
}


@pytest.mark.parametrize("how", USUAL.values(), ids=USUAL)
def test_a_usual_structure_is_kept(how: dict[str, Any]) -> None:
    """Its pixels as another reader decodes them; not its maker's metadata."""
    given = built(**how)
    avif = Avif.of(given)
    data = avif.marked(MARK)
    assert avif.is_plain()
    assert not avif.has_texts
    assert np.array_equal(pixels(given), pixels(data))
    assert b"secret" not in data
    assert Image.open(io.BytesIO(data)).info["xmp"] == MARK
    assert how.get("colour", SRGB) in data
    assert Avif.of(data).marked(MARK) == data


UNUSUAL: dict[str, bytes] = {
    "a turn": built(turn=box(b"irot", b"\1")),
    "a mirror": built(turn=box(b"imir", b"\1")),
    "a part of it": built(turn=box(b"clap", bytes(32))),
    "a sequence": built(brand=b"avis"),
    "a film beside it": built(before=box(b"moov")),
    "made of other items": built(version=1, method=2),
    "all that follows": built(sizes=(4, 0, 0), extents=1),
    "past the end": built()[:-1],
    "other tiles": built(grid=True).replace(b"dimg", b"base"),
    "an unknown item": built().replace(b"Exif", b"tmap"),
    "protected": built().replace(b"\0\1\0\0av01", b"\0\1\0\1av01"),
}


@pytest.mark.parametrize("given", UNUSUAL.values(), ids=UNUSUAL)
def test_an_unusual_structure_is_refused(given: bytes) -> None:
    """It is decoded and encoded anew instead."""
    with pytest.raises(Unusable):
        Avif.of(given)


NOT_PLAIN: dict[str, dict[str, Any]] = {
    "deep": {"depth": 10},
    "HDR": {"colour": b"nclx" + struct.pack(">HHHB", 9, 16, 9, 0)},
    "cut off": {"colour": b"nclx\0\1"},
}


@pytest.mark.parametrize("how", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_viewers_show_differently_is_not_plain(how: dict[str, Any]) -> None:
    """More than 8 bits, and colours that only some know how to show."""
    assert not Avif.of(built(**how)).is_plain()


def test_texts_are_found_wherever_they_hide() -> None:
    """A manifest does not keep them."""
    given = built()
    assert not Avif.of(given).has_texts
    at = given.index(b"mdat") - 4
    for told in (
        given[:at] + struct.pack(">I", len(given) - at + 6) + given[at + 4 :] + b"secret",
        built(name=b"a secret prompt"),
        built(unused=box(b"udes", b"secret")),
    ):
        assert Avif.of(told).has_texts
        assert b"secret" not in Avif.of(told).marked(MARK)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of a damaged Exif
@pytest.mark.parametrize(
    "given",
    [built(version=1, grid=True), built(alpha=True), by_pillow(PIXELS, xmp=b"x")],
    ids=["tiles", "alpha", "pillow"],
)
def test_a_damaged_byte_never_changes_what_is_shown(given: bytes) -> None:
    """Refused, or kept with the pixels that the damaged file has itself."""
    kept = refused = 0
    header = given.index(b"mdat") + 24
    for place in (*range(0, header, 7), *range(header, len(given), 97)):
        damaged = bytearray(given)
        damaged[place] ^= 1 << place // 7 % 8
        try:
            data = Avif.of(bytes(damaged)).marked(MARK)
        except Unusable:
            refused += 1
            continue
        with contextlib.suppress(Undecodable):  # a fault of its provider's
            shown = pixels(bytes(damaged))
            assert np.array_equal(shown, pixels(data)), place
            kept += 1
    assert kept
    assert refused

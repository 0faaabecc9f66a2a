"""A file that is already as asked for keeps its pixels; each file says where its picture comes from."""

from __future__ import annotations

import io
import random
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from blossom_async.gateway.making.decoding import Undecodable, check_jpg, check_png, decoded
from blossom_async.gateway.making.finishing import finished
from blossom_async.gateway.making.metadata import TRAINED, kept, marked, source_mark
from blossom_async.gateway.providers import Artwork, Delivery
from blossom_async.gateway.providers.containers import Unusable, jpg_segments, look, png_chunks, webp_chunks
from blossom_async.gateway.providers.faults import ProviderFault
from blossom_async.models import FORMATS, ImageRequest
from blossom_async.scenery import paint
from tests.thorough import thoroughly

PIXELS = paint("a lake", width=96, height=64, seed=1)
CLEAR = paint("a lake", width=96, height=64, seed=1, transparency=True)
SECRET = "a secret prompt, Steps: 20, Sampler: Euler"
NAMES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "avif": "AVIF"}
"""Of the formats that are kept as they came."""


def file(file_format: str, pixels: np.ndarray = PIXELS, **how: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, NAMES.get(file_format, file_format), **how)
    return out.getvalue()


def chatty(file_format: str) -> bytes:
    """A file with all that Stable Diffusion's front ends, cameras and editors write into one."""
    exif = Image.Exif()
    exif[0x010E] = SECRET
    packet = source_mark("digitalArt", SECRET)
    if file_format == "png":
        texts = PngInfo()
        texts.add_text("parameters", SECRET)
        texts.add_text("workflow", SECRET, zip=True)
        texts.add_itxt("prompt", SECRET)
        texts.add_itxt("XML:com.adobe.xmp", packet.decode())
        return file("png", exif=exif, pnginfo=texts) + SECRET.encode()
    if file_format == "jpg":
        data = file("jpg", exif=exif, xmp=packet, comment=SECRET)
        photoshop = b"Photoshop 3.0\0" + SECRET.encode()
        return data[:2] + struct.pack(">BBH", 0xFF, 0xED, len(photoshop) + 2) + photoshop + data[2:] + b"tail"
    return file(file_format, exif=exif, xmp=packet) + SECRET.encode()


def delivered(data: bytes) -> Delivery:
    seen = look(data)
    return Delivery(
        data=data,
        format=seen.format,
        width=seen.width,
        height=seen.height,
        orientation=seen.orientation,
        model="m",
        request_id=None,
        usd=None,
        cached=False,
        notes='p m; "<&>"',
    )


def stored(given: Delivery | Artwork, file_format: str, **asked: Any) -> bytes:
    request = ImageRequest("x", width=96, height=64, format=file_format, **asked)
    (data,) = finished(given, request, "p").files.values()
    return data


_AV1 = re.compile(rb"\x12\0\x0a.*?(?=\x12\0\x0a|<\?xpacket|a secret|\Z)", re.DOTALL)
"""The pixels of an avif, or its alpha channel, to what encoders and we write after them."""


def coded(data: bytes) -> list[bytes]:
    """The parts of a file that hold pixels and tables, byte for byte."""
    if data.startswith(b"\x89PNG"):
        return [
            data[start:end] for kind, start, end in png_chunks(data) if kind in {b"IHDR", b"IDAT", b"PLTE"}
        ]
    if data.startswith(b"RIFF"):
        parts = webp_chunks(data)
        return [data[start:end] for kind, start, end in parts if kind in {b"VP8 ", b"VP8L", b"ALPH", b"ICCP"}]
    if data[4:8] == b"ftyp":
        return sorted(re.findall(_AV1, data))
    return [data[start:end] for marker, start, end in jpg_segments(data) if marker not in range(0xE0, 0xFF)]


def source(data: bytes) -> str:
    """IPTC's Digital Source Type, as it stands in the file's XMP."""
    image = Image.open(io.BytesIO(data))
    image.load()
    packet = image.info["xmp"]
    root = ET.fromstring(packet if isinstance(packet, bytes) else packet.encode())  # noqa: S314 - our own
    (found,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return found.attrib["{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"].rpartition("/")[2]


@pytest.mark.parametrize("file_format", NAMES)
def test_a_file_that_is_what_was_asked_for_keeps_its_pixels(file_format: str) -> None:
    """Not decoded and encoded again; what its maker wrote about the prompt is gone."""
    given = chatty(file_format)
    data = stored(delivered(given), file_format)
    assert coded(data) == coded(given)
    assert data.count(b"secret") == 0
    assert source(data) == "trainedAlgorithmicMedia"
    assert look(data).format == file_format


@pytest.mark.parametrize(
    ("file_format", "how"),
    [
        ("jpg", {"progressive": True}),
        ("jpg", {"quality": 40}),
        ("png", {"compress_level": 9}),
        ("webp", {"quality": 50}),
        ("webp", {"lossless": True}),
        ("avif", {"quality": 40}),
        ("avif", {"quality": 90, "subsampling": "4:4:4"}),
    ],
)
def test_every_way_to_write_a_format_is_kept(file_format: str, how: dict[str, Any]) -> None:
    """Its pixels are the same, read by another reader."""
    given = file(file_format, **how)
    data = stored(delivered(given), file_format)
    assert coded(data) == coded(given)
    before, after = (np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in (given, data))
    assert np.array_equal(before, after)
    assert source(data) == "trainedAlgorithmicMedia"


@pytest.mark.parametrize(
    ("file_format", "how"), [("png", {}), ("webp", {}), ("webp", {"lossless": True}), ("avif", {})]
)
def test_transparency_is_kept_as_it_came(file_format: str, how: dict[str, Any]) -> None:
    """Where it was asked for."""
    given = file(file_format, CLEAR, **how)
    data = stored(delivered(given), file_format, transparency=True)
    assert coded(data) == coded(given)
    image = Image.open(io.BytesIO(data))
    assert image.getchannel("A").getextrema() == (0, 255)
    assert coded(stored(delivered(given), file_format)) != coded(given)


def test_a_profile_stays_with_the_pixels_it_explains() -> None:
    """The colours are those that the maker meant."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for file_format in NAMES:
        data = stored(delivered(file(file_format, icc_profile=profile)), file_format)
        assert Image.open(io.BytesIO(data)).info["icc_profile"] == profile


def png_with(kind: bytes, body: bytes) -> bytes:
    png = file("png")
    chunk = struct.pack(">I", len(body)) + kind + body
    return png[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + png[33:]


C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
MANIFEST = b"JP\0\1\0\0\0\1\0\0\0\x40jumb" + bytes(40) + b"c2pa"


def with_manifest(file_format: str, **how: Any) -> bytes:
    """A file with a manifest, and the metadata that Pillow writes."""
    data = file(file_format, **how)
    if file_format == "png":
        chunk = struct.pack(">I", len(MANIFEST)) + b"caBX" + MANIFEST
        return data[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[33:]
    if file_format == "jpg":
        return data[:2] + struct.pack(">BBH", 0xFF, 0xEB, len(MANIFEST) + 2) + MANIFEST + data[2:]
    if file_format == "avif":
        return data + struct.pack(">I4s", len(MANIFEST) + 24, b"uuid") + C2PA_BOX + MANIFEST
    data += b"C2PA" + struct.pack("<I", len(MANIFEST)) + MANIFEST
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


@pytest.mark.parametrize("file_format", NAMES)
def test_a_makers_manifest_is_kept_with_every_byte_it_is_about(file_format: str) -> None:
    """One beside texts is of no use once those are gone, and goes with them."""
    exif = Image.Exif()
    exif[0x0131] = "its maker"
    given = with_manifest(file_format, exif=exif)
    request = ImageRequest("x", width=96, height=64, format=file_format)
    ((file, data),) = finished(delivered(given), request, "p").files.items()
    assert (data, file.provenance) == (given, "provider_c2pa")
    ((file, data),) = finished(delivered(given), request, "p", keep_manifests=False).files.items()
    assert b"c2pa" not in data
    assert b"maker" not in data
    assert (source(data), file.provenance) == ("trainedAlgorithmicMedia", "marked")
    told = given + b"appended words"
    ((file, data),) = finished(delivered(told), request, "p").files.items()
    assert b"c2pa" not in data
    assert (source(data), file.provenance) == ("trainedAlgorithmicMedia", "marked")


NOT_KEPT: dict[str, tuple[bytes, str, dict[str, Any]]] = {
    "another format": (file("jpg"), "webp", {}),
    "another size": (file("png", PIXELS[:60]), "png", {}),
    "compression": (file("jpg"), "jpg", {"compression": "lossy"}),
    "a quality": (file("jpg"), "jpg", {"lossy_quality": 40}),
    "a preset": (file("jpg"), "jpg", {"quality_preset": "web_optimized"}),
    "16 bits": (file("png", np.full((64, 96), 40_000, np.uint16)), "png", {}),
    "an animation": (
        file("webp", save_all=True, append_images=[Image.new("RGB", (96, 64), "red")]), "webp", {}
    ),
    "an animated png": (
        file("png", save_all=True, append_images=[Image.new("RGB", (96, 64), "red")]), "png", {}
    ),
    "an animated avif": (
        file("avif", save_all=True, append_images=[Image.new("RGB", (96, 64), "red")]), "avif", {}
    ),
    "a gamma of its own": (png_with(b"gAMA", struct.pack(">I", 100_000)), "png", {}),
}  # fmt: skip


@pytest.mark.parametrize(("given", "file_format", "asked"), NOT_KEPT.values(), ids=NOT_KEPT)
def test_what_is_not_what_was_asked_for_is_converted(
    given: bytes, file_format: str, asked: dict[str, Any]
) -> None:
    """And says where it comes from all the same."""
    data = stored(delivered(given), file_format, **asked)
    image = Image.open(io.BytesIO(data))
    assert coded(data) != coded(given) if look(given).format == file_format else True
    assert not getattr(image, "is_animated", False)
    assert image.mode == "RGB"
    assert source(data) == "trainedAlgorithmicMedia"


def test_inks_are_converted_to_colours() -> None:
    """Browsers differ in how they show a jpg of four inks."""
    out = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(out, "JPEG")
    assert Image.open(io.BytesIO(stored(delivered(out.getvalue()), "jpg"))).mode == "RGB"


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_offline_renderer_is_no_trained_model(file_format: str) -> None:
    """Its pictures say so."""
    drawn = Artwork(pixels=PIXELS, model="scenery-1", notes="offline")
    assert source(stored(drawn, file_format)) == "algorithmicMedia"


@pytest.mark.parametrize("file_format", NAMES)
def test_auto_keeps_what_it_can(file_format: str) -> None:
    """A jpg that came is the one for every viewer; the webp beside it is made of it."""
    request = ImageRequest("x", width=96, height=64, format="auto")
    made = finished(delivered(file(file_format)), request, "p").files
    assert {source(data) for data in made.values()} == {"trainedAlgorithmicMedia"}
    if file_format == "jpg":
        (jpg,) = [data for each, data in made.items() if each.format == "jpg"]
        assert coded(jpg) == coded(file("jpg"))


@pytest.mark.parametrize("file_format", NAMES)
def test_a_kept_picture_has_the_preview_of_a_converted_one(file_format: str) -> None:
    """Also where it was decoded at a fraction of its size."""
    large = paint("a lake", width=1024, height=768, seed=1)
    request = ImageRequest("x", width=1024, height=768, format=file_format)
    other = ImageRequest("x", width=1024, height=768, format=file_format, compression="none")
    given = delivered(file(file_format, large))
    near, exact = (finished(given, each, "p") for each in (request, other))
    colours = [np.frombuffer(bytes.fromhex(str(each.dominant_color)[1:]), np.uint8) for each in (near, exact)]
    assert np.abs(colours[0].astype(int) - colours[1]).max() < 24
    assert str(near.thumbhash)[:3] == str(exact.thumbhash)[:3]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of a damaged Exif
@pytest.mark.parametrize("file_format", NAMES)
@pytest.mark.parametrize("step", thoroughly(31, 7))
def test_a_damaged_file_is_a_fault_or_a_picture(file_format: str, step: int) -> None:
    """Whatever byte it is that changed on the way."""
    data = chatty(file_format)
    chance = random.Random(3)  # noqa: S311 - reproducible, not secret
    for place in range(0, len(data), step):
        try:
            given = delivered(flipped(data, place, chance))
        except Unusable:
            continue
        try:
            made = finished(given, ImageRequest("x", width=96, height=64, format=file_format), "p")
        except ProviderFault:
            continue
        (written,) = made.files.values()
        assert look(written).format == file_format
        with Image.open(io.BytesIO(written)) as image:
            image.load()


def test_what_was_kept_can_be_kept_again() -> None:
    """One mark, however often; the same bytes."""
    packet = source_mark(TRAINED, "p m")
    for file_format in NAMES:
        once = kept(file(file_format), file_format, packet)
        assert kept(once, file_format, packet) == once
        if file_format != "avif":
            assert marked(file(file_format, CLEAR if file_format == "webp" else PIXELS), file_format, packet)


def repaired(data: bytes, coded: bytes) -> bytes:
    """The png with other coded pixels, and checksums that are right."""
    chunk = struct.pack(">I", len(coded)) + b"IDAT" + coded
    end = next(start for kind, start, _ in png_chunks(data) if kind == b"IEND")
    head = next(start for kind, start, _ in png_chunks(data) if kind == b"IDAT")
    return data[:head] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[end:]


def flipped(data: bytes, place: int, chance: random.Random) -> bytes:
    """The data with one bit of that byte changed."""
    changed = bytearray(data)
    changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def is_decodable(check: Callable[[bytes], object], data: bytes) -> bool:
    try:
        check(data)
    except Undecodable:
        return False
    return True


@pytest.mark.parametrize(
    "given",
    thoroughly(file("png"), file("png", CLEAR), file("png", PIXELS[:, :, 0])),
    ids=["colours", "alpha", "grey"],
)
def test_inflating_tells_damaged_pixels_as_decoding_does(given: bytes) -> None:
    """Cut off or changed at any place, with checksums that hide it."""
    coded = b"".join(given[start + 8 : end - 4] for kind, start, end in png_chunks(given) if kind == b"IDAT")
    decode = partial(decoded, file_format="png", orientation=1, transparency=False)
    chance = random.Random(5)  # noqa: S311 - reproducible, not secret
    told = Counter[bool]()
    for place in range(0, len(coded), 5):
        for other in (flipped(coded, place, chance), coded[:place]):
            data = repaired(given, other)
            assert is_decodable(check_png, data) == is_decodable(decode, data), place
            told[is_decodable(decode, data)] += 1
    assert told[True]
    assert told[False] > 100
    assert is_decodable(check_png, given)


@pytest.mark.parametrize(
    "given",
    thoroughly(file("jpg"), file("jpg", progressive=True), file("jpg", PIXELS[:, :, 0])),
    ids=["baseline", "progressive", "grey"],
)
def test_brightness_tells_a_damaged_jpg_as_decoding_does(given: bytes) -> None:
    """Changed at any place."""
    decode = partial(decoded, file_format="jpg", orientation=1, transparency=False)
    chance = random.Random(5)  # noqa: S311 - reproducible, not secret
    told = Counter[bool]()
    for place in range(2, len(given), 3):
        changed = flipped(given, place, chance)
        sound = is_decodable(decode, changed)
        assert is_decodable(check_jpg, changed) == sound, place
        told[sound] += 1
    assert told[True]
    assert told[False]
    assert is_decodable(check_jpg, given)

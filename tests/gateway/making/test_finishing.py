"""What a provider delivered becomes the files that were asked for."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from typing import Any

import attrs
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, features

from blossom_async.gateway.making.finishing import finished
from blossom_async.gateway.providers import Artwork, Delivery
from blossom_async.gateway.providers.containers import look
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.models import ImageRequest
from blossom_async.scenery import paint

PIXELS = paint("a lake", width=96, height=64, seed=1)
CLEAR = paint("a lake", width=96, height=64, seed=1, transparency=True)


def file(image: Image.Image, kind: str, **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def stored(data: bytes, *, width: int = 96, height: int = 64, **asked: Any) -> Image.Image:
    """The picture that is stored of a delivered file, as a viewer reads it."""
    seen = look(data)
    given = Delivery(
        data=data,
        format=seen.format,
        width=seen.width,
        height=seen.height,
        orientation=seen.orientation,
        model="m",
        request_id=None,
        usd=None,
        cached=False,
        notes="p m",
    )
    made = finished(given, ImageRequest("x", width=width, height=height, **asked), "p")
    (written,) = made.files.values()
    image = Image.open(io.BytesIO(written))
    image.load()
    assert image.size == (width, height)
    assert 0x0112 not in image.getexif()
    return image


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("JPEG", {"quality": 95}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 95}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_every_format_that_providers_send_is_converted(kind: str, how: dict[str, Any]) -> None:
    """Whatever was asked for; what a gif loses with its colours is lost already."""
    image = stored(file(Image.fromarray(PIXELS), kind, **how), format="png")
    assert (image.format, image.mode) == ("PNG", "RGB")
    assert np.abs(np.asarray(image, np.int16) - PIXELS).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "GIF", "TIFF"])
def test_transparency_is_kept_where_it_was_asked_for(kind: str) -> None:
    """In all formats that have it."""
    image = stored(file(Image.fromarray(CLEAR), kind), format="webp", transparency=True)
    assert image.getchannel("A").getextrema() == (0, 255)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "GIF", "TIFF"])
def test_transparency_that_was_not_asked_for_is_shown_on_white(kind: str) -> None:
    """As on a page, not as the colour that happens to stand under it."""
    pixels = np.zeros((64, 96, 4), np.uint8)
    pixels[16:48, 16:80] = (200, 40, 40, 255)
    shown = np.asarray(stored(file(Image.fromarray(pixels), kind), format="png"), np.int16)
    assert (shown[:8] > 250).all()
    assert np.abs(shown[24:40, 32:64] - (200, 40, 40)).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_a_picture_that_lies_on_its_side_is_turned(kind: str, orientation: int) -> None:
    """Pixels and what the file says of them give what Pillow's viewer shows."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file(Image.fromarray(PIXELS), kind, exif=exif)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(np.asarray(stored(data, width=shown.width, height=shown.height)), np.asarray(shown))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "GIF"])
def test_of_an_animation_the_first_picture_is_taken(kind: str) -> None:
    """It is what a viewer without animation shows."""
    frames = [Image.new("RGB", (96, 64), colour) for colour in ("#c02020", "#20c020", "#2020c0")]
    data = file(frames[0], kind, save_all=True, append_images=frames[1:])
    red, green, blue = stored(data).convert("RGB").getpixel((48, 32))  # type: ignore[misc]
    assert red > 150 > 80 > max(green, blue)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"])
def test_what_cannot_be_decoded_is_a_fault(kind: str) -> None:
    """The headers say that it is a picture, its pixels do not."""
    data = file(Image.fromarray(PIXELS), kind)
    half = len(data) // 2
    given = Delivery(
        data=data[:half],
        format=look(data).format,
        width=96,
        height=64,
        model="m",
        request_id=None,
        usd=None,
        cached=False,
        notes="p m",
    )
    with pytest.raises(ProviderFault) as caught:
        finished(given, ImageRequest("x", width=96, height=64), "p")
    assert (caught.value.kind, caught.value.charged) == (Kind.BAD_CONTENT, "yes")


def test_an_avif_of_damaged_pixels_is_a_fault() -> None:
    """Its structure is sound, so that Pillow opens it."""
    data = file(Image.fromarray(PIXELS), "AVIF")
    start = data.index(b"mdat") + 4
    with pytest.raises(ProviderFault, match="cannot be decoded"):
        stored(data[:start] + bytes(len(data) - start))


RAMP = np.tile(np.linspace(20, 219, 96), (64, 1))
"""A gradient of grey, 0 to 255."""


def deep(values: np.ndarray, kind: str = "PNG") -> bytes:
    return file(Image.fromarray(values), kind)


@pytest.mark.parametrize(
    "data",
    [
        deep((RAMP * 257).astype(np.uint16)),
        deep((RAMP * 257).astype(np.uint16), "TIFF"),
        deep((RAMP * 257).astype(np.int32), "TIFF"),
        deep(RAMP.astype(np.int32), "TIFF"),
        deep(RAMP.astype(np.float32), "TIFF"),
        deep((RAMP / 255).astype(np.float32), "TIFF"),
        deep((RAMP * 257).astype(np.float32), "TIFF"),
        deep(np.where(RAMP > 30, RAMP, np.nan).astype(np.float32), "TIFF"),
    ],
    ids=[
        "png",
        "tiff",
        "32 bits of 16",
        "32 bits of 8",
        "float to 255",
        "float to 1",
        "float to 65535",
        "NaN",
    ],
)
def test_more_than_8_bits_are_scaled(data: bytes) -> None:
    """A depth map keeps its gradient; Pillow alone would make it white."""
    shown = np.asarray(stored(data).convert("L"), np.float32)
    assert np.abs(shown - RAMP.round())[RAMP > 30].max() <= 1


def test_a_png_of_48_bits_keeps_its_colours() -> None:
    """As one of 24 bits."""
    rows = (PIXELS.astype(">u2") * 257).reshape(64, -1).view(np.uint8).reshape(64, -1)
    head = struct.pack(">IIBBBBB", 96, 64, 16, 2, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    assert np.array_equal(np.asarray(stored(data)), PIXELS)


def test_a_16_bit_png_keeps_its_transparent_value() -> None:
    """One value of grey stands for transparent."""
    values = (RAMP * 257).astype(np.uint16)
    values[:, :8] = 7
    png = deep(values)
    data = png[:33] + chunk(b"tRNS", struct.pack(">H", 7)) + png[33:]
    alpha = np.asarray(stored(data, transparency=True).getchannel("A"))
    assert (alpha[:, :8] == 0).all()
    assert (alpha[:, 8:] == 255).all()


def icc(space: bytes, kind: bytes, pcs: bytes, **tags: bytes) -> bytes:
    """A profile of version 2 (ICC.1:2001-04, 6) with these tags."""
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", name.encode(), at + len(body), len(data))
        body += data
    d50 = struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    head = struct.pack(">I4xI4s4s4s12x4s28x12s48x", at + len(body), 0x2400000, kind, space, pcs, b"acsp", d50)
    return head + table + body


def xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(value * 65536) for value in (x, y, z)))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def wide(power: float = 2.2, **more: bytes) -> bytes:
    """A profile like Adobe RGB or, with its own curve, Display P3."""
    colours = {"rXYZ": xyz(0.6097, 0.3111, 0.0195), "gXYZ": xyz(0.2053, 0.6257, 0.0609)}
    colours |= {"bXYZ": xyz(0.1492, 0.0632, 0.7446), "wtpt": xyz(0.9642, 1.0, 0.8249)}
    curves = dict.fromkeys(("rTRC", "gTRC", "bTRC"), gamma(power))
    return icc(b"RGB ", b"mntr", b"XYZ ", **colours, **curves, **more)


def press() -> bytes:
    """A profile of four inks on yellowish paper."""
    table = b"".join(
        bytes([round(235 * (1 - k) * (1 - 0.3 * (c + m) - 0.1 * y)), 128 + 60 * (m - c), 140 + 50 * (y - k)])
        for c, m, y, k in itertools.product((0, 1), repeat=4)
    )
    straight = bytes(range(256))
    unit = struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + unit + straight * 4 + table + straight * 3
    return icc(b"CMYK", b"prtr", b"Lab ", A2B0=lut, wtpt=xyz(0.9642, 1.0, 0.8249))


LONG = wide(1.8, blob=bytes(2**20))
GREY = icc(b"GRAY", b"mntr", b"XYZ ", wtpt=xyz(0.9642, 1.0, 0.8249), kTRC=gamma(1.0))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def meant(image: Image.Image, profile: bytes) -> np.ndarray:
    """The picture in sRGB, as the colour engine alone has it."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    shown = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert shown is not None
    return np.asarray(shown, np.int16)


RGB = Image.fromarray(PIXELS)


@pytest.mark.parametrize(
    ("image", "profile", "kind"),
    [
        (RGB, wide(), "PNG"),
        (RGB, LONG, "PNG"),
        (RGB, LONG, "JPEG"),
        (RGB, LONG, "WEBP"),
        (RGB, wide(1.8), "TIFF"),
        (RGB, wide(1.8), "JPEG"),
        (RGB, wide(1.8), "WEBP"),
        (RGB, wide(1.8), "AVIF"),
        (RGB.convert("L"), GREY, "PNG"),
        (RGB.convert("L"), GREY, "JPEG"),
        (RGB.convert("CMYK"), press(), "TIFF"),
        (RGB.convert("CMYK"), press(), "JPEG"),
    ],
    ids=lambda value: getattr(value, "mode", None) or (value if isinstance(value, str) else ""),
)
def test_a_colour_profile_is_honoured(image: Image.Image, profile: bytes, kind: str) -> None:
    """The file that is stored has the colours in sRGB, which every viewer assumes."""
    shown = stored(file(image, kind, icc_profile=profile), format="png" if kind == "WEBP" else "webp")
    away = np.abs(np.asarray(shown.convert("RGB"), np.int16) - meant(image, profile)).mean()
    ignored = np.abs(np.asarray(image.convert("RGB"), np.int16) - meant(image, profile)).mean()
    assert away <= (ignored / 3 if kind in {"JPEG", "WEBP", "AVIF"} else 0)
    assert "icc_profile" not in shown.info


def test_a_profile_is_honoured_under_transparency_and_a_palette() -> None:
    """Alpha stays as it is."""
    clear = Image.fromarray(CLEAR)
    shown = np.asarray(
        stored(file(clear, "PNG", icc_profile=wide()), format="webp", transparency=True), np.int16
    )
    assert np.array_equal(shown[..., 3], CLEAR[..., 3])
    solid = CLEAR[..., 3] > 0
    assert np.array_equal(shown[..., :3][solid], meant(clear.convert("RGB"), wide())[solid])
    paletted = RGB.quantize(64)
    shown = np.asarray(stored(file(paletted, "PNG", icc_profile=wide()), format="webp"), np.int16)
    assert np.array_equal(shown, meant(paletted.convert("RGB"), wide()))


@pytest.mark.parametrize(
    "profile",
    [SRGB, wide()[:200], b"x" * 500, press(), GREY, icc(b"RGB ", b"mntr", b"XYZ ")],
    ids=["sRGB", "cut off", "no profile", "of inks", "of greys", "empty"],
)
def test_a_profile_that_says_nothing_leaves_the_pixels(profile: bytes) -> None:
    """One of sRGB, a broken one, and one of another kind of colours."""
    assert np.array_equal(np.asarray(stored(file(RGB, "PNG", icc_profile=profile))), PIXELS)


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    png = file(RGB, "PNG")
    return png[:33] + b"".join(chunk(kind, data) for kind, data in chunks) + png[33:]


def test_a_png_with_a_long_profile_is_converted() -> None:
    """Many readers, Pillow among them, would refuse it. More than 16 MiB are not read."""
    png = file(RGB, "PNG", icc_profile=LONG)
    assert np.array_equal(np.asarray(stored(png)), meant(RGB, LONG))
    with pytest.raises(ProviderFault, match="16,777,216 bytes"):
        stored(with_chunks((b"iCCP", b"p\0\0" + zlib.compress(bytes(2**24 + 1), 1))))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_png_with_a_long_text_keeps_its_pixels(kind: bytes) -> None:
    """Front ends of models write whole workflows into it; Pillow alone refuses texts of more than 1 MiB."""
    workflow = b"workflow\0" + b"\1\0\0\0" * (kind == b"iTXt") + b"\0" * (kind == b"zTXt")
    text = kind, workflow + zlib.compress(bytes(2**20 + 1))
    assert np.array_equal(np.asarray(stored(with_chunks(text))), PIXELS)


def gama(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def chrm(*points: float) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(point * 100_000) for point in points))


ADOBE = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


def test_a_pngs_gamma_is_honoured() -> None:
    """One in linear light, as renderers write them, is not shown too dark."""
    shown = np.asarray(stored(with_chunks(gama(1.0))), np.float64)
    assert np.abs(shown - 255 * (PIXELS / 255) ** 0.45455).max() < 1


@pytest.mark.parametrize(
    "chunks", [(chrm(*ADOBE),), (gama(0.45455), chrm(*ADOBE))], ids=["alone", "with gamma"]
)
def test_a_pngs_primaries_are_honoured(chunks: tuple[tuple[bytes, bytes], ...]) -> None:
    """By the published matrix from Adobe RGB to sRGB; white stays white."""
    shown = np.asarray(stored(with_chunks(*chunks)), np.float64)
    matrix = np.array([[1.3984, -0.3984, 0], [0, 1, 0], [0, -0.0429, 1.0429]])
    light = ((PIXELS / 255) ** 2.2 @ matrix.T).clip(0, 1)
    assert np.abs(shown - 255 * light**0.45455).max() < 1
    white = file(Image.new("RGB", (96, 64), "white"), "PNG")
    data = white[:33] + b"".join(chunk(*each) for each in chunks) + white[33:]
    assert np.asarray(stored(data)).min() == 255


@pytest.mark.parametrize(
    "chunks",
    [
        (gama(0.45455),),
        (gama(0.45455), chrm(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)),
        (gama(1.0), (b"sRGB", b"\0")),
        (gama(0.0),),
        (gama(4000.0),),
        (chrm(*[0.0] * 8),),
        (chrm(*[0.5] * 8),),
    ],
    ids=["sRGB", "sRGB in full", "sRGB by name", "none", "endless", "black", "one point"],
)
def test_a_png_that_means_srgb_or_nothing_keeps_its_pixels(chunks: tuple[tuple[bytes, bytes], ...]) -> None:
    """Every one of them."""
    assert np.array_equal(np.asarray(stored(with_chunks(*chunks))), PIXELS)


@pytest.mark.skipif((features.version("avif") or "") < "1.4", reason="older encoders need more for the same")
def test_auto_has_an_avif_where_that_is_lighter_than_the_webp() -> None:
    """And no worse; whoever accepts it is sent it. No avif of a thumbnail is lighter."""
    pixels = paint("a forest in autumn", width=512, height=512, seed=2)
    drawn = Artwork(pixels=pixels, model="m", notes="p m")
    request = ImageRequest("x", width=512, height=512, format="auto")
    made = finished(drawn, request, "p")
    sizes = {each.format: each.file_size for each in made.files}
    assert list(sizes) == ["avif", "webp", "jpg"]
    assert sizes["avif"] < sizes["webp"]
    assert {each.provenance for each in made.files} == {"marked"}
    small = finished(drawn, attrs.evolve(request, quality_preset="thumbnail"), "p")
    assert [each.format for each in small.files] == ["webp", "jpg"]


@pytest.mark.parametrize("asked", [{"compression": "lossless"}, {"quality_preset": "print"}], ids=str)
def test_auto_has_no_avif_beside_a_lossless_webp(asked: dict[str, Any]) -> None:
    """An avif would lose something."""
    drawn = Artwork(pixels=PIXELS, model="m", notes="p m")
    made = finished(drawn, ImageRequest("x", width=96, height=64, format="auto", **asked), "p")
    assert "avif" not in {each.format for each in made.files}

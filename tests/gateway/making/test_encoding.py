"""Pixels become files that any viewer reads, as small or as faithful as asked for."""

from __future__ import annotations

import base64
import importlib.util
import io
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from blossom_async.gateway.making.encoding import dominant_colour, encode, thumbhash
from blossom_async.models import FORMATS
from blossom_async.scenery import paint
from tests.thorough import thoroughly

NOTES = "blossom_async offline renderer"


def picture(width: int = 40, height: int = 30, channels: int = 3) -> np.ndarray:
    ramp = np.linspace(0, 255, width * height * channels).astype(np.uint8)
    return ramp.reshape(height, width, channels)


def opened(pixels: np.ndarray, file_format: str, **asked: Any) -> Image.Image:
    """The file that is made, as a viewer reads it."""
    image = Image.open(io.BytesIO(encode(pixels, file_format, **asked, notes=NOTES).data))
    image.load()
    return image


def weight(pixels: np.ndarray, file_format: str, **asked: Any) -> int:
    return len(encode(pixels, file_format, **asked, notes=NOTES).data)


@cache
def render(prompt: str, side: int = 512, *, transparency: bool = False) -> np.ndarray:
    return paint(prompt, width=side, height=side, seed=7, transparency=transparency)


@cache
def judge() -> ModuleType:
    """The benchmark's structural similarity, which shares no line with the encoder's."""
    path = Path(__file__).parents[3] / "benchmarks" / "weight.py"
    spec = importlib.util.spec_from_file_location("weight", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def similarity(pixels: np.ndarray, image: Image.Image) -> float:
    read = np.asarray(image.convert("RGB"))
    return float(judge().similarity(judge().brightness(pixels), judge().brightness(read)))


PROMPTS = (
    "Snow-capped mountains mirrored in a still lake at sunrise",
    "sunset over ocean",
    "forest in autumn",
    "city skyline at night",
    "galaxy and planets",
    "the idea of freedom",
)


@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([3, 4])),
    )
)
def test_png_keeps_every_pixel(pixels: np.ndarray) -> None:
    """What Pillow reads from the PNG is what went in, alpha included."""
    read = np.asarray(opened(pixels, "png"))
    assert np.array_equal(read, pixels)


@pytest.mark.parametrize(
    ("file_format", "name"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("avif", "AVIF")]
)
def test_each_format_is_what_it_says(file_format: str, name: str) -> None:
    """The bytes are of the format asked for, in the size asked for."""
    image = opened(picture(), file_format)
    image.load()
    assert (image.format, image.size) == (name, (40, 30))


def test_jpg_stays_close() -> None:
    """jpg is lossy, and loses little of a smooth picture."""
    smooth = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    image = opened(smooth, "jpg")
    read = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(read - smooth).mean() < 4


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_file_says_what_drew_it(file_format: str) -> None:
    """The picture file's own metadata names the renderer."""
    image = opened(picture(), file_format)
    said = image.info.get("Software") or image.getexif().get(0x0131)
    assert said == NOTES


def test_webp_is_lossless() -> None:
    """As the guide says, webp keeps every pixel."""
    read = np.asarray(opened(picture(), "webp").convert("RGB"))
    assert np.array_equal(read, picture())


@pytest.mark.parametrize("file_format", ["webp", "avif"])
def test_transparency_is_kept(file_format: str) -> None:
    """An alpha channel survives."""
    pixels = picture(channels=4)
    pixels[:, :20, 3] = 0
    image = opened(pixels, file_format)
    assert image.mode == "RGBA"
    assert np.asarray(image)[:, :20, 3].max() <= (4 if file_format == "avif" else 0)


@pytest.mark.parametrize(
    ("pixels", "file_format"),
    [
        (picture(channels=4), "jpg"),
        (picture(), "gif"),
        (picture()[:, :, 0], "png"),
        (picture().astype(np.float32), "png"),
    ],
)
def test_what_cannot_be_encoded_is_refused(pixels: np.ndarray, file_format: str) -> None:
    """No alpha is dropped and no format is guessed."""
    with pytest.raises(ValueError, match=r"alpha|unknown format|of shape"):
        encode(pixels, file_format, notes=NOTES)


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"compression": "lossles"}, "unknown compression"),
        ({"preset": "web"}, "unknown preset"),
        ({"preset": "web_optimized", "compression": "none"}, "contradicts"),
        ({"preset": "web_optimized", "compression": "lossless"}, "contradicts"),
        ({"preset": "print", "compression": "lossy"}, "contradicts"),
    ],
)
@pytest.mark.parametrize("file_format", FORMATS)
def test_what_is_asked_for_must_be_possible(file_format: str, asked: dict[str, Any], what: str) -> None:
    """No preset gives way in silence to a compression that contradicts it."""
    with pytest.raises(ValueError, match=rf"{what}|is never lossless"):
        encode(picture(), file_format, **asked, notes=NOTES)


@pytest.mark.parametrize("file_format", ["jpg", "avif"])
def test_a_lossless_jpg_is_refused(file_format: str) -> None:
    """jpg always loses, and so does avif with its colours in YUV, so nobody is told that it does not."""
    with pytest.raises(ValueError, match=f"{file_format} is never lossless"):
        encode(picture(), file_format, compression="lossless", notes=NOTES)


@pytest.mark.parametrize("file_format", ["png", "webp"])
@pytest.mark.parametrize(
    "asked", thoroughly({"compression": "lossless"}, {"compression": "none"}, {"preset": "print"}), ids=str
)
@given(data=st.data())
def test_lossless_keeps_every_pixel(file_format: str, asked: dict[str, str], data: st.DataObject) -> None:
    """Also what is under transparent pixels."""
    shape = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([3, 4])))
    pixels = data.draw(arrays.arrays(np.uint8, shape))
    read = opened(pixels, file_format, **asked)
    assert np.array_equal(np.asarray(read.convert("RGB" if shape[2] == 3 else "RGBA")), pixels)


def test_lossless_is_lighter_and_none_heavier_than_the_default() -> None:
    """compression="lossless" spends time for fewer bytes; "none" spends bytes."""
    forest = render("forest in autumn")
    for file_format in ("png", "webp"):
        assert weight(forest, file_format, compression="lossless") < weight(forest, file_format)
    assert weight(forest, "png", compression="none") > forest.size
    assert weight(forest, "jpg", compression="none") > weight(forest, "jpg")


def test_a_lossy_png_has_256_colours() -> None:
    """The palette is what makes it light; with alpha too."""
    for pixels in (render("sunset over ocean"), render("a red fox", transparency=True)):
        image = opened(pixels, "png", compression="lossy")
        assert image.mode == "P"
        assert weight(pixels, "png", compression="lossy") < weight(pixels, "png") / 2
    assert image.convert("RGBA").getchannel("A").getextrema() == (0, 255)


@pytest.mark.campaign
@pytest.mark.parametrize("file_format", ["jpg", "png", "webp"])
def test_web_optimized_is_half_as_heavy_at_a_similarity_of_097(file_format: str) -> None:
    """Every picture keeps 0.97; png and webp halve each one, jpg halves them together and grows none."""
    light, default = [], []
    for prompt in PROMPTS:
        pixels = render(prompt, 1024)
        light.append(weight(pixels, file_format, preset="web_optimized"))
        default.append(weight(pixels, file_format))
        assert similarity(pixels, opened(pixels, file_format, preset="web_optimized")) >= 0.97
        assert light[-1] <= default[-1] / (1 if file_format == "jpg" else 2)
    assert sum(light) <= sum(default) / 2


@pytest.mark.parametrize("file_format", thoroughly(*FORMATS))
def test_auto_loses_nothing_visible_and_is_no_heavier(file_format: str) -> None:
    """compression="auto" keeps 0.98, or nearly so with an older avif encoder, and is never larger."""
    bound = 0.975 if file_format == "avif" else 0.98
    for prompt in PROMPTS[:3]:
        pixels = render(prompt)
        assert similarity(pixels, opened(pixels, file_format, compression="auto")) >= bound
        assert weight(pixels, file_format, compression="auto") <= weight(pixels, file_format)


def test_auto_keeps_every_pixel_of_a_picture_of_few_colours() -> None:
    """A drawing becomes a palette, not an approximation."""
    drawn = np.random.default_rng(1).integers(0, 64, (64, 64), np.uint8)
    pixels = np.stack([drawn * 4, 255 - drawn, drawn], 2)
    image = opened(pixels, "png", compression="auto")
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image.convert("RGB")), pixels)


def test_auto_shows_no_bands_in_a_png_sky() -> None:
    """256 colours are too few for a smooth sky, so it stays lossless."""
    across = np.linspace(0, 1, 256)
    colours = np.broadcast_arrays(20 + 100 * across, 128, 20 + 220 * across[:, None])
    for sky in (render("sunset over ocean"), np.stack(colours, 2).astype(np.uint8)):
        assert np.array_equal(np.asarray(opened(sky, "png", compression="auto")), sky)


def test_noise_is_not_sacrificed() -> None:
    """Where nothing lighter is good enough the default or the lossless file is stored."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    for file_format in ("png", "webp"):
        image = opened(noise, file_format, preset="web_optimized")
        assert similarity(noise, image) >= 0.97
    assert weight(noise, "jpg", preset="web_optimized") <= weight(noise, "jpg")


@pytest.mark.parametrize("file_format", thoroughly(*FORMATS))
def test_auto_with_web_optimized_is_the_lighter_of_the_two(file_format: str) -> None:
    """As the guide asks for them together."""
    pixels = render("forest in autumn")
    both = weight(pixels, file_format, compression="auto", preset="web_optimized")
    assert both <= weight(pixels, file_format, compression="auto")
    assert both == weight(pixels, file_format, preset="web_optimized")


@pytest.mark.parametrize(
    ("width", "height", "fitted"), [(600, 300, (256, 128)), (300, 600, (128, 256)), (100, 50, (100, 50))]
)
@pytest.mark.parametrize("compression", [None, "auto", "none", "lossy"])
def test_a_thumbnail_fits_256_pixels(
    width: int, height: int, fitted: tuple[int, int], compression: str | None
) -> None:
    """The aspect is kept, nothing is enlarged, and the size told is that of the file."""
    made = encode(picture(width, height), "webp", preset="thumbnail", compression=compression, notes=NOTES)
    assert (made.width, made.height) == Image.open(io.BytesIO(made.data)).size == fitted


def test_a_thumbnail_keeps_transparency() -> None:
    """What was transparent stays so, without a fringe of another colour."""
    image = opened(render("a red fox", transparency=True), "webp", preset="thumbnail")
    assert image.size == (256, 256)
    assert image.getchannel("A").getextrema() == (0, 255)


@pytest.mark.parametrize("file_format", FORMATS)
def test_print_says_300_dpi(file_format: str) -> None:
    """In the field that the format has for it; webp and avif have Exif's only."""
    image = opened(picture(), file_format, preset="print")
    if file_format in {"webp", "avif"}:
        assert [float(image.getexif()[tag]) for tag in (0x011A, 0x011B, 0x0128)] == [300, 300, 2]
    else:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_print_is_the_best_jpg() -> None:
    """Colour is kept in full size and the likeness is above the default's."""
    pixels = render("forest in autumn")
    printed = opened(pixels, "jpg", preset="print")
    assert isinstance(printed, JpegImageFile)
    assert {layer[1:3] for layer in printed.layer} == {(1, 1)}
    assert similarity(pixels, printed) > similarity(pixels, opened(pixels, "jpg"))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    "asked",
    [{}]
    + [{"compression": name} for name in ("none", "lossy", "auto")]
    + [{"preset": name} for name in ("web_optimized", "thumbnail", "print")],
    ids=str,
)
def test_a_file_holds_no_metadata_but_the_software_note(file_format: str, asked: dict[str, str]) -> None:
    """No Exif, ICC profile, XMP or text beside it; print adds its resolution."""
    image = opened(render("sunset over ocean", 64), file_format, **asked)
    exif = dict(image.getexif())
    texts = getattr(image, "text", {})
    assert exif.pop(0x0131, None) or texts.pop("Software") == NOTES
    assert not texts
    assert set(exif) <= ({0x011A, 0x011B, 0x0128} if asked == {"preset": "print"} else set())
    assert {"icc_profile", "xmp", "comment", "photoshop"}.isdisjoint(image.info)


def curves(channels: str) -> np.ndarray:
    """40x30 pixels without a symmetry, whose ThumbHash does not hang on how a tie is rounded."""
    y, x = np.mgrid[:30, :40]
    red, green = x * x / 7, y * 8 * (x < 25)
    blue = (200 - (x - 9) ** 2 / 6 - (y - 20) ** 2 / 5).clip(0)
    solid = {
        "rgb": [],
        "cut": [np.where(x + y < 31, 255, 0)],
        "fading": [255 - (x - 6) ** 2 / 4 - y * y / 5],
    }[channels]
    return np.stack([red, green, blue, *solid], 2).astype(np.uint8)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (curves("rgb"), "1wUKRahalndQiId2eHiHd6BnCaqJ"),
        (curves("rgb")[:, :20], "mTQNHRh2d3B4aIh4h4d4d7OAbviI"),
        (curves("cut"), "lYSFDIhGqXgwZlJoGJLyI6/9iMhZh2aICA=="),
        (curves("fading")[:, :20], "l1SJCxArdnBIeHfCYG74p2l4j4iGiHg="),
    ],
    ids=["wide", "tall", "wide with alpha", "tall with alpha"],
)
def test_thumbhash_is_that_of_the_published_algorithm(pixels: np.ndarray, expected: str) -> None:
    """The same text as another implementation gives (thumbhash-python 1.0.1)."""
    assert thumbhash(pixels) == expected


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_thumbhash_decodes_to_the_colour_of_the_picture(prompt: str) -> None:
    """About 25 bytes, whose average colour is the picture's."""
    pixels = render(prompt)
    data = base64.b64decode(thumbhash(pixels))
    assert len(data) <= 25
    head = int.from_bytes(data[:3], "little")
    light, warm, tint = (head & 63) / 63, (head >> 6 & 63) / 31.5 - 1, (head >> 12 & 63) / 31.5 - 1
    blue = light - 2 / 3 * warm
    red = (3 * light - blue + tint) / 2
    average = pixels.mean((0, 1)) / 255
    assert np.array([red, red - tint, blue]) == pytest.approx(average, abs=0.04)


@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 130), st.integers(1, 130), st.sampled_from([3, 4])),
        elements=st.sampled_from([0, 1, 128, 255]),
        fill=st.sampled_from([0, 255]),
    )
)
def test_every_picture_has_a_preview(pixels: np.ndarray) -> None:
    """Also one of a single pixel, of one colour, or with nothing to see."""
    assert 6 <= len(base64.b64decode(thumbhash(pixels))) <= 40
    assert len(dominant_colour(pixels)) == 7


def near(colour: str, expected: tuple[int, int, int]) -> bool:
    return max(abs(a - b) for a, b in zip(bytes.fromhex(colour[1:]), expected, strict=True)) < 24


def test_the_dominant_colour_is_that_of_most_of_the_picture() -> None:
    """A sky of many blues wins over a smaller patch of one colour."""
    pixels = np.zeros((300, 300, 3), np.uint8)
    pixels[:] = np.linspace((40, 90, 200), (70, 130, 240), 300).astype(np.uint8)[:, None]
    pixels[200:] = (10, 10, 10)
    assert near(dominant_colour(pixels), (50, 105, 215))


def test_transparent_pixels_have_no_colour() -> None:
    """A red subject on nothing is red; nothing at all is black."""
    pixels = np.zeros((100, 100, 4), np.uint8)
    assert dominant_colour(pixels) == "#000000"
    pixels[:, :, 1] = 255
    pixels[40:60, 40:60] = (200, 20, 30, 255)
    assert near(dominant_colour(pixels), (200, 20, 30))

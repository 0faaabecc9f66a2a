"""Pixels become files that any viewer reads."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from blossom_async.gateway.encoding import encode

NOTES = "blossom_async offline renderer"


def picture(width: int = 40, height: int = 30, channels: int = 3) -> np.ndarray:
    ramp = np.linspace(0, 255, width * height * channels).astype(np.uint8)
    return ramp.reshape(height, width, channels)


@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([3, 4])),
    )
)
def test_png_keeps_every_pixel(pixels: np.ndarray) -> None:
    """What Pillow reads from the PNG is what went in, alpha included."""
    read = np.asarray(Image.open(io.BytesIO(encode(pixels, "png", notes=NOTES))))
    assert np.array_equal(read, pixels)


@pytest.mark.parametrize(("file_format", "name"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_each_format_is_what_it_says(file_format: str, name: str) -> None:
    """The bytes are of the format asked for, in the size asked for."""
    image = Image.open(io.BytesIO(encode(picture(), file_format, notes=NOTES)))
    image.load()
    assert (image.format, image.size) == (name, (40, 30))


def test_jpg_stays_close() -> None:
    """jpg is lossy, and loses little of a smooth picture."""
    smooth = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    image = Image.open(io.BytesIO(encode(smooth, "jpg", notes=NOTES)))
    read = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(read - smooth).mean() < 4


@pytest.mark.parametrize("file_format", ["jpg", "png", "webp"])
def test_the_file_says_what_drew_it(file_format: str) -> None:
    """The picture file's own metadata names the renderer."""
    image = Image.open(io.BytesIO(encode(picture(), file_format, notes=NOTES)))
    said = image.info.get("Software") or image.getexif().get(0x0131)
    assert said == NOTES


def test_webp_is_lossless() -> None:
    """As the guide says, webp keeps every pixel."""
    read = np.asarray(Image.open(io.BytesIO(encode(picture(), "webp", notes=NOTES))).convert("RGB"))
    assert np.array_equal(read, picture())


def test_webp_keeps_transparency() -> None:
    """An alpha channel survives webp."""
    pixels = picture(channels=4)
    pixels[:, :20, 3] = 0
    image = Image.open(io.BytesIO(encode(pixels, "webp", notes=NOTES)))
    assert image.mode == "RGBA"
    assert np.asarray(image)[:, :20, 3].max() == 0


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
    with pytest.raises(ValueError, match=r"alpha|unknown format|no picture"):
        encode(pixels, file_format, notes=NOTES)

"""Pictures in fewer pixels: they look the same, are smaller, and are marked like the whole one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blossom_async.gateway.making.encoding import encode
from blossom_async.gateway.making.resizing import narrowed
from blossom_async.models import FORMATS, ImageRequest
from blossom_async.scenery import paint
from tests.gateway.storage.test_records import a_record

PIXELS = paint("a lake in autumn", width=256, height=160, seed=5)
CUT_OUT = paint("a red fox", width=256, height=160, seed=5, transparency=True)
OPTIONS = [
    *({"format": name} for name in FORMATS),
    {"format": "webp", "compression": "lossless"},
    {"format": "png", "compression": "lossy"},
    {"format": "jpg", "lossy_quality": 0},
    {"format": "png", "transparency": True},
    {"format": "webp", "transparency": True},
]


def on_white(image: Image.Image) -> NDArray[np.float64]:
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image.convert("RGBA")), np.float64)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("provider", ["offline", "openai"])
def test_the_same_picture_in_fewer_pixels(options: dict[str, object], provider: str) -> None:
    """In the format of the file, in proportion, with its alpha, lighter, and saying where it comes from."""
    request = ImageRequest("a lake", width=256, height=160, **options)  # type: ignore[arg-type]
    pixels = CUT_OUT if request.transparency else PIXELS
    whole = encode(pixels, request.format, compression=request.compression, notes="of the test").data
    record = a_record(request=request, width=256, height=160, provider=provider)
    data = narrowed(whole, request.format, record, 100)
    seen = Image.fromarray(pixels).resize((100, 62), Image.Resampling.LANCZOS)
    with Image.open(io.BytesIO(data)) as small:
        assert (small.size, small.has_transparency_data) == ((100, 62), request.transparency)
        assert small.format == {"jpg": "JPEG"}.get(request.format, request.format.upper())
        away = np.abs(on_white(small) - on_white(seen)).mean()
    assert away < (20 if request.lossy_quality == 0 else 5)
    assert len(data) < len(whole)
    source = b"digitalsourcetype/algorithmicMedia" if provider == "offline" else b"/trainedAlgorithmicMedia"
    assert source in data

"""Complete pictures as asked for are accepted, and bytes that only look like one are refused."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import zlib
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.making.encoding import encode
from blossom_async.gateway.providers import Delivery
from blossom_async.gateway.providers import verify as placeholders_of
from blossom_async.gateway.providers.containers import Seen
from blossom_async.gateway.providers.faults import Kind, ProviderFault
from blossom_async.gateway.providers.verify import Inspector, Placeholders, Repeats, verified
from blossom_async.models import ImageRequest
from blossom_async.scenery import paint
from tests.thorough import thoroughly

PIXELS = paint("a lake", width=96, height=64, seed=1)
CLEAR = paint("a lake", width=96, height=64, seed=1, transparency=True)
NONE = Placeholders()


def fault(kind: Kind, detail: str) -> ProviderFault:
    return ProviderFault("p", kind, detail, charged="yes")


def seen(data: bytes, *, width: int = 96, height: int = 64, alpha: bool = False) -> Seen:
    return verified(data, "", width=width, height=height, alpha=alpha, placeholders=NONE, fault=fault)


def file(kind: str, **how: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(CLEAR if how.pop("clear", False) else PIXELS).save(out, kind, **how)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def animated(kind: str) -> bytes:
    out = io.BytesIO()
    frames = [Image.fromarray(paint("a lake", width=96, height=64, seed=seed)) for seed in (1, 2)]
    frames[0].save(out, kind, save_all=True, append_images=frames[1:])
    return out.getvalue()


JPG, PNG, WEBP, AVIF = file("JPEG"), file("PNG"), file("WEBP"), file("AVIF")
GIF, BMP, TIFF = file("GIF"), file("BMP"), file("TIFF")


FORMATS = {
    "jpg": JPG,
    "png": PNG,
    "webp": WEBP,
    "avif": AVIF,
    "gif": GIF,
    "bmp": BMP,
    "tiff": TIFF,
}


def exif() -> Image.Exif:
    found = Image.Exif()
    found[0x0131] = "a camera"
    return found


GOOD = {
    "jpg": (JPG, Seen("jpg", 96, 64, alpha=False)),
    "jpg-progressive": (file("JPEG", progressive=True), Seen("jpg", 96, 64, alpha=False)),
    "jpg-restarts": (file("JPEG", restart_marker_blocks=2), Seen("jpg", 96, 64, alpha=False)),
    "jpg-exif": (file("JPEG", exif=exif(), icc_profile=b"x" * 500), Seen("jpg", 96, 64, alpha=False)),
    "jpg-padded": (JPG + bytes(64), Seen("jpg", 96, 64, alpha=False)),
    "jpg-two-scans": (file("JPEG", progressive=True, optimize=True), Seen("jpg", 96, 64, alpha=False)),
    "png": (PNG, Seen("png", 96, 64, alpha=False)),
    "png-ours": (encode(PIXELS, "png", notes="x").data, Seen("png", 96, 64, alpha=False)),
    "png-alpha": (file("PNG", clear=True), Seen("png", 96, 64, alpha=True)),
    "webp": (WEBP, Seen("webp", 96, 64, alpha=False)),
    "webp-lossless": (file("WEBP", lossless=True), Seen("webp", 96, 64, alpha=False)),
    "webp-alpha": (file("WEBP", clear=True), Seen("webp", 96, 64, alpha=True)),
    "webp-alpha-lossless": (file("WEBP", clear=True, lossless=True), Seen("webp", 96, 64, alpha=True)),
    "avif": (AVIF, Seen("avif", 96, 64, alpha=False)),
    "avif-alpha": (file("AVIF", clear=True), Seen("avif", 96, 64, alpha=True)),
    "gif": (GIF, Seen("gif", 96, 64, alpha=False)),
    "gif-alpha": (file("GIF", clear=True), Seen("gif", 96, 64, alpha=True)),
    "gif-animated": (animated("GIF"), Seen("gif", 96, 64, alpha=False)),
    "webp-animated": (animated("WEBP"), Seen("webp", 96, 64, alpha=False)),
    "avif-animated": (animated("AVIF"), Seen("avif", 96, 64, alpha=False)),
    "png-animated": (animated("PNG"), Seen("png", 96, 64, alpha=False)),
    "bmp": (BMP, Seen("bmp", 96, 64, alpha=False)),
    "tiff": (TIFF, Seen("tiff", 96, 64, alpha=False)),
    "tiff-alpha": (file("TIFF", clear=True), Seen("tiff", 96, 64, alpha=True)),
    "tiff-deflate": (file("TIFF", compression="tiff_adobe_deflate"), Seen("tiff", 96, 64, alpha=False)),
    "webp-exif": (file("WEBP", exif=exif()), Seen("webp", 96, 64, alpha=False)),
}


@pytest.mark.parametrize(("data", "what"), GOOD.values(), ids=GOOD)
def test_a_whole_picture_is_taken_for_what_it_is(data: bytes, what: Seen) -> None:
    """Format, size and alpha channel are read from the bytes."""
    assert seen(data) == what


SPARE = {
    "jpg-padded": 64,
    "gif": 1,
    "gif-alpha": 1,
    "gif-animated": len(animated("GIF")) - len(GIF),
    "tiff-deflate": 14,
}
"""Bytes at the end that a viewer of the first picture does not need."""


def webp_of(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def bad() -> dict[str, bytes]:
    """Row 110: what comes with a 200 and is no picture."""
    ihdr = struct.pack(">IIBBBBB", 96, 64, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n"
    found = {
        "nothing": b"",
        "html": b"<!DOCTYPE html><html><title>Just a moment</title></html>" * 10,
        "html-after-space": b"\n\n  <html><body>no</body></html>" * 20,
        "json": b'{"error": {"message": "no worker"}}' * 20,
        "json-list": b"[" + b" " * 500 + b"]",
        "text": b"error code: 1033" * 30,
        "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"></svg>' * 10,
        "svg-bom": b"\xef\xbb\xbf<svg><script>alert(1)</script></svg>" * 10,
        "gif-of-nothing": b"GIF89a" + bytes(500),
        "gif-of-blocks": GIF[:13] + b"!\xfe" + b"\1x" * 300_000,
        "bmp-of-nothing": b"BM" + bytes(500),
        "avif-of-nothing": b"\0\0\0\x1cftypavif" + bytes(500),
        "avif-of-boxes": AVIF[:32] + b"\0\0\0\x08free" * 30_000,
        "avif-without-pixels": AVIF[: AVIF.index(b"mdat") - 4],
        "heic": b"\0\0\0\x1cftypheic" + bytes(500),
        "jxl": b"\xff\x0a" + bytes(500),
        "tiff-of-nothing": b"II*\0" + bytes(500),
        "tiff-beyond": b"MM\0*" + b"\xff" * 500,
        "tiff-without-strips": TIFF.replace(b"\x11\1\4\0", b"\x12\1\4\0", 1),
        "mp4": bytes(4) + b"ftypisom" + bytes(500),
        "webm": b"\x1aE\xdf\xa3" + bytes(500),
        "zeros": bytes(5000),
        "gzip": b"\x1f\x8b" + bytes(500),
        "png-without-pixels": head + chunk(b"IHDR", ihdr) + chunk(b"IEND", b""),
        "png-without-header": head + chunk(b"IDAT", bytes(300)) + chunk(b"IEND", b""),
        "png-bomb": PNG.replace(
            PNG[8:33], chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
        ),
        "png-of-nothing": PNG.replace(
            PNG[8:33], chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 64, 8, 2, 0, 0, 0))
        ),
        "png-of-chunks": PNG[:33] + chunk(b"tIME", b"") * 30_000 + PNG[33:],
        "png-flipped": PNG[:200] + bytes([PNG[200] ^ 1]) + PNG[201:],
        "jpg-head": JPG[:3] + bytes(400),
        "jpg-no-scan": JPG[: JPG.index(b"\xff\xda")] + b"\xff\xd9",
        "jpg-of-fill": JPG[:2] + b"\xff" * 2**20 + JPG[2:],
        "jpg-two-starts": JPG[:2] + JPG,
        "jpg-other-bytes": JPG[:20] + bytes(30) + JPG[20:],
        "webp-of-chunks": webp_of(b"JUNK\0\0\0\0" * 30_000 + WEBP[12:]),
        "webp-other-start": webp_of(b"VP8 " + struct.pack("<I", 290) + bytes(290)),
        "webp-overlong-chunk": webp_of(b"VP8 " + struct.pack("<I", 500) + bytes(290)),
        "webp-other": webp_of(b"JUNK" + struct.pack("<I", 280) + bytes(280)),
        "webp-extended-empty": b"RIFF"
        + struct.pack("<I", 22)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + bytes(10),
        "wave": b"RIFF" + struct.pack("<I", 292) + b"WAVE" + bytes(288),
    }
    for name, data in FORMATS.items():
        for part in (1, 2, 3):
            found[f"{name}-{part}-quarters"] = data[: len(data) * part // 4]
        if name != "gif":  # whose last byte only says that no other picture follows
            found[f"{name}-last-byte"] = data[:-1]
        found[f"{name}-start-lost"] = data[4:]
    return found


BAD = bad()


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_whole_picture_is_refused(data: bytes) -> None:
    """With none of its bytes in the message."""
    with pytest.raises(ProviderFault) as caught:
        seen(data)
    assert caught.value.kind is Kind.BAD_CONTENT
    assert "<" not in str(caught.value)


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file(kind, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_the_size_is_that_of_the_picture_as_it_is_shown(kind: str, orientation: int) -> None:
    """A picture that lies on its side has the sides that were asked for once it is turned."""
    sides = (64, 96) if orientation > 4 else (96, 64)
    found = seen(turned(kind, orientation), width=sides[0], height=sides[1])
    assert (found.width, found.height) == sides
    assert found.orientation == (1 if kind == "TIFF" else orientation)


@given(exif=st.binary(max_size=80) | st.binary(max_size=60).map(lambda data: b"MM\0*\0\0\0\x08\0\3" + data))
def test_an_exif_that_makes_no_sense_is_passed_over(exif: bytes) -> None:
    """The picture beside it is good."""
    data = JPG[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + JPG[2:]
    assert seen(data, width=80, height=80).orientation in range(1, 9)
    assert seen(PNG[:33] + chunk(b"eXIf", exif) + PNG[33:], width=80, height=80).format == "png"


TAILS = {
    "zeros": bytes(200_000),
    "text": b"appended by an encoder" * 500,
    "ends": b"\xff\xd9\xff\xda\xff\xd9" * 999,
    "a picture": JPG,
    "half a picture": JPG[: len(JPG) // 2],
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
@pytest.mark.parametrize(("data", "what"), GOOD.values(), ids=GOOD)
def test_bytes_after_the_end_are_passed_over(data: bytes, what: Seen, tail: bytes) -> None:
    """Cameras and encoders append previews, depth maps and padding."""
    assert seen(data + tail) == what


@given(
    data=st.binary(max_size=400),
    prefix=st.sampled_from([b"", *FORMATS.values(), *(data[:60] for data in FORMATS.values())]),
)
def test_no_bytes_raise_anything_else(data: bytes, prefix: bytes) -> None:
    """Whatever comes is a picture or a fault."""
    try:
        said = seen(prefix + data).format
    except ProviderFault as exc:
        said = exc.kind.value
    assert said in {*FORMATS, "bad_content"}


@given(cut=st.integers(0, 10_000), which=st.sampled_from(list(GOOD)))
def test_no_beginning_of_a_picture_is_a_picture(cut: int, which: str) -> None:
    """Wherever it is cut; what comes after the end of the first picture may be missing."""
    data, _ = GOOD[which]
    missing = 1 + cut % (len(data) - 1)
    if missing <= SPARE.get(which, 0):
        return
    with pytest.raises(ProviderFault):
        seen(data[:-missing])


@pytest.mark.parametrize(
    ("width", "height", "good"),
    [
        (96, 64, True),
        (192, 128, True),  # twice as large: enlarged here
        (194, 128, False),
        (48, 32, True),
        (16, 16, True),
        (64, 64, True),  # a square out of 3:2
        (64, 96, False),  # 44 % would be left
        (96, 32, True),  # half
        (96, 31, False),
        (4096, 4096, False),
    ],
)
def test_another_size_is_good_when_enough_of_it_is_left(width: int, height: int, good: bool) -> None:
    """Enlarged to twice its size at the most, and half of it or more in the end."""
    if good:
        assert seen(JPG, width=width, height=height).width == 96
    else:
        with pytest.raises(ProviderFault, match="asked for"):
            seen(JPG, width=width, height=height)


@pytest.mark.parametrize("data", [JPG, PNG, WEBP], ids=["jpg", "png", "webp"])
def test_a_picture_without_alpha_is_none_where_it_was_asked_for(data: bytes) -> None:
    """Pollinations has sent a jpg with a black background instead (its issue 7266)."""
    with pytest.raises(ProviderFault, match="without alpha channel"):
        seen(data, alpha=True)


def test_a_plain_surface_is_no_picture() -> None:
    """A model's picture takes more than 255 bytes."""
    out = io.BytesIO()
    Image.new("RGB", (96, 64)).save(out, "WEBP")
    with pytest.raises(ProviderFault, match=f"of {len(out.getvalue())} bytes"):
        seen(out.getvalue())


def test_a_known_placeholder_is_told_from_a_picture() -> None:
    """By MD5 or SHA-256 of its bytes."""
    for text in (hashlib.sha256(JPG).hexdigest(), hashlib.md5(JPG).hexdigest().upper()):  # noqa: S324 - a name
        with pytest.raises(ProviderFault) as caught:
            verified(
                JPG, "", width=96, height=64, alpha=False, placeholders=Placeholders([text]), fault=fault
            )
        assert caught.value.kind is Kind.PLACEHOLDER


def test_known_placeholders_have_a_source() -> None:
    """Each entry names a hash, the format of the file, and where and when it was reported."""
    listed = json.loads(Path(placeholders_of.__file__).with_name("placeholders.json").read_text("utf-8"))
    assert "2090a5dc21c32952cbf8496339752bd1" in {entry["md5"] for entry in listed}
    for entry in listed:
        assert len(bytes.fromhex(entry["md5"])) == 16
        assert entry["format"] in {"jpg", "png", "webp"}
        assert entry["source"].startswith("https://")
        assert date.fromisoformat(f"{entry['date']}-01")


@pytest.mark.parametrize("text", ["", "abc", "g" * 32, "a" * 40])
def test_what_is_no_hash_is_refused(text: str) -> None:
    """Else a placeholder would never be known."""
    with pytest.raises(ConfigurationError, match="not a hash"):
        Placeholders([text])


def test_the_same_bytes_for_another_prompt_are_noticed() -> None:
    """And for the same prompt they are fine, however often."""
    repeats = Repeats()
    assert [repeats.is_of_another(JPG, words) for words in ("a", "a", "b", "a")] == [
        False,
        False,
        True,
        False,
    ]
    assert not repeats.is_of_another(PNG, "b")


def test_prompts_that_a_model_cannot_tell_apart_may_have_the_same_picture() -> None:
    """Case, space, and what comes after the 77 tokens that some encoders read."""
    repeats = Repeats()
    long = "a fox on a hill, " * 20
    assert not repeats.is_of_another(JPG, f"{long} by night")
    assert not repeats.is_of_another(JPG, f" {long.title()}  by day")
    assert repeats.is_of_another(JPG, long[2:])


def test_the_memory_of_repeats_is_bounded() -> None:
    """What has not come for the longest time is forgotten first."""
    repeats = Repeats(most=3)
    for number in (0, 1, 2, 0, 3):
        assert not repeats.is_of_another(bytes([number]), f"prompt {number}")
    assert repeats.is_of_another(bytes([0]), "another prompt")
    assert repeats.is_of_another(bytes([3]), "another prompt")
    assert not repeats.is_of_another(bytes([1]), "another prompt")


async def inspected(request: ImageRequest, *, seeded: bool = True) -> Delivery:
    return await Inspector("p", (), throttles=True).delivery(
        JPG,
        "image/jpeg",
        request,
        width=96,
        height=64,
        model="m",
        request_id="req_1",
        charged="yes",
        usd=Decimal("0.1"),
        seeded=seeded,
    )


async def test_the_notes_say_what_is_left_to_do() -> None:
    """Size and format that were not made as asked, and a seed that was not taken."""
    assert (await inspected(ImageRequest("x", width=96, height=64, format="jpg"), seeded=False)).notes == (
        "p m; takes no seed"
    )
    assert (await inspected(ImageRequest("x", width=96, height=64, format="jpg"))).notes == "p m"
    assert (
        await inspected(ImageRequest("x", width=80, height=60))
    ).notes == "p m; drawn at 96x64; sent as jpg"


@pytest.mark.parametrize("scenes", thoroughly(10, 40))
def test_good_pictures_raise_no_alarm(scenes: int) -> None:
    """Scenes of many sizes, in all formats and ways to write them, each for a prompt of its own."""
    chance = random.Random(5)  # noqa: S311 - reproducible, not secret
    repeats = Repeats()
    for number in range(scenes):
        width, height = chance.randrange(64, 300), chance.randrange(64, 300)
        pixels = paint(f"the sea {number}", width=width, height=height, seed=number)
        ways: list[tuple[str, dict[str, object]]] = [
            ("JPEG", {"quality": chance.randrange(10, 98), "progressive": number % 2 == 0}),
            ("PNG", {"compress_level": chance.randrange(10)}),
            ("WEBP", {"quality": chance.randrange(100), "method": 0}),
            ("WEBP", {"lossless": True, "quality": 0, "method": 0}),
        ]
        for kind, how in ways:
            out = io.BytesIO()
            Image.fromarray(pixels).save(out, kind, **how)
            assert seen(out.getvalue(), width=width, height=height).width == width
            assert not repeats.is_of_another(out.getvalue(), f"the sea {number}")

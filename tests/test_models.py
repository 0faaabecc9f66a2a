"""Options are checked in one place, strictly, and say what is wrong."""

from __future__ import annotations

import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blossom_async import ImageInfo, ImageOptions, ImageRequest, InvalidRequest
from blossom_async.models import (
    VISIBLE,
    ImageSettings,
    PreloadReport,
    PreloadResult,
    checked,
    from_json,
    image_request,
    json_with_prompt,
    to_json,
)

INFO = (
    b'{"url":"http://127.0.0.1/image/AAAAAAAAAAAAAAAAAAAAAA","id":"AAAAAAAAAAAAAAAAAAAAAA","width":16,"height":16,"format":"png","file_size":1,'
    b'"quality":"standard","cost":1,"created_at":"2026-11-22T10:00:00+00:00","expires_at":null,'
    b'"time_remaining":null,"tracking_id":null,"metadata":{},"sha256":"00","provider":"offline",'
    b'"model":"scenery-1","seed":7}'
)


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        ({"prompt": ""}, "prompt", "empty text cannot be used; allowed: text of 1 to 32,000 characters"),
        ({"prompt": " \n"}, "prompt", "empty text"),
        ({"prompt": "\u200b\ufeff\u00ad\u2060"}, "prompt", "empty text"),
        ({"prompt": "\u3164 \u2800\ufe0f\U000e0100\u200d"}, "prompt", "empty text"),
        ({"prompt": "a\0lake"}, "prompt", "a NUL character at character 1"),
        ({"prompt": "x" * 40_000}, "prompt", "text of 40,000 characters"),
        ({"prompt": 3}, "prompt", "3 cannot be used"),
        ({"prompt": "a\ud800"}, "prompt", "an unpaired surrogate at character 1"),
        ({"width": -5}, "width", "-5 cannot be used; allowed: a whole number of pixels from 16 to 4096"),
        ({"width": "1024"}, "width", "'1024' cannot be used"),
        ({"width": 10**9}, "width", "1000000000 cannot be used"),
        ({"width": float("nan")}, "width", "nan cannot be used"),
        ({"width": True}, "width", "True cannot be used"),
        ({"width": np.bool_(True)}, "width", "cannot be used"),
        ({"height": 1024.5}, "height", "1024.5 cannot be used"),
        ({"height": float("inf")}, "height", "inf cannot be used"),
        ({"seed": 1e300}, "seed", "1e+300 cannot be used"),
        ({"seed": Decimal("NaN")}, "seed", "Decimal('NaN') cannot be used"),
        ({"seed": Decimal("1E+999999")}, "seed", "Decimal('1E+999999') cannot be used"),
        ({"seed": 7j}, "seed", "7j cannot be used"),
        ({"seed": np.array([7, 8])}, "seed", "cannot be used"),
        ({"quality": "best"}, "quality", "allowed: one of standard, hd, ultra"),
        ({"format": "gif"}, "format", "'gif' cannot be used; allowed: one of jpg, png, webp"),
        ({"format": "JPG"}, "format", "Did you mean 'jpg'?"),
        ({"transparency": "false"}, "transparency", "'false' cannot be used; allowed: True or False"),
        ({"transparency": True, "format": "jpg"}, "transparency", "False with format jpg"),
        ({"lossy_quality": 101, "format": "jpg"}, "lossy_quality", "a whole number from 0 to 100"),
        ({"lossy_quality": 80}, "lossy_quality", "format jpg, webp or avif"),
        (
            {"lossy_quality": 80, "format": "jpg", "quality_preset": "print"},
            "lossy_quality",
            "a quality_preset",
        ),
        ({"lossy_quality": 80, "format": "webp", "compression": "auto"}, "lossy_quality", "compression auto"),
        ({"model": "a b"}, "model", "a model name"),
        ({"seed": -1}, "seed", "a whole number from 0 to 2147483647"),
        ({"negative_prompt": ""}, "negative_prompt", "empty text"),
        ({"expires_in": 0}, "expires_in", "seconds from 1"),
        ({"cache_control": "public\r\nSet-Cookie: a=b"}, "cache_control", "Cache-Control directives"),
        ({"cache_control": "max-age = 3"}, "cache_control", "Cache-Control directives"),
        ({"etag": 'a"b'}, "etag", "without quotes"),
        ({"etag": "*"}, "etag", "without quotes"),
        ({"tracking_id": "a\nb"}, "tracking_id", "one line"),
        ({"metadata": {"a": 1}}, "metadata['a']", "pairs of text"),
        ({"metadata": "a"}, "metadata", "pairs of text"),
        ({"use_custom_cdn": 1}, "use_custom_cdn", "True or False"),
    ],
)
def test_bad_values_name_field_value_and_what_is_allowed(
    options: dict[str, Any], field: str, said: str
) -> None:
    """A bad value raises ``InvalidRequest`` with the field, what was seen and what is allowed."""
    with pytest.raises(InvalidRequest) as caught:
        image_request({"prompt": "a lake", **options})
    assert caught.value.field == field
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "number",
    [
        64.0,
        np.int64(64),
        np.uint8(64),
        np.float32(64),
        np.array(64),
        Decimal(64),
        Decimal("64.00"),
        Fraction(64),
    ],
    ids=repr,
)
def test_a_whole_number_may_be_of_any_type(number: Any) -> None:
    """As data frames, generators and JSON have them."""
    request = image_request({"prompt": "a lake", "width": number, "seed": number, "expires_in": number})
    assert request == ImageRequest("a lake", width=64, seed=64, expires_in=64)
    assert [type(value) for value in (request.width, request.seed, request.expires_in)] == [int] * 3


@pytest.mark.parametrize("truth", [np.True_, np.array(True)])
def test_numpys_truth_is_true(truth: Any) -> None:
    """A column of a data frame has it."""
    assert image_request({"prompt": "a lake", "transparency": truth}).transparency is True


def test_none_is_the_default_of_every_option() -> None:
    """As data frames and other languages spell what was not given."""
    options = dict.fromkeys(ImageOptions.__annotations__)
    assert image_request({"prompt": "a lake", **options}) == ImageRequest("a lake")
    assert ImageRequest("a lake", **options) == ImageRequest("a lake")  # type: ignore[arg-type]
    assert checked(options, ImageSettings) == ImageSettings()
    with pytest.raises(InvalidRequest, match="prompt: None cannot be used"):
        image_request({"prompt": None})


@pytest.mark.parametrize("prompt", ["\u200bfox", "🦊", "👩\u200d🚀", "!", "\ue000", "木", "\u0301"])
def test_what_can_be_seen_is_a_prompt(prompt: str) -> None:
    """Zero-width characters join what is beside them, and stay."""
    assert image_request({"prompt": prompt}).prompt == prompt


def test_unknown_option_names_the_nearest_one() -> None:
    """An unknown option is a ``TypeError`` that names the one that was probably meant."""
    with pytest.raises(TypeError, match=r"unknown option 'widht'\. Did you mean 'width'\?"):
        image_request({"prompt": "a lake", "widht": 3})


def test_missing_prompt_is_said() -> None:
    """Without a prompt there is nothing to draw."""
    with pytest.raises(TypeError, match="'prompt' is missing"):
        image_request({"width": 64})


def test_invalid_request_is_a_value_error_that_can_be_pickled() -> None:
    """Callers may catch the builtin, and worker processes may send it home."""
    error = InvalidRequest("width", -5, "more")
    error.add_note("item 3")
    assert isinstance(error, ValueError)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (again.field, again.value, str(again)) == ("width", -5, str(error))
    assert again.__notes__ == ["item 3"]


def test_options_for_editors_are_the_fields_of_the_request() -> None:
    """``ImageOptions`` and ``ImageRequest`` cannot drift apart."""
    fields = [field.name for field in attrs.fields(ImageRequest) if field.name != "prompt"]
    assert list(ImageOptions.__annotations__) == fields


@given(
    st.builds(
        ImageRequest,
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
            VISIBLE.search
        ),
        width=st.integers(16, 4096),
        height=st.integers(16, 4096),
        quality=st.sampled_from(["standard", "hd", "ultra"]),
        format=st.sampled_from(["jpg", "png", "webp"]),
        seed=st.none() | st.integers(0, 2_147_483_647),
        expires_in=st.none() | st.integers(1, 315_360_000),
        metadata=st.dictionaries(
            st.text("abc", min_size=1, max_size=9), st.text("äöü 漢", max_size=9), max_size=8
        ),
    )
)
def test_a_request_survives_the_wire(request: ImageRequest) -> None:
    """What is sent is what was asked for."""
    import orjson

    assert image_request(orjson.loads(to_json(request))) == request


def test_settings_are_checked_without_a_prompt() -> None:
    """What all pictures of a batch have in common is checked before the first prompt is known."""
    with pytest.raises(InvalidRequest, match="compression"):
        checked({"format": "jpg", "compression": "lossless"}, ImageSettings)
    with pytest.raises(TypeError, match="unknown option 'prompt'"):
        checked({"prompt": "a lake"}, ImageSettings)


@pytest.mark.parametrize("settings", [ImageSettings(), ImageSettings(width=64, use_custom_cdn=True)])
def test_a_prompt_is_written_into_its_settings(settings: ImageSettings) -> None:
    """The same bytes as the whole request, so that both count as equal."""
    request = ImageRequest('"a" lake\n', **attrs.asdict(settings))
    assert json_with_prompt(settings)('"a" lake\n') == to_json(request)
    with pytest.raises(InvalidRequest, match="empty text"):
        json_with_prompt(settings)(" ")


def test_info_is_read_from_a_gateways_answer() -> None:
    """Times are aware, and keys a newer gateway adds are ignored."""
    info = from_json(INFO[:-1] + b',"thumbhash":"x"}', ImageInfo)
    assert info.created_at.utcoffset() is not None
    assert info.seed == 7


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", INFO.replace(b'"width":16', b'"width":"16"')])
def test_an_answer_of_another_shape_is_a_value_error(data: bytes) -> None:
    """What is no ``ImageInfo`` is not taken for one."""
    with pytest.raises(ValueError, match="not a valid ImageInfo: "):
        from_json(data, ImageInfo)


def test_what_a_gateway_tells_can_be_written_read_and_hashed() -> None:
    """As plain values, which read back as the same."""
    info = from_json(INFO, ImageInfo)
    assert from_json(info.to_json().encode(), ImageInfo) == info
    assert info.to_dict()["created_at"] == "2026-11-22T10:00:00+00:00"
    assert len({info, from_json(INFO, ImageInfo)}) == 1
    result = PreloadResult(url=info.url, status=200, ms=1.5, bytes=3, cache="hit")
    report = PreloadReport(results=(result,), elapsed_s=0.5)
    assert (len(report), report[0], list(report)) == (1, result, [result])
    assert report.to_dict() == {"results": [result.to_dict()], "elapsed_s": 0.5}


def test_a_width_stands_after_the_id_whatever_the_path_before() -> None:
    """A gateway may be served under a path."""
    info = attrs.evolve(
        from_json(INFO, ImageInfo), widths=(8,), url=f"https://a.example/generated/image/{'A' * 22}"
    )
    assert info.variant_url(8) == f"{info.url}/w8"
    assert info.variant_url(8, url=f"https://a.example/generated/{info.id}.png?sig=x").endswith(
        "AA/w8.png?sig=x"
    )

"""OpenAI's parameters of a call, as requests for pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import attrs

from blossom_async.errors import InvalidRequest
from blossom_async.gateway.calls.incoming import checked_options
from blossom_async.gateway.calls.uploads import Upload
from blossom_async.models import ImageRequest, OpenAIRequest

__all__ = ["MOST", "QUALITIES", "answer_format", "given", "number", "requests_of"]

MOST = 10
"""Pictures of one call, as at OpenAI."""

_RATIO = re.compile("([1-9][0-9]{0,3}):([1-9][0-9]{0,3})", re.ASCII)
_SIZE = re.compile("\\s*([1-9][0-9]{0,4})\\s*[x*×]\\s*([1-9][0-9]{0,4})\\s*", re.ASCII)
QUALITIES = {
    "auto": "standard",
    "low": "standard",
    "standard": "standard",
    "medium": "hd",
    "hd": "hd",
    "high": "ultra",
}
"""OpenAI's qualities, and ours."""

_FORMATS = {"png": "png", "jpeg": "jpg", "jpg": "jpg", "webp": "webp"}
_BACKGROUNDS = {"auto": False, "opaque": False, "transparent": True}
_HINTS = frozenset(("steps", "cfg"))  # of LobeChat, sent to every model
_THEIRS = {
    *("n", "size", "response_format", "output_format", "output_compression", "background", "user"),
    *("partial_images", "aspectRatio", "aspect_ratio"),
}
_DEFAULTS: dict[str, tuple[tuple[Any, ...], str]] = {
    "style": (
        ("vivid", "natural"),
        "vivid or natural, which change nothing; describe the style in the prompt",
    ),
    "moderation": (("auto",), "auto; the provider's own rules apply"),
    "stream": ((False, True), "true or false"),
}
"""Parameters that can only be sent as what they are anyway, and what is allowed, in words."""
_MAY_BE_EMPTY = {*_THEIRS, *_DEFAULTS, "model", "quality", "negative_prompt"}
"""Parameters that clients send as an empty text where a person has set nothing."""
_ANSWERS = ("url", "b64_json")
_GIVES_BYTES = re.compile("gpt-image|chatgpt-image")  # models that always answer with bytes


def given(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that somebody has set."""
    return {name: value for name, value in asked.items() if value != "" or name not in _MAY_BE_EMPTY}


def answer_format(body: Mapping[str, Any], usual: str) -> str:
    """``url`` or ``b64_json``. Of a call that names neither it is ``usual``; ``auto``: as at OpenAI."""
    if usual == "auto":
        model = body.get("model")
        always_bytes = isinstance(model, str) and _GIVES_BYTES.match(model)
        usual = "b64_json" if always_bytes else "url"
    return _one_of(body, "response_format", _ANSWERS, usual)


def requests_of(body: Mapping[str, Any], upload: Upload | None, count: int) -> list[ImageRequest]:
    """A request for each of ``count`` pictures, drawn from what was uploaded. Raises ``InvalidRequest``."""
    first = _request(body, upload)
    seeds = (None if first.seed is None else first.seed + n for n in range(1, count))
    return [first, *(attrs.evolve(first, seed=seed) for seed in seeds)]


def _request(body: Mapping[str, Any], upload: Upload | None) -> ImageRequest:
    options = _options(body)
    fidelity = options.pop("input_fidelity", None) if upload is not None else None
    if upload is not None and not {"width", "height"} & options.keys():
        options["width"], options["height"] = upload.width, upload.height
    request = checked_options(options, ImageRequest)
    on_the_way = _whole(body.get("partial_images")) or 0
    if upload is None and not on_the_way:
        return request
    return OpenAIRequest(
        **attrs.asdict(request, recurse=False),
        pictures=() if upload is None else upload.pictures,
        mask=None if upload is None else upload.mask,
        input_fidelity=fidelity,
        partial_images=on_the_way,
    )


def _options(body: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's parameters as options of a picture; options of ours stay as they are."""
    for name, (values, allowed) in _DEFAULTS.items():
        value = _whole(body.get(name))
        if value is not None and not any(type(value) is type(each) and value == each for each in values):
            raise InvalidRequest(name, value, allowed)
    partial = _whole(body.get("partial_images"))
    if partial is not None and (
        type(partial) is not int or not 0 <= partial <= (3 if body.get("stream") else 0)
    ):
        raise InvalidRequest("partial_images", partial, "0, or up to 3 with stream; none may be sent")
    for name in _HINTS & body.keys():
        if isinstance(body[name], bool) or not isinstance(body[name], int | float | None):
            raise InvalidRequest(name, body[name], "a number; it has no effect, as the model uses its own")
    theirs = {*_THEIRS, *_DEFAULTS, *_HINTS}
    options = {name: value for name, value in body.items() if name not in theirs and value is not None}
    if "defer" in options:
        raise InvalidRequest("defer", options["defer"], "no value; POST /v1/images makes deferred pictures")
    size = body.get("size")
    if size is not None and size != "auto":
        found = _SIZE.fullmatch(size.lower()) if isinstance(size, str) else None
        if found is None:
            raise InvalidRequest("size", size, "a width and a height in pixels, such as 1024x1024, or auto")
        options["width"], options["height"] = int(found[1]), int(found[2])
    ratio = body.get("aspectRatio", body.get("aspect_ratio"))
    if ratio is not None:
        sides = _sides(ratio)
        if size in {None, "auto"}:
            options["width"], options["height"] = sides
    if "quality" in options and options["quality"] != "ultra":
        options["quality"] = QUALITIES[_one_of(options, "quality", tuple(QUALITIES), "auto")]
    if (file_format := body.get("output_format")) is not None:
        options["format"] = _FORMATS[_one_of(body, "output_format", tuple(_FORMATS), file_format)]
    if (compression := _whole(body.get("output_compression"))) is not None:
        least = 0 if options.get("format") in {"jpg", "webp"} else 100
        if type(compression) is not int or not least <= compression <= 100:
            allowed = "a whole number from 0 to 100 with output_format jpeg or webp, else 100"
            raise InvalidRequest("output_compression", compression, allowed)
        if compression < 100:
            options["lossy_quality"] = compression
    if body.get("background") is not None:
        options["transparency"] = _BACKGROUNDS[_one_of(body, "background", tuple(_BACKGROUNDS), "auto")]
    return options


def _sides(ratio: Any) -> tuple[int, int]:
    """Width and height of about a megapixel."""
    found = _RATIO.fullmatch(ratio.strip()) if isinstance(ratio, str) else None
    shape = math.sqrt(int(found[1]) / int(found[2])) if found is not None else 0.0
    if not 0.25 <= shape <= 4:
        raise InvalidRequest("aspectRatio", ratio, "width and height, such as 16:9, at most 16:1")
    return 16 * round(64 * shape), 16 * round(64 / shape)


def _whole(value: Any) -> Any:
    """A number such as 2.0, as JSON of some languages has it, as a whole one; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def number(body: Mapping[str, Any]) -> int:
    """How many pictures. Raises ``InvalidRequest``."""
    count = _whole(body.get("n"))
    if count is None:
        return 1
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST:
        raise InvalidRequest("n", count, f"a whole number from 1 to {MOST}")
    return count


def _one_of(body: Mapping[str, Any], name: str, allowed: tuple[str, ...], usual: str) -> str:
    value = body.get(name)
    if value is None:
        return usual
    if not isinstance(value, str) or value not in allowed:
        raise InvalidRequest(name, value, f"one of {', '.join(allowed)}")
    return value

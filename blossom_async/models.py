"""The attrs types that cross the border between library and gateway, and the one cattrs converter."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypedDict, TypeVar

import attrs
import cattrs
import orjson
from cattrs.gen import make_dict_unstructure_fn
from cattrs.preconf.orjson import make_converter

from blossom_async.errors import InvalidRequest, nearest, shown

__all__ = [
    "COSTS",
    "FORMATS",
    "IMAGE_ID",
    "QUALITIES",
    "ImageInfo",
    "ImageOptions",
    "ImageRequest",
    "PreloadReport",
    "PreloadResult",
    "from_json",
    "from_plain",
    "image_request",
    "json_with_prompt",
    "to_json",
]

FORMATS: tuple[str, ...] = ("jpg", "png", "webp")
COSTS: dict[str, int] = {"standard": 1, "hd": 2, "ultra": 4}
"""Credits a picture costs, by quality: the guide's table."""
QUALITIES: tuple[str, ...] = tuple(COSTS)

MAX_PROMPT = 32_000
MIN_SIDE, MAX_SIDE = 16, 4096
IMAGE_ID = "[0-9A-Za-z]{22}"  # a pattern: 128 random bits in base62
MAX_SEED = 2_147_483_647  # the widest range every supported provider takes
MAX_EXPIRES_IN = 315_360_000  # ten years

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, 5.6.2
_DIRECTIVE = rf'{_WORD}(?:=(?:{_WORD}|"[ !#-\[\]-~]*"))?'
_CACHE_CONTROL = re.compile(rf"{_DIRECTIVE}(?:[ ]*,[ ]*{_DIRECTIVE})*", re.ASCII)
_ETAG = re.compile(r"[!#-~]{1,128}", re.ASCII)  # RFC 9110, 8.8.3, without the quotes
_MODEL = re.compile(r"[\w.:/@+-]{1,128}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

T = TypeVar("T")
Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _text(limit: int, what: str) -> Validator:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        allowed = f"{what} of 1 to {limit:,} characters"
        if not isinstance(value, str):
            raise InvalidRequest(field.name, value, allowed)
        if len(value) > limit:
            raise InvalidRequest(field.name, value, allowed, seen=f"a text of {len(value):,} characters")
        if not value.strip():
            raise InvalidRequest(field.name, value, allowed, seen="an empty text")
        if found := _SURROGATE.search(value):
            seen = f"a text with half of a surrogate pair at character {found.start()}"
            raise InvalidRequest(field.name, value, allowed, seen=seen)

    return check


def _line(limit: int, what: str) -> Validator:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, str) or not 1 <= len(value) <= limit or _CONTROL.search(value):
            allowed = f"{what}: one line of 1 to {limit} characters"
            raise InvalidRequest(field.name, value, allowed)

    return check


def _whole(low: int, high: int, what: str = "") -> Validator:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidRequest(field.name, value, f"a whole number{what} from {low} to {high}")

    return check


def _one_of(options: tuple[str, ...]) -> Validator:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, str) or value not in options:
            hint = nearest(value.lower(), options) if isinstance(value, str) else ""
            raise InvalidRequest(field.name, value, f"one of {', '.join(options)}.{hint}".rstrip("."))

    return check


def _flag(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(field.name, value, "True or False")


def _matching(pattern: re.Pattern[str], allowed: str) -> Validator:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise InvalidRequest(field.name, value, allowed)

    return check


def _cache_control(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or len(value) > 256 or not _CACHE_CONTROL.fullmatch(value):
        allowed = "Cache-Control directives such as 'public, max-age=3600', at most 256 characters"
        raise InvalidRequest(field.name, value, allowed)


def _etag(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or value == "*" or not _ETAG.fullmatch(value):
        allowed = "1 to 128 visible ASCII characters without quotes, such as 'banner-v2'"
        raise InvalidRequest(field.name, value, allowed)


def _metadata(_: object, field: attrs.Attribute[Any], value: object) -> None:
    allowed = "at most 32 pairs of text, keys to 64 and values to 512 characters, without control characters"
    if not isinstance(value, Mapping) or len(value) > 32:
        raise InvalidRequest(field.name, value, allowed)
    for key, text in value.items():
        for part, limit, least in ((key, 64, 1), (text, 512, 0)):
            if not isinstance(part, str) or not least <= len(part) <= limit or _CONTROL.search(part):
                raise InvalidRequest(f"{field.name}[{shown(key)}]", text, allowed)


def _optional(validator: Validator) -> Validator:
    def check(instance: object, field: attrs.Attribute[Any], value: object) -> None:
        if value is not None:
            validator(instance, field, value)

    return check


def _frozen_mapping(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


@attrs.frozen
class ImageRequest:
    """What picture is wanted, and how its URL shall behave. The one place where options are checked.

    Sizes in pixels, 16 to 4096 a side. ``quality`` is ``standard`` (cost 1), ``hd`` (2) or ``ultra`` (4);
    ``format`` is ``jpg``, ``png`` or ``webp``. ``transparency`` asks for an alpha channel, which jpg does
    not have. ``seed`` 0 to 2,147,483,647; without one the gateway picks one and records it.
    ``expires_in`` in seconds, at most ten years; afterwards the URL answers 410.
    ``cache_control`` and ``etag`` become headers of the picture; ``tracking_id`` and ``metadata`` are kept
    with it. ``use_custom_cdn`` puts the URL under the client's ``cdn_prefix``.

    Raises ``InvalidRequest`` for a value outside these.
    """

    prompt: str = attrs.field(validator=_text(MAX_PROMPT, "a text"))
    width: int = attrs.field(default=1024, kw_only=True, validator=_whole(MIN_SIDE, MAX_SIDE, " of pixels"))
    height: int = attrs.field(default=1024, kw_only=True, validator=_whole(MIN_SIDE, MAX_SIDE, " of pixels"))
    quality: str = attrs.field(default="standard", kw_only=True, validator=_one_of(QUALITIES))
    format: str = attrs.field(default="png", kw_only=True, validator=_one_of(FORMATS))
    transparency: bool = attrs.field(default=False, kw_only=True, validator=_flag)
    model: str | None = attrs.field(
        default=None, kw_only=True, validator=_optional(_matching(_MODEL, "a model name the gateway offers"))
    )
    seed: int | None = attrs.field(default=None, kw_only=True, validator=_optional(_whole(0, MAX_SEED)))
    negative_prompt: str | None = attrs.field(
        default=None, kw_only=True, validator=_optional(_text(MAX_PROMPT, "a text"))
    )
    expires_in: int | None = attrs.field(
        default=None, kw_only=True, validator=_optional(_whole(1, MAX_EXPIRES_IN, " of seconds"))
    )
    cache_control: str | None = attrs.field(default=None, kw_only=True, validator=_optional(_cache_control))
    etag: str | None = attrs.field(default=None, kw_only=True, validator=_optional(_etag))
    tracking_id: str | None = attrs.field(
        default=None, kw_only=True, validator=_optional(_line(128, "a name"))
    )
    metadata: Mapping[str, str] = attrs.field(
        factory=dict, kw_only=True, converter=_frozen_mapping, validator=_metadata, hash=False
    )
    use_custom_cdn: bool = attrs.field(default=False, kw_only=True, validator=_flag)

    def __attrs_post_init__(self) -> None:
        if self.transparency and self.format == "jpg":
            raise InvalidRequest("transparency", True, "False with format jpg, or format png or webp")

    @property
    def cost(self) -> int:
        """Credits, by quality."""
        return COSTS[self.quality]


class ImageOptions(TypedDict, total=False):
    """The fields of ``ImageRequest`` but the prompt, for editors and type checkers."""

    width: int
    height: int
    quality: str
    format: str
    transparency: bool
    model: str | None
    seed: int | None
    negative_prompt: str | None
    expires_in: int | None
    cache_control: str | None
    etag: str | None
    tracking_id: str | None
    metadata: Mapping[str, str]
    use_custom_cdn: bool


@attrs.frozen(kw_only=True)
class ImageInfo:
    """A stored picture. ``file_size`` in bytes, ``cost`` in credits, times in UTC.

    ``time_remaining`` is in whole seconds from the moment the gateway answered, None without an expiry.
    ``seed`` is the one the picture was made with, so the same request with it makes the same picture again.
    """

    url: str = attrs.field(validator=attrs.validators.matches_re(r"https?://[!-~]+"))
    id: str = attrs.field(validator=attrs.validators.matches_re(IMAGE_ID))
    width: int = attrs.field(validator=attrs.validators.ge(1))
    height: int = attrs.field(validator=attrs.validators.ge(1))
    format: str = attrs.field(validator=attrs.validators.in_(FORMATS))
    file_size: int
    quality: str
    cost: int
    created_at: datetime
    expires_at: datetime | None
    time_remaining: int | None
    tracking_id: str | None
    metadata: Mapping[str, str]
    sha256: str
    provider: str
    model: str
    seed: int


@attrs.frozen(kw_only=True)
class PreloadResult:
    """How one URL answered: ``ms`` to the last byte, ``bytes`` received, ``cache`` is hit, miss or unknown.

    ``status`` is None when no answer came; ``error`` then says why.
    """

    url: str
    status: int | None
    ms: float
    bytes: int
    cache: str
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the URL answered with a status below 400."""
        return self.status is not None and self.status < 400


@attrs.frozen(kw_only=True)
class PreloadReport:
    """One ``PreloadResult`` for each URL, in the order they were given."""

    results: tuple[PreloadResult, ...]
    elapsed_s: float

    @property
    def failures(self) -> tuple[PreloadResult, ...]:
        """Those that did not answer, or answered 400 or above."""
        return tuple(result for result in self.results if not result.ok)


def _unchanged(value: Any, _: type) -> Any:
    # cattrs would turn "3" into 3 and "false" into True; the validators want to see what was sent.
    return value


def _strict(kind: type[T]) -> Callable[[Any, type[T]], T]:
    def check(value: Any, _: type[T]) -> T:
        if type(value) is not kind:
            raise TypeError(f"{value!r} is not {kind.__name__}")
        return value

    return check


def _requests() -> cattrs.Converter:
    border = make_converter(detailed_validation=False)
    for kind in (str, int, float, bool):
        border.register_structure_hook(kind, _unchanged)
    border.register_structure_hook_func(lambda kind: kind == Mapping[str, str], _unchanged)
    border.register_structure_hook_func(lambda kind: kind in {str | None, int | None}, _unchanged)
    border.register_unstructure_hook(
        ImageRequest, make_dict_unstructure_fn(ImageRequest, border, _cattrs_omit_if_default=True)
    )
    return border


def _answers() -> cattrs.Converter:
    border = make_converter(detailed_validation=False)
    for kind in (str, int, float, bool):
        border.register_structure_hook(kind, _strict(kind))
    return border


_converter = _requests()
_answer_converter = _answers()
_OPTION_NAMES = tuple(field.name for field in attrs.fields(ImageRequest))


def image_request(options: Mapping[str, Any]) -> ImageRequest:
    """A checked ``ImageRequest`` from a mapping of its fields.

    Raises ``TypeError`` for an unknown option, naming the nearest known one, or a missing prompt, and
    ``InvalidRequest`` for a bad value.
    """
    for name in options:
        if name not in _OPTION_NAMES:
            hint = nearest(str(name), _OPTION_NAMES)
            raise TypeError(f"unknown option {shown(name)}.{hint} Known options: {', '.join(_OPTION_NAMES)}")
    if "prompt" not in options:
        raise TypeError("the option 'prompt' is missing")
    return _converter.structure(options, ImageRequest)


def to_json(value: object) -> bytes:
    """JSON of a model or of plain values; fields of a request that hold their default are left out."""
    return orjson.dumps(_converter.unstructure(value))


def json_with_prompt(template: ImageRequest) -> Callable[[str], bytes]:
    """What writes the template as JSON with another prompt, which is checked: ``InvalidRequest``."""
    start, _, rest = to_json(attrs.evolve(template, prompt="-")).partition(b'"-"')
    field = attrs.fields(ImageRequest).prompt
    check = field.validator
    assert check is not None  # noqa: S101 - for the type checker

    def with_prompt(prompt: str) -> bytes:
        check(template, field, prompt)
        return start + orjson.dumps(prompt) + rest

    return with_prompt


def from_json(data: bytes, kind: type[T]) -> T:
    """A model from JSON sent by a gateway. Unknown keys are ignored, so that gateways may add some.

    Raises ``ValueError`` when the data is not JSON or not of that shape.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise ValueError(f"not a {kind.__name__}") from exc
    return from_plain(value, kind)


def from_plain(value: Any, kind: type[T]) -> T:
    """As ``from_json``, from what JSON was read into."""
    try:
        return _answer_converter.structure(value, kind)
    except (cattrs.BaseValidationError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise ValueError(f"not a {kind.__name__}") from exc

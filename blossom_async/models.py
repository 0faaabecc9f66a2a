"""The attrs types exchanged by library and gateway, and the cattrs converters that read and write them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from numbers import Real
from types import NoneType
from typing import TYPE_CHECKING, Any, TypedDict, TypeGuard, TypeVar, cast, overload

import attrs
import cattrs
import orjson
from cattrs.gen import make_dict_unstructure_fn
from cattrs.preconf.orjson import make_converter

from blossom_async import rules
from blossom_async.errors import InvalidRequest, MissingOption, UnknownOption, nearest, shown

__all__ = [
    "COMPRESSIONS",
    "CONTENT_TYPES",
    "COSTS",
    "FORMATS",
    "IMAGE_ID",
    "PRESETS",
    "PROVENANCES",
    "QUALITIES",
    "VISIBLE",
    "WIDTH",
    "DayStats",
    "Estimate",
    "ExplainRequest",
    "Explanation",
    "GroupStats",
    "ImageInfo",
    "ImageOptions",
    "ImagePage",
    "ImageRequest",
    "ImageSettings",
    "OpenAIRequest",
    "Plain",
    "PreloadReport",
    "PreloadResult",
    "SignRequest",
    "SignedUrl",
    "SlotsRequest",
    "StartTimes",
    "UrlStats",
    "at_width",
    "checked",
    "draws_from_pictures",
    "from_json",
    "from_plain",
    "image_request",
    "json_with_prompt",
    "to_json",
    "to_plain",
]

FORMATS: tuple[str, ...] = ("jpg", "png", "webp", "avif")
"""Of files. A request may also ask for ``auto``: a file in each, and viewers get the best they accept."""
CONTENT_TYPES: dict[str, str] = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "avif": "image/avif",
}
COMPRESSIONS: tuple[str, ...] = ("auto", "none", "lossy", "lossless")
PRESETS: tuple[str, ...] = ("web_optimized", "thumbnail", "print")
PROVENANCES: tuple[str, ...] = ("marked", "provider_c2pa", "signed_c2pa")
"""By what a file says where it comes from: IPTC's digital source type, its maker's manifest, or ours."""
COSTS: dict[str, int] = {"standard": 1, "hd": 2, "ultra": 4}
"""Credits per picture, by quality."""
QUALITIES: tuple[str, ...] = tuple(COSTS)

MAX_PROMPT = 32_000
MIN_SIDE, MAX_SIDE = 16, 4096
IMAGE_ID = "[0-9A-Za-z]{22}"  # a pattern: 128 random bits in base62
WIDTH = "/w[1-9][0-9]{1,3}"  # a pattern: what follows the id in the URL of a picture in fewer pixels
MAX_SEED = 2_147_483_647  # the widest range that every supported provider accepts
MAX_EXPIRES_IN = 315_360_000  # ten years
MAX_SIGNATURE_TTL = 604_800  # a week
MAX_WIDTHS = 16  # of one picture, besides its own
MAX_RULES = 100  # domains or networks of one picture
_HUGE = 2**63  # numbers from here on are in no range, and costly to convert

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, 5.6.2
_DIRECTIVE = rf'{_WORD}(?:=(?:{_WORD}|"[ !#-\[\]-~]*"))?'
_CACHE_CONTROL = re.compile(rf"{_DIRECTIVE}(?:[ ]*,[ ]*{_DIRECTIVE})*", re.ASCII)
_ETAG = re.compile(r"[!#-~]{1,128}", re.ASCII)  # RFC 9110, 8.8.3, without the quotes
_MODEL = re.compile(r"[\w.:/@+-]{1,128}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")
# Spaces, controls and characters without ink: soft hyphens, fillers, joiners, marks of direction, selectors.
VISIBLE = re.compile(
    "[^\\s\\x00-\\x1f\\x7f-\\xa0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)

T = TypeVar("T")
Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _text(limit: int, what: str) -> Validator:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        allowed = f"{what} of 1 to {limit:,} characters"
        if not isinstance(value, str):
            raise InvalidRequest(field.name, value, allowed)
        if len(value) > limit:
            raise InvalidRequest(field.name, value, allowed, seen=f"text of {len(value):,} characters")
        if not VISIBLE.search(value):
            raise InvalidRequest(field.name, value, allowed, seen="empty text")
        if found := _NO_TEXT.search(value):
            what_is_it = "a NUL character" if found[0] == "\0" else "an unpaired surrogate"
            seen = f"text with {what_is_it} at character {found.start()}"
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


def _seconds(low: float, high: float) -> Validator:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:  # type: ignore[operator]
            raise InvalidRequest(field.name, value, f"seconds from {low:g} to {high:,g}")

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


def _canonical(name: str, value: Any, rule: Callable[[str], str]) -> Any:
    """Rules as a tuple of their canonical forms, without repetitions."""
    if value is None:
        return None
    allowed = f"a list of 1 to {MAX_RULES} strings; omit it for no restriction"
    # An empty list may come from a filter that matched nothing; it must not open the picture to everyone.
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection):
        raise InvalidRequest(name, value, allowed)
    if not 1 <= len(value) <= MAX_RULES:
        raise InvalidRequest(name, value, allowed, seen=f"a list of {len(value)}")
    found = []
    for one in value:
        if not isinstance(one, str):
            raise InvalidRequest(name, one, allowed)
        try:
            found.append(rule(one))
        except ValueError as exc:
            raise InvalidRequest(name, one, str(exc)) from exc
    return tuple(dict.fromkeys(found))


def _domains(value: Any) -> Any:
    return _canonical("allowed_domains", value, rules.domain_rule)


def _networks(value: Any) -> Any:
    return _canonical("ip_whitelist", value, rules.network_rule)


def _widths(value: Any) -> Any:
    """Widths as a sorted tuple, without repetitions."""
    if value is None:
        return None
    allowed = f"a list of 1 to {MAX_WIDTHS} whole numbers of pixels from {MIN_SIDE} to {MAX_SIDE}"
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection):
        raise InvalidRequest("widths", value, allowed)
    found = [_integral(one) for one in value]
    if not 1 <= len(found) <= MAX_WIDTHS:
        raise InvalidRequest("widths", value, allowed, seen=f"a list of {len(found)}")
    for one in found:
        if type(one) is not int or not MIN_SIDE <= one <= MAX_SIDE:
            raise InvalidRequest("widths", one, allowed)
    return tuple(sorted(set(found)))


def _access_key(value: object) -> object:
    if value in (".", ".."):  # in the path of the call that revokes it, every client would resolve them away
        raise InvalidRequest("access_key", value, "a name other than . and .., which no URL can hold")
    return "default" if value is None else value


def _moment(value: Any) -> datetime | None:
    allowed = "a time with its offset, such as 2026-11-22T14:00:00+00:00"
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        moment = value
    if moment is None:
        return None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InvalidRequest("at", value, allowed)
    return moment


def _optional(validator: Validator) -> Validator:
    def check(instance: object, field: attrs.Attribute[Any], value: object) -> None:
        if value is not None:
            validator(instance, field, value)

    return check


def _frozen_mapping(value: object) -> object:
    return dict(value or {}) if isinstance(value, Mapping | None) else value


def _integral(value: Any) -> Any:
    """The int that a number of another type is, such as 64.0 or numpy's 64; anything else as it is."""
    if isinstance(value, bool | str):
        return value
    try:
        return operator.index(value)
    except TypeError:
        pass
    if not isinstance(value, Real | Decimal):
        return value
    number: Any = value
    try:
        return int(number) if abs(number) < _HUGE and number == int(number) else value
    except ArithmeticError:  # a NaN among decimals
        return value


def _truth(value: Any) -> Any:
    """The bool that one of numpy's is; anything else as it is."""
    return bool(value) if getattr(getattr(value, "dtype", None), "kind", "") == "b" else value


def _one_meaning(_: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Lets a field take every spelling of a value: None is its default, and numbers may be of any type."""

    def converter(field: attrs.Attribute[Any]) -> Any:
        kind, _, optional = str(field.type).partition(" | ")
        plain = {"int": _integral, "bool": _truth}.get(kind)
        if field.converter is not None or field.default is attrs.NOTHING or (optional and plain is None):
            return field.converter
        if plain is None:
            return lambda value: field.default if value is None else value
        return lambda value: field.default if value is None else plain(value)

    return [field.evolve(converter=converter(field)) for field in fields]


@attrs.frozen(kw_only=True, field_transformer=_one_meaning)
class ImageSettings:
    """An ``ImageRequest`` without its prompt: what the pictures of a batch have in common.

    Raises ``InvalidRequest`` for a value outside the ranges given there.
    """

    width: int = attrs.field(default=1024, validator=_whole(MIN_SIDE, MAX_SIDE, " of pixels"))
    height: int = attrs.field(default=1024, validator=_whole(MIN_SIDE, MAX_SIDE, " of pixels"))
    quality: str = attrs.field(default="standard", validator=_one_of(QUALITIES))
    format: str = attrs.field(default="png", validator=_one_of((*FORMATS, "auto")))
    transparency: bool = attrs.field(default=False, validator=_flag)
    compression: str | None = attrs.field(default=None, validator=_optional(_one_of(COMPRESSIONS)))
    quality_preset: str | None = attrs.field(default=None, validator=_optional(_one_of(PRESETS)))
    lossy_quality: int | None = attrs.field(default=None, validator=_optional(_whole(0, 100)))
    model: str | None = attrs.field(
        default=None, validator=_optional(_matching(_MODEL, "a model name the gateway offers"))
    )
    seed: int | None = attrs.field(default=None, validator=_optional(_whole(0, MAX_SEED)))
    negative_prompt: str | None = attrs.field(default=None, validator=_optional(_text(MAX_PROMPT, "text")))
    expires_in: int | None = attrs.field(
        default=None, validator=_optional(_whole(1, MAX_EXPIRES_IN, " of seconds"))
    )
    cache_control: str | None = attrs.field(default=None, validator=_optional(_cache_control))
    etag: str | None = attrs.field(default=None, validator=_optional(_etag))
    tracking_id: str | None = attrs.field(default=None, validator=_optional(_line(128, "a name")))
    metadata: Mapping[str, str] = attrs.field(
        factory=dict, converter=_frozen_mapping, validator=_metadata, hash=False
    )
    allowed_domains: tuple[str, ...] | None = attrs.field(default=None, converter=_domains)
    ip_whitelist: tuple[str, ...] | None = attrs.field(default=None, converter=_networks)
    require_auth: bool = attrs.field(default=False, validator=_flag)
    require_signature: bool = attrs.field(default=False, validator=_flag)
    widths: tuple[int, ...] | None = attrs.field(default=None, converter=_widths)
    use_custom_cdn: bool = attrs.field(default=False, validator=_flag)
    defer: bool = attrs.field(default=False, validator=_flag)

    def __attrs_post_init__(self) -> None:
        if self.transparency and self.format == "jpg":
            raise InvalidRequest("transparency", True, "False with format jpg, or format png, webp or avif")
        self._check_weight()
        if self.cache_control is not None:
            try:
                rules.check_cache_wish(
                    self.cache_control, restricted=self.restricted, signed=self.require_signature
                )
            except ValueError as exc:
                raise InvalidRequest("cache_control", self.cache_control, str(exc)) from exc

    def _check_weight(self) -> None:
        if self.compression == "lossless" and self.format in {"jpg", "avif"}:
            allowed = f"lossy, auto or none with format {self.format}, or format png or webp"
        elif self.quality_preset == "web_optimized" and self.compression in {"none", "lossless"}:
            allowed = "auto, lossy or not set with quality_preset web_optimized"
        elif self.quality_preset == "print" and self.compression == "lossy":
            allowed = "auto, none, lossless or not set with quality_preset print"
        else:
            self._check_lossy_quality()
            return
        raise InvalidRequest("compression", self.compression, allowed)

    def _check_lossy_quality(self) -> None:
        if self.lossy_quality is None:
            return
        if self.format not in {"jpg", "webp", "avif"}:
            allowed = f"not set with format {self.format}, or format jpg, webp or avif"
        elif self.quality_preset is not None:
            allowed = "not set with a quality_preset"
        elif self.compression not in {None, "lossy"}:
            allowed = f"not set with compression {self.compression}"
        else:
            return
        raise InvalidRequest("lossy_quality", self.lossy_quality, allowed)

    @property
    def restricted(self) -> bool:
        """Whether the answer depends on the viewer, so that no shared cache may store it."""
        return self.require_auth or self.ip_whitelist is not None or self.allowed_domains is not None

    @property
    def open_to_all(self) -> bool:
        """Whether everyone who has the URL may see the picture, signed or not."""
        return not self.restricted and not self.require_signature

    @property
    def cost(self) -> int:
        """Credits, by quality."""
        return COSTS[self.quality]


def _prompt_first(_: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    return sorted(fields, key=lambda field: field.name != "prompt")  # otherwise inherited fields come first


@attrs.frozen(field_transformer=_prompt_first)
class ImageRequest(ImageSettings):
    """The picture that is wanted, and how its URL behaves. The one place where options are checked.

    Sizes are in pixels, 16 to 4096 a side. ``quality`` is ``standard`` (1 credit), ``hd`` (2) or ``ultra``
    (4). ``format`` is ``jpg``, ``png``, ``webp`` or ``avif``, or ``auto``: stored in several, of which each
    viewer gets the smallest it accepts. ``transparency`` asks for an alpha channel, which jpg lacks.
    ``compression`` is ``auto``, ``none``, ``lossy`` or ``lossless``; ``quality_preset`` is
    ``web_optimized``, ``thumbnail`` or ``print``; docs/formats.md explains them. ``lossy_quality``, 0 to 100,
    is the encoder's, for jpg, webp and avif, instead of a ``compression`` or a preset. ``seed`` is 0 to
    2,147,483,647; without one the gateway picks one and records it. ``expires_in`` is in seconds, at most
    ten years; afterwards the URL answers 410. ``cache_control`` and ``etag`` become headers of the picture.
    ``widths`` are those, below its own, in which the picture is also served, at its URL with ``/w640``
    after the id; the gateway's settings have the default.
    ``tracking_id`` and ``metadata`` are stored with it. ``use_custom_cdn`` puts the URL under the client's
    ``cdn_prefix``. ``defer`` returns the URL before the picture is made.

    Who may fetch it: ``allowed_domains`` (hosts of pages that show it, ``*.`` for subdomains),
    ``ip_whitelist`` (addresses and networks), ``require_auth`` (the owner's API key) and
    ``require_signature`` (a signed URL). Every rule that is set must hold; docs/security.md says how strong
    each is.

    None is the default of any option. Numbers may be of any type, such as 64.0 or numpy's. Raises
    ``InvalidRequest`` for any other value.
    """

    prompt: str = attrs.field(validator=_text(MAX_PROMPT, "text"))


@attrs.frozen(kw_only=True)
class OpenAIRequest(ImageRequest):
    """An ``ImageRequest`` with what only OpenAI's API can ask for.

    ``pictures`` are the SHA-256 of those it draws from, ``mask`` that of the one whose transparent pixels say
    what to draw anew. ``input_fidelity`` is ``low`` or ``high``. ``partial_images`` are wanted on the way.
    """

    pictures: tuple[str, ...] = ()
    mask: str | None = None
    input_fidelity: str | None = attrs.field(default=None, validator=_optional(_one_of(("low", "high"))))
    partial_images: int = 0


def draws_from_pictures(request: ImageRequest) -> TypeGuard[OpenAIRequest]:
    """Whether the request names pictures to draw from."""
    return isinstance(request, OpenAIRequest) and bool(request.pictures)


class ImageOptions(TypedDict, total=False):
    """The fields of ``ImageSettings``, for editors and type checkers."""

    width: int
    height: int
    quality: str
    format: str
    transparency: bool
    compression: str | None
    quality_preset: str | None
    lossy_quality: int | None
    model: str | None
    seed: int | None
    negative_prompt: str | None
    expires_in: int | None
    cache_control: str | None
    etag: str | None
    tracking_id: str | None
    metadata: Mapping[str, str]
    allowed_domains: Collection[str] | None
    ip_whitelist: Collection[str] | None
    require_auth: bool
    require_signature: bool
    widths: Collection[int] | None
    use_custom_cdn: bool
    defer: bool


@attrs.frozen(kw_only=True, field_transformer=_one_meaning)
class SignRequest:
    """How to sign a picture's URL.

    The URL is valid for ``signature_ttl`` seconds, at most a week. ``access_key`` is your name for its user:
    revoking it ends every URL signed under it. ``stable`` rounds the expiry up, so that URLs signed within
    some minutes are identical and a browser can cache the picture. ``cdn`` signs the path that a CDN serves,
    ``/generated/{id}.{ext}``.
    """

    signature_ttl: int = attrs.field(default=3600, validator=_whole(1, MAX_SIGNATURE_TTL, " of seconds"))
    access_key: str = attrs.field(default="default", converter=_access_key, validator=_line(128, "a name"))
    stable: bool = attrs.field(default=False, validator=_flag)
    cdn: bool = attrs.field(default=False, validator=_flag)


@attrs.frozen(kw_only=True, field_transformer=_one_meaning)
class ExplainRequest:
    """A viewer to check: the ``url`` it requests, its IP ``address``, the headers its browser sends.

    ``authorized``: it sends the owner's API key. ``at`` is the time, None for now.
    """

    url: str = attrs.field(validator=_text(MAX_PROMPT, "a URL"))
    address: str | None = attrs.field(default=None, validator=_optional(_line(64, "an IP address")))
    referer: str | None = attrs.field(default=None, validator=_optional(_text(8192, "a header")))
    origin: str | None = attrs.field(default=None, validator=_optional(_text(8192, "a header")))
    authorized: bool = attrs.field(default=False, validator=_flag)
    at: datetime | None = attrs.field(default=None, converter=_moment)


@attrs.frozen(kw_only=True, field_transformer=_one_meaning)
class SlotsRequest:
    """A question for start times of a shared limit: ``amount`` starts in any ``per_s`` seconds.

    Up to ``want`` of them, each used within ``slack_s`` seconds or never, none earlier than ``lead_s`` from
    now. With ``pause_s``, nobody is given one that is earlier than this many seconds from now.
    """

    amount: int = attrs.field(validator=_whole(1, 10_000_000))
    per_s: float = attrs.field(validator=_seconds(0.001, 86_400))
    want: int = attrs.field(validator=_whole(0, 10_000, " of start times"))
    slack_s: float = attrs.field(validator=_seconds(0, 86_400))
    lead_s: float = attrs.field(default=0.0, validator=_seconds(0, 10))
    pause_s: float = attrs.field(default=0.0, validator=_seconds(0, 86_400))


def at_width(url: str, width: str) -> str:
    """The URL of a picture with its width, such as ``/w640``, after the id."""
    path, mark, query = url.partition("?")
    named = re.search(rf"/generated/{IMAGE_ID}\.[a-z]+$", path)
    start, dot, extension = path.rpartition(".") if named else (path, "", "")
    return f"{start}{width}{dot}{extension}{mark}{query}"


class Plain:
    """What a gateway tells, as plain values for templates, queues and other programs."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Its fields as JSON has them: times in ISO 8601, lists for tuples."""
        return cast(dict[str, Any], orjson.loads(to_json(self)))

    def to_json(self) -> str:
        """As ``to_dict``, as a JSON object."""
        return to_json(self).decode()


@attrs.frozen(kw_only=True)
class ImageInfo(Plain):
    """A stored picture. ``file_size`` is in bytes, ``cost`` in credits, times are in UTC.

    ``time_remaining`` is in whole seconds from the gateway's answer, None without an expiry. ``seed`` is the
    one used: the same request with it makes the same picture again. A page can show ``thumbhash`` (base64,
    evanw.github.io/thumbhash) or ``dominant_color`` ("#rrggbb") while the picture loads; a picture made
    through OpenAI's API has them once it is looked up by its id. With ``format``
    ``auto``, ``file_size``, ``sha256`` and ``provenance`` describe the file for viewers that send no
    ``Accept`` header. ``provenance`` is how the file says where it comes from: ``marked`` with IPTC's digital
    source type, ``provider_c2pa``, by its provider's manifest, or ``signed_c2pa``, by the gateway's; None for
    one stored before this was noted.
    ``widths`` are those, below its own, in which the picture is also served.

    ``state`` is ``ready``; with ``defer`` also ``pending``, or ``failed`` or ``unknown`` (it may have been
    paid) with the reason in ``problem`` and ``problem_code``. Until it is ready, ``file_size`` is 0, and
    ``sha256``, ``provider`` and ``model`` are empty.
    """

    url: str = attrs.field(validator=attrs.validators.matches_re(r"https?://[!-~]+"))
    id: str = attrs.field(validator=attrs.validators.matches_re(IMAGE_ID))
    width: int = attrs.field(validator=attrs.validators.ge(1))
    height: int = attrs.field(validator=attrs.validators.ge(1))
    format: str = attrs.field(validator=attrs.validators.in_((*FORMATS, "auto")))
    file_size: int
    quality: str
    cost: int
    created_at: datetime
    expires_at: datetime | None
    time_remaining: int | None
    tracking_id: str | None
    metadata: Mapping[str, str] = attrs.field(hash=False)
    sha256: str
    provider: str
    model: str
    seed: int
    thumbhash: str | None = None
    dominant_color: str | None = None
    provenance: str | None = None
    widths: tuple[int, ...] = ()
    state: str = "ready"
    problem: str | None = None
    problem_code: str | None = None

    def variant_url(self, width: int, *, url: str | None = None) -> str:
        """The URL of the picture in one of its ``widths``; from its own width on, that of the picture itself.

        ``url`` is another of its URLs, such as a signed one: its signature covers all widths. Raises
        ``InvalidRequest`` for any other width.
        """
        whole = self.url if url is None else url
        if width >= self.width:
            return whole
        if width not in self.widths:
            listed = ", ".join(map(str, self.widths)) or "none below it"
            allowed = (
                f"{listed}, or {self.width} and above for the picture itself; ask for others with widths="
            )
            raise InvalidRequest("width", width, allowed)
        return at_width(whole, f"/w{width}")

    def srcset(self, widths: Iterable[int] | None = None, *, url: str | None = None) -> str:
        """The ``srcset`` of an ``<img>``: the picture in these widths, by default all of ``widths``.

        The last entry is always the picture itself, in place of widths that are not below its own. Set
        ``sizes`` too, or browsers assume that the picture fills the window. ``url`` and errors as for
        ``variant_url``.
        """
        below = sorted({width for width in (self.widths if widths is None else widths) if width < self.width})
        return ", ".join(f"{self.variant_url(width, url=url)} {width}w" for width in (*below, self.width))

    @property
    def thumbnail_url(self) -> str:
        """The URL of the picture in the smallest of its ``widths``, or its own."""
        return self.variant_url(min((self.width, *self.widths)))

    def _repr_html_(self) -> str:
        from blossom_async.notebook import picture, table

        if self.state != "ready":
            return table(self.problem or "", ("URL", "state"), [(self.url, self.state)], 1)
        told = f"{self.width} x {self.height} {self.format}, {self.file_size:,} bytes, {self.model}"
        return picture(self.url, self.thumbnail_url, told)


@attrs.frozen(kw_only=True)
class Estimate(Plain):
    """What a picture would cost: ``credits``, and ``usd`` at the ``provider`` that is tried first.

    ``usd`` is None if the provider's price is not known in advance.
    """

    credits: int
    usd: float | None
    provider: str


@attrs.frozen(kw_only=True)
class SignedUrl:
    """A URL that is valid until ``expires_at``, unless its access key is revoked earlier."""

    url: str
    expires_at: datetime


@attrs.frozen(kw_only=True)
class StartTimes:
    """``number`` start times of a shared limit from ``first`` on, ``step`` apart, in seconds since 1970.

    They are times of the clock that showed ``now`` when the question was answered. Without a start time,
    ``first`` is when the next one will be.
    """

    now: float
    first: float
    number: int
    step: float


@attrs.frozen(kw_only=True)
class GroupStats(Plain):
    """Views of a part of a campaign's pictures, counted as in ``UrlStats``."""

    views: int
    viewers: int
    avg_load_time: float | None


@attrs.frozen(kw_only=True)
class DayStats(GroupStats):
    """Views on one day, in UTC."""

    date: date


@attrs.frozen(kw_only=True)
class UrlStats(Plain):
    """How often a campaign's pictures were seen.

    A view is a GET that the gateway answered with the whole picture, to its last byte; HEAD, 304, ranges and
    prefetches do not count. ``unique_viewers`` is the sum over the days: someone who returns on another day
    counts again, because viewers are not tracked for longer than a day. ``avg_load_time`` is in
    milliseconds from the request to the last byte sent, None without views. ``by_day`` lists days with
    views. ``by_metadata`` lists the values of each metadata key, such as the variants of an A/B test: the
    1,000 with the most views.
    """

    tracking_id: str
    total_views: int
    unique_viewers: int
    avg_load_time: float | None
    by_day: tuple[DayStats, ...] = ()
    by_metadata: Mapping[str, Mapping[str, GroupStats]] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Explanation(Plain):
    """How the gateway would answer a viewer: ``status``, ``code``, and the reason in ``detail``."""

    status: int
    code: str
    detail: str


@attrs.frozen(kw_only=True)
class PreloadResult(Plain):
    """How one URL answered: ``ms`` to the last byte, ``bytes`` received, ``cache`` hit, miss or unknown.

    ``status`` is None if no answer came; ``error`` says why.
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
class PreloadReport(Plain, Sequence[PreloadResult]):
    """One ``PreloadResult`` per URL, in the order given."""

    results: tuple[PreloadResult, ...]
    elapsed_s: float

    @overload
    def __getitem__(self, index: int) -> PreloadResult: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[PreloadResult, ...]: ...
    def __getitem__(self, index: int | slice) -> PreloadResult | tuple[PreloadResult, ...]:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    @property
    def failures(self) -> tuple[PreloadResult, ...]:
        """URLs that did not answer, or answered 400 or above."""
        return tuple(result for result in self.results if not result.ok)

    def _repr_html_(self) -> str:
        from blossom_async.notebook import table

        rows = (
            (
                result.url,
                result.error or f"{result.status}",
                f"{result.ms:.0f}",
                f"{result.bytes:,}",
                result.cache,
            )
            for result in sorted(self.results, key=lambda result: result.ok)  # failures first
        )
        said = f"{len(self) - len(self.failures):,} of {len(self):,} ok in {self.elapsed_s:.1f} s"
        return table(said, ("URL", "status", "ms", "bytes", "cache"), rows, len(self))


if TYPE_CHECKING:
    _Images = Sequence[ImageInfo]
else:  # older cattrs cannot build a class whose base states a type
    _Images = Sequence


@attrs.frozen(kw_only=True)
class ImagePage(Plain, _Images):
    """Pictures, the newest first. ``next`` is the ``cursor`` of the page after it, None at the end.

    A search may give a page without pictures before the end: then none of those looked through matches.
    """

    images: tuple[ImageInfo, ...]
    next: str | None = None

    @overload
    def __getitem__(self, index: int) -> ImageInfo: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ImageInfo, ...]: ...
    def __getitem__(self, index: int | slice) -> ImageInfo | tuple[ImageInfo, ...]:
        return self.images[index]

    def __len__(self) -> int:
        return len(self.images)


R = TypeVar("R", ImageRequest, OpenAIRequest, ImageSettings, SignRequest, ExplainRequest, SlotsRequest)


def _names(kind: type[attrs.AttrsInstance]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    fields = attrs.fields(kind)
    needed = tuple(field.name for field in fields if field.default is attrs.NOTHING)
    return tuple(field.name for field in fields), needed


_OPTION_NAMES: dict[type, tuple[tuple[str, ...], tuple[str, ...]]] = {
    kind: _names(kind)
    for kind in (ImageRequest, OpenAIRequest, ImageSettings, SignRequest, ExplainRequest, SlotsRequest)
}


def _unchanged(value: Any, _: type) -> Any:
    # cattrs would turn "3" into 3 and "false" into True; the validators need the value that was sent.
    return value


def _strict(kind: type[T]) -> Callable[[Any, type[T]], T]:
    def check(value: Any, _: type[T]) -> T:
        if type(value) is not kind:
            raise TypeError(f"{value!r} is not {kind.__name__}")
        return value

    return check


_AS_SENT: set[Any] = {str | None, int | None, tuple[str, ...] | None, tuple[int, ...] | None, datetime | None}


def _requests() -> cattrs.Converter:
    border = make_converter(detailed_validation=False)
    for kind in (str, int, float, bool):
        border.register_structure_hook(kind, _unchanged)
    border.register_structure_hook_func(lambda kind: kind == Mapping[str, str], _unchanged)
    border.register_structure_hook_func(lambda kind: kind in _AS_SENT, _unchanged)
    for request in (ImageRequest, OpenAIRequest, ImageSettings, SignRequest, ExplainRequest):
        border.register_unstructure_hook(
            request, make_dict_unstructure_fn(request, border, _cattrs_omit_if_default=True)
        )
    return border


def _answers(*, detailed: bool = False) -> cattrs.Converter:
    border = make_converter(detailed_validation=detailed)
    for kind in (str, int, float, bool, NoneType):
        border.register_structure_hook(kind, _strict(kind))
    return border


_MISFITS = (cattrs.BaseValidationError, ValueError, TypeError, KeyError, AttributeError)
_converter = _requests()
_answer_converter = _answers()


def image_request(options: Mapping[str, Any]) -> ImageRequest:
    """A checked ``ImageRequest`` from a mapping of its fields. Raises as ``checked``."""
    return checked(options, ImageRequest)


def checked(options: Mapping[str, Any], kind: type[R]) -> R:
    """A request of that kind from a mapping of its fields.

    Raises ``UnknownOption`` and ``MissingOption`` (both are ``TypeError``), and ``InvalidRequest`` for a bad
    value.
    """
    names, needed = _OPTION_NAMES[kind]
    for name in options:
        if name not in names:
            raise UnknownOption(name, names)
    for name in needed:
        if name not in options:
            raise MissingOption(name)
    return _converter.structure(options, kind)


def to_plain(value: object) -> Any:
    """As ``to_json``, as plain dicts and lists."""
    return _converter.unstructure(value)


def to_json(value: object) -> bytes:
    """JSON of a model or of plain values. Fields of a request that have their default are omitted."""
    return orjson.dumps(_converter.unstructure(value))


def json_with_prompt(settings: ImageSettings) -> Callable[[str], bytes]:
    """Writes these settings with a prompt as the JSON of an ``ImageRequest``. Raises ``InvalidRequest``."""
    rest = to_json(settings)[1:]
    end = rest if rest == b"}" else b"," + rest
    field = attrs.fields(ImageRequest).prompt
    check = field.validator
    assert check is not None  # noqa: S101 - for the type checker

    def with_prompt(prompt: str) -> bytes:
        check(settings, field, prompt)
        return b'{"prompt":' + orjson.dumps(prompt) + end

    return with_prompt


def from_json(data: bytes, kind: type[T]) -> T:
    """A model from a gateway's JSON. Unknown keys are ignored, so that newer gateways may add some.

    Raises ``ValueError`` when the data is not JSON or not of that shape.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise ValueError(f"not a valid {kind.__name__}: it is not JSON") from exc
    return from_plain(value, kind)


def from_plain(value: Any, kind: type[T]) -> T:
    """As ``from_json``, from parsed JSON."""
    try:
        return _answer_converter.structure(value, kind)
    except _MISFITS as exc:
        raise ValueError(f"not a valid {kind.__name__}: {_first_fault(value, kind)}") from exc


def _first_fault(value: Any, kind: type[T]) -> str:
    """Which field of an answer is at fault, and how."""
    fault = path = ""
    try:
        _answers(detailed=True).structure(value, kind)  # slower, and seldom needed
    except _MISFITS as exc:
        fault, _, path = cattrs.transform_error(exc)[0].partition(" @ $")
    if path and isinstance(value, dict):
        return f"{path.removeprefix('.')}: {fault}"
    return "it is not a JSON object of that kind"

"""The pictures that a call sends to be drawn from: files of a form, base64, or pictures of this gateway."""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from email.message import Message
from email.utils import collapse_rfc2231_value
from functools import partial
from typing import Any, cast
from urllib.parse import quote, urlsplit

import attrs
import pybase64
from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy

from blossom_async.errors import InvalidRequest, NotFound, Overloaded, ResponseError
from blossom_async.gateway.callers.admission import CALLER
from blossom_async.gateway.calls.incoming import (
    arriving,
    check_uncompressed,
    json_parts,
    json_type,
    parsed_object,
    too_long,
    unknown_type,
)
from blossom_async.gateway.calls.pictures import Pictures
from blossom_async.gateway.making.decoding import PREVIEW_PX, Undecodable, check_png, decoded
from blossom_async.gateway.making.workers import Workers
from blossom_async.gateway.providers import Inputs
from blossom_async.gateway.providers.containers import Seen, Unusable, look
from blossom_async.gateway.providers.unpacking import Unpacking
from blossom_async.models import IMAGE_ID, ImageRequest

__all__ = ["MAX_UPLOAD", "MOST_PICTURES", "Upload", "Uploads"]

MAX_UPLOAD = 32 * 2**20
"""Bytes of a body with pictures."""
MOST_PICTURES = 16
"""Pictures to draw from in one call, as at OpenAI."""

_MOST_PIXELS = 25_000_000
_MOST_HELD = 256 * 2**20  # bytes of all calls together
_MOST_OF_ONE = _MOST_HELD // 2  # of those of one tenant
_MOST_PARTS = 100
_MOST_TEXT = 256 * 2**10  # bytes of a field: the longest prompt in the longest encoding
_DEADLINE_S = 120.0
_RETRY_S = 5.0
_CHUNK = 64 * 2**10
_USUAL_PIXELS = 1536 * 1024
_LEAST_SIDE, _MOST_SIDE = 16, 4096
_FORMATS = {"png", "jpg", "webp"}
_FIELD = re.compile(r"([A-Za-z_]{1,64})(?:\[([^\[\]]{0,64})\])?", re.ASCII)
_DATA_URL = re.compile(r"data:[\w/+.;=-]{0,100};base64,", re.ASCII | re.IGNORECASE)
_OURS = re.compile(rf"(?:.*/)?(?:image/({IMAGE_ID})|generated/({IMAGE_ID})\.[a-z]+)", re.ASCII)
_PICTURES = ("image", "images")
_NUMBERS = {"n", "output_compression", "partial_images"}
_KINDS = {field.name: str(field.type) for field in attrs.fields(ImageRequest)}

_Given = bytes | str
"""A file, or the text that stands for one."""


@attrs.frozen(eq=False)
class Upload:
    """The fields of a call, the pictures in it, and a size for what is drawn from the first of them."""

    fields: dict[str, Any]
    inputs: Inputs
    pictures: tuple[str, ...]
    mask: str | None
    width: int
    height: int


class Uploads:
    """Reads calls with pictures: at a time never more than 256 MiB of all, and 128 of one tenant."""

    def __init__(self, pictures: Pictures, workers: Workers) -> None:
        self._pictures = pictures
        self._workers = workers
        self._held: Counter[str] = Counter()  # bytes, by tenant

    @asynccontextmanager
    async def read(self, http: web.Request) -> AsyncIterator[Upload]:
        """What a call sends, as a form (``multipart/form-data``) or as JSON; its bytes count for the block.

        Each picture is a file, a ``data:`` URL, or the URL of a picture of the caller's at this gateway,
        which fetches nothing from elsewhere. It must be a complete png, jpg or webp of at most 25 million
        pixels; a mask a png with alpha channel, of the size of the first picture.

        Raises ``InvalidRequest``; ``ResponseError`` for a body that is malformed, too long or late;
        ``Overloaded`` while other calls hold too many pictures; ``Gone`` for a picture that has expired.
        """
        tenant = http[CALLER].tenant
        with self._holding(tenant) as hold:
            if http.content_type == "multipart/form-data":
                check_uncompressed(http)
                fields, given, mask = await _form(http, hold)
            elif http.content_type != "application/json":
                raise unknown_type(http, "multipart/form-data' or 'application/json")
            else:
                fields, given, mask = await _json(http, hold)
            if not given:
                raise InvalidRequest("image", "", "1 to 16 pictures to draw from", seen="no picture")
            if len(given) > MOST_PICTURES:
                raise InvalidRequest(
                    "image", "", "1 to 16 pictures to draw from", seen=f"{len(given)} pictures"
                )
            files = [await self._file("image", each, tenant, hold) for each in given]
            looked = [await self._workers.run(partial(_looked_at, "image", data)) for data in files]
            first, _ = looked[0]
            mask_file = None if mask is None else await self._file("mask", mask, tenant, hold)
            mask_sha256 = None
            if mask_file is not None:
                seen, mask_sha256 = await self._workers.run(partial(_looked_at, "mask", mask_file))
                _check_mask(seen, first)
            width, height = _like(first)
            yield Upload(
                fields,
                Inputs(tuple(files), mask_file),
                tuple(sha for _, sha in looked),
                mask_sha256,
                width,
                height,
            )

    @contextlib.contextmanager
    def _holding(self, tenant: str) -> Iterator[Callable[[int], None]]:
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self._held[tenant] + size > _MOST_OF_ONE or self._held.total() + size > _MOST_HELD:
                raise Overloaded(
                    "the pictures of other calls take all the memory there is for them; send yours again in "
                    f"{_RETRY_S:g} s",
                    retry_after_s=_RETRY_S,
                )
            held += size
            self._held[tenant] += size

        try:
            yield hold
        finally:
            self._held[tenant] -= held
            self._held = +self._held  # keeps no tenant without pictures

    async def _file(self, field: str, given: _Given, tenant: str, hold: Callable[[int], None]) -> bytes:
        if isinstance(given, bytes):
            return given
        if (packed := _DATA_URL.match(given)) is not None:
            try:
                data = await self._workers.run(
                    partial(pybase64.b64decode, given[packed.end() :], validate=True)
                )
            except (binascii.Error, ValueError):
                allowed = "a data: URL of a png, jpg or webp in base64"
                raise InvalidRequest(field, "", allowed, seen="a data: URL that is not base64") from None
            hold(len(data))
            return data
        allowed = (
            "a file, a data: URL, or the URL of a picture of yours at this gateway, which fetches nothing "
            "from elsewhere"
        )
        try:
            path = urlsplit(given).path
        except ValueError:
            path = ""
        if (found := _OURS.fullmatch(path)) is None:
            raise InvalidRequest(field, "", allowed, seen="this text")
        try:
            record = await self._pictures.not_deleted(found[1] or found[2], tenant)
        except NotFound:  # also for another tenant's
            raise InvalidRequest(field, "", allowed, seen="the URL of no such picture") from None
        hold(record.main_file.file_size)
        return await self._pictures.read(record)


async def _json(
    http: web.Request, hold: Callable[[int], None]
) -> tuple[dict[str, Any], list[_Given], _Given | None]:
    """Fields, pictures and mask of a JSON body, whose large pictures are decoded while they arrive."""
    body = Unpacking()
    async with arriving(_DEADLINE_S):
        async for part in json_parts(http, MAX_UPLOAD):
            hold(len(part))
            body.feed(part)
    return _fields(*body.end())


def _fields(text: bytes, files: Mapping[str, bytes]) -> tuple[dict[str, Any], list[_Given], _Given | None]:
    fields = parsed_object(text)
    listed, mask = _listed(fields), _reference("mask", fields.pop("mask", None))
    given, (masked,) = ([_unpacked(each, files) for each in some] for some in (listed, [mask]))
    if len(files) > sum(isinstance(each, bytes) for each in (*given, masked)):
        for name, data in files.items():  # one is no picture, and stays what it was
            text = text.replace(name.encode(), pybase64.b64encode(data))
        return _fields(text, {})
    return fields, [each for each in given if each is not None], masked


def _unpacked(given: str | None, files: Mapping[str, bytes]) -> _Given | None:
    packed = None if given is None else _DATA_URL.match(given)
    return given if given is None or packed is None else files.get(given[packed.end() :], given)


async def _form(
    http: web.Request, hold: Callable[[int], None]
) -> tuple[dict[str, Any], list[_Given], _Given | None]:
    """Fields, pictures and mask of a form."""
    fields: dict[str, Any] = {}
    given: list[_Given] = []
    masks: list[_Given] = []
    async with arriving(_DEADLINE_S):
        async for name, is_file, data in _parts(http, hold):
            found = _FIELD.fullmatch(name)
            if found is None:
                raise _malformed(f"a part of the form has the name {name[:64]!r}")
            if found[1] in _PICTURES or found[1] == "mask":
                reference = not is_file and re.match(rb"(?i)https?://|data:", data) is not None
                (masks if found[1] == "mask" else given).append(_text(name, data) if reference else data)
                continue
            value = _typed(found[1], _text(name, data))
            if found[2] is None and found[1] not in fields:
                fields[found[1]] = value
            elif found[2] == "" and isinstance(fields.setdefault(found[1], []), list):
                fields[found[1]].append(value)
            elif (
                found[2]
                and isinstance(fields.setdefault(found[1], {}), dict)
                and found[2] not in fields[found[1]]
            ):
                fields[found[1]][found[2]] = value
            else:
                raise _malformed(f"{name[:64]!r} appears twice; send each name once")
    if len(masks) > 1:
        raise InvalidRequest("mask", "", "at most one", seen=f"{len(masks)} masks")
    return fields, given, masks[0] if masks else None


async def _parts(http: web.Request, hold: Callable[[int], None]) -> AsyncIterator[tuple[str, bool, bytes]]:
    """Name and bytes of each part of a form, and whether it is a file."""
    parts = size = 0
    if (http.content_length or 0) > MAX_UPLOAD:
        raise too_long(MAX_UPLOAD)
    try:
        reader = _Form(http.headers, cast(StreamReader, _Limited(http.content)))
        while (part := await reader.next()) is not None:
            parts += 1
            if parts > _MOST_PARTS:
                raise _malformed(f"the form has more than {_MOST_PARTS} parts")
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise _malformed("a part of the form has no name")
            coding = part.headers.get("Content-Transfer-Encoding", "binary")
            if coding.lower() not in {"binary", "8bit", "7bit"}:
                raise _malformed(
                    f"a part has the Content-Transfer-Encoding {coding[:64]!r}; send it as it is"
                )
            is_file = part.filename is not None
            data = bytearray()
            most = MAX_UPLOAD if is_file or part.name.startswith((*_PICTURES, "mask")) else _MOST_TEXT
            while not part.at_eof():
                chunk = await part.read_chunk(_CHUNK)
                size += len(chunk)
                data += chunk
                if size > MAX_UPLOAD or len(data) > most:
                    raise too_long(MAX_UPLOAD if size > MAX_UPLOAD else most)
                hold(len(chunk))
            yield part.name, is_file, bytes(data)
    except web.RequestPayloadError:
        raise
    except (ValueError, AssertionError, RuntimeError, HttpProcessingError) as exc:
        raise _malformed("its parts or their headers cannot be read") from exc


class _Form(MultipartReader):
    """A form whose parts are named as aiohttp expects.

    Of other headers it warns and repeats them, and what a caller sends must not reach the log.
    """

    async def fetch_next_part(self) -> MultipartReader | BodyPartReader:
        part = await super().fetch_next_part()
        if isinstance(part, BodyPartReader):
            headers = CIMultiDict(part.headers)
            headers["Content-Disposition"] = _usual(headers.get("Content-Disposition", ""))
            part.headers = CIMultiDictProxy(headers)
        return part


def _usual(disposition: str) -> str:
    """The header with the name of a part, and whether it is a file. Raises ``ValueError``."""
    message = Message()
    message["Content-Disposition"] = disposition
    (kind, is_set), *given = message.get_params([("", "")], "Content-Disposition")
    told = dict(given)
    if is_set or len(told) < len(given):
        raise ValueError(kind)
    usual = "form-data"
    if "name" in told:
        name = collapse_rfc2231_value(told["name"])
        plain = name.isascii() and name.isidentifier()
        usual += f"; name={name}" if plain else f"; name*=utf-8''{quote(name, '', errors='replace')}"
    return f"{usual}; filename=file" if "filename" in told else usual


class _Limited:
    """Refuses a body longer than a form may be, counting what stands before and between its parts."""

    def __init__(self, content: StreamReader) -> None:
        self._content = content

    async def readline(self, **options: Any) -> bytes:
        if self._content.total_bytes > MAX_UPLOAD + _MOST_TEXT:
            raise too_long(MAX_UPLOAD)
        return await self._content.readline(**options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)


def _malformed(what: str) -> ResponseError:
    return ResponseError(
        f"the body is no usable form: {what}; send multipart/form-data as OpenAI's clients do, or JSON",
        status=400,
        code="malformed_body",
    )


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise _malformed(f"{name[:64]!r} is not in UTF-8") from exc


def _typed(name: str, text: str) -> Any:
    """The value that a form's text stands for; if none, the text, which the check of the option refuses."""
    kind = "int" if name in _NUMBERS else _KINDS.get(name, "")
    if "int" in kind and re.fullmatch("-?[0-9]{1,18}", text, re.ASCII):
        return int(text)
    if (kind == "bool" or name == "stream") and text in {"true", "false"}:
        return text == "true"
    return text


def _listed(fields: dict[str, Any]) -> list[str]:
    """The pictures of a JSON body, which are taken out of it."""
    found: list[Any] = []
    for name in _PICTURES:
        value = fields.pop(name, None)
        found += value if isinstance(value, list) else [] if value is None else [value]
    texts = (_reference("image", each) for each in found[: MOST_PICTURES + 1])
    return [text for text in texts if text is not None]


def _reference(field: str, value: Any) -> str | None:
    """The text of ``"https://..."``, or of ``{"image_url": "https://..."}`` and ``{"url": "https://..."}``."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        url = value.get("image_url", value.get("url"))
        url = url.get("url") if isinstance(url, Mapping) else url
        if isinstance(url, str):
            return url
    allowed = 'a URL, or {"image_url": a URL}; files by their id are not kept here'
    raise InvalidRequest(field, "", allowed, seen=json_type(value))


def _looked_at(field: str, data: bytes) -> tuple[Seen, str]:
    """What a picture is, and its SHA-256. Raises ``InvalidRequest`` unless it is whole and can be decoded."""
    allowed = f"a complete png, jpg or webp of at most {_MOST_PIXELS:,} pixels"
    try:
        seen = look(data)
        if seen.format not in _FORMATS or seen.width * seen.height > _MOST_PIXELS:
            raise Unusable(f"a {seen.format} of {seen.width}x{seen.height}")
        if seen.format == "png":
            check_png(data)
        else:
            decoded(
                data, seen.format, orientation=seen.orientation, transparency=seen.alpha, at_least=PREVIEW_PX
            )
    except Unusable as exc:
        raise InvalidRequest(field, "", allowed, seen=str(exc)) from None
    except Undecodable as exc:
        raise InvalidRequest(field, "", allowed, seen=f"a picture that cannot be decoded ({exc})") from None
    return seen, hashlib.sha256(data).hexdigest()


def _check_mask(seen: Seen, first: Seen) -> None:
    if seen.format != "png" or not seen.alpha or (seen.width, seen.height) != (first.width, first.height):
        alpha = "with" if seen.alpha else "without"
        told = f"a {seen.format} of {seen.width}x{seen.height} {alpha} alpha channel"
        allowed = f"a png with alpha channel, of {first.width}x{first.height} pixels as the first picture"
        raise InvalidRequest("mask", "", allowed, seen=told)


def _like(seen: Seen) -> tuple[int, int]:
    """Width and height in the shape of a picture, as large as it is or of 1.5 megapixels."""
    shrink = min(1.0, (_USUAL_PIXELS / (seen.width * seen.height)) ** 0.5)
    width, height = (
        min(_MOST_SIDE, max(_LEAST_SIDE, round(side * shrink))) for side in (seen.width, seen.height)
    )
    return width, height

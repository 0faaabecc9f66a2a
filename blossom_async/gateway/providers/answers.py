"""The picture in the answer of an Images API, in all the forms services use."""

from __future__ import annotations

import asyncio
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import orjson
import pybase64

from blossom_async.gateway.providers.containers import format_of

__all__ = ["document_of", "fields_of", "opened", "picture_of"]

# Of the charsets that Python knows, those of texts.
_CHARSET = re.compile(r"(?i)charset=\"?((?:utf|iso-8859|latin|windows|us-ascii|gb|big5|shift|euc)[\w-]*)")
_DATA_URL = re.compile(r"(?i)\s*(?:[^,]*;)?base64\s*,")  # RFC 2397, with or without its beginning
_BLANKS = re.compile(r"\s|\\[nrt]")  # also line breaks that were escaped twice
_HTTP = re.compile(r"(?i)\s*(?:https?:)?(?:\\?/){2}\w")
_RELATIVE = re.compile(r"(?i)(?!\s*[a-z][a-z0-9+.-]*:).{1,8192}\Z", re.DOTALL)
_PATH = re.compile(r"(?i)\s*(?:/|\S+\.(?:avif|bmp|gif|jpe?g|png|tiff?|webp)\b)")
_URLS = ("url", "imageurl", "uri", "urls", "imageurls")
# Without case and punctuation. What holds a picture comes before what holds other such names.
_NAMES = (
    *("b64json", "base64", "b64", "imagebase64", "imageb64", "bytesbase64encoded"),
    *_URLS,
    *("data", "images", "image", "img", "outputs", "output", "artifacts", "predictions", "results", "result"),
)
_BEFORE = b"\xef\xbb\xbf \t\r\n"  # a byte order mark and blanks
_LONGEST_START = 64  # bytes of them
_SMALL = 64 * 1024  # bytes, read in less time than it takes to hand them to a thread
_DEEPEST = 6  # lists and objects one in another
_LIKE_JSON = re.compile(r"\s*[{\[]")
_LINE = re.compile(r"(?:\A|[\r\n])[ \t]*+(?:data:[ \t]*+)?([{\[])")  # in time linear in the text
_MOST_MISSES = 16
_PAGE = re.compile(rb"(?i)\s*<(?:!doctype html|html)")
_DECODER = json.JSONDecoder(strict=False)
_QUOTED = re.compile(r"""\Ab?(["'])(.*)\1\Z""", re.DOTALL)  # also as Python shows bytes
_USUAL_ALPHABET = str.maketrans("-_", "+/")


def fields_of(body: bytes, content_type: str = "") -> dict[str, Any]:
    """The JSON object in an answer, or an empty one. As tolerant as ``document_of``."""
    document = document_of(body, content_type)
    return document if isinstance(document, dict) else {}


def document_of(body: bytes, content_type: str = "") -> Any:
    """The JSON document in an answer, or None.

    Tolerates invalid JSON that servers send: with NaN, a byte order mark, raw control characters, text after
    its end, or in a charset other than UTF-8. Also a document that is written into a JSON string.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = _tolerated(body, content_type)
    return document if not isinstance(document, str) else _document_in(document) or document


def _document_in(text: str) -> Any:
    return document_of(text.encode(errors="replace")) if _LIKE_JSON.match(text) else None


def _tolerated(body: bytes, content_type: str) -> object:
    charset: str = json.detect_encoding(body)
    if charset == "utf-8" and (declared := _CHARSET.search(content_type)) is not None:
        charset = declared[1]
    try:
        text = body.decode(charset, "replace").lstrip("\ufeff\0 \t\r\n")
        return _DECODER.raw_decode(text)[0]
    except (ValueError, LookupError, RecursionError):
        return None


async def opened(
    body: bytes, content_type: str, files: Mapping[str, bytes]
) -> tuple[bytes | str | None, Mapping[str, Any]]:
    """The first picture in an answer, its URL, or None; and the other fields of the answer.

    The picture may be the body itself, its base64 or its URL. In JSON it is found under every name that
    servers use for it; the texts that stand for ``files`` are taken for these. A large body is read in a
    thread.
    """
    if (picture := _picture_in(body)) is not None:
        return picture, {}
    if len(body) < _SMALL:
        return _opened(body, content_type, files)
    return await asyncio.to_thread(_opened, body, content_type, files)


def _opened(
    body: bytes, content_type: str, files: Mapping[str, bytes]
) -> tuple[bytes | str | None, Mapping[str, Any]]:
    document = document_of(body, content_type)
    found = _bare(body) if document is None else picture_of(document, files)
    if found is None or (isinstance(found, bytes) and format_of(found) is None):
        for other in _documents_in(body):
            if (picture := picture_of(other, files)) is not None:
                document, found = other, picture
    return found, document if isinstance(document, dict) else {}


def _documents_in(body: bytes) -> Iterator[Any]:
    """Those that begin a line, also of an event, whatever stands before and between them.

    Such as lines of JSON that tell of the work, and the warnings of a script. What a page has is its own.
    """
    if _PAGE.match(body[:_LONGEST_START]):
        return
    text, at, misses = body.decode("utf-8", "replace"), 0, 0
    while misses < _MOST_MISSES and (begin := _LINE.search(text, at)) is not None:
        try:
            document, at = _DECODER.raw_decode(text, begin.start(1))
            yield document
        except (ValueError, RecursionError):
            misses, at = misses + 1, begin.end()


def _bare(body: bytes) -> bytes | str | None:
    """The picture that a body without JSON is the base64 of, or its URL."""
    found = picture_of(body.decode("ascii").strip()) if body.isascii() else None
    if isinstance(found, str):
        return found if _HTTP.match(found) and not _BLANKS.search(found) else None
    return found if found is not None and format_of(found) is not None else None


def _picture_in(data: bytes) -> bytes | None:
    """The picture that the bytes are, after what scripts and editors write before a file, or None."""
    if format_of(data) is not None:
        return data
    start = data[:_LONGEST_START]
    picture = data[len(start) - len(start.lstrip(_BEFORE)) :]
    return picture if format_of(picture) is not None else None


def picture_of(document: object, files: Mapping[str, bytes] | None = None) -> bytes | str | None:
    """As ``opened``, for a parsed document."""
    unlike: bytes | None = None
    for name, text in _texts(document, "", _DEEPEST):
        packed = _DATA_URL.match(text[:128])
        rest = text if packed is None else text[packed.end() :]
        data = (files or {}).get(rest)
        if data is None and packed is None and _HTTP.match(text):
            return text
        is_file = data is not None
        if data is None:
            data = _decoded(rest if packed is None else unquote(rest))
        if data is not None and (picture := _picture_in(data)) is not None:
            return picture
        is_path = packed is None and not is_file and _RELATIVE.match(text) is not None
        if is_path and (name in _URLS or _PATH.match(text)):
            return text
        unlike = unlike or data
    return unlike


def _texts(value: object, name: str, deepest: int) -> Iterator[tuple[str, str]]:
    """The texts that may be a picture, the likeliest first, each with the name of its field."""
    if isinstance(value, str) and deepest and (inside := _document_in(value)) is not None:
        yield from _texts(inside, name, deepest - 1)
    elif isinstance(value, str) and value.strip():
        yield name, value
    elif isinstance(value, list) and deepest:
        for item in value:
            yield from _texts(item, name, deepest - 1)
    elif isinstance(value, dict) and deepest:
        named = {re.sub(r"[\W_]", "", each).lower(): item for each, item in value.items()}
        for each in _NAMES:
            if each in named:
                yield from _texts(named[each], each, deepest - 1)


def _decoded(text: str) -> bytes | None:
    """The bytes of base64 in either alphabet (RFC 4648, 4 and 5), with white space, without padding."""
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        letters = _QUOTED.sub(r"\2", _BLANKS.sub("", text)).translate(_USUAL_ALPHABET).rstrip("=")
    try:
        return pybase64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None

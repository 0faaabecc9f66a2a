"""Verifies, without decoding, that an answer is a complete picture and the one asked for."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import cache
from pathlib import Path

from blossom_async.errors import ConfigurationError
from blossom_async.gateway.providers import Delivery
from blossom_async.gateway.providers.containers import Seen, Unusable, look
from blossom_async.gateway.providers.faults import Charged, Kind, ProviderFault
from blossom_async.models import ImageRequest

__all__ = ["Inspector", "Placeholders", "Repeats", "verified"]

LEAST_BYTES = 256
"""A picture of 64x64 pixels or more from a model is never smaller."""
MOST_ENLARGED = 2.0
LEAST_KEPT = 0.5

_HEX = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}", re.ASCII)
_MD5_DIGITS = 32
_BEGIN, _LONGEST_BEGIN = 200, 2000  # characters; CLIP reads 77 tokens, hardly fewer

_Fault = Callable[[Kind, str], ProviderFault]


class Placeholders:
    """Pictures sent in place of the one asked for, known by MD5 or SHA-256 of their bytes.

    Those in ``placeholders.json``, and ``more`` in hexadecimal. Raises ``ConfigurationError`` for an invalid
    hash.
    """

    def __init__(self, more: Iterable[str] = ()) -> None:
        hashes = {text.strip().lower() for text in more}
        for text in hashes:
            if not _HEX.fullmatch(text):
                raise ConfigurationError(
                    f"{text[:80]!r} is not a hash of a placeholder picture; allowed: MD5 (32) or SHA-256 (64 "
                    "hexadecimal digits), as `md5sum` or `sha256sum` prints it"
                )
        self._md5s = frozenset(text for text in hashes if len(text) == _MD5_DIGITS)
        self._sha256s = hashes - self._md5s

    def has(self, data: bytes, file_format: str) -> bool:
        """Whether this file, of that format, is one of them."""
        listed = [md5 for md5, least in _known(file_format) if len(data) >= least]
        md5s = self._md5s.union(listed)
        # The MD5 only names a file: a forged collision gains nothing but a failure.
        if md5s and hashlib.md5(data, usedforsecurity=False).hexdigest() in md5s:
            return True
        return bool(self._sha256s) and hashlib.sha256(data).hexdigest() in self._sha256s


@cache
def _known(file_format: str) -> list[tuple[str, int]]:
    """The MD5 of each that is listed, and the fewest bytes that it may have, as far as is known."""
    listed = json.loads(Path(__file__).with_name("placeholders.json").read_text("utf-8"))
    return [(entry["md5"], entry["least_bytes"]) for entry in listed if entry["format"] == file_format]


class Repeats:
    """The last ``most`` pictures by hash, each with its prompt; about 300 bytes each.

    Prompts count as equal if their first 200 characters are, apart from case and white space: the text
    encoders of some models read no more, and then the same picture for the same seed is right.
    """

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._asked: OrderedDict[bytes, bytes] = OrderedDict()

    def is_of_another(self, picture: bytes, prompt: str) -> bool:
        """Whether this hash came for another prompt before; if not, remembers it for this one."""
        begin = " ".join(prompt[:_LONGEST_BEGIN].casefold().split())[:_BEGIN]
        words = hashlib.sha256(begin.encode()).digest()
        if self._asked.setdefault(picture, words) != words:
            return True
        self._asked.move_to_end(picture)
        if len(self._asked) > self._most:
            self._asked.popitem(last=False)
        return False


def verified(
    data: bytes,
    content_type: str,
    *,
    width: int,
    height: int,
    alpha: bool,
    placeholders: Placeholders,
    fault: _Fault,
) -> Seen:
    """What the file is, if it can serve as a picture of that width and height.

    The bytes decide; ``content_type`` only appears in the message. The file must be complete to its last
    marker, the checksums of a png must be right, and with ``alpha`` there must be an alpha channel. Another
    size will do, as models with fixed sizes give, if the picture covers the size asked for when enlarged at
    most twice, and at least half of it remains after cropping.

    Raises what ``fault`` makes of ``BAD_CONTENT`` or ``PLACEHOLDER`` and a sentence.
    """
    try:
        seen = look(data)
    except Unusable as exc:
        said = f", said to be {content_type[:80]!r}" if content_type else ""
        raise fault(Kind.BAD_CONTENT, f"sent {exc}{said}") from None
    if placeholders.has(data, seen.format):
        raise fault(Kind.PLACEHOLDER, 'sent its picture for "too many requests"')
    problem = _misfit(seen, width, height) or ("without alpha channel" if alpha and not seen.alpha else None)
    if problem is None and len(data) < LEAST_BYTES and seen.width * seen.height >= 64 * 64:
        problem = f"of {len(data)} bytes"
    if problem is not None:
        asked = f"{width}x{height}{' with alpha channel' if alpha else ''}"
        raise fault(Kind.BAD_CONTENT, f"sent a {seen.format} {problem}, asked for {asked}")
    return seen


class Inspector:
    """Turns the bytes that one provider sent into a ``Delivery``. ``placeholders`` as for ``Placeholders``.

    ``throttles``: this provider sends placeholders without drawing, and they cost nothing.
    """

    def __init__(self, provider: str, placeholders: Iterable[str], *, throttles: bool) -> None:
        self._provider = provider
        self._placeholders = Placeholders(placeholders)
        self._repeats = Repeats()
        self._of_placeholder: Charged = "no" if throttles else "unknown"

    async def delivery(
        self,
        data: bytes,
        content_type: str,
        request: ImageRequest,
        *,
        width: int,
        height: int,
        model: str,
        request_id: str | None,
        charged: Charged,
        usd: Decimal | None,
        seeded: bool,
    ) -> Delivery:
        """The picture, verified in a thread.

        ``width``, ``height`` and ``seeded`` say what the provider was asked for, ``charged`` what the answer
        says about it. Raises ``ProviderFault`` as ``verified``, and ``BAD_CONTENT`` for the same bytes as for
        another prompt.
        """

        def fault(kind: Kind, detail: str) -> ProviderFault:
            return ProviderFault(
                self._provider,
                kind,
                detail,
                charged=self._of_placeholder if kind is Kind.PLACEHOLDER else charged,
                request_id=request_id,
            )

        def examined() -> tuple[Seen, bytes]:
            seen = verified(
                data,
                content_type,
                width=width,
                height=height,
                alpha=request.transparency,
                placeholders=self._placeholders,
                fault=fault,
            )
            return seen, hashlib.sha256(data).digest()

        seen, digest = await asyncio.to_thread(examined)
        if self._repeats.is_of_another(digest, request.prompt):
            raise fault(Kind.BAD_CONTENT, "sent the same bytes as for another prompt")
        return Delivery(
            data=data,
            format=seen.format,
            width=seen.width,
            height=seen.height,
            orientation=seen.orientation,
            model=model,
            request_id=request_id,
            usd=usd,
            cached=charged == "no",
            notes=_notes(self._provider, model, seen, request) + ("" if seeded else "; takes no seed"),
        )


def _notes(provider: str, model: str, seen: Seen, request: ImageRequest) -> str:
    notes = f"{provider} {model}"
    if (seen.width, seen.height) != (request.width, request.height):
        notes += f"; drawn at {seen.width}x{seen.height}"
    if seen.format != request.format:
        notes += f"; sent as {seen.format}"
    return notes


def _misfit(seen: Seen, width: int, height: int) -> str | None:
    enlarged = max(width / seen.width, height / seen.height)
    kept = width * height / (enlarged**2 * seen.width * seen.height)
    if enlarged > MOST_ENLARGED or kept < LEAST_KEPT:
        return f"of {seen.width}x{seen.height}"
    return None

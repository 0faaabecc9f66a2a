"""JSON with pictures in it, whose base64 is made while it is sent."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import attrs
import orjson
import pybase64
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

__all__ = ["AsBase64", "Packed"]

_PIECE = 192 << 10  # bytes, a multiple of three


@attrs.frozen
class AsBase64:
    """Bytes in a document."""

    data: bytes = attrs.field(repr=False)


class Packed(Payload):
    """The body of an answer: documents as JSON, each after some text and before some other.

    Beside the pictures themselves it never holds more of them than one piece.
    """

    def __init__(
        self, documents: Iterable[Mapping[str, Any]], before: bytes = b"", after: bytes = b""
    ) -> None:
        super().__init__(None)
        mark = secrets.token_hex(16)  # stands for a picture, and nowhere else
        self._pictures: list[bytes] = []

        def stands_for(value: object) -> str:
            if not isinstance(value, AsBase64):
                raise TypeError(type(value).__name__)
            self._pictures.append(value.data)
            return mark

        text = b"".join(before + orjson.dumps(document, default=stands_for) + after for document in documents)
        self._texts = text.split(mark.encode())
        self._size = sum(map(len, self._texts)) + sum(4 * -(-len(data) // 3) for data in self._pictures)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self.pieces()).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Lets other requests take their turns in between."""
        for piece in self.pieces():
            await writer.write(piece)
            await asyncio.sleep(0)

    def pieces(self) -> Iterator[bytes]:
        """The body, piece by piece."""
        for text, data in zip_longest(self._texts, self._pictures, fillvalue=b""):
            yield text
            whole = memoryview(data)
            for start in range(0, len(data), _PIECE):
                yield pybase64.b64encode(whole[start : start + _PIECE])

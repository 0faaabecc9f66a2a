"""Pictures in JSON, as base64 that is made while it is sent."""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any

import pytest

from blossom_async.gateway.calls import packed
from blossom_async.gateway.calls.packed import AsBase64, Packed


class Sent:
    """What was written, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    async def write(self, piece: bytes) -> None:
        self.pieces.append(piece)


@pytest.mark.parametrize("size", [0, 1, 2, 3, packed._PIECE - 1, packed._PIECE, 2 * packed._PIECE + 1])
async def test_what_is_sent_is_the_document_with_its_pictures(size: int) -> None:
    """As long as it is said to be, and in pieces that do not grow with the picture."""
    one, two = secrets.token_bytes(size), secrets.token_bytes(5)
    documents: list[dict[str, Any]] = [
        {"data": [{"b64_json": AsBase64(one)}, {"b64_json": AsBase64(two), "more": 1}]},
        {"data": []},
    ]
    body, sent = Packed(documents, b"before ", b"\n"), Sent()
    await body.write(sent)  # type: ignore[arg-type]
    told = b"".join(sent.pieces)
    assert body.size == len(told)
    first, last = (json.loads(line.removeprefix(b"before ")) for line in told.splitlines())
    assert [base64.b64decode(item["b64_json"]) for item in first["data"]] == [one, two]
    assert last == {"data": []}
    assert max(map(len, sent.pieces)) <= packed._PIECE // 3 * 4

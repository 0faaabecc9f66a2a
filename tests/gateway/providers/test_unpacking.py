"""Base64 that is decoded while it arrives."""

from __future__ import annotations

import base64
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blossom_async.gateway.providers.unpacking import Unpacking

LARGE = bytes(range(256)) * 391 + b"."
LETTERS = base64.b64encode(LARGE).decode()
ALMOST = {
    "broken into lines": LETTERS[:90_000] + "\n" + LETTERS[90_000:],
    "in the other alphabet": LETTERS[:90_000] + "_-_-" + LETTERS[90_000:],
    "without padding": LETTERS.rstrip("="),
    "padding inside": LETTERS + LETTERS,
    "with an escape": LETTERS[:90_000] + "\\/" + LETTERS[90_000:],
    "after other text": f"file:{LETTERS}",
    "short": LETTERS[:20_000],
}


def unpacked(body: bytes, cuts: list[int]) -> tuple[bytes, list[bytes], bytes]:
    """The body, its files, and the body with the files put back."""
    unpacking = Unpacking()
    for start, end in pairwise([0, *sorted(cuts), len(body)]):
        unpacking.feed(body[start:end])
    rest, files = unpacking.end()
    whole = rest
    for name, data in files.items():
        assert rest.count(name.encode()) == 1
        whole = whole.replace(name.encode(), base64.b64encode(data))
    return rest, list(files.values()), whole


class TestUnpacking:
    """A body is the same once its files are put back, however it arrives."""

    @pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "base64,"])
    @pytest.mark.parametrize("step", [1000, 4097, 65_536, 1_000_000])
    def test_a_file_is_taken_out(self, prefix: str, step: int) -> None:
        """With the beginning of a data URL, too; the document around it stays."""
        body = json.dumps(
            {"created": 1, "data": [{"b64_json": prefix + LETTERS}], "usage": {"n": 1}}
        ).encode()
        rest, files, whole = unpacked(body, list(range(step, len(body), step)))
        assert (files, whole) == ([LARGE], body)
        (name,) = (item["b64_json"] for item in json.loads(rest)["data"])
        assert len(name) == len(prefix) + 32

    @pytest.mark.parametrize("text", ALMOST.values(), ids=list(ALMOST))
    def test_anything_else_is_left_as_it_came(self, text: str) -> None:
        """What servers send that is nearly base64 is for more tolerant readers."""
        body = f'{{"data": [{{"b64_json": "{text}"}}, 0]}}'.encode()
        rest, files, _ = unpacked(body, list(range(50_000, len(body), 50_000)))
        assert (rest, files) == (body, [])

    @pytest.mark.parametrize("body", [LARGE, f'<html>"{LETTERS}"'.encode(), f'{{"b64": "{LETTERS}'.encode()])
    def test_only_whole_texts_of_a_document_count(self, body: bytes) -> None:
        """Not those of a page, nor one whose end is missing."""
        rest, files, _ = unpacked(body, [70_000])
        assert (rest, files) == (body, [])

    @given(
        st.lists(
            st.sampled_from([*ALMOST.values(), LETTERS, '"', "\\", ",", ":", "base64,", "A" * 4096, "="]),
            max_size=8,
        ),
        st.lists(st.integers(0, 300_000), max_size=8),
    )
    def test_nothing_is_lost(self, texts: list[str], cuts: list[int]) -> None:
        """Whatever comes, in whatever parts."""
        body = b'{"' + "".join(texts).encode()
        assert unpacked(body, [min(cut, len(body)) for cut in cuts])[2] == body

    def test_many_short_ones_are_no_burden(self) -> None:
        """A part of a body may hold any number of them."""
        body = json.dumps(["A" * 5000] * 1000).encode()
        assert unpacked(body, [])[0] == body

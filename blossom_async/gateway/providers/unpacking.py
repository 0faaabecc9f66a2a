"""Decodes the base64 of a JSON answer while it arrives, so that it is never held as a whole."""

from __future__ import annotations

import binascii
import re
import secrets
from collections.abc import Mapping

import pybase64

__all__ = ["Unpacking"]

_SURE = 4096  # letters of base64 in a row, after which a text is taken for a file
_LEAST = 48 * 1024  # bytes; what is shorter stays in the document
_BEGIN = re.compile(rb"""(?<!\\)"(?:(?:[^"\\,]{1,90};)?base64,)?([A-Za-z0-9+/]{%d})""" % _SURE)
_SCANNED = 2 * _SURE  # bytes; the end of a text is searched again with what comes next
_JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s*[{\[]")
_LONGEST_START = 64  # bytes of white space before a document, at most


class Unpacking:
    """The body of an answer. Long texts of strict base64 (RFC 4648, 4) are decoded piece by piece.

    Whatever turns out not to be one is put back as it came, so a body without any is unchanged.
    """

    def __init__(self) -> None:
        self._body: list[bytes] = []
        self._open: list[bytes] = []  # the end of the body, where base64 may begin
        self._unsearched = 0  # bytes
        self._pieces: list[bytes] | None = None  # of the base64 that is being decoded
        self._letters = b""  # fewer than four of it
        self._is_json: bool | None = None
        self._files: dict[str, bytes] = {}

    def feed(self, part: bytes) -> None:
        """Takes what has arrived."""
        while part:
            part = self._scan(part) if self._pieces is None else self._decode(part)

    def end(self) -> tuple[bytes, Mapping[str, bytes]]:
        """The body, and the files that were in it, by the text that stands for each."""
        if self._pieces is not None:
            self._body.append(self._put_back(self._letters))
        return b"".join([*self._body, *self._open]), self._files

    def _scan(self, part: bytes) -> bytes:
        """The letters of a file that begins in this part of the body, with all that follows."""
        if self._is_json is False:
            self._body.append(part)
            return b""
        self._open.append(part)
        self._unsearched += len(part)
        if self._unsearched < _SCANNED:
            return b""
        text = b"".join(self._open)
        self._open, self._unsearched = [], 0
        if self._is_json is None:
            self._is_json = _JSON.match(text, 0, _LONGEST_START) is not None
        if not self._is_json:
            self._body.append(text)
        elif (found := _BEGIN.search(text)) is not None:
            self._body.append(text[: found.start(1)])
            self._pieces = []
            return text[found.start(1) :]
        else:
            self._body.append(text[:-_SCANNED])
            self._open.append(text[-_SCANNED:])
        return b""

    def _decode(self, part: bytes) -> bytes:
        """The text after the file; with the undecoded rest of the file, if it turns out to be none."""
        assert self._pieces is not None  # noqa: S101 - for the type checker
        letters = self._letters + part
        end = letters.find(b'"')
        whole = len(letters) & ~3 if end < 0 else end
        try:
            piece = pybase64.b64decode(letters[:whole], validate=True)
        except (binascii.Error, ValueError):
            return self._put_back(letters)
        if end < 0 and letters.endswith(b"=", 0, whole):  # a file ends here, and something follows
            return self._put_back(letters)
        if end >= 0 and sum(map(len, self._pieces)) + len(piece) < _LEAST:
            return self._put_back(letters)
        self._pieces.append(piece)
        if end < 0:
            self._letters = letters[whole:]
            return b""
        name = secrets.token_hex(16)  # stands for the file, and nowhere else
        self._files[name] = b"".join(self._pieces)
        self._body.append(name.encode())
        self._pieces, self._letters = None, b""
        return letters[end:]

    def _put_back(self, letters: bytes) -> bytes:
        """Undoes the decoding of all but these: every piece was whole, so its letters are known."""
        self._body += map(pybase64.b64encode, self._pieces or ())
        self._pieces, self._letters = None, b""
        return letters

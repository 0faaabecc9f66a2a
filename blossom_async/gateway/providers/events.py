"""Answers in server-sent events: pictures on the way, then the one asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pybase64

from blossom_async.gateway.providers import Partial, Show
from blossom_async.gateway.providers.answers import picture_of
from blossom_async.gateway.providers.containers import Unusable, look

__all__ = ["Events", "Watch", "watching"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Watch = Callable[[Mapping[str, Any]], bool]
"""Takes the data of an event; True if it is one on the way, and the answer is still to come."""


class Events:
    """The body of an answer in events: of those that ``watch`` leaves the last with a picture, else the last.

    Lines end in LF or CR LF. Only their data counts, which names its type. Some servers send what the picture
    cost, or signs of life, after it.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._line: list[bytes] = []  # its pieces so far
        self._data: list[bytes] = []
        self._answer = b""
        self._has_picture: bool | None = None  # of the answer, once that is asked

    def feed(self, part: bytes) -> None:
        """Takes what has arrived."""
        first, *lines = part.split(b"\n")
        self._line.append(first)
        for line in lines:
            self._end_line()
            self._line.append(line)

    def end(self) -> tuple[bytes, Mapping[str, bytes]]:
        """The body, as ``Unpacking`` has it."""
        self._end_line()
        self._end_event()
        return self._answer, {}

    def _end_line(self) -> None:
        line = b"".join(self._line).removesuffix(b"\r").removeprefix(_BYTE_ORDER_MARK)
        self._line = []
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line:
            self._end_event()

    def _end_event(self) -> None:
        data, self._data = b"\n".join(self._data), []
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:  # such as [DONE]
            return
        if isinstance(event, dict) and self._watch(event):
            return
        if not self._answer:  # most have one event, whose base64 need not be decoded here
            self._answer = data
        elif picture_of(event) is not None:
            self._answer, self._has_picture = data, True
        elif not self._holds_picture():
            self._answer = data

    def _holds_picture(self) -> bool:
        if self._has_picture is None:
            self._has_picture = picture_of(orjson.loads(self._answer)) is not None
        return self._has_picture


def watching(show: Show, most: object) -> Watch:
    """Shows the first ``most`` pictures on the way that are complete; all others are dropped."""
    left = most if isinstance(most, int) else 0

    def watch(event: Mapping[str, Any]) -> bool:
        nonlocal left
        if not str(event.get("type", "")).endswith(".partial_image"):
            return False
        text, index = event.get("b64_json"), event.get("partial_image_index")
        if left > 0 and isinstance(text, str):
            left -= 1
            try:
                data = pybase64.b64decode(text, validate=True)
                seen = look(data)
            except (ValueError, Unusable):
                return True
            show(Partial(data, seen.format, seen.width, seen.height, index if isinstance(index, int) else 0))
        return True

    return watch

"""One entry of a prompt file: the settings of a picture, or why its line is unusable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["BrokenLine", "Entry"]


class BrokenLine(ValueError):
    """A line that is not a valid entry; the message says what was seen and what is allowed."""


class Entry(Mapping[str, Any]):
    """The settings of one picture, and the ``line`` they stand on, from 1.

    A broken line is an entry too: reading it raises its ``BrokenLine``, so that it fails as an item of its
    own, in its place, and the batch goes on.
    """

    __slots__ = ("_error", "_settings", "line")

    def __init__(self, line: int, settings: Mapping[str, Any] | BrokenLine) -> None:
        self.line: int = line
        self._error = settings if isinstance(settings, BrokenLine) else None
        self._settings = {} if isinstance(settings, BrokenLine) else settings

    @property
    def prompt(self) -> str | None:
        """The prompt, as far as there is one."""
        prompt = self._settings.get("prompt")
        return prompt if isinstance(prompt, str) else None

    def _readable(self) -> Mapping[str, Any]:
        if self._error is not None:
            raise self._error
        return self._settings

    def __getitem__(self, name: str) -> Any:
        return self._readable()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readable())

    def __len__(self) -> int:
        return len(self._readable())

    def __repr__(self) -> str:
        return f"<Entry of line {self.line}: {str(self._error or dict(self._settings))[:80]}>"

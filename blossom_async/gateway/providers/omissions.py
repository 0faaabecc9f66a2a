"""Optional parameters of a request: one that a server refuses by name is not sent again."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from cachetools import LRUCache

from blossom_async.errors import ConfigurationError, nearest

__all__ = ["OMISSIBLE", "Omissions", "refused_names"]

OMISSIBLE = frozenset(
    {
        "background",
        "height",
        "model",
        "negative_prompt",
        "output_format",
        "partial_images",
        "quality",
        "response_format",
        "seed",
        "size",
        "stream",
        "width",
    }
)
"""What a server may be asked for a picture without. All but the prompt."""

_NEVER_GUESSED = {"model"}  # "no such model" names it too, and means something else
_NAMED_IN = {"argument", "field", "fields", "loc", "param", "parameter", "parameters", "path", "property"}
_SAID_IN = {"detail", "error", "errors", "message", "msg", "reason", "title"}
_UNKNOWN = re.compile(
    r"(?i)unknown|unrecogni[sz]ed|unexpected|unsupported|extra|additional"
    r"|not (?:be )?(?:supported?|allowed|permitted|accepted|recogni[sz]ed)"
    r"|(?:does|do|did)(?: not|n't) (?:support|accept|take|recogni[sz]e)"
)
_REFUSED = re.compile(rf"{_UNKNOWN.pattern}|invalid|must be|should be|one of|out of range")
_DEEPEST = 5


class Omissions:
    """The parameters left out of requests: ``always``, and those that a model's server has refused.

    The last thousand refusals are remembered until the process ends. Raises ``ConfigurationError`` for a name
    that cannot be left out.
    """

    def __init__(self, always: Iterable[str] = ()) -> None:
        self._always = frozenset(always)
        for name in sorted(self._always - OMISSIBLE):
            raise ConfigurationError(
                f"openai_omit: {name!r} cannot be left out of requests; allowed: "
                f"{', '.join(sorted(OMISSIBLE))}.{nearest(name, OMISSIBLE)}"
            )
        self._refused: LRUCache[tuple[str, str, str | None], bool] = LRUCache(maxsize=1000)

    def names(self, model: str, body: Mapping[str, object]) -> set[str]:
        """The names in a body that must not be sent."""
        return {
            name
            for name, value in body.items()
            if name in self._always
            or (model, name, None) in self._refused
            or (isinstance(value, str) and (model, name, value) in self._refused)
        }

    def remember(self, model: str, body: Mapping[str, object], refused: Mapping[str, bool]) -> None:
        """Remembers refused names: with any value if ``True``, otherwise only with the value sent."""
        for name, whatever in refused.items():
            value = body[name]
            if whatever or isinstance(value, str):
                self._refused[model, name, None if whatever else str(value)] = True


def refused_names(document: object, sent: Collection[str]) -> dict[str, bool]:
    """The names sent that a refusal is about; True for a name that the server does not know at all."""
    told = list(_told(document, "", _DEEPEST))
    words = " ".join(text for where, text in told if where in _SAID_IN)
    named = {re.split(r"[.\[\]/]", text.rstrip("]"))[-1] for where, text in told if where in _NAMED_IN}
    found = named & set(sent) - _NEVER_GUESSED
    if not found and _REFUSED.search(words):
        found = {name for name in sent if re.search(rf"\b{name}\b", words)} - _NEVER_GUESSED
    codes = " ".join(text.replace("_", " ") for where, text in told if where in {"code", "type"})
    unknown = _UNKNOWN.search(f"{words} {codes}") is not None
    return dict.fromkeys(found & OMISSIBLE, unknown)


def _told(value: Any, where: str, deepest: int) -> Iterator[tuple[str, str]]:
    """The texts in a refusal, each with the name of its field."""
    if isinstance(value, str):
        yield where, value[:2000]
    elif isinstance(value, list) and deepest:
        for item in value[:20]:
            yield from _told(item, where, deepest - 1)
    elif isinstance(value, dict) and deepest:
        for name, item in value.items():
            if name in _NAMED_IN | _SAID_IN | {"code", "type"}:
                yield from _told(item, name, deepest - 1)

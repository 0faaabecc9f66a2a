"""From names and values, as tables and JSON lines have them, to the settings of a picture."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from types import UnionType
from typing import Any, get_args, get_type_hints

import orjson

from blossom_async.models import ImageOptions

__all__ = ["MAX_DEPTH", "OPTIONS", "misspelt", "option_name", "prompt_in_disguise", "read", "too_deep"]

MAX_DEPTH = 16  # lists and objects in each other; options need two
_WHOLE = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?", re.ASCII)
_FLAGS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1", "1.0", 1), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0", "0.0", 0), False),
}
_OFTEN_PROMPTS = ("prompts", "text", "texts", "caption", "captions", "description")
_OTHER_WORDS = frozenset(("meta", "quantity", "tag", "tags", "weight", "weights"))  # of shops, say
_CLOSE = 0.75  # difflib's ratio: a typing error, not another word


def option_name(title: str) -> str:
    """The option that a title names: ``Negative Prompt`` is ``negative_prompt``."""
    return title.strip().lower().replace(" ", "_").replace("-", "_")


def read(name: str, value: Any) -> Any:
    """The value of an option; None if none is given, as by an empty cell or null.

    What cannot be converted stays as it is, for ``ImageRequest`` to refuse.
    """
    if name != "prompt" and isinstance(value, str) and not value.strip():
        return None
    return _READ[name](value)


@lru_cache(1024)
def misspelt(name: str, others: frozenset[str]) -> str | None:
    """The option that an unknown name most likely means, None if it is just another word.

    ``others`` are the other names of the entry: an option that is already there is not suggested.
    """
    return (
        None
        if name in _READ or name in _OTHER_WORDS
        else next(iter(_close(name, _READ.keys() - others)), None)
    )


def prompt_in_disguise(names: Collection[str]) -> str | None:
    """The name under which the prompt most likely is, where none is called so."""
    often = next((name for name in names if name in _OFTEN_PROMPTS), None)
    return often or next(iter(_close("prompt", names)), None)


def _close(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name[:64], names, 1, _CLOSE)


def _whole(value: Any) -> Any:
    found = _WHOLE.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(found[1]) if found else value


def _flag(value: Any) -> Any:
    plain = value.strip().lower() if isinstance(value, str) else value
    return _FLAGS.get(plain, value) if isinstance(plain, str | int | float) else value


def _object(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    return value if too_deep(found) else found


def _text(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _reader(kind: Any) -> Callable[[Any], Any]:
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if bool in kinds:
        return _flag
    if int in kinds:
        return _whole
    return _text if str in kinds else _object


_READ: dict[str, Callable[[Any], Any]] = {
    "prompt": _text,
    **{name: _reader(kind) for name, kind in get_type_hints(ImageOptions).items()},
}
"""Option -> how a value in a file becomes a value of the option."""

OPTIONS = frozenset(_READ)


def too_deep(value: object) -> bool:
    """Whether lists and objects are nested so deeply that showing them would fail."""
    layer: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        layer = [part for part in layer if isinstance(part, dict | list)]
        if not layer:
            return False
        layer = [inner for part in layer for inner in (part.values() if isinstance(part, dict) else part)]
    return True

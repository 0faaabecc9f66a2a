"""What a cell of a table says: the value of the option that its column names."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import UnionType
from typing import Any, get_args, get_type_hints

import orjson

from blossom_async.models import ImageOptions

__all__ = ["MAX_DEPTH", "READ", "given", "option_name", "too_deep"]

MAX_DEPTH = 16  # lists and objects in each other; options need two
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def option_name(title: str) -> str:
    return title.strip().lower().replace(" ", "_").replace("-", "_")


def given(column: str, cell: str) -> bool:
    return column == "prompt" or (column in READ and bool(cell.strip()))


# A cell that cannot be converted stays text, for ImageRequest to refuse: options are checked in one place.
def _whole(cell: str) -> int | str:
    cell = cell.strip()
    return int(cell) if _WHOLE.fullmatch(cell) else cell


def _flag(cell: str) -> bool | str:
    return _FLAGS.get(cell.strip().lower(), cell.strip())


def _object(cell: str) -> Any:
    try:
        value = orjson.loads(cell)
    except orjson.JSONDecodeError:
        return cell
    return cell if too_deep(value) else value


def _reader(kind: Any) -> Callable[[str], Any]:
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if bool in kinds:
        return _flag
    if int in kinds:
        return _whole
    return str.strip if str in kinds else _object


READ: dict[str, Callable[[str], Any]] = {
    "prompt": str.strip,
    **{name: _reader(kind) for name, kind in get_type_hints(ImageOptions).items()},
}
"""Column -> how a cell becomes the option's value."""


def too_deep(value: object) -> bool:
    """Whether lists and objects lie so deep in each other that showing them would fail."""
    layer: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        layer = [part for part in layer if isinstance(part, dict | list)]
        if not layer:
            return False
        layer = [inner for part in layer for inner in (part.values() if isinstance(part, dict) else part)]
    return True

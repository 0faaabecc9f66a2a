"""Entries of JSON lines: an object of options on each, or a string."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson

from blossom_async.cli.prompts.entry import BrokenLine, Entry
from blossom_async.cli.prompts.lines import Line
from blossom_async.cli.prompts.settings import (
    MAX_DEPTH,
    OPTIONS,
    misspelt,
    option_name,
    prompt_in_disguise,
    read,
    too_deep,
)
from blossom_async.errors import ConfigurationError, shown

__all__ = ["jsonl"]

_NOTICES = 20  # names that are reported as ignored
_ALLOWED = "allowed: an object of options on each line, as `jq -c '.[]'` writes an array"


def jsonl(lines: Iterable[Line], name: str, notice: Callable[[str], object]) -> Iterator[Entry]:
    """The entries. ``notice`` is told of names that are not options, once for each; they are ignored.

    Raises ``ConfigurationError`` for one JSON document over several lines.
    """
    ignored: set[str] = set()
    first = True
    for number, line in lines:
        if isinstance(line, BrokenLine):
            yield Entry(number, line)
        elif line.strip():
            settings = _settings(
                line, ignored, lambda title: notice(f"{name}: ignored, not an option: {title}")
            )
            if first and _goes_on(line.strip()):
                raise ConfigurationError(f"{name}: it is one JSON document over several lines; {_ALLOWED}")
            first = False
            yield Entry(number, settings)


def _goes_on(text: str) -> bool:
    """Whether the text begins an array or object that ends on a later line."""
    if text[0] == "[":
        return text[-1] != "]"
    return text[0] == "{" and text[-1] in "{[,:"


def _settings(line: str, ignored: set[str], notice: Callable[[str], object]) -> dict[str, Any] | BrokenLine:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        return BrokenLine(f"the line is not JSON: {exc.msg} at character {exc.colno}")
    if too_deep(value):
        return BrokenLine(f"the line nests lists or objects more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        return {"prompt": value}
    if isinstance(value, list):
        return BrokenLine(f"the line is an array; {_ALLOWED}")
    if not isinstance(value, dict):
        return BrokenLine(f"the line is {line.strip():.40}; allowed: an object of options, or a string")
    try:
        json.loads(line, object_pairs_hook=_once_each)  # orjson silently takes the last of equal names
        return _options(value, ignored, notice)
    except BrokenLine as exc:
        return exc


def _once_each(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise BrokenLine(f"the line has {shown(name)} twice; allowed: each name once; remove one")
        names.add(name)


def _options(value: dict[str, Any], ignored: set[str], notice: Callable[[str], object]) -> dict[str, Any]:
    names = {title: option_name(title) for title in value}
    known = [name for name in names.values() if name in OPTIONS]
    _once_each([(name, None) for name in known])
    for title, name in names.items():
        if name in OPTIONS or not name or title in ignored:
            continue
        if meant := misspelt(name, frozenset(known)):
            raise BrokenLine(f"unknown option {shown(title)}. Did you mean {meant!r}? Rename or remove it")
        if len(ignored) < _NOTICES:
            ignored.add(title)
            notice(title)
    if "prompt" not in known and (disguised := prompt_in_disguise(value.keys())):
        raise BrokenLine(f"the line has no 'prompt'; rename {shown(disguised)} to 'prompt' if that is it")
    found = {name: read(name, value[title]) for title, name in names.items() if name in OPTIONS}
    return {name: setting for name, setting in found.items() if setting is not None}

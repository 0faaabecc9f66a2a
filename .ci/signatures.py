"""For mkdocstrings: the signatures of attrs classes, whose ``__init__`` no source has, and of typed dicts."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import attrs
import griffe

_NONE = inspect.Parameter.empty


class Signatures(griffe.Extension):
    """Adds the ``__init__`` that attrs generates, and one with the keys of a typed dict."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called for each class that is read."""
        if "__init__" in cls.members or not cls.module.path.startswith("blossom_async"):
            return
        generated = any("attrs" in str(decorator.value) for decorator in cls.decorators)
        if not generated and not any(str(base) in {"TypedDict", "BatchOptions"} for base in cls.bases):
            return
        kind = getattr(import_module(cls.module.path), cls.name)
        parameters = griffe.Parameters(*(self._shown(cls, each) for each in _parameters(kind)))
        cls["__init__"] = griffe.Function("__init__", parameters=parameters, parent=cls)

    def _shown(self, cls: griffe.Class, found: inspect.Parameter) -> griffe.Parameter:
        own = cls.attributes.get(found.name)
        return griffe.Parameter(
            found.name,
            annotation=own.annotation if own is not None else str(found.annotation),
            kind=griffe.ParameterKind[found.kind.name.lower()],
            default=None if found.default is _NONE else _spelled(found.default),
        )


def _parameters(kind: Any) -> Iterator[inspect.Parameter]:
    if typing.is_typeddict(kind):
        for name, annotation in inspect.get_annotations(kind).items():
            yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    else:
        yield from inspect.signature(kind).parameters.values()


def _spelled(default: object) -> str:
    if default is attrs.NOTHING:  # of a factory
        return "..."
    return str(getattr(default, "__name__", repr(default)))

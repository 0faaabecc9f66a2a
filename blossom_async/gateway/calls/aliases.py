"""Names of models that OpenAI's clients know, and what draws where no provider offers them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

__all__ = ["Aliases"]


class Aliases:
    """``given`` as the setting ``model_aliases`` has it: ``name`` or ``name=model``; names may have ``*``."""

    def __init__(self, given: Iterable[str]) -> None:
        pairs = [entry.partition("=") for entry in given if entry != "none"]
        self._targets = [(re.compile(translate(name)), model or None) for name, _, model in pairs]
        self.listed: tuple[str, ...] = tuple(name for name, _, _ in pairs if "*" not in name)
        """Those that are whole names."""

    def find(self, name: str) -> tuple[bool, str | None]:
        """Whether the name is one of them, and the model that draws; None is the provider's usual one."""
        for pattern, model in self._targets:
            if pattern.fullmatch(name):
                return True, model
        return False, None

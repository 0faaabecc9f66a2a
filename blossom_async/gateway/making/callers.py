"""Who waits for a picture."""

from __future__ import annotations

import attrs

from blossom_async.gateway.making.priority import Priority

__all__ = ["Callers"]


@attrs.frozen
class Callers:
    """Those who wait for one picture. If ``hurried``, a long wait is refused instead of begun."""

    priority: Priority
    hurried: bool = False

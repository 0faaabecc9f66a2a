"""Statements of what all gateways have answered, hour by hour."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import sqlalchemy as sa

from blossom_async.gateway.storage.records.inserting import insert
from blossom_async.gateway.storage.records.tables import traffic

__all__ = ["Answered", "add", "between"]


@attrs.frozen(kw_only=True)
class Answered:
    """Requests answered: for ``pictures``, ``calls`` of the API, and ``others``.

    Of them ``refused`` with 4xx, and ``failed`` with 5xx. ``bytes`` were sent, heads included.
    """

    pictures: int = 0
    calls: int = 0
    others: int = 0
    refused: int = 0
    failed: int = 0
    bytes: int = 0

    @property
    def requests(self) -> int:
        """The answers of all three kinds."""
        return self.pictures + self.calls + self.others

    def __add__(self, more: Answered) -> Answered:
        return Answered(**{name: n + getattr(more, name) for name, n in attrs.asdict(self).items()})


def add(hour: int, answered: Answered, connection: sa.Connection) -> None:
    """Counts them in the hour, whose number is counted from 1970."""
    row = attrs.asdict(answered)
    adding = insert(traffic, connection.dialect.name).values(hour=hour, **row)
    sums = {name: traffic.c[name] + adding.excluded[name] for name in row}
    connection.execute(adding.on_conflict_do_update(index_elements=traffic.primary_key, set_=sums))


def between(first: int, last: int, connection: sa.Connection) -> Sequence[tuple[int, Answered]]:
    """The hours with traffic among these, both included, in order."""
    these = sa.select(traffic).where(traffic.c.hour.between(first, last)).order_by(traffic.c.hour)
    rows = [dict(row) for row in connection.execute(these).mappings()]
    return [(row.pop("hour"), Answered(**row)) for row in rows]

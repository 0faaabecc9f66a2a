"""Arrow tables of rows, with the columns that an engine adds, and what a run came to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import attrs

from blossom_async.rows import ADDED, Engine

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TYPES", "Summary", "extended", "with_columns"]

TYPES: dict[str, str] = {
    **dict.fromkeys(ADDED, "string"),
    **dict.fromkeys(("width", "height", "cost", "attempts"), "int64"),
    "replayed": "bool",
}
"""The types of the columns that ``generate`` adds: the same in every block, even where all are null."""

_NO_ANSWER = ("outcome_unknown", "TransportError", "StaleConnection", "TimedOut")


def extended(table: pa.Table, engine: Engine) -> pa.Table:
    """The table with the new columns of its rows. A column that it has by that name is replaced."""
    rows = table.select(engine.reads(table.column_names)).to_pylist()
    return with_columns(table, engine.columns(rows))


def with_columns(table: pa.Table, columns: list[dict[str, Any]]) -> pa.Table:
    """The table with these columns, given row by row."""
    import pyarrow as pa

    for name in dict.fromkeys(name for row in columns for name in row):
        known = TYPES.get(name)
        values = pa.array([row.get(name) for row in columns], known and pa.type_for_alias(known))
        place = table.schema.get_field_index(name)
        table = table.append_column(name, values) if place < 0 else table.set_column(place, name, values)
    return table


@attrs.frozen(kw_only=True)
class Summary:
    """The sums of a run: ``rows`` in all, of which ``made`` now, ``replayed`` from before, and ``failed``.

    For ``unknown`` rows no answer came, so their picture may have been made and paid: the same run again
    tells. ``spent`` are the credits of the pictures made now; those of a worker that was lost meanwhile count
    as replayed.
    """

    rows: int = 0
    made: int = 0
    replayed: int = 0
    failed: int = 0
    unknown: int = 0
    spent: int = 0

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> Summary:
        """From tables that have the columns that ``generate`` adds."""
        total = dict.fromkeys(attrs.fields_dict(cls), 0)
        for table in tables:
            for row in table.select(["url", "replayed", "error_code", "cost"]).to_pylist():
                total["rows"] += 1
                if not row["url"]:  # which CSV has for null
                    total["unknown" if row["error_code"] in _NO_ANSWER else "failed"] += 1
                elif row["replayed"]:
                    total["replayed"] += 1
                else:
                    total["made"] += 1
                    total["spent"] += row["cost"]
        return cls(**total)

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            **{name: getattr(self, name) + getattr(other, name) for name in attrs.fields_dict(Summary)}
        )

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows: {self.made:,} made for {self.spent:,} credits, {self.replayed:,} replayed, "
            f"{self.failed:,} failed, {self.unknown:,} unknown"
        )

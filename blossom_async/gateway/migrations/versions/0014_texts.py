"""The prompts and tracking ids that searches look through."""

from collections.abc import Mapping
from typing import Any

import orjson
import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

_TOGETHER = 1000
_BREAKS = dict.fromkeys((*range(32), 127), " ")
_PICTURES = sa.text(
    "SELECT id, tenant, tracking_id, request, created_at FROM images "
    "WHERE deleted_at IS NULL AND id > :after ORDER BY id LIMIT :number"
)


def upgrade() -> None:
    texts = op.create_table(
        "texts",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("last_at", sa.BigInteger, primary_key=True),
        sa.Column("last_id", sa.Text, primary_key=True),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("pictures", sa.Integer, nullable=False),
        sa.Column("points", sa.Text, nullable=False),
        sa.Column("lines", sa.Text, nullable=False),
    )
    after = ""
    while rows := op.get_bind().execute(_PICTURES, {"after": after, "number": _TOGETHER}).mappings().all():
        op.bulk_insert(texts, [_text(row) for row in rows])
        after = rows[-1]["id"]


def _text(row: Mapping[Any, Any]) -> dict[str, Any]:
    words = [orjson.loads(row["request"])["prompt"], row["tracking_id"]]
    return {
        "tenant": row["tenant"],
        "last_at": row["created_at"],
        "last_id": row["id"],
        "first_at": row["created_at"],
        "pictures": 1,
        "points": f"{row['created_at']}-{row['id']}",
        "lines": "\t".join(word.casefold().translate(_BREAKS) for word in words if word is not None),
    }

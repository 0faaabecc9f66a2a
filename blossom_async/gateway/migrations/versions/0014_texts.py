"""The prompts and tracking ids that searches look through. Upkeep adds those of the pictures at hand."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

_UNLIKE = sa.text("in_texts = (deleted_at IS NOT NULL)")


def upgrade() -> None:
    op.create_table(
        "texts",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("last_at", sa.BigInteger, primary_key=True),
        sa.Column("last_id", sa.Text, primary_key=True),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("pictures", sa.Integer, nullable=False),
        sa.Column("points", sa.Text, nullable=False),
        sa.Column("lines", sa.Text, nullable=False),
    )
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE texts ALTER COLUMN lines SET STORAGE EXTERNAL")
    op.add_column("images", sa.Column("in_texts", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index(
        "images_unlike_texts",
        "images",
        ["tenant", "created_at"],
        sqlite_where=_UNLIKE,
        postgresql_where=_UNLIKE,
    )

"""Limits that many processes share: when the latest start was allowed."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "gates",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("last", sa.Double, nullable=False),
        sa.Column("step", sa.Double, nullable=False),
        sa.Column("coming", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("span", sa.Double, nullable=False),
        sa.Column("paused_until", sa.Double, nullable=False),
        sa.Column("idle_at", sa.Double, nullable=False),
    )

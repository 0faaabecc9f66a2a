"""What each API key has spent a day, kept from now on by every attempt."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "spending",
        sa.Column("payer", sa.Text, primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("spent", sa.BigInteger, nullable=False),
    )
    is_open = "outcome IN ('sent', 'unknown')"
    op.execute(
        "INSERT INTO spending (payer, day, reserved, spent) SELECT payer, day, "
        f"SUM(CASE WHEN {is_open} THEN reserved ELSE 0 END), SUM(CASE WHEN {is_open} THEN 0 ELSE spent END) "
        "FROM attempts GROUP BY payer, day"
    )

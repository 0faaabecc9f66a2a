"""What each API key has spent a day at each provider, kept from now on by every attempt that is settled."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "spending_by_provider",
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("payer", sa.Text, primary_key=True),
        sa.Column("provider", sa.Text, primary_key=True),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("pictures", sa.BigInteger, nullable=False),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("unpriced", sa.BigInteger, nullable=False),
    )
    op.execute(
        "INSERT INTO spending_by_provider (day, payer, provider, calls, pictures, spent, unpriced) "
        "SELECT day, payer, provider, COUNT(*), SUM(CASE WHEN outcome = 'ok' THEN 1 ELSE 0 END), SUM(spent), "
        "SUM(CASE WHEN priced THEN 0 ELSE 1 END) "
        "FROM attempts WHERE outcome NOT IN ('sent', 'unknown') GROUP BY day, payer, provider"
    )

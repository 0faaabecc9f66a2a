"""Pictures being made, and the ledger of what was sent to providers."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")  # keys are looked up in ranges


def upgrade() -> None:
    op.create_table(
        "calls",
        sa.Column("image_id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("payer", sa.Text, nullable=False),
        sa.Column("key", _BYTEWISE),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("problem", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
    )
    op.create_index("calls_by_key", "calls", ["tenant", "key"], unique=True)
    op.create_table(
        "attempts",
        sa.Column("image_id", sa.Text, primary_key=True),
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("payer", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("provider_key", sa.Text, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("priced", sa.Boolean, nullable=False),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text),
        sa.Column("sent_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
    )
    op.create_index("attempts_by_payer", "attempts", ["payer", "day"])
    op.add_column("api_keys", sa.Column("daily_budget", sa.BigInteger))

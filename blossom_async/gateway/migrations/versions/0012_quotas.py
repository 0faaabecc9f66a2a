"""How many calls each API key has left, for gateways that share a server's database."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "quotas",
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("full_at", sa.Double, nullable=False),
    )

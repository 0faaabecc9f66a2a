"""The processes of a gateway that share a server's database, each alive until a time."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "owners",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("alive_until", sa.BigInteger, nullable=False),
    )

"""Which pictures the latest revisions have deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "removed",
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("image_id", sa.Text),
    )

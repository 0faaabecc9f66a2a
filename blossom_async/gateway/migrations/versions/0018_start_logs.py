"""When the starts were made under a limit that many processes share."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("gates", sa.Column("log", sa.LargeBinary))

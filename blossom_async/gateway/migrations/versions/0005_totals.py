"""Totals of campaigns and of stored files, kept from now on by every change."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "campaigns",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("tracking_id", sa.Text, primary_key=True),
        sa.Column("pictures", sa.BigInteger, nullable=False),
        sa.Column("newest", sa.BigInteger),
        sa.Column("views", sa.BigInteger, nullable=False),
    )
    op.create_index("campaigns_by_age", "campaigns", ["tenant", "newest"])
    op.create_table(
        "stored_files",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("format", sa.Text, primary_key=True),
        sa.Column("files", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
    )
    if op.get_context().dialect.name == "sqlite":  # elsewhere all steps run at once, on nothing
        _count()
    op.drop_index("images_by_campaign", "images")
    op.create_index("images_by_campaign", "images", ["tenant", "tracking_id", "created_at"])


def _count() -> None:
    op.execute(
        "INSERT INTO campaigns (tenant, tracking_id, pictures, newest, views) "
        "SELECT tenant, tracking_id, SUM(pictures), MAX(newest), SUM(views) FROM ("
        "SELECT tenant, tracking_id, COUNT(*) AS pictures, MAX(created_at) AS newest, 0 AS views "
        "FROM images WHERE tracking_id IS NOT NULL GROUP BY tenant, tracking_id "
        "UNION ALL SELECT tenant, tracking_id, 0, NULL, SUM(views) FROM views GROUP BY tenant, tracking_id"
        ") GROUP BY tenant, tracking_id"
    )
    op.execute(
        "INSERT INTO stored_files (tenant, format, files, bytes) "
        "SELECT tenant, json_extract(value, '$.format'), COUNT(*), SUM(json_extract(value, '$.file_size')) "
        "FROM images, json_each(images.files) WHERE deleted_at IS NULL AND swept_at IS NULL GROUP BY 1, 2"
    )

"""Tenants, several files a picture, keys, views; and a revision that other processes watch."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_FILES = (
    "json_array(json_object('format', json_extract(request, '$.format'), "
    "'sha256', sha256, 'file_size', file_size))"
)


_BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")  # keys are looked up in ranges
_UNSWEPT = sa.text("swept_at IS NULL")


def _counted() -> list[sa.Column[object]]:
    return [
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("tracking_id", sa.Text, primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True),
        sa.Column("image_id", sa.Text, primary_key=True),
    ]


def _copy() -> None:
    op.execute(
        "INSERT INTO images (id, tenant, tracking_id, request, width, height, files, "
        "provider, model, seed, cost, created_at, expires_at, deleted_at) "
        "SELECT id, 'main', json_extract(request, '$.tracking_id'), request, "
        f"json_extract(request, '$.width'), json_extract(request, '$.height'), {_FILES}, "
        "provider, model, seed, cost, created_at, expires_at, deleted_at FROM images_0001"
    )
    # Until now each API key was a tenant of its own, under a name nobody was told.
    op.execute(
        "INSERT OR IGNORE INTO idempotency (tenant, key, fingerprint, image_id) "
        "SELECT 'main', key, fingerprint, image_id FROM idempotency_0001"
    )
    op.drop_table("idempotency_0001")
    op.drop_table("images_0001")


def upgrade() -> None:
    on_sqlite = op.get_context().dialect.name == "sqlite"  # elsewhere all steps run at once, on nothing
    if on_sqlite:
        op.rename_table("images", "images_0001")
        op.rename_table("idempotency", "idempotency_0001")
    else:
        op.drop_table("idempotency")
        op.drop_table("images")
    op.create_table(
        "images",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("tracking_id", sa.Text),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("width", sa.BigInteger, nullable=False),
        sa.Column("height", sa.BigInteger, nullable=False),
        sa.Column("files", sa.Text, nullable=False),
        sa.Column("thumbhash", sa.Text),
        sa.Column("dominant_color", sa.Text),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("swept_at", sa.BigInteger),
    )
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("key", _BYTEWISE, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("image_id", sa.Text, sa.ForeignKey("images.id"), nullable=False),
    )
    if on_sqlite:
        _copy()
    op.create_index("images_by_campaign", "images", ["tenant", "tracking_id"])
    op.create_index("images_by_age", "images", ["tenant", "created_at"])
    op.create_index(
        "images_by_expiry", "images", ["expires_at"], sqlite_where=_UNSWEPT, postgresql_where=_UNSWEPT
    )
    op.create_table(
        "api_keys",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
    )
    op.create_table(
        "access_keys",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("access_id", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
    )
    op.create_table(
        "revision",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO revision (id, value) VALUES (1, 0)")
    op.create_table(
        "views",
        *_counted(),
        sa.Column("views", sa.BigInteger, nullable=False),
        sa.Column("loads", sa.BigInteger, nullable=False),
        sa.Column("load_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "viewers",
        *_counted(),
        sa.Column("viewer", sa.LargeBinary, primary_key=True),
    )
    op.create_index("views_by_image", "views", ["image_id"])
    op.create_index("viewers_by_image", "viewers", ["image_id"])
    op.create_table(
        "salts",
        sa.Column("day", sa.Integer, primary_key=True),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("made_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "imports",
        sa.Column("log", sa.LargeBinary, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
    )

"""Totals for the statistics of campaigns. Upkeep counts in them what is at hand."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

_UNCOUNTED = sa.text("uncounted_from IS NOT NULL")


def upgrade() -> None:
    op.add_column("campaigns", sa.Column("changes", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("campaigns", sa.Column("uncounted_from", sa.Integer, server_default="-1000000"))
    op.create_index(
        "campaigns_uncounted",
        "campaigns",
        ["tenant", "tracking_id"],
        sqlite_where=_UNCOUNTED,
        postgresql_where=_UNCOUNTED,
    )
    _of_a_campaign("campaign_days", sa.Column("day", sa.Integer, primary_key=True), *_sums())
    _of_a_campaign(
        "labels",
        sa.Column("label", sa.LargeBinary, primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("pictures", sa.BigInteger, nullable=False),
        *_sums(),
    )
    op.create_index("labels_by_views", "labels", ["tenant", "tracking_id", "views", "label"])
    _of_a_campaign(
        "label_days",
        sa.Column("day", sa.Integer, primary_key=True),
        sa.Column("label", sa.LargeBinary, primary_key=True),
        *_sums(),
    )
    op.create_index("viewers_by_day", "viewers", ["tenant", "tracking_id", "day", "viewer", "image_id"])
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION campaign_changed() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN NEW.uncounted_from = -1000000; RETURN NEW; END $$"
        )
        op.execute(
            "CREATE TRIGGER campaign_changed BEFORE UPDATE ON campaigns FOR EACH ROW "
            "WHEN (NEW.changes = OLD.changes) EXECUTE FUNCTION campaign_changed()"
        )
    else:
        op.execute(
            "CREATE TRIGGER campaign_changed AFTER UPDATE ON campaigns WHEN NEW.changes = OLD.changes BEGIN "
            "UPDATE campaigns SET uncounted_from = -1000000, changes = changes + 1 "
            "WHERE tenant = NEW.tenant AND tracking_id = NEW.tracking_id; END"
        )


def _of_a_campaign(name: str, *others: sa.Column[Any]) -> None:
    own = (sa.Column(column, sa.Text, primary_key=True) for column in ("tenant", "tracking_id"))
    op.create_table(name, *own, *others, sqlite_with_rowid=False)


def _sums() -> list[sa.Column[int]]:
    names = ("views", "loads", "load_us", "viewers")
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]

"""What each API key has spent a day at each provider. The database counts attempts as they are settled."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

_COUNT = (
    "INSERT INTO spending_by_provider VALUES (NEW.day, NEW.payer, NEW.provider, 1, "
    "CASE WHEN NEW.outcome = 'ok' THEN 1 ELSE 0 END, NEW.spent, CASE WHEN NEW.priced THEN 0 ELSE 1 END) "
    "ON CONFLICT (day, payer, provider) DO UPDATE SET "
    "calls = spending_by_provider.calls + excluded.calls, "
    "pictures = spending_by_provider.pictures + excluded.pictures, "
    "spent = spending_by_provider.spent + excluded.spent, "
    "unpriced = spending_by_provider.unpriced + excluded.unpriced"
)


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
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION attempt_settled() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN {_COUNT}; RETURN NULL; END $$"
        )
        op.execute(
            "CREATE CONSTRAINT TRIGGER attempt_settled AFTER UPDATE OF outcome ON attempts "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
            "WHEN (OLD.outcome IN ('sent', 'unknown') AND NEW.outcome NOT IN ('sent', 'unknown')) "
            "EXECUTE FUNCTION attempt_settled()"
        )
    else:
        op.execute(
            "CREATE TRIGGER attempt_settled AFTER UPDATE OF outcome ON attempts "
            "WHEN OLD.outcome IN ('sent', 'unknown') AND NEW.outcome NOT IN ('sent', 'unknown') "
            f"BEGIN {_COUNT}; END"
        )
    op.execute(  # nobody settles an attempt meanwhile
        "INSERT INTO spending_by_provider (day, payer, provider, calls, pictures, spent, unpriced) "
        "SELECT day, payer, provider, COUNT(*), SUM(CASE WHEN outcome = 'ok' THEN 1 ELSE 0 END), SUM(spent), "
        "SUM(CASE WHEN priced THEN 0 ELSE 1 END) "
        "FROM attempts WHERE outcome NOT IN ('sent', 'unknown') GROUP BY day, payer, provider"
    )

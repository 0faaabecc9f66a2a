"""The database's tables, one numbered step after the other; run by Alembic when `Records` opens."""

REVISIONS = ("0001", "0002", "0003", "0004")
"""All steps in order. Kept here so that a database that is up to date opens without importing Alembic."""

HEAD = REVISIONS[-1]

"""The steps from an older database to this program's. Alembic runs the missing ones when `Records` opens."""

REVISIONS = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0010",
    "0011",
    "0012",
    "0013",
    "0014",
    "0015",
    "0016",
    "0017",
    "0018",
)
"""All steps in order. Listed here so that a new or an up-to-date database opens without importing Alembic."""

HEAD = REVISIONS[-1]

"""Databases as earlier versions left them."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

__all__ = ["taken_back"]

_UNDONE = {
    "0018": "ALTER TABLE gates DROP COLUMN log;",
    "0017": "DROP TRIGGER campaign_changed; DROP INDEX campaigns_uncounted;"
    "ALTER TABLE campaigns DROP COLUMN changes; ALTER TABLE campaigns DROP COLUMN uncounted_from;"
    "DROP TABLE campaign_days; DROP TABLE labels; DROP TABLE label_days; DROP INDEX viewers_by_day;",
    "0016": "DROP TRIGGER attempt_settled; DROP TABLE spending_by_provider;",
    "0015": "DROP TABLE traffic;",
    "0014": "DROP TABLE texts; DROP INDEX images_unlike_texts; ALTER TABLE images DROP COLUMN in_texts;",
    "0013": "DROP TABLE slots;",
    "0012": "DROP TABLE quotas;",
    "0011": "DROP TABLE gates;",
    "0010": "DROP TABLE sessions;",
    "0009": "DROP TABLE removed;",
    "0008": "DROP TABLE owners;",
    "0007": "DROP TABLE spending;",
    "0006": "DROP TABLE variants;",
    "0005": "DROP TABLE campaigns; DROP TABLE stored_files; DROP INDEX images_by_campaign;"
    "CREATE INDEX images_by_campaign ON images (tenant, tracking_id);",
}
"""Takes each step of the migrations back, the newest first."""


def taken_back(path: Path, revision: str) -> None:
    """Takes a database back to this revision; what older versions know in it stays."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for step, undo in _UNDONE.items():
            if step > revision:
                database.executescript(undo)
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))

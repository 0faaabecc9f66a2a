"""The database: what is known of pictures, keys and views. SQLite, one writer thread, a few reader threads.

``store`` is the way in, ``tables`` what there is; ``images`` and its neighbours hold the statements of one
subject each; ``sqlite`` opens the file and ``desk`` has the threads.
"""

from blossom_async.gateway.storage.records.store import Records
from blossom_async.gateway.storage.records.tables import (
    METADATA,
    AccessKey,
    ApiKey,
    AttemptOutcome,
    Caller,
    Claim,
    ClaimState,
    IdempotencyEntry,
    ImageRecord,
    ProviderAttempt,
    StoredFile,
    Variant,
    Webhook,
)

__all__ = [
    "METADATA",
    "AccessKey",
    "ApiKey",
    "AttemptOutcome",
    "Caller",
    "Claim",
    "ClaimState",
    "IdempotencyEntry",
    "ImageRecord",
    "ProviderAttempt",
    "Records",
    "StoredFile",
    "Variant",
    "Webhook",
]

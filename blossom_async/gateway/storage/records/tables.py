"""The tables, and the classes that their rows are read into."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import attrs
import sqlalchemy as sa

from blossom_async.models import ImageRequest

__all__ = [
    "ALL_UNCOUNTED",
    "METADATA",
    "UNLIKE_TEXTS",
    "AccessKey",
    "ApiKey",
    "AttemptOutcome",
    "Caller",
    "Claim",
    "ClaimState",
    "IdempotencyEntry",
    "ImageRecord",
    "ProviderAttempt",
    "StoredFile",
    "Variant",
    "Webhook",
    "access_keys",
    "api_keys",
    "attempts",
    "calls",
    "campaign_days",
    "campaigns",
    "gates",
    "idempotency",
    "images",
    "imports",
    "label_days",
    "labels",
    "owners",
    "quotas",
    "removed",
    "revision",
    "salts",
    "sessions",
    "slots",
    "spending",
    "spending_by_provider",
    "stored_files",
    "texts",
    "traffic",
    "variants",
    "viewers",
    "views",
    "webhooks",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@attrs.frozen(kw_only=True)
class StoredFile:
    """One file of a picture, by its format. ``provenance`` as in ``ImageInfo``."""

    format: str
    sha256: str
    file_size: int
    provenance: str | None = None


@attrs.frozen(kw_only=True)
class ImageRecord:
    """Everything known about a stored picture. Times are aware, in UTC, to the microsecond.

    ``request`` is the checked request with its seed pinned. Once ``deleted_at`` is set it holds only size,
    format and quality: prompt, metadata and everything else are erased. ``files`` are on the disk until
    ``swept_at`` is set; the last one is for viewers whose Accept names no format.
    """

    id: str
    tenant: str
    request: ImageRequest
    width: int
    height: int
    files: tuple[StoredFile, ...]
    thumbhash: str | None = None
    dominant_color: str | None = None
    provider: str
    model: str
    seed: int
    cost: int
    created_at: datetime
    expires_at: datetime | None
    deleted_at: datetime | None = None
    swept_at: datetime | None = None

    @property
    def main_file(self) -> StoredFile:
        """The file for viewers whose Accept names no format."""
        return self.files[-1]

    def has_expired(self, now: datetime) -> bool:
        """Whether the picture has expired. Once its files are gone, it stays so even if a clock was ahead."""
        return self.swept_at is not None or (self.expires_at is not None and self.expires_at <= now)


@attrs.frozen(kw_only=True)
class Variant:
    """A stored picture scaled down to ``width`` pixels. Its file is stored under an ``id`` of its own."""

    id: str
    image_id: str
    width: int
    file: StoredFile


@attrs.frozen(kw_only=True)
class ApiKey:
    """A key that may call ``/v1``: its name, the tenant whose pictures it opens, and its SHA-256."""

    name: str
    tenant: str
    digest: bytes = attrs.field(repr=False)
    created_at: datetime
    revoked_at: datetime | None = None
    daily_budget: int | None = None  # millionths of a US dollar


@attrs.frozen
class Caller:
    """Who calls: whose pictures the key opens, and the key's name, by which spending is counted."""

    tenant: str
    name: str


@attrs.frozen(kw_only=True)
class AccessKey:
    """What URLs are signed under: the tenant's name for it, and the id written in the URLs."""

    tenant: str
    name: str
    access_id: str
    created_at: datetime
    revoked_at: datetime | None = None


@attrs.frozen(kw_only=True)
class IdempotencyEntry:
    """Which picture a tenant's ``Idempotency-Key`` made, and the ``fingerprint`` of that request."""

    tenant: str
    key: str
    fingerprint: str
    image_id: str


class ClaimState(StrEnum):
    """Where a claimed picture stands. Once the picture is stored there is no claim any more."""

    RUNNING = "running"
    """``owner`` is the process that makes it."""
    FAILED = "failed"
    """There will be no picture."""
    UNKNOWN = "unknown"
    """It may have been paid for; a person decides, or a provider that knows the request by its key."""


class AttemptOutcome(StrEnum):
    """What came of one request to a provider."""

    SENT = "sent"
    """It may have left; the answer is not here."""
    OK = "ok"
    """Paid, and the picture is stored."""
    FAILED = "failed"
    """Nothing was paid."""
    CHARGED = "charged"
    """Paid, and there is no picture."""
    UNKNOWN = "unknown"
    """It may have been paid."""


@attrs.frozen(kw_only=True)
class Claim:
    """A picture that is being made, or could not be made.

    ``problem`` is the error that was answered. ``payer`` is the name of the API key.
    """

    image_id: str
    tenant: str
    payer: str
    key: str | None
    fingerprint: str
    request: ImageRequest = attrs.field(repr=False)
    state: ClaimState = ClaimState.RUNNING
    owner: str | None
    problem: dict[str, Any] | None = None
    created_at: datetime
    ended_at: datetime | None = None

    @property
    def id(self) -> str:
        """Alias of ``image_id``."""
        return self.image_id


@attrs.frozen(kw_only=True)
class ProviderAttempt:
    """One request to a provider. ``n`` counts from 0 for each picture.

    ``provider_key`` is the idempotency key for providers that take one: the same request under it is not paid
    twice. Unless ``priced`` the cost is not known: ``reserved`` and ``spent`` are 0.
    """

    image_id: str
    n: int
    tenant: str
    payer: str
    provider: str
    provider_key: str
    day: int
    reserved: int
    priced: bool
    spent: int = 0
    outcome: AttemptOutcome = AttemptOutcome.SENT
    request_id: str | None = None
    sent_at: datetime
    ended_at: datetime | None = None


@attrs.frozen(kw_only=True)
class Webhook:
    """A message about a deferred picture: ``kind`` is ``image.completed`` or ``image.failed``.

    The next attempt is at ``next_at``; None means that it was delivered at ``delivered_at`` or given up.
    ``last_status`` is the HTTP status of the latest answer, None if there was none.
    """

    id: str
    image_id: str
    tenant: str
    kind: str
    created_at: datetime
    attempts: int = 0
    next_at: datetime | None
    delivered_at: datetime | None = None
    last_status: int | None = None


class _UtcTime(sa.TypeDecorator[datetime]):
    """Microseconds since 1970 in UTC: sorts and compares the same in every database and driver."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: sa.Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, _: sa.Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


class _Word(sa.TypeDecorator[StrEnum]):
    """A member of an enum, as its word."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, words: type[StrEnum]) -> None:
        super().__init__()
        self.words = words

    def process_bind_param(self, value: StrEnum | None, _: sa.Dialect) -> str | None:
        return None if value is None else value.value

    def process_result_value(self, value: str | None, _: sa.Dialect) -> StrEnum | None:
        return None if value is None else self.words(value)


_UNSWEPT = sa.text("swept_at IS NULL")
UNLIKE_TEXTS: sa.TextClause = sa.text("in_texts = (deleted_at IS NOT NULL)")
"""Pictures that an earlier version, running beside this one, has stored or deleted without ``texts``."""
ALL_UNCOUNTED = -1_000_000
"""Earlier than any day of a campaign."""
_UNCOUNTED = sa.text("uncounted_from IS NOT NULL")
_BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Text that compares by its bytes, as all text does in SQLite."""

METADATA = sa.MetaData()

images: sa.Table = sa.Table(
    "images",
    METADATA,
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
    sa.Column("created_at", _UtcTime, nullable=False),
    sa.Column("expires_at", _UtcTime),
    sa.Column("deleted_at", _UtcTime),
    sa.Column("swept_at", _UtcTime),
    sa.Column("in_texts", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("images_by_campaign", "tenant", "tracking_id", "created_at"),
    sa.Index("images_by_age", "tenant", "created_at"),
    sa.Index("images_by_expiry", "expires_at", sqlite_where=_UNSWEPT, postgresql_where=_UNSWEPT),
    sa.Index(
        "images_unlike_texts",
        "tenant",
        "created_at",
        sqlite_where=UNLIKE_TEXTS,
        postgresql_where=UNLIKE_TEXTS,
    ),
)

# Totals, kept by every change of pictures and views. A campaign stays known without any picture. Every change
# is counted in ``changes``; one that is not was made by an earlier version, which knows nothing of the tables
# below. Upkeep then counts there anew, up to ``uncounted_from``, the first day that is left.
campaigns: sa.Table = sa.Table(
    "campaigns",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("tracking_id", sa.Text, primary_key=True),
    sa.Column("pictures", sa.BigInteger, nullable=False),
    sa.Column("newest", _UtcTime),
    sa.Column("views", sa.BigInteger, nullable=False),
    sa.Column("changes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("uncounted_from", sa.Integer, server_default=str(ALL_UNCOUNTED)),
    sa.Index("campaigns_by_age", "tenant", "newest"),
    sa.Index(
        "campaigns_uncounted",
        "tenant",
        "tracking_id",
        sqlite_where=_UNCOUNTED,
        postgresql_where=_UNCOUNTED,
    ),
)


@sa.event.listens_for(campaigns, "after_create")
def _notice_earlier_versions(_: sa.Table, connection: sa.Connection, **__: Any) -> None:
    """Their changes leave ``changes`` as it was. The number is ``ALL_UNCOUNTED``."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "CREATE FUNCTION campaign_changed() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN NEW.uncounted_from = -1000000; RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER campaign_changed BEFORE UPDATE ON campaigns FOR EACH ROW "
            "WHEN (NEW.changes = OLD.changes) EXECUTE FUNCTION campaign_changed()"
        )
    else:
        connection.exec_driver_sql(
            "CREATE TRIGGER campaign_changed AFTER UPDATE ON campaigns WHEN NEW.changes = OLD.changes BEGIN "
            "UPDATE campaigns SET uncounted_from = -1000000, changes = changes + 1 "
            "WHERE tenant = NEW.tenant AND tracking_id = NEW.tracking_id; END"
        )


def _of_a_campaign(name: str, *others: sa.Column[Any] | sa.Index) -> sa.Table:
    own = (sa.Column(column, sa.Text, primary_key=True) for column in ("tenant", "tracking_id"))
    return sa.Table(name, METADATA, *own, *others, sqlite_with_rowid=False)


def _sums() -> list[sa.Column[int]]:
    names = ("views", "loads", "load_us", "viewers")
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


# The views and viewers of a campaign by day. ``load_us`` is the sum for ``loads`` views.
campaign_days: sa.Table = _of_a_campaign(
    "campaign_days", sa.Column("day", sa.Integer, primary_key=True), *_sums()
)

# The metadata of its pictures: each pair of key and value, by a hash of both, how many pictures have it, and
# their views on all days.
labels: sa.Table = _of_a_campaign(
    "labels",
    sa.Column("label", sa.LargeBinary, primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("pictures", sa.BigInteger, nullable=False),
    *_sums(),
    sa.Index("labels_by_views", "tenant", "tracking_id", "views", "label"),
)

# The same by day.
label_days: sa.Table = _of_a_campaign(
    "label_days",
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("label", sa.LargeBinary, primary_key=True),
    *_sums(),
)

stored_files: sa.Table = sa.Table(
    "stored_files",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("format", sa.Text, primary_key=True),
    sa.Column("files", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)

# What searches look through: for each of ``pictures`` its time and id in ``points``, and a line of ``lines``.
texts: sa.Table = sa.Table(
    "texts",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("last_at", _UtcTime, primary_key=True),
    sa.Column("last_id", sa.Text, primary_key=True),
    sa.Column("first_at", _UtcTime, nullable=False),
    sa.Column("pictures", sa.Integer, nullable=False),
    sa.Column("points", sa.Text, nullable=False),
    sa.Column("lines", sa.Text, nullable=False),
)


@sa.event.listens_for(texts, "after_create")
def _keep_uncompressed(_: sa.Table, connection: sa.Connection, **__: Any) -> None:
    """PostgreSQL reads such texts several times as fast."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("ALTER TABLE texts ALTER COLUMN lines SET STORAGE EXTERNAL")


# Files of the pictures in ``images`` in fewer pixels, made when a viewer asks for them.
variants: sa.Table = sa.Table(
    "variants",
    METADATA,
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("width", sa.Integer, primary_key=True),
    sa.Column("format", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("file_size", sa.BigInteger, nullable=False),
)

idempotency: sa.Table = sa.Table(
    "idempotency",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("key", _BYTEWISE, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("image_id", sa.Text, sa.ForeignKey("images.id"), nullable=False),
)

api_keys: sa.Table = sa.Table(
    "api_keys",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("created_at", _UtcTime, nullable=False),
    sa.Column("revoked_at", _UtcTime),
    sa.Column("daily_budget", sa.BigInteger),
)

access_keys: sa.Table = sa.Table(
    "access_keys",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("access_id", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", _UtcTime, nullable=False),
    sa.Column("revoked_at", _UtcTime),
)

calls: sa.Table = sa.Table(
    "calls",
    METADATA,
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("payer", sa.Text, nullable=False),
    sa.Column("key", _BYTEWISE),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("state", _Word(ClaimState), nullable=False),
    sa.Column("owner", sa.Text),
    sa.Column("problem", sa.Text),
    sa.Column("created_at", _UtcTime, nullable=False),
    sa.Column("ended_at", _UtcTime),
    sa.Index("calls_by_key", "tenant", "key", unique=True),
)

# The ledger: requests to providers, written before they are sent. Amounts are millionths of a US dollar.
attempts: sa.Table = sa.Table(
    "attempts",
    METADATA,
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("payer", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("provider_key", sa.Text, nullable=False),
    sa.Column("day", sa.Integer, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("priced", sa.Boolean, nullable=False),
    sa.Column("spent", sa.BigInteger, nullable=False),
    sa.Column("outcome", _Word(AttemptOutcome), nullable=False),
    sa.Column("request_id", sa.Text),
    sa.Column("sent_at", _UtcTime, nullable=False),
    sa.Column("ended_at", _UtcTime),
    sa.Index("attempts_by_payer", "payer", "day"),
)

# The ledger's totals: what attempts reserve while their outcome is open, and what the others have spent.
spending: sa.Table = sa.Table(
    "spending",
    METADATA,
    sa.Column("payer", sa.Text, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("spent", sa.BigInteger, nullable=False),
)

# The same by provider, for people to read, of settled attempts: how many, how many gave a picture, what they
# cost, and of how many nobody knows the cost.
spending_by_provider: sa.Table = sa.Table(
    "spending_by_provider",
    METADATA,
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("payer", sa.Text, primary_key=True),
    sa.Column("provider", sa.Text, primary_key=True),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("pictures", sa.BigInteger, nullable=False),
    sa.Column("spent", sa.BigInteger, nullable=False),
    sa.Column("unpriced", sa.BigInteger, nullable=False),
)

_COUNT = (
    "INSERT INTO spending_by_provider VALUES (NEW.day, NEW.payer, NEW.provider, 1, "
    "CASE WHEN NEW.outcome = 'ok' THEN 1 ELSE 0 END, NEW.spent, CASE WHEN NEW.priced THEN 0 ELSE 1 END) "
    "ON CONFLICT (day, payer, provider) DO UPDATE SET "
    "calls = spending_by_provider.calls + excluded.calls, "
    "pictures = spending_by_provider.pictures + excluded.pictures, "
    "spent = spending_by_provider.spent + excluded.spent, "
    "unpriced = spending_by_provider.unpriced + excluded.unpriced"
)


@sa.event.listens_for(spending_by_provider, "after_create")
def _count_settled_attempts(_: sa.Table, connection: sa.Connection, **__: Any) -> None:
    """Those of earlier versions, too. A server counts at the end of a transaction, after all other changes:
    so that transactions wait for each other, and never in a circle.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "CREATE FUNCTION attempt_settled() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN {_COUNT}; RETURN NULL; END $$"
        )
        connection.exec_driver_sql(
            "CREATE CONSTRAINT TRIGGER attempt_settled AFTER UPDATE OF outcome ON attempts "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
            "WHEN (OLD.outcome IN ('sent', 'unknown') AND NEW.outcome NOT IN ('sent', 'unknown')) "
            "EXECUTE FUNCTION attempt_settled()"
        )
    else:
        connection.exec_driver_sql(
            "CREATE TRIGGER attempt_settled AFTER UPDATE OF outcome ON attempts "
            "WHEN OLD.outcome IN ('sent', 'unknown') AND NEW.outcome NOT IN ('sent', 'unknown') "
            f"BEGIN {_COUNT}; END"
        )


# The processes on a server's database, each alive until a time of its clock, in microseconds since 1970; 0
# once it has said its end.
owners: sa.Table = sa.Table(
    "owners",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("alive_until", sa.BigInteger, nullable=False),
)

# The outbox: a row is written in the transaction that ends a deferred picture.
webhooks: sa.Table = sa.Table(
    "webhooks",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("image_id", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("created_at", _UtcTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", _UtcTime),
    sa.Column("delivered_at", _UtcTime),
    sa.Column("last_status", sa.Integer),
    sa.Index("webhooks_by_next", "next_at"),
)

# What all gateways have answered, by hour (number of hours since 1970). Among pictures, calls and others,
# ``refused`` were answered with 4xx, ``failed`` with 5xx.
traffic: sa.Table = sa.Table(
    "traffic",
    METADATA,
    sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("pictures", sa.BigInteger, nullable=False),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("others", sa.BigInteger, nullable=False),
    sa.Column("refused", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)

# Who is logged in to the dashboard: the SHA-256 of token and API key.
sessions: sa.Table = sa.Table(
    "sessions",
    METADATA,
    sa.Column("token", sa.LargeBinary, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("ends_at", _UtcTime, nullable=False),
)

# Limits that many processes share, each a ``GateState`` of the batch engine, in seconds since 1970, or what a
# ``StartLog`` packs. After ``idle_at`` a row says nothing any more.
gates: sa.Table = sa.Table(
    "gates",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("last", sa.Double, nullable=False),
    sa.Column("step", sa.Double, nullable=False),
    sa.Column("coming", sa.Double, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    sa.Column("span", sa.Double, nullable=False),
    sa.Column("paused_until", sa.Double, nullable=False),
    sa.Column("idle_at", sa.Double, nullable=False),
    sa.Column("log", sa.LargeBinary),
)

# How many calls at once each of those processes may make at a provider, and could make.
slots: sa.Table = sa.Table(
    "slots",
    METADATA,
    sa.Column("provider", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("held", sa.Integer, nullable=False),
    sa.Column("wanted", sa.Integer, nullable=False),
)

# When the quota of an API key, named by its SHA-256, is full again, in seconds since 1970.
quotas: sa.Table = sa.Table(
    "quotas",
    METADATA,
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sa.Column("full_at", sa.Double, nullable=False),
)

# One row, incremented by every delete and revocation: it tells other processes to drop what they cached.
revision: sa.Table = sa.Table(
    "revision",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

# What the latest revisions took away: a picture, or a key where there is none.
removed: sa.Table = sa.Table(
    "removed",
    METADATA,
    sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("image_id", sa.Text),
)

# The views of a campaign's pictures, by day (number of days since 1970, UTC). For deleted pictures
# ``image_id`` is empty: their counts stay, the link to them does not. ``load_us`` is the sum for ``loads``
# views.
views: sa.Table = sa.Table(
    "views",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("tracking_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("views", sa.BigInteger, nullable=False),
    sa.Column("loads", sa.BigInteger, nullable=False),
    sa.Column("load_us", sa.BigInteger, nullable=False),
    sa.Index("views_by_image", "image_id"),
)

# Who has seen them: a hash keyed with the day's salt, which is deleted after two days.
viewers: sa.Table = sa.Table(
    "viewers",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("tracking_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("viewer", sa.LargeBinary, primary_key=True),
    sa.Index("viewers_by_image", "image_id"),
    sa.Index("viewers_by_day", "tenant", "tracking_id", "day", "viewer", "image_id"),
)

salts: sa.Table = sa.Table(
    "salts",
    METADATA,
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("made_at", _UtcTime, nullable=False),
)

# How far an access log has been counted. A log is known by the hash of its first line.
imports: sa.Table = sa.Table(
    "imports",
    METADATA,
    sa.Column("log", sa.LargeBinary, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
)

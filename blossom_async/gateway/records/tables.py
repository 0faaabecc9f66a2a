"""The tables, and the values their rows become."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import sqlalchemy as sa

from blossom_async.models import ImageRequest

__all__ = ["METADATA", "IdempotencyEntry", "ImageRecord", "idempotency", "images"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@attrs.frozen(kw_only=True)
class ImageRecord:
    """All that is known of a stored picture. Times are aware and in UTC, to the microsecond.

    ``request`` is the checked request with its seed pinned. Once ``deleted_at`` is set it holds only size,
    format and quality: the prompt, the metadata and the rest were erased.
    """

    id: str
    request: ImageRequest
    sha256: str
    file_size: int
    provider: str
    model: str
    seed: int
    cost: int
    created_at: datetime
    expires_at: datetime | None
    deleted_at: datetime | None = None


@attrs.frozen(kw_only=True)
class IdempotencyEntry:
    """Which picture a tenant's ``Idempotency-Key`` made; ``fingerprint`` is of the request it came with."""

    tenant: str
    key: str
    fingerprint: str
    image_id: str


class _UtcTime(sa.TypeDecorator[datetime]):
    """Microseconds since 1970 in UTC: sorts, compares and survives any driver."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: sa.Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, _: sa.Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


METADATA = sa.MetaData()

images = sa.Table(
    "images",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("file_size", sa.BigInteger, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("cost", sa.BigInteger, nullable=False),
    sa.Column("created_at", _UtcTime, nullable=False),
    sa.Column("expires_at", _UtcTime),
    sa.Column("deleted_at", _UtcTime),
)

idempotency = sa.Table(
    "idempotency",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("image_id", sa.Text, sa.ForeignKey("images.id"), nullable=False),
)

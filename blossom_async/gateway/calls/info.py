"""The ``ImageInfo`` that the gateway answers. Decides only; no I/O."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from blossom_async.gateway.making.variants import widths_below
from blossom_async.gateway.storage.records import Claim, ClaimState, ImageRecord
from blossom_async.models import ImageInfo

__all__ = ["image_info"]


def image_info(
    record: ImageRecord | Claim, *, public_url: str, widths: Collection[int], now: datetime
) -> ImageInfo:
    """The answer about a picture, or about one that is still being made.

    ``widths`` are those of the settings.
    """
    request = record.request
    whole = request.width if isinstance(record, Claim) else record.width
    narrower = widths_below(request, whole, widths)
    if isinstance(record, Claim):
        return ImageInfo(
            url=f"{public_url}/image/{record.id}",
            id=record.id,
            width=request.width,
            height=request.height,
            format=request.format,
            file_size=0,
            quality=request.quality,
            cost=request.cost,
            created_at=record.created_at,
            expires_at=None,
            time_remaining=None,
            tracking_id=request.tracking_id,
            metadata=request.metadata,
            sha256="",
            provider="",
            model="",
            seed=request.seed or 0,
            widths=narrower,
            state="pending" if record.state is ClaimState.RUNNING else record.state,
            problem=None if record.problem is None else str(record.problem["detail"]),
            problem_code=None if record.problem is None else str(record.problem["code"]),
        )
    expires_at = record.expires_at
    left = None if expires_at is None else max(0, int((expires_at - now).total_seconds()))
    left = 0 if record.has_expired(now) else left
    return ImageInfo(
        url=f"{public_url}/image/{record.id}",
        id=record.id,
        width=record.width,
        height=record.height,
        format=request.format,
        file_size=record.main_file.file_size,
        quality=request.quality,
        cost=record.cost,
        created_at=record.created_at,
        expires_at=expires_at,
        time_remaining=left,
        tracking_id=request.tracking_id,
        metadata=request.metadata,
        sha256=record.main_file.sha256,
        provider=record.provider,
        model=record.model,
        seed=record.seed,
        thumbhash=record.thumbhash,
        dominant_color=record.dominant_color,
        provenance=record.main_file.provenance,
        widths=narrower,
    )

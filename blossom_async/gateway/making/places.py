"""Where a gateway keeps bytes: in its data folder, or in a bucket."""

from __future__ import annotations

from pathlib import Path

from blossom_async.gateway.making.staging import GIVEN, STAGED
from blossom_async.gateway.storage.blobs import Blobs
from blossom_async.gateway.storage.bucket import BucketBlobs
from blossom_async.gateway.storage.folder import LocalBlobs

__all__ = ["places"]

_STAGING = (STAGED, GIVEN)


def places(bucket: str | None, data_dir: Path) -> tuple[Blobs, Blobs]:
    """The place of pictures, and of what was paid for until it is a picture."""
    if bucket is not None:
        return BucketBlobs(bucket, "images"), BucketBlobs(bucket, "staging", _STAGING, listed=True)
    return LocalBlobs(data_dir / "images"), LocalBlobs(data_dir / "staging", _STAGING)

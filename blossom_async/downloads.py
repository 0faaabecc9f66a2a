"""Pictures as files: each is whole and verified, or is not there."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from pathlib import Path

from blossom_async.errors import TransportError
from blossom_async.models import CONTENT_TYPES, FORMATS, ImageInfo
from blossom_async.transport import File

__all__ = ["already_there", "write_picture"]

_EXTENSIONS = {content_type: extension for extension, content_type in CONTENT_TYPES.items()}


def already_there(info: ImageInfo, path: Path) -> Path | None:
    """The file that has this picture: ``path``, or one named after its id if that is a folder."""
    formats = FORMATS if info.format == "auto" else (info.format,)
    names = [path / f"{info.id}.{extension}" for extension in formats] if path.is_dir() else [path]
    return next((name for name in names if _has(name, info)), None)


def write_picture(info: ImageInfo, file: File, path: Path) -> Path:
    """Writes it to ``path``, or into that folder as ``{id}.{format}``, and returns the file's path.

    A reader never sees a part of it, also after a crash. Raises ``TransportError`` if the bytes are not those
    that ``info`` describes, and ``OSError``.
    """
    if len(file.data) != info.file_size or hashlib.sha256(file.data).hexdigest() != info.sha256:
        raise TransportError(f"the bytes of picture {info.id} changed on their way; nothing was written")
    target = path / f"{info.id}.{_EXTENSIONS[file.content_type]}" if path.is_dir() else path
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "Exists and is not a file", str(target))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    part = target.with_name(f".{info.id}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as out:
            out.write(file.data)
            out.flush()
            os.fsync(out.fileno())
        return part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _has(path: Path, info: ImageInfo) -> bool:
    try:
        return path.stat().st_size == info.file_size and _digest(path) == info.sha256
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The secrets that URLs are signed with, where the settings have none: a file of the data folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from blossom_async.errors import ConfigurationError

__all__ = ["own_secrets", "rotated_secrets"]


def own_secrets(data_dir: Path) -> tuple[str, ...]:
    """The gateway's own signing secrets, the newest first: the lines of a file only its owner can read.

    The file is made with one secret where there is none. Raises ``ConfigurationError`` when it cannot be made
    or read.
    """
    path = data_dir / "signing_secrets"
    try:
        if not path.exists():
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_once(path, secrets.token_urlsafe(48))
        return tuple(path.read_text("ascii").split())
    except (OSError, ValueError) as exc:
        raise ConfigurationError(
            f"the signing secrets {path} cannot be read or made ({exc}); check the owner and the permissions "
            "of the data folder, or set BLOSSOM_SIGNING_SECRETS"
        ) from exc


def rotated_secrets(data_dir: Path, *, drop_oldest: bool = False) -> int:
    """Puts a new secret before those of the data folder; how many there are then. Raises as ``own_secrets``.

    ``drop_oldest`` takes the last of the earlier ones away.
    """
    earlier = own_secrets(data_dir)
    kept = (secrets.token_urlsafe(48), *(earlier[:-1] if drop_oldest else earlier))
    path = data_dir / "signing_secrets"
    try:
        temporary = _written_beside(path, kept)
        temporary.replace(path)
    except OSError as exc:
        raise ConfigurationError(
            f"the signing secrets {path} cannot be changed ({exc.strerror}); make room, or check the owner "
            "and the permissions of the data folder"
        ) from exc
    return len(kept)


def _write_once(path: Path, secret: str) -> None:
    temporary = _written_beside(path, (secret,))
    try:
        path.hardlink_to(temporary)  # where another process was first, its secret is the one
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _written_beside(path: Path, lines: Iterable[str]) -> Path:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink()
        raise
    return temporary

"""The gateway's own signing secrets, in a file of the data folder, for when the settings have none."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from blossom_async.errors import ConfigurationError

__all__ = ["own_secrets", "rotated_secrets"]


def own_secrets(data_dir: Path) -> tuple[str, ...]:
    """The gateway's own signing secrets, the newest first, from a file that only its owner can read.

    Creates the file with one secret if there is none. Raises ``ConfigurationError`` if it cannot be created
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
            f"the signing secrets {path} cannot be read or created ({exc}); check owner and permissions "
            "of the data folder, or set BLOSSOM_SIGNING_SECRETS"
        ) from exc


def rotated_secrets(data_dir: Path, *, drop_oldest: bool = False) -> int:
    """Adds a new secret in front of those in the data folder; returns how many there are then.

    ``drop_oldest`` removes the last of the earlier ones. Raises as ``own_secrets``.
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
        path.hardlink_to(temporary)  # if another process was first, its secret is used
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

"""What the gateway needs of the place where the bytes of pictures are kept."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from blossom_async.errors import Overloaded
from blossom_async.models import IMAGE_ID

__all__ = ["Blobs", "OutOfFiles", "Reserved", "file_name"]

_ID = re.compile(IMAGE_ID, re.ASCII)


def file_name(image_id: str, extension: str, extensions: Collection[str]) -> str:
    """The path below a place: ``ab/AbCdef….png`` for the id ``AbCdef…``.

    The folder is the first two characters of the id in lower case, so that the layout is the same on file
    systems that ignore case. Raises ``ValueError`` for an id that is not 22 characters of base62, and for an
    extension that is not one of ``extensions``.
    """
    if not _ID.fullmatch(image_id):
        raise ValueError(f"{image_id!r} is not a picture id: 22 characters of 0-9, A-Z, a-z")
    if extension not in extensions:
        raise ValueError(f"{extension!r} is not a picture format: one of {', '.join(extensions)}")
    return f"{image_id[:2].lower()}/{image_id}.{extension}"


class OutOfFiles(Overloaded):
    """This process, or the machine, may open no more files for now."""


class Reserved:
    """An open file with room on the disk, for bytes that are still to come. It is used once, or released."""

    def __init__(self, part: Path, descriptor: int) -> None:
        self._held = [(part, descriptor)]

    def take(self) -> tuple[Path, int] | None:
        """The file and its descriptor, for the first who asks, in whichever thread."""
        with contextlib.suppress(IndexError):
            return self._held.pop()
        return None


class Blobs(Protocol):
    """The bytes of pictures, by id and extension: each complete and durable, or not there at all.

    They are written once and never changed. A wrong id or extension raises ``ValueError``; see ``file_name``.
    """

    async def open(self) -> None:
        """Makes the place ready. Raises ``ConfigurationError`` when bytes cannot be stored there."""

    async def close(self) -> None:
        """Waits for writes under way, then ends the threads."""

    async def check(self) -> None:
        """Raises ``Overloaded`` as ``put`` would."""

    async def reserve(self, image_id: str, extension: str, size: int) -> Reserved | None:
        """What can be had in advance so that a later ``put`` of ``size`` bytes succeeds.

        Raises as ``put``. Give it to ``release`` in the end. A process that is killed leaves it behind; see
        ``discard``.
        """

    async def release(self, reserved: Reserved | None) -> None:
        """Gives it back, unless ``put`` has used it."""

    async def discard(self, image_id: str) -> None:
        """Removes what an ended process has left unfinished of a picture."""

    async def put(
        self,
        image_id: str,
        extension: str,
        data: bytes,
        reserved: Reserved | None = None,
        headers: Mapping[str, str] | None = None,
        head: bytes = b"",
    ) -> bytes:
        """Stores the bytes, after ``head``, in what was reserved if any; then they survive a power cut.

        Returns the bytes that stand there from now on, if there is no ``head``. They may be of another writer
        who was quicker.
        ``headers`` are what HTTP should say of them, for places that keep it.

        Raises ``Overloaded`` with code ``storage_full`` when there is no room, ``storage_failed`` for any
        other failure, and ``OutOfFiles``; then nothing is left behind. A call that is cancelled may still
        store them.
        """
        ...

    async def read(self, image_id: str, extension: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes from ``start`` up to ``stop``, by default all; fewer if they end before.

        Raises ``FileNotFoundError`` if there are none, ``Overloaded`` (``storage_failed``) if they cannot be
        read.
        """

    def at_hand(self, image_id: str, extension: str, size: int) -> int | None:
        """The descriptor of a file with the bytes, if there are ``size`` of them and they are in memory.

        It is the caller's until the caller awaits something.
        """

    async def size(self, image_id: str, extension: str) -> int:
        """How many bytes there are. Raises as ``read``."""

    async def delete(self, image_id: str, extension: str, *, lasting: bool = True) -> None:
        """Removes the bytes, if they are there. May be repeated until it succeeds.

        Unless it is ``lasting``, a power cut may bring them back.
        Raises ``Overloaded`` (``storage_failed``) if they cannot be removed.
        """

    async def folders(self) -> list[str]:
        """The names of the folders that ``files_before`` can list."""

    async def files_before(self, folder: str, then: datetime) -> list[tuple[str, str]]:
        """Id and extension of everything in the folder that was stored, or copied there, before ``then``.

        Raises ``Overloaded`` (``storage_failed``) when it cannot be listed.
        """

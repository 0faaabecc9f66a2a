"""The bytes of pictures: files on local disk, each complete and durable or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from blossom_async.errors import ConfigurationError, Overloaded
from blossom_async.gateway.storage.blobs import OutOfFiles, Reserved, file_name
from blossom_async.gateway.storage.open_files import IF_IN_MEMORY, OpenFiles
from blossom_async.gateway.storage.threads import Threads
from blossom_async.models import FORMATS, IMAGE_ID

__all__ = ["LocalBlobs"]

_PART = re.compile(rf"\.{IMAGE_ID}\.[0-9a-f]{{16}}\.part", re.ASCII)
_PART_KEPT_S = 86_400.0  # no running process writes to a leftover this old
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_FILES = {errno.EMFILE, errno.ENFILE}
_NO_FILES_RETRY_S = 1.0
_FULL_RETRY_S = 10.0  # somebody has to make room
_THREADS = 8  # file systems merge concurrent fsyncs; more threads than this gain nothing on one disk

_AT_ONCE = 512 << 10  # bytes that the event loop reads itself, which takes it a tenth of a millisecond


class LocalBlobs:
    """Files below ``root``, named by ``file_name``."""

    def __init__(self, root: Path, extensions: Collection[str] = FORMATS) -> None:
        self._root = root
        self._extensions = extensions
        self._file = re.compile(rf"({IMAGE_ID})\.({'|'.join(extensions)})", re.ASCII)
        self._threads = Threads(_THREADS)
        self._room = bytearray(_AT_ONCE)
        self._files = OpenFiles()
        self._lock = threading.Lock()
        self._durable_folders: set[str] = set()

    async def open(self) -> None:
        """Creates the folder, checks that it is writable, and removes what writes left over a day ago.

        Raises ``ConfigurationError`` when it cannot be created or written to.
        """
        self._threads.open()
        await self._threads.run(self._prepare)

    async def check(self) -> None:
        """Writes and removes a probe file."""
        await self._threads.run(self._probe)

    async def folders(self) -> list[str]:
        return await self._threads.run(_folders, self._root)

    async def files_before(self, folder: str, then: datetime) -> list[tuple[str, str]]:
        return await self._threads.run(_files_before, self._root / folder, self._file, then.timestamp())

    async def close(self) -> None:
        self._files.close()
        await self._threads.close()

    def path(self, image_id: str, extension: str) -> Path:
        """Where the file of a picture is or would be."""
        return self._root / file_name(image_id, extension, self._extensions)

    def _text(self, image_id: str, extension: str) -> str:
        # Not a Path, which takes longer to build than the file to open.
        return f"{self._root}/{file_name(image_id, extension, self._extensions)}"

    async def reserve(self, image_id: str, extension: str, size: int) -> Reserved:
        """An open file, so that ``put`` needs no more room for ``size`` bytes, and no more files."""
        return await self._threads.run(self._reserve, self.path(image_id, extension), size)

    async def release(self, reserved: Reserved | None) -> None:
        if reserved is not None and (place := reserved.take()) is not None:
            await self._threads.run(_removed, *place)

    async def discard(self, image_id: str) -> None:
        await self._threads.run(_discard, self._root / image_id[:2].lower(), image_id)

    async def put(
        self,
        image_id: str,
        extension: str,
        data: bytes,
        reserved: Reserved | None = None,
        headers: Mapping[str, str] | None = None,
        head: bytes = b"",
    ) -> bytes:
        """The file is replaced: a folder has one writer of a picture at a time."""
        await self._threads.run(self._write, self.path(image_id, extension), (head, data), reserved)
        return data

    async def read(self, image_id: str, extension: str, start: int = 0, stop: int | None = None) -> bytes:
        path = self._text(image_id, extension)
        self._threads.check()
        data = self._read_at_once(path, start, stop)
        return await self._threads.run(_read, path, start, stop) if data is None else data

    def at_hand(self, image_id: str, extension: str, size: int) -> int | None:
        name = image_id, extension
        kept = self._files.open.get(name)
        return self._files.add(name, self._text(image_id, extension), size) if kept is None else kept

    async def size(self, image_id: str, extension: str) -> int:
        return await self._threads.run(_size, self.path(image_id, extension))

    async def delete(self, image_id: str, extension: str, *, lasting: bool = True) -> None:
        await self._threads.run(_delete, self.path(image_id, extension), lasting)

    def _read_at_once(self, path: str, start: int, stop: int | None) -> bytes | None:
        """Bytes that the system has in memory; None if it has not all of them, or they are too many here."""
        if IF_IN_MEMORY is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError:  # a thread will meet it again, and put it into words
            return None
        try:
            end = os.fstat(descriptor).st_size if stop is None else stop
            if not 0 < end - start <= _AT_ONCE:
                return None
            room = memoryview(self._room)[: end - start]
            size = os.preadv(descriptor, [room], start, IF_IN_MEMORY)
            return bytes(room) if size == len(room) else None
        except OSError:  # it is on the disk, or its file system cannot tell
            return None
        finally:
            os.close(descriptor)

    def _prepare(self) -> None:
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self._root / f".{secrets.token_hex(8)}.probe"
            probe.touch(mode=0o600)
            probe.unlink()
            for leftover in _leftovers(self._root, older_than=time.time() - _PART_KEPT_S):
                leftover.unlink(missing_ok=True)
        except OSError as exc:
            if exc.errno in _FULL:
                raise ConfigurationError(
                    f"The disk that holds the picture folder {self._root} is full. "
                    "Make room, or choose another data folder."
                ) from exc
            raise ConfigurationError(
                f"The picture folder {self._root} cannot be used ({exc.strerror}). "
                "Choose a data folder that this user may write to."
            ) from exc

    def _probe(self) -> None:
        probe = self._root / f".{secrets.token_hex(8)}.probe"
        try:
            descriptor = _new_file(probe)
            try:
                _write_synced(descriptor, bytes(4096))
            finally:
                _removed(probe, descriptor)
        except OSError as exc:
            raise _storage_error("stored", exc) from exc

    def _reserve(self, target: Path, size: int) -> Reserved:
        try:
            self._make_durable_folder(target.parent)
            part, descriptor = _created(target)
            try:
                if hasattr(os, "posix_fallocate"):  # macOS has none
                    os.posix_fallocate(descriptor, 0, size)
            except BaseException:
                _removed(part, descriptor)
                raise
            return Reserved(part, descriptor)
        except OSError as exc:
            self._forget_if_gone(target.parent, exc)
            raise _storage_error("stored", exc) from exc

    def _write(self, target: Path, parts: Sequence[bytes], reserved: Reserved | None) -> None:
        try:
            self._make_durable_folder(target.parent)
            place = None if reserved is None else reserved.take()
            part, descriptor = place or _created(target)
            try:
                _write_synced(descriptor, *parts)
                part.rename(target)
            except BaseException:
                _removed(part, descriptor)
                raise
            os.close(descriptor)
            _sync_folder(target.parent)
        except OSError as exc:
            self._forget_if_gone(target.parent, exc)
            raise _storage_error("stored", exc) from exc

    def _make_durable_folder(self, folder: Path) -> None:
        # A folder that another process has just created may not be on the disk yet. So the first use of each
        # folder syncs its parent, even if it did not create the folder.
        with self._lock:
            if folder.name in self._durable_folders:
                return
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)
        with self._lock:
            self._durable_folders.add(folder.name)

    def _forget_if_gone(self, folder: Path, exc: OSError) -> None:
        if exc.errno in {errno.ENOENT, errno.ENOTDIR}:  # removed, or on a disk that was mounted anew
            with self._lock:
                self._durable_folders.discard(folder.name)


def _created(target: Path) -> tuple[Path, int]:
    """A new file beside the target, open for writing."""
    part = target.with_name(f".{target.stem}.{secrets.token_hex(8)}.part")
    return part, _new_file(part)


def _new_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _removed(part: Path, descriptor: int) -> None:
    os.close(descriptor)
    with contextlib.suppress(OSError):
        part.unlink()


def _discard(folder: Path, image_id: str) -> None:
    for part in folder.glob(f".{image_id}.*.part"):
        with contextlib.suppress(OSError):  # ``open`` tries again when they are a day old
            part.unlink()


def _write_synced(descriptor: int, *parts: bytes) -> None:
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    os.ftruncate(descriptor, sum(map(len, parts)))  # a reserved file is longer
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: str, start: int, stop: int | None) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            file.seek(start)
            return file.read(-1 if stop is None else stop - start)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise _storage_error("read", exc) from exc


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise _storage_error("read", exc) from exc


def _delete(path: Path, lasting: bool) -> None:
    try:
        path.unlink(missing_ok=True)
        if lasting:  # even if it was not there: the process that unlinked it may have died before this
            _sync_folder(path.parent)
    except FileNotFoundError:  # not even the folder
        return
    except OSError as exc:
        raise _storage_error("deleted", exc) from exc


def _folders(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError as exc:
        raise _storage_error("read", exc) from exc


def _files_before(folder: Path, file: re.Pattern[str], then: float) -> list[tuple[str, str]]:
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if (name := file.fullmatch(entry.name)) is None:
                    continue
                status = entry.stat(follow_symlinks=False)
                # The change time too: a file copied from a backup keeps its old modification time.
                if max(status.st_mtime, status.st_ctime) < then:
                    found.append((name[1], name[2]))
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise _storage_error("read", exc) from exc
    return found


def _leftovers(root: Path, *, older_than: float) -> list[Path]:
    found = []
    for folder in os.scandir(root):
        if not folder.is_dir(follow_symlinks=False):
            continue
        found += [
            Path(file.path)
            for file in os.scandir(folder)
            if _PART.fullmatch(file.name) and file.stat(follow_symlinks=False).st_mtime < older_than
        ]
    return found


def _storage_error(done: str, exc: OSError) -> Overloaded:
    if exc.errno in _NO_FILES:
        return OutOfFiles(
            f"The picture could not be {done} ({exc.strerror}); send the request again in "
            f"{_NO_FILES_RETRY_S:g} s.",
            code="storage_failed",
            retry_after_s=_NO_FILES_RETRY_S,
        )
    if exc.errno in _FULL:
        return Overloaded(
            "The disk that holds the pictures is full; make room, then send the request again in "
            f"{_FULL_RETRY_S:g} s.",
            code="storage_full",
            retry_after_s=_FULL_RETRY_S,
        )
    return Overloaded(
        f"The picture could not be {done} ({exc.strerror}); send the request again.", code="storage_failed"
    )

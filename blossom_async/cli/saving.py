"""Downloads the pictures of a batch into a folder while the batch goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from blossom_async.cli.results import Result
from blossom_async.cli.words import CannotStart, said, say
from blossom_async.client import BlossomClient

__all__ = ["Saving", "check_folder"]

_AT_ONCE = 16


class Saving:
    """Writes each picture as ``{id}.{format}``; on leaving, waits for those under way.

    A file that is there and sound is left as it is, so that a run that is resumed fetches what is missing.
    """

    def __init__(self, client: BlossomClient, folder: Path) -> None:
        self.failed: int = 0
        """Pictures that could not be written."""
        self._client = client
        self._folder = folder
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(kind, exc, trace)

    async def add(self, result: Result) -> None:
        """Begins to download a result's picture, if it has one; waits while many are under way."""
        if result.info is None:
            return
        await self._room.acquire()
        self._tasks.create_task(self._save(result))

    async def _save(self, result: Result) -> None:
        try:
            assert result.info is not None  # noqa: S101 - for the type checker
            saved = await self._client.image.save([result.info], self._folder)
        except OSError as exc:  # the folder itself
            self.failed += 1
            say(f"--download {self._folder}: {exc.strerror}")
        else:
            for failure in saved.failures:
                self.failed += 1
                say(f"{said(result.place)}: not downloaded: {failure.error}")
        finally:
            self._room.release()


def check_folder(folder: Path) -> None:
    """Makes the folder. Raises ``CannotStart`` if that is not possible, before anything is paid."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise CannotStart(f"--download {folder}: {exc.strerror}; name another folder") from exc
